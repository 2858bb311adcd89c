from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adacomcat.config import TrialConfig
from adacomcat.config.yaml import read_yaml, write_yaml
from adacomcat.overrides import build_config, differences, dotted_keys, parse_settings


def test_values_of_the_command_line_mean_what_they_say() -> None:
    texts = ["a=1", "b=1e-3", "c=null", "d=no", "e=[1, 2]", "f={x: true}", "g=1:30", "h.i="]
    assert parse_settings(texts) == {
        "a": 1,
        "b": 0.001,
        "c": None,
        "d": "no",
        "e": [1, 2],
        "f": {"x": True},
        "g": "1:30",
        "h.i": None,
    }


@pytest.mark.parametrize("text", ["epochs", "=5", "a..b=1", "a b=1", ".a=1"])
def test_a_setting_without_a_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"--set: got .* allowed: a\.b=c"):
        parse_settings([text])


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="--set seed: .*each key once"):
        parse_settings(["seed=1", "seed=2"])


def test_broken_yaml_is_refused() -> None:
    with pytest.raises(ValueError, match=r"search\.lr: got '\[1', allowed: a YAML value"):
        parse_settings(["search.lr=[1"])


def test_no_layers_give_the_defaults() -> None:
    assert build_config() == TrialConfig()


def test_a_nested_layer_keeps_the_defaults_beside_what_it_sets() -> None:
    config = build_config({"finetune": {"lr": 1}, "dense": {"recipe": {"epochs": 7}}})
    # Both differ from the defaults of PhaseConfig, which a plain constructor call would bring back.
    assert config.finetune.epochs == 10
    assert config.dense.recipe.distill.kind == "none"
    assert (config.finetune.lr, config.dense.recipe.epochs) == (1.0, 7)


def test_a_later_layer_wins() -> None:
    config = build_config({"search.lr": 1.0, "seed": 1}, {"search": {"lr": 2.0}})
    assert (config.search.lr, config.seed) == (2.0, 1)


def test_a_mapping_replaces_a_free_mapping_and_a_dotted_key_sets_one_entry() -> None:
    first = {"schedule": {"kind": "adaptive", "growth": 3.0}}
    assert build_config(first, {"schedule": {"kind": "once"}}).schedule == {"kind": "once"}
    assert build_config(first, {"schedule.growth": 4}).schedule == {"kind": "adaptive", "growth": 4}
    assert build_config({"method.ranks.qk": [2]}).method == {
        "name": "lowrank",
        "ranks": {"qk": [2]},
    }


def test_another_kind_leaves_nothing_of_the_coefficients_before() -> None:
    first = {"schedule": {"kind": "adaptive", "growth": 3.0}}
    layer = {"schedule.every": 2, "schedule.kind": "fixed"}
    assert build_config(first, layer).schedule == {"kind": "fixed", "every": 2}


def test_a_layer_is_not_changed() -> None:
    layer = {"schedule": {"kind": "adaptive"}}
    build_config(layer, {"schedule.growth": 4.0})
    assert layer == {"schedule": {"kind": "adaptive"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search_phase.epochs=abc", "search_phase.epochs: got 'abc', allowed: a whole number"),
        ("search_phase.epochs=1.5", "search_phase.epochs: got 1.5, allowed: a whole number"),
        ("search_phase.epochs=true", "search_phase.epochs: got True, allowed: a whole number"),
        ("search_phase.epochs=-1", "search_phase.epochs: got -1, allowed: 0 or more"),
        ("finetune.distill.weight=7", "finetune.distill.weight: got 7, allowed: at most 1"),
        ("dense.recipe.lr=0", "dense.recipe.lr: got 0, allowed: above 0"),
        ("search.steps=x", "search.steps: got 'x', allowed: a whole number or null"),
        ("search.lr=.inf", "search.lr: got inf, allowed: a finite number"),
        ("search.clock=hourly", "search.clock: got 'hourly', allowed: 'per_epoch' or 'per_search'"),
        ("search.lr.x=1", "search.lr: got {'x': 1}, allowed: a number"),
        ("data.options=5", "data.options: got 5, allowed: a mapping"),
        ("serach.lr=1", "serach: got 'serach' (did you mean 'search'?)"),
        ("search.lrr=1", "search.lrr: got 'lrr' (did you mean 'lr'?)"),
        ("search_phase=5", "search_phase: got 5, allowed: a mapping"),
        (
            "finetune.distill.align_blocks=[1, a]",
            "finetune.distill.align_blocks.1: got 'a', allowed: a whole number",
        ),
        (
            "data.augment=rotate",
            "data.augment: got 'rotate', allowed: 'none', 'affine', 'crop_flip'",
        ),
        ("method.fractons=[0.5]", "method.fractons: got 'fractons' (did you mean 'fractions'?)"),
        ("method.ranks.qk=16", "method.ranks.qk: got 16, allowed: a list"),
        ("method.ranks=16", "method.ranks: got 16, allowed: a mapping"),
        ("method.sites=[1]", "method.sites.0: got 1, allowed: text"),
        ("method.name=lowrnk", "method.name: got 'lowrnk' (did you mean 'lowrank'?)"),
        ("schedule.growth=0.5", "schedule.growth: got 0.5, allowed: 1 or more"),
        ("schedule.kind=adaptve", "schedule.kind: got 'adaptve' (did you mean 'adaptive'?)"),
        ("search_phase.epochs=100000000000", "search_phase.epochs: got 100000000000, allowed: at"),
        ("search_phase.lr_batch_size=0", "search_phase.lr_batch_size: got 0, allowed: 1 or more"),
        ("data.mean=5", "data.mean: got 5, allowed: a list or null"),
        ("search_phase.accumulate=5", "search_phase.accumulate: got 5, allowed: a divisor of"),
        ("seed=9223372036854775808", "seed: got 'a whole number of 64 bits', allowed: at most"),
        ("model.options.depth=.nan", "model.options.depth: got nan, allowed: a finite number"),
    ],
)
def test_a_wrong_setting_names_its_field_what_was_got_and_what_is_allowed(
    text: str, message: str
) -> None:
    with pytest.raises(ValueError) as refusal:
        build_config(parse_settings([text]))
    assert message in str(refusal.value)


def test_dotted_keys_name_fields_and_free_mappings() -> None:
    layer = {
        "schedule": {"kind": "once"},
        "search_phase": {"epochs": 1},
        "method.a.b": 1,
        "finetune.distill": {"kind": "none"},
    }
    expected = ["schedule", "search_phase.epochs", "method.a.b", "finetune.distill.kind"]
    assert dotted_keys(layer) == expected


def test_differences_of_configurations() -> None:
    old = {"a": {"b": 1, "c": 2}, "d": 3, "gone": 0}
    new = {"a": {"b": 1, "c": 4}, "d": 3, "new": [1]}
    assert differences(old, new) == ["a.c: 2 -> 4", "gone: 0 -> null", "new: null -> [1]"]
    assert differences(old, old) == []


def test_whole_numbers_and_floats_differ_as_they_do_in_the_id_of_a_trial() -> None:
    assert differences({"a": 2, "b": [1]}, {"a": 2.0, "b": [1]}) == ["a: 2 -> 2.0"]
    assert differences({"a": 1}, {"a": True}) == ["a: 1 -> true"]


words = st.sampled_from(
    ["1e-3", "1_000", "0x1f", "no", "~", "None", "2024-01-01", "", " a ", "a: b", "- a", "#", "<<"]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    words,
    st.text(),
    st.floats(allow_nan=False, allow_infinity=False),
)
texts = st.one_of(words, st.text())
data = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=12
)


def typed(value: Any) -> Any:
    """With the types beside the values, since 1, 1.0 and true are equal."""
    if isinstance(value, dict):
        return [(key, typed(entry)) for key, entry in value.items()]
    return [typed(v) for v in value] if isinstance(value, list) else (type(value), value)


@given(value=data)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert typed(read_yaml(write_yaml(value))) == typed(value)


def test_no_value_is_null_and_quotes_make_it_a_text() -> None:
    assert read_yaml("a:\nb: ''\nc: [~, '~']") == {"a": None, "b": "", "c": [None, "~"]}
    assert read_yaml("") is None


def test_what_occurs_twice_is_written_twice() -> None:
    shared = {"epochs": 3, "ranks": [1, 2]}
    text = write_yaml({"b": shared, "a": shared})
    assert text == "b:\n  epochs: 3\n  ranks: [1, 2]\na:\n  epochs: 3\n  ranks: [1, 2]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "^line 3: found duplicate key"),
        ("a:\n  b: [1\n", "^line 3: "),
        ("a: 1\n\tb: 2", "^line 2: .*cannot start any token"),
        ("a: \x01", "not allowed"),
        ("a: !!int x", "invalid literal"),
        ("a: !!python/name:os.system x", "could not determine a constructor"),
        ("[" * 1000, "."),
    ],
)
def test_broken_yaml_names_the_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        read_yaml(text)
    assert "\n" not in str(refusal.value)
