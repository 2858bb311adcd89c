import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from study.show.metrics import MEASURES, TAGS, TrialMetrics
from study.spec.expand import expand
from study.spec.schema import Experiment

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "docs" / "grafana" / "adacomcat.json"

# In a process of its own: Ray's report interval is set when it starts.
PROGRAM = r"""
import logging, os, sys, time, urllib.request
os.environ["RAY_metrics_report_interval_ms"] = "1000"
from study.execution import cluster
cluster.set_environment(dashboard=False)
import ray
from study.spec.schema import TrialSpec

ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20,
         log_to_driver=False, logging_level=logging.ERROR)

@ray.remote
class Worker:
    def __init__(self, spec):
        from study.show.metrics import TrialMetrics
        self.metrics = TrialMetrics(TrialSpec.model_validate_json(spec), beat_s=0.3)
    def epoch(self, row):
        self.metrics.epoch(row)
    def close(self):
        self.metrics.close()

def samples():
    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    try:
        text = urllib.request.urlopen(address, timeout=5).read().decode()
    except OSError:
        return []
    return [line for line in text.splitlines() if line.startswith("ray_adacomcat_")]

def wait(condition):
    deadline = time.monotonic() + 60
    while not condition(samples()):
        assert time.monotonic() < deadline, samples()
        time.sleep(0.2)
    print("----", *samples(), sep="\n")

row = {"val_acc": 0.25, "interval": 2, "searches": 1, "params": 1000, "macs": 5000,
       "images_per_s": 80.0, "search_s": 1.5, "train_s": 4.0}
worker = Worker.remote(sys.argv[1])
ray.get(worker.epoch.remote(row))
wait(lambda lines: sum("} 0.25" in line for line in lines) == 1)
ray.get(worker.epoch.remote(row | {"val_acc": 0.5, "interval": None, "search_s": 0.0}))
wait(lambda lines: any("} 0.5" in line for line in lines)
     and not any("interval" in line for line in lines))
time.sleep(4)  # Longer than Ray remembers a gauge.
wait(lambda lines: any("} 0.5" in line for line in lines))
ray.get(worker.close.remote())
wait(lambda lines: lines and all("_total{" in line for line in lines))
ray.shutdown()
"""


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_a_trial_is_seen_at_the_endpoint_until_it_ends(tiny_experiment: Experiment) -> None:
    spec = expand(tiny_experiment)[1]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, spec.model_dump_json()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    first, second, third, last = (_samples(text) for text in done.stdout.split("----")[1:])
    tags = {"experiment": "tiny_experiment", "workload": "tiny", "arm": "once", "seed": "0"}
    assert first.keys() == {measure.exported for measure in MEASURES}
    assert all(found.items() >= tags.items() for found, _ in first.values())
    counters = {
        "ray_adacomcat_epochs_total": 1.0,
        "ray_adacomcat_search_seconds_total": 1.5,
        "ray_adacomcat_train_seconds_total": 4.0,
    }
    assert {name: value for name, (_, value) in first.items()} == counters | {
        "ray_adacomcat_running": 1.0,
        "ray_adacomcat_val_accuracy_ratio": 0.25,
        "ray_adacomcat_interval_epochs": 2.0,
        "ray_adacomcat_searches": 1.0,
        "ray_adacomcat_params": 1000.0,
        "ray_adacomcat_macs": 5000.0,
        "ray_adacomcat_images_per_second": 80.0,
    }
    assert second.keys() == third.keys() == first.keys() - {"ray_adacomcat_interval_epochs"}
    assert third["ray_adacomcat_epochs_total"][1] == 2.0
    assert third["ray_adacomcat_train_seconds_total"][1] == 8.0
    assert third["ray_adacomcat_search_seconds_total"][1] == 1.5
    assert last.keys() == counters.keys()


def _samples(text: str) -> dict[str, tuple[dict[str, str], float]]:
    found = {}
    for line in text.split("\n"):
        match = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line)
        if match:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
            found[match[1]] = (labels, float(match[3]))
    return found


def test_without_ray_nothing_happens_and_a_closed_trial_has_no_epochs(
    tiny_experiment: Experiment,
) -> None:
    row = {
        "val_acc": 0.25,
        "interval": None,
        "searches": 1,
        "params": 1000,
        "macs": 5000,
        "images_per_s": 80.0,
        "search_s": 0.0,
        "train_s": 4.0,
    }
    metrics = TrialMetrics(expand(tiny_experiment)[0])
    metrics.epoch(row)
    metrics.close()
    with pytest.raises(AssertionError):
        metrics.epoch(row)


# The dashboard.


def _dashboard() -> dict:
    return json.loads(GRAFANA.read_text())


def _queries(dashboard: dict) -> list[str]:
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    variables = [
        v["query"]["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"
    ]
    return [*panels, *variables]


def test_the_dashboard_asks_for_every_metric_and_no_other() -> None:
    named = {name for query in _queries(_dashboard()) for name in re.findall(r"\bray_\w+", query)}
    assert named == {measure.exported for measure in MEASURES}


def test_the_dashboard_groups_and_filters_by_the_tags_that_exist() -> None:
    dashboard = _dashboard()
    own = {v["name"] for v in dashboard["templating"]["list"]} | {"__rate_interval"}
    for query in _queries(dashboard):
        by = {label for part in re.findall(r"by \((.*?)\)", query) for label in part.split(", ")}
        filters = set(re.findall(r"(\w+)=~?\"", query))
        asked = set(re.findall(r"label_values\(.*, (\w+)\)", query))
        assert by | filters | asked <= set(TAGS), query
        assert set(re.findall(r"\$\{?(\w+)", query)) <= own, query
        assert query.count("(") == query.count(")") and query.count("{") == query.count("}"), query


def test_the_dashboard_has_what_an_import_needs() -> None:
    dashboard = _dashboard()
    assert dashboard["title"] and dashboard["uid"] and dashboard["schemaVersion"] >= 36
    assert dashboard["id"] is None, "an id of another Grafana would be looked up"
    variables = {v["name"]: v for v in dashboard["templating"]["list"]}
    assert variables.keys() == {"datasource", "experiment", "arm", "seed"}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 7
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["title"] and panel["type"] and panel["targets"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        covered = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not covered & cells, "panels overlap"
        cells |= covered
