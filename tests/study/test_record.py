"""Records of trials that older and newer versions wrote, or that are broken."""

import json
from pathlib import Path

import pytest

from adacomcat.io.run import SCHEMA_VERSION
from study.spec.expand import expand
from study.spec.schema import Experiment
from study.store import Results


def test_a_trial_that_does_not_read_stops_a_study_and_is_told_apart_by_a_reader(
    tmp_path: Path, tiny_experiment: Experiment
) -> None:
    results = Results(tmp_path)
    results.begin(tiny_experiment, command="run", provenance={})
    specs = expand(tiny_experiment)
    for spec in specs:
        results.add(spec)
    newer, broken = (results.folder(spec.trial_id) / "trial.json" for spec in specs[:2])
    content = json.loads(newer.read_text())
    newer.write_text(json.dumps(content | {"schema_version": SCHEMA_VERSION + 1}))
    broken.write_text("{")
    # A study that goes on must know all of its trials.
    for refused in (results.trials, lambda: results.trial(specs[0].trial_id)):
        with pytest.raises(ValueError, match=r"trial\.json: (schema_version: got|not JSON)"):
            refused()
    read, unread = results.readable()
    assert [record["trial_id"] for record in read] == sorted(s.trial_id for s in specs[2:])
    assert {name: error.short for name, error in unread.items()} == {
        specs[0].trial_id: f"of schema {SCHEMA_VERSION + 1}",
        specs[1].trial_id: "not JSON",
    }


def test_leakage_that_was_not_written_down_is_that_of_the_configuration(
    tmp_path: Path, tiny_experiment: Experiment
) -> None:
    results = Results(tmp_path)
    results.begin(tiny_experiment, command="run", provenance={})
    spec = expand(tiny_experiment)[0]
    results.add(spec)
    path = results.folder(spec.trial_id) / "trial.json"
    record = json.loads(path.read_text())
    assert record.pop("leakage") == list(spec.leakage) == []
    path.write_text(json.dumps(record))
    assert results.trial(spec.trial_id) == record | {"leakage": []}
    record["config"]["data"] |= {"search_from": "test", "val_from": "test"}
    path.write_text(json.dumps(record))
    results.update(spec.trial_id, "running")
    assert json.loads(path.read_text())["leakage"] == ["search", "selection"]
    record["config"]["data"] |= {"color": "blue"}
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"trial\.json: config\.data\.color: got 'color'"):
        results.trial(spec.trial_id)
