"""The teacher's logits on disk: the same losses without the teacher's forward."""

import copy
import dataclasses

import pytest
import safetensors.torch
import torch

from adacomcat.config import DataConfig, DistillConfig, ModelConfig, PhaseConfig
from adacomcat.data import build_splits, make_loader
from adacomcat.data.images import DecodedImages
from adacomcat.testing.images import write_image_folder
from adacomcat.testing.models import tiny_vit
from adacomcat.training.dense import dense_key
from adacomcat.training.distill import Distiller
from adacomcat.training.phase import Trainee
from adacomcat.training.teacher import BATCH_SIZE, CachedTeacher

SIZES = {"img_size": 8, "embed_dim": 16, "num_heads": 2, "num_classes": 4, "in_chans": 1}
DATA = DataConfig(
    name="synthetic",
    options={"num_classes": 4, "images": 600, "image_size": 8, "in_chans": 1},
)


def recipe(kind="soft", cache="kept", **changes):
    distill = DistillConfig(kind=kind, align_blocks=(), cache=cache)
    return PhaseConfig(**{"epochs": 2, "batch_size": 32, "lr": 1e-3, "distill": distill} | changes)


def cached(teacher, data=DATA, model=None, split=None):
    split = build_splits(data).train if split is None else split
    return CachedTeacher(teacher, model or ModelConfig(options=SIZES), split, data)


def loader_of(split, data=DATA, **options):
    return make_loader(split, data, batch_size=32, seed=0, train=True, augment=True, **options)


def count_images(teacher):
    """Images that the teacher has been given, in a list that grows."""
    seen = []
    teacher.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    return seen


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_steps_are_those_with_a_teacher_that_runs(kind, accumulate):
    """Steps of equal students, in parts too, against those of a teacher that is asked."""
    teacher = tiny_vit(seed=1, **SIZES)
    split = build_splits(DATA).train
    found = []
    for cache in (None, "kept"):
        one = recipe(kind, cache, accumulate=accumulate)
        batches = cached(teacher, split=split).beside(loader_of(split), one)
        model, losses = tiny_vit(seed=0, **SIZES), []
        trainee = Trainee(model, one, teacher)
        seen = count_images(teacher)
        with trainee.training():
            for batch in batches:
                losses.append(trainee.step(*batch[:2], 0.0, *batch[2:]))
        assert sum(seen) == (0 if cache else 32 * len(losses))
        found.append((torch.stack(losses), dict(model.named_parameters())))
    assert len(found[0][0]) == 10
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-5)


def test_bf16_logits_are_kept_as_they_come():
    teacher, split = tiny_vit(seed=1, **SIZES), build_splits(DATA).train
    taught = cached(teacher, split=split).beside(loader_of(split), recipe(bf16=True))
    whole = make_loader(split, DATA, batch_size=BATCH_SIZE, seed=0, train=False)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = torch.cat([teacher(images) for images, _ in whole])
    assert taught.logits.dtype == torch.bfloat16
    assert torch.equal(taught.logits, expected)


def test_logits_belong_to_their_images(tmp_path):
    """Of files, in every order, for each worker, and where an epoch shows an image thrice."""
    root = write_image_folder(tmp_path / "images", classes=2, train=40, val=8, side=20)
    data = DataConfig(
        name="imagefolder",
        root=str(root),
        image_size=8,
        search_images=16,
        val_fraction=0.2,
        repeats=3,
    )
    split = build_splits(data).train
    assert isinstance(split.images, DecodedImages)
    teacher = tiny_vit(seed=1, **SIZES | {"in_chans": 3, "num_classes": 2})
    one = recipe()
    for rank in range(2):
        loader = loader_of(split, data, rank=rank, world=2)
        taught = cached(teacher, data, split=split).beside(loader, one)
        assert len(taught) == len(loader) > 0
        for epoch in (0, 3):
            loader.set_epoch(epoch)
            for images, labels, logits in taught:
                assert len(images) == len(labels) == 16
                torch.testing.assert_close(logits, teacher(images), rtol=1e-5, atol=1e-6)


def test_a_trial_trains_alike_and_asks_its_teacher_once(config, run, monkeypatch, dense_cache):
    """Two trials of other seeds share one file; losses to 1e-6 of those without."""
    data = dataclasses.replace(config.data, augment="none")

    def trial(name, cache, **changes):
        phases = {
            "search_phase": recipe(cache=cache, epochs=3),
            "finetune": recipe("hard", cache=cache),
        }
        return run(name, data=data, **phases, **changes)[1]

    plain = trial("plain", None)
    monkeypatch.setattr(
        Distiller,
        "teach",
        lambda self, images, known=None: (known, []) if known is not None else pytest.fail("asked"),
    )
    kept = trial("kept", "one place")
    (path,) = (dense_cache / "one place").iterdir()
    written = path.stat().st_mtime_ns
    trial("other", str(dense_cache / "one place"), seed=1)
    assert list((dense_cache / "one place").iterdir()) == [path]
    assert path.stat().st_mtime_ns == written
    for key in ("loss", "base_loss", "val_loss"):
        expected = [row[key] for row in plain.epochs]
        assert [row[key] for row in kept.epochs] == pytest.approx(expected, abs=1e-6)
    assert [row["plan"] for row in kept.searches] == [row["plan"] for row in plain.searches]


def test_a_file_that_is_there_spares_the_teacher(tmp_path):
    teacher, one = tiny_vit(seed=1, **SIZES), recipe(cache=str(tmp_path))
    split = build_splits(DATA).train
    first, second = (cached(copy.deepcopy(teacher), split=split) for _ in range(2))
    seen = [count_images(each.teacher) for each in (first, second)]
    logits = [each.beside(loader_of(split), one).logits for each in (first, second)]
    assert [sum(images) for images in seen] == [len(split), 0]
    assert torch.equal(*logits)
    again = first.beside(loader_of(split), one)
    assert again.logits is logits[0]


def test_what_determines_the_logits_has_a_file_of_its_own(tmp_path):
    teacher, split = tiny_vit(seed=1, **SIZES), build_splits(DATA).train
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        other.head.bias[0] += 1e-6
    fewer = dataclasses.replace(split, labels=split.labels[:64], images=_first(split, 64))
    bright = dataclasses.replace(split, spec=dataclasses.replace(split.spec, mean=(0.1,)))
    heads = ModelConfig(options=SIZES | {"num_heads": 4})

    def files(bf16=False, **changes):
        one = cached(**{"teacher": teacher, "split": split} | changes)
        one.beside(loader_of(one.split), recipe(cache=str(tmp_path), bf16=bf16))
        return len(list(tmp_path.iterdir()))

    assert files() == files() == 1
    assert files(teacher=other) == 2
    assert files(bf16=True) == 3
    assert files(split=build_splits(dataclasses.replace(DATA, split_seed=1)).train) == 4
    assert files(split=fewer) == 5
    assert files(split=bright) == 6
    assert files(model=heads) == 7
    assert files() == 7


def _first(split, count):
    return split.images.select(torch.arange(count).numpy())


@pytest.mark.parametrize("damage", ["cut", "altered", "foreign"])
def test_a_damaged_file_is_refused_by_name(tmp_path, damage):
    teacher, one, split = tiny_vit(**SIZES), recipe(cache=str(tmp_path)), build_splits(DATA).train
    cached(teacher, split=split).beside(loader_of(split), one)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    if damage == "foreign":
        safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    else:
        path.write_bytes(content[:-20] if damage == "cut" else content)
    with pytest.raises(ValueError, match=rf"{path.name}: .*delete it"):
        cached(teacher, split=split).beside(loader_of(split), one)


def test_two_that_miss_the_file_at_once_both_find_it(tmp_path, monkeypatch):
    """One writes while the other computes, who then replaces the file that the first one maps."""
    teacher, one, split = tiny_vit(**SIZES), recipe(cache=str(tmp_path)), build_splits(DATA).train
    slow, fast = (cached(teacher, split=split) for _ in range(2))
    compute, found = slow._compute, []

    def overtaken(*arguments):
        found.append(fast.beside(loader_of(split), one).logits)
        return compute(*arguments)

    monkeypatch.setattr(slow, "_compute", overtaken)
    found.append(slow.beside(loader_of(split), one).logits)
    assert len(list(tmp_path.iterdir())) == 1
    assert torch.equal(*found) and found[0].any()


REFUSED = [
    ({"data": {"augment": "affine"}}, "data.augment: got 'affine', allowed: 'none' with"),
    ({"data": {"auto_augment": "rand-m9"}}, "data.auto_augment: got 'rand-m9', allowed: None"),
    ({"data": {"random_erasing": 0.25}}, "data.random_erasing: got 0.25, allowed: 0 with"),
    ({"data": {"skip_unreadable": True}}, "data.skip_unreadable: got True"),
    ({"phase": {"mixup": 0.8}}, "finetune.mixup: got 0.8, allowed: 0 with finetune.distill.cache"),
    ({"phase": {"cutmix": 1.0}}, "finetune.cutmix: got 1.0"),
    ({"distill": {"align_blocks": (0,)}}, r"finetune.distill.align_blocks: got \(0,\)"),
    ({"distill": {"kind": "none"}}, "finetune.distill.kind: got 'none', allowed: soft, hard with"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_a_recipe_whose_lessons_change_is_refused_before_anything_runs(
    config, make_trial, change, message
):
    def trial(**kept):
        distill = dataclasses.replace(recipe(**kept).distill, **change.get("distill", {}))
        tuned = recipe(distill=distill, **change.get("phase", {}))
        plain = dataclasses.replace(config.data, augment="none")
        data = dataclasses.replace(plain, **change.get("data", {}))
        return make_trial(data=data, finetune=tuned)

    with pytest.raises(ValueError, match=message):
        trial()
    # What reads images from files refuses a policy for those in memory by itself.
    if "auto_augment" not in message:
        trial(cache=None)


def test_where_the_logits_are_kept_changes_no_dense_model(config, splits):
    key = dense_key(config, splits)
    kept = dataclasses.replace(config.dense.recipe.distill, cache="elsewhere")
    moved = dataclasses.replace(config.dense.recipe, distill=kept)
    dense = dataclasses.replace(config.dense, recipe=moved)
    assert dense_key(dataclasses.replace(config, dense=dense), splits) == key
