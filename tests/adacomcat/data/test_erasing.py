"""Against timm's `RandomErasing`, in the mode that DeiT uses."""

import random

import numpy as np
import torch
from timm.data.random_erasing import RandomErasing

from adacomcat.data.erasing import draw, erase_

SIDE, COUNT = 32, 4000


def rectangles(probability: float = 1.0, count: int = COUNT, seed: int = 0) -> np.ndarray:
    drawn = draw(probability, count, SIDE, np.random.default_rng(seed))
    assert drawn is not None
    return drawn


def timms(probability: float) -> list[tuple[int, int, int, int] | None]:
    """What timm covers: top, left, height, width of each image, None where it covers nothing."""
    erasing = RandomErasing(probability, mode="pixel", device="cpu")
    random.seed(1)
    found: list[tuple[int, int, int, int] | None] = []
    for _ in range(COUNT):
        covered = erasing(torch.zeros(1, SIDE, SIDE))[0] != 0
        if not covered.any():
            found.append(None)
            continue
        down, right = covered.any(1).nonzero(), covered.any(0).nonzero()
        top, left = int(down.min()), int(right.min())
        found.append((top, left, int(down.max()) - top + 1, int(right.max()) - left + 1))
    return found


def statistics(rows: np.ndarray) -> np.ndarray:
    """5 x N: area, log of the aspect, place down and right within what is possible, both sides."""
    top, left, height, width = rows.astype(float).T
    return np.stack(
        (
            height * width / SIDE**2,
            np.log(height / width),
            top / (SIDE - height),
            left / (SIDE - width),
            np.minimum(height, width),
        )
    )


def test_rectangles_are_distributed_as_timms() -> None:
    expected = np.array([row for row in timms(1.0) if row is not None])
    drawn = rectangles()[:, :4]
    drawn = drawn[drawn[:, 2] > 0]
    assert len(expected) > 0.99 * COUNT and len(drawn) > 0.99 * COUNT
    one, other = statistics(drawn), statistics(expected)
    error = np.sqrt((one.var(1) + other.var(1)) / len(drawn))
    assert (np.abs(one.mean(1) - other.mean(1)) < 4 * error).all()
    np.testing.assert_allclose(one.std(1), other.std(1), rtol=0.08)


def test_as_many_images_are_erased_as_timms() -> None:
    ours = (rectangles(0.25)[:, 2] > 0).mean()
    theirs = np.mean([row is not None for row in timms(0.25)])
    for share in (ours, theirs):
        assert abs(share - 0.25) < 4 * (0.25 * 0.75 / COUNT) ** 0.5


def test_rectangles_lie_within_the_image() -> None:
    top, left, height, width, _ = rectangles().T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= SIDE).all() and (left + width <= SIDE).all()
    assert (top + height == SIDE).any() and (left == 0).any()  # the edges can be reached


def test_noise_is_normal_and_the_rest_is_left() -> None:
    drawn = rectangles(0.5, 300)
    before = torch.full((300, 3, SIDE, SIDE), 7.0)
    after = erase_(before.clone(), drawn)
    noise = []
    for image, (top, left, height, width, _) in zip(after, drawn.tolist(), strict=True):
        covered = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        covered[top : top + height, left : left + width] = True
        assert (image[:, ~covered] == 7).all()
        noise.append(image[:, covered].flatten())
    values = torch.cat(noise)
    assert len(values) > 30_000
    assert abs(float(values.mean())) < 0.02 and abs(float(values.std()) - 1) < 0.02
    sample = values[:5000].numpy()
    assert abs(np.corrcoef(sample[:-1], sample[1:])[0, 1]) < 0.06  # each pixel its own


def test_an_images_noise_does_not_depend_on_its_batch() -> None:
    drawn = rectangles(0.7, 20)
    images = torch.zeros(20, 3, SIDE, SIDE)
    whole = erase_(images.clone(), drawn)
    odd = erase_(images[1::2].clone(), drawn[1::2])
    assert torch.equal(whole[1::2], odd)
    assert not torch.equal(whole[0::2], odd)
    erased = [image for image, row in zip(whole, drawn, strict=True) if row[2] > 0]
    assert len({image.numpy().tobytes() for image in erased}) == len(erased) > 5


def test_without_erasing_nothing_is_drawn() -> None:
    assert draw(0.0, 5, SIDE, np.random.default_rng(0)) is None
    images = torch.ones(2, 3, 4, 4)
    assert erase_(images, None) is images and bool((images == 1).all())


def test_an_image_too_small_for_any_rectangle_stays_whole() -> None:
    drawn = draw(1.0, 100, 1, np.random.default_rng(0))
    assert drawn is not None and not drawn[:, 2].any()
    images = torch.ones(100, 3, 1, 1)
    assert torch.equal(erase_(images.clone(), drawn), images)
