"""A results directory, written file by file as the format says."""

import json

import pytest

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
            "test_acc": 0.9, "searches": 0, "params": 1000, "dense_test_acc": 0.97,
            "plan": {"head": 4}, **summary,
        } if finished else None,
    }  # fmt: skip


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


@pytest.fixture
def record():
    return trial_record


@pytest.fixture
def write_results():
    return write


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
