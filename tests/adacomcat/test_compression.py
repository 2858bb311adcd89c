"""`adacomcat.compress`: one call, a copy, within the reduction, savable."""

import json
from functools import partial

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.utils import natural_key

import adacomcat
from adacomcat.compression import Compressed
from adacomcat.config import BudgetConfig
from adacomcat.cost import count_macs, count_params
from adacomcat.io.directory import read_config, read_plan
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.methods.registry import build_method
from adacomcat.search.strategy import Strategy
from adacomcat.testing.models import tiny_caformer, tiny_images, tiny_vit

DEEP = partial(tiny_vit, depth=4)
MODELS = {
    "vit": tiny_vit,
    "distilled": lambda: tiny_vit("deit_tiny_distilled_patch16_224"),
    "average": lambda: tiny_vit(global_pool="avg", class_token=False),
    "two classes": lambda: tiny_vit(num_classes=2),
    "no classifier": lambda: tiny_vit(num_classes=0),
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("unit", ["params", "macs"])
def test_one_line_compresses_a_copy(build, unit):
    model, images = build(), tiny_images()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules = dict(model.named_modules())
    found = adacomcat.compress(model, reduction=0.4, unit=unit)
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert found.model(images).shape == model(images).shape
    assert not any(module.training for module in found.model.modules())
    report = found.report
    assert report.cost <= report.target == pytest.approx(0.6 * report.dense_cost)
    # As full as whole ranks allow.
    assert 0.4 <= report.reduction < 0.5
    assert report.params == count_params(found.model) < report.dense_params == count_params(model)
    assert report.macs == count_macs(found.model, (3, 16, 16)) < report.dense_macs
    if unit == "macs":
        assert (report.cost, report.dense_cost) == (report.macs, report.dense_macs)
    assert report.decisions == found.plan.decisions
    assert json.loads(json.dumps(report.to_json())) == report.to_json()
    shares = [
        rank / site.full
        for site in LowRank(build(), LowRankConfig()).sites
        if (rank := report.decisions[site.name]) is not None and site.full > 8
    ]
    assert max(shares) - min(shares) <= 0.25, "uniform but for whole ranks a head"


def test_a_model_in_training_is_left_in_training():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5)
    assert model.training
    found = adacomcat.compress(model)
    assert model.training and not found.model.training


@pytest.mark.parametrize(
    ("method", "build"),
    [
        ("diffrate", DEEP),
        ("lowrank+diffrate", DEEP),
        ("diffrate", tiny_caformer),
        ({"name": "lowrank", "keep_dense": ["head"], "biases": "drop"}, DEEP),
    ],
)
def test_any_method_by_its_name_or_settings(method, build):
    found = adacomcat.compress(build(), reduction=0.2, method=method)
    name = method if isinstance(method, str) else method["name"]
    assert found.plan.method == found.report.method == name
    assert found.report.unit == ("macs" if "diffrate" in name else "params")
    assert 0.2 <= found.report.reduction < 0.35
    if not isinstance(method, str):
        assert "head" not in found.plan.decisions


def test_the_plan_is_that_of_never():
    method = build_method(tiny_vit(), {"name": "lowrank"})
    plan = method.default_plan(method.budget(BudgetConfig(reduction=0.5)))
    assert adacomcat.compress(tiny_vit()).plan == plan


@pytest.mark.parametrize("as_batches", [False, True])
def test_images_calibrate_the_truncation(as_batches):
    """Errors on images like those that were shown are smaller than without."""
    shift = torch.linspace(-2, 2, 16)[None, None, None, :]
    shown, others = (tiny_images(32, seed=seed) * 0.3 + shift for seed in (1, 2))
    model = tiny_vit()
    given = shown.split(5) if as_batches else shown
    plain, calibrated = (
        adacomcat.compress(model, images, strategy="uniform") for images in (None, given)
    )
    assert plain.plan == calibrated.plan
    errors = [(each.model(others) - model(others)).norm() for each in (plain, calibrated)]
    assert errors[1] < 0.8 * errors[0]


def test_with_images_the_plan_is_that_of_least_sensitivity():
    model, images = tiny_vit(), tiny_images(40)
    found = adacomcat.compress(model, images, reduction=0.4)
    uniform = adacomcat.compress(model, images, reduction=0.4, strategy="uniform")
    assert (found.report.strategy, found.report.images) == ("sensitivity", 40)
    assert found.plan != uniform.plan and uniform.report.losses == {}
    assert found.report.losses.keys() == found.report.decisions.keys()
    # Summed over sites it is the least there is, so not above the uniform plan's.
    method = build_method(tiny_vit(), {"name": "lowrank", "metrics": "gradients", "space": "fine"})
    method.calibrate([images])
    losses = method.losses_of_options("params", "sensitivity", None)
    of_uniform = 0.0
    for site, rank in uniform.plan.decisions.items():
        # At the next larger option, whose loss is no more.
        larger = [loss for o, loss in losses[site] if o.decision is None or o.decision >= rank]
        of_uniform += max(larger)
    assert sum(found.report.losses.values()) <= of_uniform
    assert found.report.peak_bytes > 0


@pytest.mark.parametrize("strategy", ["measured", "energy", "effective_rank"])
def test_other_strategies_without_training(strategy):
    found = adacomcat.compress(tiny_vit(), tiny_images(16), reduction=0.4, strategy=strategy)
    assert found.report.strategy == strategy and 0.4 <= found.report.reduction < 0.45


def test_no_more_images_than_asked_are_looked_at():
    found = adacomcat.compress(tiny_vit(), tiny_images(50).split(7), count=33)
    assert found.report.images == 33


def test_few_images_are_worth_a_warning(caplog):
    with caplog.at_level("WARNING", "adacomcat"):
        adacomcat.compress(tiny_vit(), tiny_images(40))
        assert not caplog.records
        adacomcat.compress(tiny_vit(), tiny_images(8))
    assert caplog.messages == [
        "8 images: truncation errs about a tenth more than with 64; give 32 or more"
    ]


def test_a_folder_is_preprocessed_as_the_model_wants(tmp_path):
    """With timm's own transform of the model, on whatever files the folder and its folders hold."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5).eval()
    noise = np.random.default_rng(0)
    for place in range(34):
        folder = tmp_path / ("cats" if place % 2 else ".")
        folder.mkdir(exist_ok=True)
        pixels = noise.integers(0, 256, (40 + place, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.png")
    data = timm.data.resolve_model_data_config(model) | {"input_size": (3, 32, 32)}
    transform = timm.data.create_transform(**data, is_training=False)
    files = sorted(tmp_path.rglob("*.png"), key=lambda path: natural_key(str(path)))
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in files])
    shown = adacomcat.compress(model, images)
    found = adacomcat.compress(model, tmp_path)
    assert found.plan == shown.plan and found.report.images == 34
    inputs = images[:2]
    torch.testing.assert_close(found.model(inputs), shown.model(inputs), rtol=1e-3, atol=1e-4)
    few = adacomcat.compress(model, str(tmp_path), count=33)
    assert few.report.images == 33
    assert few.plan == adacomcat.compress(model, tmp_path, count=33).plan


def test_small_images_are_worth_a_warning(tmp_path, caplog):
    for place in range(33):
        Image.new("RGB", (8, 20), (place, 0, 0)).save(tmp_path / f"{place}.png")
    with caplog.at_level("WARNING", "adacomcat"):
        adacomcat.compress(tiny_vit(), tmp_path)
    assert caplog.messages == [
        "33 of 33 images are smaller than 16 pixels, for which the model is made"
    ]


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"images: cannot decode the image 'broken\.jpg'"):
        adacomcat.compress(tiny_vit(), tmp_path)


def test_float16_on_the_cpu_is_refused():
    with pytest.raises(ValueError, match="model: data type: got 'float16 on the CPU'"):
        adacomcat.compress(tiny_vit().half())


def test_gradients_do_not_depend_on_the_callers_mode():
    model, images = tiny_vit(), tiny_images(33)
    with torch.inference_mode(False), torch.no_grad():
        found = adacomcat.compress(model, images)
    assert found.plan == adacomcat.compress(model, images).plan


def test_what_is_saved_opens_as_any_model(tmp_path):
    found = adacomcat.compress(
        timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5), reduction=0.3
    )
    found.save(tmp_path, extra={"from": "a test"})
    images = tiny_images(2, side=32)
    assert torch.equal(adacomcat.load(tmp_path)(images), found.model(images))
    assert read_plan(tmp_path) == found.plan
    extra = read_config(tmp_path)["adacomcat"]["extra"]
    assert extra["compress"]["reduction"] == found.report.reduction
    assert (
        extra["compress"]["decisions"] == dict(found.plan.decisions) and extra["from"] == "a test"
    )


class Blind(Strategy):
    """A strategy that cannot do without images."""

    name = "blind, for a test"

    def search(self, batches, epoch, steps=None):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reduction": 0.99}, r"budget\.reduction: got 0\.99, allowed: a total of at least"),
        ({"reduction": 1.5}, r"budget\.reduction: got 1\.5"),
        ({"unit": "grams"}, r"budget\.unit: got 'grams', allowed: params, macs, latency"),
        ({"unit": "params", "method": "diffrate"}, r"budget\.unit: got 'params', allowed: macs"),
        ({"method": "low_rank"}, r"method\.name: got 'low_rank' \(did you mean 'lowrank'"),
        ({"method": {"name": "lowrank", "spase": 1}}, r"method\.spase.*'space'"),
        ({"strategy": "unifrom"}, r"search\.strategy: got 'unifrom' \(did you mean 'uniform'"),
        ({"strategy": "gradient"}, r"strategy: got 'gradient', allowed: one that needs no labels"),
        ({"strategy": Blind.name}, "images: got None, allowed: some, with 'blind"),
        (
            {"images": torch.zeros(2, 3, 8, 8)},
            r"images: got \(2, 3, 8, 8\), allowed: .*3, 16, 16\)",
        ),
        ({"images": torch.zeros(0, 3, 16, 16)}, "images: got 'none', allowed: one or more"),
        ({"images": "/nowhere"}, "images: got '/nowhere', allowed: a folder of images"),
        ({"images": tiny_images(2), "count": 0}, "count: got 0"),
        ({"images": [tiny_images(2) / 0]}, "images: got 'values that are infinite"),
        ({"images": ["x.png"]}, r"images: got 'str', allowed: tensors of shape \(N, 3, 16, 16\)"),
        ({"images": tiny_images(2), "batch_size": 0}, "batch_size: got 0"),
        (
            {"images": tiny_images(2), "method": "diffrate"},
            "images: got 'some', allowed: None with",
        ),
        (
            {"images": tiny_images(2), "method": {"name": "lowrank", "metrics": "plain"}},
            "images: got 'some', allowed: None with method 'lowrank' of these settings",
        ),
        (
            {"method": {"name": "lowrank", "metrics": "inputs"}},
            "images: got 'none', allowed: one or",
        ),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    model = DEEP()
    outputs = model(tiny_images())
    with pytest.raises(ValueError, match=message):
        adacomcat.compress(model, **settings)
    assert torch.equal(model(tiny_images()), outputs)


def test_it_is_the_first_public_name():
    assert adacomcat.__all__[0] == "compress"
    # Importing its module must not put the module in the function's place.
    assert callable(adacomcat.compress) and Compressed.__module__ == "adacomcat.compression"
