"""The recipes of DiffRate, against what its paper and its authors say."""

import pytest

from adacomcat.config import PhaseConfig
from adacomcat.methods import registry
from adacomcat.methods.lowrank.recipe import imagenet_recipe
from adacomcat.methods.lowrank.recipe import reference as upstream
from adacomcat.methods.registry import build_method, register
from adacomcat.methods.tokens.recipe import adapt as diffrate
from adacomcat.methods.tokens.recipe import reference as diffrate_reference
from adacomcat.models.registry import create_model
from adacomcat.overrides import build_config
from adacomcat.recipes import find_recipe, for_method, recipes
from adacomcat.schedule import build_schedule

PRESETS = (diffrate, diffrate_reference)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.name)
def test_diffrate_fits_every_recipe(recipe, preset):
    """It changes method, search and both phases, and nothing of data, model and dense weights."""
    config, base = (build_config(s) for s in (preset(recipe.settings), recipe.settings))
    assert (config.data, config.model, config.dense) == (base.data, base.model, base.dense)
    assert config.method["name"] == "diffrate" and config.budget.unit == "macs"
    schedule = build_schedule(config.schedule)
    assert [schedule.due(epoch) for epoch in range(config.search_phase.epochs)] == [True] * 3
    assert config.search_phase.frozen and not config.finetune.frozen
    for phase in (config.search_phase, config.finetune):
        assert (phase.distill.kind, phase.distill.align_blocks) == ("none", ())


def test_diffrate_on_imagenet_is_as_published():
    config = build_config(diffrate(find_recipe("deit_small_imagenet", "name").settings))
    search, tune = config.search, config.finetune
    assert (search.lr, search.min_lr, search.weight_decay) == (0.01, 0.001, 0.0)
    assert (search.penalty, search.penalty_weight) == ("squared", 5.0)
    # Batches of 4 x 256 in what an epoch of repeated augmentation takes of ImageNet.
    assert search.steps == 1_281_167 // 256 * 256 // 1024
    assert not search.noise and not search.train_mode and search.decision == "projected"
    assert tune.epochs == 30 and tune.min_lr == 1e-6
    assert tune.lr * tune.batch_size / tune.lr_batch_size == pytest.approx(2e-5)
    assert config.model.options["drop_path_rate"] == 0.1
    model = create_model(config.model, num_classes=1000, in_chans=3, image_size=224)
    budget = build_method(model, config.method).budget(config.budget)
    assert budget.target + budget.fixed == pytest.approx(2.9e9, rel=5e-3)


def test_a_small_workload_keeps_how_it_finetunes():
    settings = find_recipe("fashion_mnist", "name").settings
    tune, base = (build_config(s).finetune for s in (diffrate(settings), settings))
    assert [getattr(tune, name) for name in vars(tune) if name != "distill"] == [
        getattr(base, name) for name in vars(base) if name != "distill"
    ]
    assert build_config(diffrate(settings)).search.steps == 100


def test_the_rate_of_finetuning_holds_at_any_batch_of_the_recipe():
    folder = {**imagenet_recipe(base=False), "dense": {"recipe": {"epochs": 0}}}
    for size in (64, 256):
        settings = {**folder, "finetune.batch_size": size}
        tune: PhaseConfig = build_config(diffrate(settings)).finetune
        assert (tune.batch_size, tune.lr_batch_size, tune.lr) == (size, size, 2e-5)


def test_what_belongs_to_another_method_does_not_stay():
    """Settings of ranks and of limits to a search, some of them under dotted keys."""
    settings = upstream(find_recipe("digits", "name").settings)
    assert "method.space" in settings
    settings |= {"search.steps": None, "search.images": 200, "schedule.kind": "fixed"}
    settings |= {"budget.reduction": None, "budget.absolute": 1e5}
    config = build_config(diffrate(settings))
    assert config.method == {"name": "diffrate"}
    assert config.search.images is None and config.search.steps == 100
    assert config.budget.reduction == 0.37


def test_the_preset_of_the_reference_differs_in_what_it_names():
    settings = find_recipe("deit_small_imagenet", "name").settings
    ours, theirs = (build_config(preset(settings)).to_json() for preset in PRESETS)
    differing = {
        f"{part}.{name}"
        for part in ours
        if isinstance(ours[part], dict)
        for name in {*ours[part], *theirs[part]}
        if ours[part].get(name) != theirs[part].get(name)
    }
    search = {"search.penalty_unit", "search.train_mode", "search.decision"}
    named = ("granularity", "sizes", "mask_gradient", "min_gradient", "macs")
    method = {f"method.{name}" for name in named}
    assert differing == search | method
    assert theirs["search"]["penalty_unit"] == 1e9 and theirs["method"]["granularity"] == 4


# Of any method.


def test_a_recipe_is_for_low_ranks_unless_changed():
    settings = find_recipe("digits", "name").settings
    assert build_config(for_method(settings, "lowrank")) == build_config(settings)
    assert for_method(settings, "diffrate", epochs=5) == diffrate(settings, epochs=5)
    assert for_method(settings, "lowrank", reference=True) == upstream(settings)


def test_several_methods_share_a_budget_that_all_can_count():
    settings = find_recipe("digits", "name").settings
    config = build_config(for_method(settings, "lowrank+diffrate"))
    # Fractions are those of ranks alone: the method has its own.
    assert config.method == {"name": "lowrank+diffrate", "lowrank": {"keep_dense": ["head"]}}
    assert (config.budget.unit, config.search.penalty) == ("macs", "squared")
    assert config.search_phase.distill.align_blocks == config.finetune.distill.align_blocks == ()


def test_epochs_and_macs_that_are_known_replace_the_published_ones():
    settings = find_recipe("digits", "name").settings
    config = build_config(diffrate(settings, epochs=2, macs=10**6))
    assert config.schedule == {"kind": "explicit", "epochs": [0, 1]}
    assert (config.budget.reduction, config.budget.absolute) == (None, 10**6)


def test_a_method_without_recipes_takes_what_is_there(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))

    @register("for the test of recipes", method="nowhere:Nothing")
    class Config:
        pass

    settings = find_recipe("digits", "name").settings
    found = for_method(settings, "for the test of recipes")
    assert found == {**settings, "method": {"name": "for the test of recipes"}}
    with pytest.raises(ValueError, match="--preset: got 'upstream', allowed: nothing with"):
        for_method(settings, "for the test of recipes", reference=True)
    with pytest.raises(ValueError, match=r"--preset: got 'upstream', .*lowrank\+diffrate"):
        for_method(settings, "lowrank+diffrate", reference=True)
