"""A results directory, written file by file as the format says."""

import json

import pytest

from analysis import style

ARMS = {"never": "never (uniform ranks)", "fixed_1": "every epoch", "adaptive": "adaptive"}


def trial_record(arm, seed, status="finished", **summary):
    finished = status == "finished"
    return {
        "schema_version": 1,
        "trial_id": f"digits-{arm}-s{seed}-0123abcd",
        "experiment": "adaptive_vs_fixed",
        "workload": "digits",
        "arm": arm,
        "label": ARMS.get(arm, arm),
        "seed": seed,
        "status": status,
        "config": {"seed": seed},
        "provenance": None,
        "leakage": [],
        "started": "2030-01-01T00:00:00+00:00",
        "finished": "2030-01-01T00:01:00+00:00" if finished else None,
        "error": "RuntimeError: loss is nan" if status == "failed" else None,
        "summary": {
            "test_acc": 0.9,
            "searches": 0,
            "params": 1000,
            "dense_test_acc": 0.97,
            "plan": {"head": 4},
            **summary,
        }
        if finished
        else None,
    }


def write(root, records, arms=ARMS, seeds=(0, 1, 2), **study):
    root.mkdir(parents=True, exist_ok=True)
    described = {
        "schema_version": 1,
        "experiment": "adaptive_vs_fixed",
        "question": "How often must the rank search run?",
        "workload": "digits",
        "arms": [{"name": name, "label": label} for name, label in arms.items()],
        "seeds": list(seeds),
        **study,
    }
    (root / "study.json").write_text(json.dumps(described))
    for record in records:
        folder = root / "trials" / record["trial_id"]
        folder.mkdir(parents=True)
        (folder / "trial.json").write_text(json.dumps(record))
        if record["status"] == "pending":
            continue
        rows = [
            {"phase": "search", "epoch": e, "step_epoch": e, "loss": 1 / (e + 1)} for e in (0, 1)
        ]
        (folder / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        row = {"index": 0, "epoch": 1, "plan": {"head": 4}, "distance": None}
        (folder / "searches.jsonl").write_text(json.dumps(row) + "\n")
    return root


def write_trace(root, record, plans, epochs, intervals=None, **search):
    """Replace a trial's trace: `plans` by the epoch of their search, `intervals` by epoch.

    `search` is added to the row of every search; a function gets the epoch.
    """
    folder = root / "trials" / record["trial_id"]
    rows, searches, before = [], [], None
    for epoch in range(epochs):
        plan = plans.get(epoch)
        changed = [site for site in plan or {} if before is None or plan[site] != before[site]]
        if plan is not None:
            more = {
                key: value(epoch) if callable(value) else value for key, value in search.items()
            }
            row = {"index": len(searches), "epoch": epoch, "plan": plan, "changed": changed}
            searches.append(row | {"temperature": 1.0, "logits": {}} | more)
            before = plan
        rows.append(
            {
                "phase": "search",
                "epoch": epoch,
                "step_epoch": epoch,
                "loss": 1.0,
                "interval": (intervals or {}).get(epoch),
                "searched": plan is not None,
                "searches": len(searches),
                "sites_changed": None if plan is None else len(changed),
            }
        )
    rows.append({"phase": "finetune", "epoch": 0, "step_epoch": epochs, "searched": False})
    for name, content in (("epochs", rows), ("searches", searches)):
        lines = "".join(json.dumps(row) + "\n" for row in content)
        (folder / f"{name}.jsonl").write_text(lines)


@pytest.fixture(scope="module")
def record():
    return trial_record


@pytest.fixture(scope="module")
def write_results():
    return write


@pytest.fixture(scope="module")
def trace():
    return write_trace


@pytest.fixture(scope="module")
def drawn():
    """An exhibit and its table -> the figure, drawn at a low resolution with its note."""

    def draw(exhibit, table):
        with style.shared_style():
            figure = style.new_figure(dpi=40)
            exhibit.draw(figure, table)
            style.note(figure, exhibit.note(table))
            figure.canvas.draw()
        return figure

    return draw


@pytest.fixture(scope="module")
def lines():
    """Axes -> the lines with a group id by it, those of a kind without its prefix."""

    def by_gid(ax, kind=""):
        found = {
            line.get_gid(): line for line in ax.lines if (line.get_gid() or "").startswith(kind)
        }
        return {gid.removeprefix(kind): line for gid, line in found.items() if gid}

    return by_gid


@pytest.fixture(scope="module")
def schedules(tmp_path_factory):
    """Three arms with traces, two seeds each; ten epochs of searching, two sites in one block.

    `fixed_1` searches at all of epochs 1 to 9 and finds qk 8 up to epoch 3, then 4; `adaptive` of
    seed 0 at 1, 2, 4 and 8, of seed 1 at 1 and 2 alone; `never` has qk 6.
    """
    late, early = ({"blocks.0.qk": qk, "blocks.0.fc1": 16} for qk in (4, 8))
    always = {epoch: early if epoch < 4 else late for epoch in range(1, 10)}
    records = [
        trial_record(arm, seed, searches=count, plan=plan)
        for arm, counts, plan in (
            ("never", (0, 0), {"blocks.0.qk": 6, "blocks.0.fc1": 16}),
            ("fixed_1", (9, 9), late),
            ("adaptive", (4, 2), None),
        )
        for seed, count in enumerate(counts)
    ]
    records[4]["summary"]["plan"], records[5]["summary"]["plan"] = late, early
    root = write(tmp_path_factory.mktemp("schedules"), records, seeds=(0, 1))
    for number, made in enumerate(records):
        at = {4: (1, 2, 4, 8), 5: (1, 2)}.get(number, range(1, 10) if 2 <= number <= 3 else ())
        plans = {epoch: always[epoch] for epoch in at}
        grown = [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0]
        moving = {"fixed_1": [1.0] * 10, "adaptive": grown}.get(made["arm"], [])
        write_trace(root, made, plans, 10, dict(enumerate(moving)))
    return root


@pytest.fixture
def results(tmp_path):
    """Nine trials asked for: `never` whole, one of `fixed_1` failed, one of `adaptive` ended."""
    records = [
        trial_record("adaptive", 1, test_acc=0.94, searches=6, params=2000),
        trial_record("adaptive", 0, status="running"),
        *(trial_record("never", s, test_acc=a) for s, a in enumerate((0.91, 0.92, 0.93))),
        *(trial_record("fixed_1", s, test_acc=0.95, searches=29) for s in (0, 2)),
        trial_record("fixed_1", 1, status="failed"),
    ]
    return write(tmp_path / "results", records)
