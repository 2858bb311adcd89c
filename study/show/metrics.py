"""What a trial tells Prometheus while it runs, through Ray's metrics endpoint.

Ray puts `ray_` before a name, `_total` behind that of a counter, and adds labels of its own, of
which `WorkerId` is another one after every restart. Counters count what the workers have done: what
is run again after a kill counts again.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from study.spec.schema import TrialSpec

BEAT_S = 5.0
"""Ray forgets a gauge that was not set for two of its report intervals, which are 10 s each."""


@dataclass(frozen=True)
class Measure:
    """A metric.

    Attributes:
        name: with its unit, as Ray is given it.
        column: of `epochs.jsonl`; None: it is 1 in every epoch.
        kind: a gauge shows the last epoch, a counter the sum over epochs.
        description: for who reads the endpoint.
    """

    name: str
    column: str | None
    kind: Literal["gauge", "counter"]
    description: str

    @property
    def exported(self) -> str:
        """The name that Prometheus sees."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"


MEASURES = (
    Measure("adacomcat_running", None, "gauge", "1 while the trial runs"),
    Measure("adacomcat_val_accuracy_ratio", "val_acc", "gauge", "Validation accuracy, 0 to 1"),
    Measure("adacomcat_interval_epochs", "interval", "gauge", "Epochs until the next search, F(t)"),
    Measure("adacomcat_searches", "searches", "gauge", "Searches so far"),
    Measure("adacomcat_params", "params", "gauge", "Parameters of the model"),
    Measure("adacomcat_macs", "macs", "gauge", "Multiply-accumulates of one image"),
    Measure("adacomcat_images_per_second", "images_per_s", "gauge", "Training throughput"),
    Measure("adacomcat_epochs", None, "counter", "Epochs done"),
    Measure("adacomcat_search_seconds", "search_s", "counter", "Seconds spent in searches"),
    Measure("adacomcat_train_seconds", "train_s", "counter", "Seconds spent in training"),
)
TAGS = ("experiment", "workload", "arm", "seed")


# One set serves all trials of a process: they differ by their tags.
@lru_cache(maxsize=1)
def _instruments() -> dict[str, Any]:
    from ray.util.metrics import Counter, Gauge

    return {
        measure.name: (Gauge if measure.kind == "gauge" else Counter)(
            measure.name, measure.description, tag_keys=TAGS
        )
        for measure in MEASURES
    }


class TrialMetrics:
    """The metrics of one trial, on its first worker; nothing happens where Ray does not run.

    Ray has no way to take a gauge back, but forgets one that is not set again. So a thread repeats
    the gauges until `close`, and some 20 s later they are gone from the endpoint, as they are when
    the worker dies. Counters stay until Ray ends.
    """

    def __init__(self, spec: TrialSpec, beat_s: float = BEAT_S) -> None:
        self._tags = {
            "experiment": spec.experiment,
            "workload": spec.workload,
            "arm": spec.arm,
            "seed": str(spec.seed),
        }
        self._beat_s = beat_s
        self._gauges: dict[str, float] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Tell a row of `epochs.jsonl`; a gauge without a value (`interval` may be None) ends."""
        assert not self._closed.is_set()
        gauges = {}
        for measure in MEASURES:
            value = 1.0 if measure.column is None else row[measure.column]
            if value is None:
                continue
            if measure.kind == "gauge":
                gauges[measure.name] = float(value)
            elif value > 0:  # Ray refuses to add nothing.
                _instruments()[measure.name].inc(float(value), self._tags)
        self._gauges = gauges
        self._show()
        if self._thread is None:
            self._thread = threading.Thread(target=self._repeat, name="metrics", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Let the gauges go: the trial has ended, or waits for another one."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _show(self) -> None:
        for name, value in self._gauges.items():
            _instruments()[name].set(value, self._tags)

    def _repeat(self) -> None:
        while not self._closed.wait(self._beat_s):
            self._show()
