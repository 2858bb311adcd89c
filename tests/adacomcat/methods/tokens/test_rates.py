import json

import pytest
import timm
import torch

from adacomcat.methods.tokens.rates import (
    AUTHORS_NAMES,
    Rates,
    Step,
    published,
    published_at,
    published_options,
)
from adacomcat.models.registry import tokens_of
from adacomcat.testing.golden import golden_folder

FILE = golden_folder() / "diffrate" / "published_rates.json"
GOLDEN = json.loads(FILE.read_text()) if FILE.is_file() else {}
needs_golden = pytest.mark.skipif(not GOLDEN, reason=f"no reference numbers at {FILE}")


def test_counts_that_are_no_smaller_than_what_arrives_change_nothing():
    found = Rates((65, 45, 60, None), (65, 40, 52, 35)).steps(65)
    assert found == (Step(65, 65, 65), Step(65, 45, 40), Step(40, 40, 40), Step(40, 40, 35))
    assert [step.compresses for step in found] == [False, True, False, True]
    assert [step.merges for step in found] == [False, True, False, True]


def test_all_31_published_rates_are_here():
    assert sum(len(published(name)) for name in AUTHORS_NAMES) == 31


@needs_golden
def test_golden_diffrate_no_published_model_is_missing():
    assert set(GOLDEN) <= set(AUTHORS_NAMES.values())


@needs_golden
@pytest.mark.parametrize(("name", "own"), AUTHORS_NAMES.items())
def test_golden_diffrate_published_rates(name, own):
    if own not in GOLDEN:
        pytest.skip(f"no {own} in {FILE}")
    found = published(name)
    for rate, counts in GOLDEN[own].items():
        depth = len(found[float(rate)].merge)
        # Of CAFormer the file has the last stage too, of 49 tokens.
        assert set(counts["merge"][depth:]) <= {49}
        assert found[float(rate)].merge == tuple(counts["merge"][:depth])
        prune = counts["prune"] or [None] * depth
        assert found[float(rate)].prune == tuple(prune[:depth])


@pytest.mark.parametrize("name", AUTHORS_NAMES)
def test_published_rates_are_of_timms_model_of_that_name(name):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=1000, **published_options(name))
    form = tokens_of(model)
    for found in published(name).values():
        assert len(found.prune) == len(found.merge) == form.depth
        assert found.merge[0] == form.tokens
        assert all(step.after > form.prefix for step in found.steps(form.tokens))
    assert form.pooled == name.endswith(".mae")


def test_a_tag_plays_no_part_where_the_name_is_enough():
    assert published("deit_small_patch16_224.fb_in1k") == published("deit_small_patch16_224")
    assert published("caformer_s36.sail_in1k") == published("caformer_s36")


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("deit_small_patch16_224.fb", "2.9"),
        ("vit_base_patch16_224", r"got 'vit_base_patch16_224' .*vit_base_patch16_224\.mae"),
        ("vit_base_patch16_224.augreg_in1k", r"got 'vit_base_patch16_224\.augreg_in1k'"),
        ("deit_small_distilled_patch16_224", r"did you mean 'deit_small_patch16_224'"),
    ],
)
def test_unknown_models_and_rates_are_refused(model, found):
    with pytest.raises(ValueError, match=found):
        published_at(model, 3.0)


def test_the_message_names_all_rates():
    with pytest.raises(ValueError) as caught:
        published_at("deit_small_patch16_224", 3.0)
    assert str(caught.value) == (
        "published rate: got 3.0, allowed: 2.3, 2.5, 2.7, 2.9, 3.1, those published for "
        "deit_small_patch16_224"
    )
