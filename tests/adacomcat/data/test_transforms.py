"""Against timm's `create_transform`, which is what DeiT trains and evaluates with."""

import pickle
import random

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data import create_transform, resolve_data_config
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import functional as tv
from torchvision.transforms import v2

from adacomcat.config import DataConfig
from adacomcat.data import build_splits, make_loader
from adacomcat.data.preprocessing import Preprocessing
from adacomcat.data.transforms import borrowed_generators, evaluation, policy, training

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPEC = Preprocessing(image_size=64)
DEIT = "rand-m9-mstd0.5-inc1"


def picture(width: int = 90, height: int = 70) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    "name",
    [
        "deit_small_patch16_224.fb_in1k",  # crop_pct 0.9, ImageNet's mean
        "vit_base_patch16_384.augreg_in1k",  # crop_pct 1.0, mean 0.5
        "vit_base_patch16_siglip_224.webli",  # squash
        "coat_lite_medium_384.in1k",
        "caformer_s18.sail_in1k",
        "csatv2.r512_in1k",  # bilinear
        "deepseek_vit_412m.deepseek_v4_1_flash",  # border
    ],
)
@pytest.mark.parametrize("image", ["china.jpg", "flower.jpg", "tall"])
def test_evaluation_is_timms_for_a_model_on_photographs(name: str, image: str) -> None:
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None
    if image == "tall":
        photograph = Image.fromarray(load_sample_image("china.jpg")).crop((100, 0, 330, 427))
    else:
        photograph = Image.fromarray(load_sample_image(image))
    known = resolve_data_config({}, pretrained_cfg=cfg.to_dict())
    expected = create_transform(**known, is_training=False)(photograph)
    spec = Preprocessing.of_model(cfg.to_dict())
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (spec.mean, spec.std))
    got = (evaluation(spec)(photograph).float() / 255 - mean) / std
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["deit_small_patch16_224.fb_in1k", "vit_base_patch16_siglip_224.webli"]
)
def test_loaders_give_a_model_timms_images(image_folder, name: str) -> None:
    """From settings of a model to batches: decoded, cropped and normalized."""
    cfg = timm.get_pretrained_cfg(name)
    assert cfg is not None
    root = image_folder()
    settings = Preprocessing.of_model(cfg.to_dict(), image_size=28).settings()
    data = DataConfig(name="imagefolder", root=str(root), **settings)
    split = build_splits(data).test
    ((images, _),) = make_loader(split, data, batch_size=len(split), seed=0, train=False)
    known = resolve_data_config({"input_size": (3, 28, 28)}, pretrained_cfg=cfg.to_dict())
    timms = create_transform(**known, is_training=False)
    files = sorted((root / "val").rglob("*.png"))
    expected = torch.stack([timms(Image.open(path).convert("RGB")) for path in files])
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)


def test_preprocessing_round_trips_through_a_stored_pretrained_cfg() -> None:
    spec = Preprocessing(image_size=48, crop_pct=1.15, crop_mode="squash", interpolation="bilinear")
    assert Preprocessing.of_model(spec.to_pretrained_cfg()) == spec
    assert Preprocessing.of_model({}) == Preprocessing()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (0.5,)}, r"data.mean: got \(0.5,\), allowed: 3 numbers, one a channel"),
        (
            {"interpolation": "lanczos"},
            "data.interpolation: got 'lanczos', allowed: bicubic, bilin",
        ),
        ({"crop_mode": "left"}, "data.crop_mode: got 'left', allowed: center, squash, border"),
        ({"input_size": (3, 1024, 768)}, r"input_size: got \(3, 1024, 768\), allowed: a square"),
    ],
)
def test_preprocessing_that_is_not_offered_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing.of_model({**Preprocessing().to_pretrained_cfg(), **changes})


def test_deits_evaluation_is_256_then_224() -> None:
    """DeiT's own words: `Resize(int((256 / 224) * 224), interpolation=3)`, `CenterCrop(224)`."""
    image = picture(500, 375)
    resized = tv.resize(image, [256], tv.InterpolationMode.BICUBIC)
    expected = tv.pil_to_tensor(tv.center_crop(resized, [224]))
    assert torch.equal(evaluation(Preprocessing())(image), expected)


def secondary(name: str, spec: Preprocessing = SPEC):
    """timm's own policy object, as its training pipeline holds it."""
    stages = create_transform(
        spec.image_size,
        is_training=True,
        auto_augment=name,
        interpolation="bicubic",
        mean=spec.mean,
        std=spec.std,
        separate=True,
    )
    return stages[1].transforms[0]


def operations(chosen) -> list:
    if hasattr(chosen, "policy"):
        return [operation for entry in chosen.policy for operation in entry]
    return list(chosen.ops)


@pytest.mark.parametrize(
    "name", [DEIT, "rand-m7-n3-p0.8", "original-mstd0.5", "v0", "augmix-m5-w4"]
)
def test_a_policy_is_the_one_that_timm_builds(name: str) -> None:
    spec = Preprocessing(mean=(0.1, 0.5, 1.0))
    ours, timms = policy(name, spec), secondary(name, spec)
    assert type(ours) is type(timms)
    assert repr(ours) == repr(timms)
    for one, other in zip(operations(ours), operations(timms), strict=True):
        assert (one.kwargs, one.hparams, one.level_fn) == (
            other.kwargs,
            other.hparams,
            other.level_fn,
        )
    rest = {k: v for k, v in vars(ours).items() if k not in ("ops", "policy")}
    assert rest == {k: v for k, v in vars(timms).items() if k not in ("ops", "policy")}


def test_a_policy_gives_timms_images_from_the_same_random_numbers() -> None:
    ours, timms = policy(DEIT, SPEC), secondary(DEIT)
    image, different, refused = picture(), 0, 0
    for seed in range(300):
        got = []
        for each in (ours, timms):
            random.seed(seed)
            np.random.seed(seed)
            try:
                got.append(np.asarray(each(image)))
            except ValueError as error:  # Pillow from 13 on, for posterizing to 0 bits
                assert "bits must be between" in str(error) and each is timms
                refused += 1
        if len(got) == 2:
            np.testing.assert_array_equal(*got)
            different += not np.array_equal(got[0], np.asarray(image))
    assert different > 150
    assert refused < 15


def test_posterizing_to_0_bits_gives_black() -> None:
    (posterize,) = (op for op in operations(policy(DEIT, SPEC)) if op.name == "PosterizeIncreasing")
    got = np.asarray(posterize.aug_fn(picture(), 0, **posterize.kwargs))
    assert got.shape == (70, 90, 3) and not got.any()
    kept = np.asarray(posterize.aug_fn(picture(), 3, **posterize.kwargs))
    np.testing.assert_array_equal(kept, np.asarray(picture()) & 0b11100000)


def drawn(name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each operation was chosen, and applied, over images with their own seeds."""
    chosen = policy(name, SPEC)
    log: list[tuple[int, bool]] = []

    class Recorder:
        def __init__(self, index: int, operation) -> None:
            self.index, self.operation = index, operation
            operation.aug_fn = self.applied

        def applied(self, image, *_, **__):
            log[-1] = (self.index, True)
            return image

        def __call__(self, image):
            log.append((self.index, False))
            return self.operation(image)

    chosen.ops = [Recorder(i, op) for i, op in enumerate(operations(chosen))]  # type: ignore[attr-defined]
    image = picture(8, 8)
    seeds = np.random.default_rng(5).integers(0, 2**63, count)
    with borrowed_generators() as reseed:
        for seed in seeds:
            reseed(int(seed))
            chosen(image)
    indices = np.array([index for index, _ in log])
    applied = np.array([index for index, done in log if done])
    length = len(chosen.ops)  # type: ignore[attr-defined]
    return np.bincount(indices, minlength=length), np.bincount(applied, minlength=length)


def test_operations_are_chosen_and_applied_independently() -> None:
    """15 operations alike, each applied to every second image: RandAugment's definition."""
    chosen, applied = drawn(DEIT, 4000)
    assert chosen.sum() == 8000 and len(chosen) == 15
    np.testing.assert_allclose(chosen / 8000, 1 / 15, atol=0.015)  # 5 standard deviations
    np.testing.assert_allclose(applied / chosen, 0.5, atol=0.11)  # likewise


def test_resized_crop_takes_the_parts_that_timms_takes() -> None:
    """Means and spreads of the part's size, shape, place and mirroring."""
    width, height, count = 90, 70, 1500
    timms = RandomResizedCropAndInterpolation(64, interpolation="bicubic")
    ours = training(DataConfig(augment="resized_crop"), SPEC)
    assert ours is not None
    crop, flip = (step for step in ours.transforms if not isinstance(step, v2.PILToTensor))
    assert isinstance(flip, v2.RandomHorizontalFlip) and flip.p == 0.5
    assert crop.interpolation is v2.InterpolationMode.BICUBIC and crop.antialias
    image = picture(width, height)
    got, expected = [], []
    with borrowed_generators() as reseed:
        for seed in range(count):
            reseed(seed)
            part = crop.make_params([image])
            got.append([part[key] for key in ("top", "left", "height", "width")])
            expected.append(timms.get_params(image, timms.scale, timms.ratio))
    tables = []
    for rows in (got, expected):
        top, left, rows_high, wide = np.array(rows, dtype=float).T
        area, aspect = rows_high * wide / (width * height), np.log(wide / rows_high)
        middle = (top + rows_high / 2) / height, (left + wide / 2) / width
        tables.append(np.stack((area, aspect, *middle)))
    one, other = tables
    error = np.sqrt((one.var(1) + other.var(1)) / count)
    assert (np.abs(one.mean(1) - other.mean(1)) < 4 * error).all()
    np.testing.assert_allclose(one.std(1), other.std(1), rtol=0.1)


def test_a_resized_crop_is_pillows_but_for_rounding() -> None:
    image = picture(500, 375)
    ours = training(DataConfig(augment="resized_crop"), Preprocessing())
    assert ours is not None
    crop = ours.transforms[1]
    for seed in range(20):
        with borrowed_generators() as reseed:
            reseed(seed)
            got = ours(image)
            reseed(seed)
            part = crop.make_params([image])
            flipped = float(torch.rand(1)) < 0.5
        box = (part["top"], part["left"], part["height"], part["width"])
        scaled = tv.resized_crop(image, *box, [224, 224], tv.InterpolationMode.BICUBIC)
        expected = tv.pil_to_tensor(tv.hflip(scaled) if flipped else scaled)
        difference = (got.int() - expected.int()).abs().float()
        assert float(difference.max()) <= 2 and float(difference.mean()) < 0.3


def test_augmented_pixels_have_timms_statistics() -> None:
    """The whole pipeline, with the policy: mean and spread of each channel over many draws."""
    image = picture(90, 70)
    data = DataConfig(augment="resized_crop", auto_augment=DEIT)
    ours = training(data, SPEC)
    timms = create_transform(
        64,
        is_training=True,
        auto_augment=DEIT,
        interpolation="bicubic",
        normalize=False,
        color_jitter=0.3,
    )
    assert ours is not None
    rows: list[list[torch.Tensor]] = [[], []]
    with borrowed_generators() as reseed:
        for each, found in zip((ours, timms), rows, strict=True):
            seed = 0
            while len(found) < 600:
                seed += 1
                reseed(seed if each is ours else seed + 10_000)
                try:
                    pixels = each(image).float() / 255
                except ValueError:  # Pillow from 13 on, for posterizing to 0 bits: rarely
                    continue
                found.append(torch.cat([pixels.mean((1, 2)), pixels.std((1, 2))]))
    one, other = (torch.stack(found) for found in rows)
    error = ((one.var(0) + other.var(0)) / 600).sqrt()
    assert ((one.mean(0) - other.mean(0)).abs() < 4 * error).all()


def test_without_resized_crop_a_policy_follows_the_evaluations_size() -> None:
    name = "rand-m9-p0"  # chooses operations and applies none
    ours = training(DataConfig(auto_augment=name), SPEC)
    assert ours is not None
    assert torch.equal(ours(picture()), evaluation(SPEC)(picture()))
    assert training(DataConfig(augment="affine"), SPEC) is None


def test_borrowed_generators_are_given_back() -> None:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    with pytest.raises(KeyError), borrowed_generators() as reseed:
        reseed(2**63 - 1)
        first = random.random(), np.random.rand(), torch.rand(1)
        reseed(2**63 - 1)
        assert first == (random.random(), np.random.rand(), torch.rand(1))
        raise KeyError
    assert expected == (random.random(), np.random.rand(), torch.rand(1))


def test_the_generators_give_different_numbers() -> None:
    with borrowed_generators() as reseed:
        for seed in (0, 1, 2**32 + 5, 2**63 - 1):
            reseed(seed)
            drawn = {random.random(), float(np.random.random()), float(torch.rand(1))}
            reseed(seed + 1 if seed < 2**63 - 1 else 3)
            drawn |= {random.random(), float(np.random.random()), float(torch.rand(1))}
            assert len(drawn) == 6


def test_a_pipeline_travels_to_a_process_that_is_not_forked() -> None:
    data = DataConfig(augment="resized_crop", auto_augment=DEIT)
    ours = training(data, SPEC)
    assert ours is not None
    copy = pickle.loads(pickle.dumps(ours))
    got = []
    for each in (ours, copy):
        with borrowed_generators() as reseed:
            reseed(7)
            got.append(each(picture()))
    assert torch.equal(*got)


@pytest.mark.parametrize(
    "name", ["rands-m9", "rand-m9-q5", "deit", "", "rand-mmany", "rand-m9-mstd"]
)
def test_an_unknown_policy_is_named(name: str) -> None:
    message = rf"data.auto_augment: got '{name}', allowed: a policy of timm, for instance rand-m9"
    with pytest.raises(ValueError, match=message):
        training(DataConfig(auto_augment=name), SPEC)
