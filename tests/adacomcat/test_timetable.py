import pytest

from adacomcat.config.yaml import read_yaml, write_yaml
from adacomcat.overrides import build_config, parse_settings
from adacomcat.timetable import read_timetable, write_timetable

TABLE = {"on": "here", "model_ns": 12, "kinds": {"qk": {"dense_ns": 3, "rank_ns": {"60": 2}}}}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "new" / "table.json"
    write_timetable(path, TABLE, machine={"cpu": "a fast one"})
    return path


def test_round_trip(file):
    assert read_timetable(file) == TABLE


def test_yaml_takes_the_table_in_place_of_the_file(file):
    settings = {"budget": {"unit": "latency", "latency": TABLE}}
    text = f"budget:\n  unit: latency\n  latency: !latency {file}\n"
    assert read_yaml(text) == settings
    given = parse_settings(["budget.unit=latency", f"budget.latency=!latency {file}"])
    config = build_config(given)
    file.unlink()
    assert config == build_config(settings)
    # What is written has the table, and is read without the file.
    assert read_yaml(write_yaml(config.to_json()))["budget"]["latency"] == TABLE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "got No such file"),
        ("{", "got no JSON, allowed: a file of `adacomcat latency`"),
        ("[" * 100_000, "got no JSON"),
        ("[1]", "format: got None, allowed: adacomcat-latency"),
        ('{"format": "another"}', "format: got 'another'"),
        ('{"format": "adacomcat-latency", "version": 2}', "version: got 2, allowed: 1"),
        ('{"format": "adacomcat-latency", "version": 1}', "latency: got None"),
    ],
)
def test_a_file_that_is_no_table(tmp_path, content, message):
    path = tmp_path / "table.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=rf"table\.json: {message}"):
        read_timetable(path)
    with pytest.raises(ValueError, match=rf"table\.json: {message}"):
        read_yaml(f"a: 1\nbudget.latency: !latency {path}")
    with pytest.raises(ValueError, match=r"budget\.latency: got .*table\.json"):
        parse_settings([f"budget.latency=!latency {path}"])


def test_the_tag_wants_a_name():
    with pytest.raises(ValueError, match="line 1: !latency takes the name of a file"):
        read_yaml("a: !latency [1]\nb: 2")
