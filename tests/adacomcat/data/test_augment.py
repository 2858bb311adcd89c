import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from adacomcat.data.augment import MAX_ANGLE_DEG, affine, apply, crop_flip, draw, inverse_affine


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def one(angle: float = 0, right: float = 0, down: float = 0, scale: float = 1) -> torch.Tensor:
    values = torch.tensor([angle, right, down, scale], dtype=torch.float64)
    return inverse_affine(values[:1], values[None, 1:3], values[3:]).float()


def test_identity_parameters_give_the_image_back(images: torch.Tensor) -> None:
    torch.testing.assert_close(affine(images, one().expand(5, 6)), images, atol=1e-5, rtol=0)


def test_a_quarter_turn_is_an_exact_rotation(images: torch.Tensor) -> None:
    turned = affine(images, one(angle=90).expand(5, 6))
    # Clockwise, as torchvision's affine; torch.rot90 turns counter-clockwise.
    torch.testing.assert_close(turned, torch.rot90(images, -1, (2, 3)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("angle", "right", "down", "scale"),
    [(90, 0, 0, 1), (10, 0, 0, 1), (0, 3, 0, 1), (0, 0, -2, 1), (-7, 2, 1, 1.1), (5, -1, 4, 0.9)],
)
def test_affine_agrees_with_torchvision(
    images: torch.Tensor, angle: float, right: int, down: int, scale: float
) -> None:
    expected = tv.affine(
        images, angle, [right, down], scale, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR
    )
    got = affine(images, one(angle, right / 16, down / 16, scale).expand(5, 6))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_each_image_moves_by_its_own_parameters(images: torch.Tensor) -> None:
    matrices = torch.cat([one(angle=a, right=a / 100) for a in (-10, -3, 0, 4, 9)])
    together = affine(images, matrices)
    for i in range(5):
        assert torch.equal(together[i : i + 1], affine(images[i : i + 1], matrices[i : i + 1]))


def test_drawn_affine_parameters_stay_in_their_ranges() -> None:
    matrices = draw("affine", 4000, np.random.default_rng(0))
    assert matrices is not None
    inverse = torch.linalg.inv(matrices.view(-1, 2, 3)[:, :, :2].double())
    scale = torch.linalg.det(inverse).sqrt()
    angle = torch.rad2deg(torch.atan2(inverse[:, 1, 0], inverse[:, 0, 0]))
    shift = -(inverse @ matrices.view(-1, 2, 3)[:, :, 2:].double()).squeeze(2) / 2
    for values, low, high in (
        (angle, -MAX_ANGLE_DEG, MAX_ANGLE_DEG),
        (scale, 0.9, 1.1),
        (shift, -0.08, 0.08),
    ):
        margin = 0.02 * (high - low)
        assert low - 1e-5 <= values.min() < low + margin
        assert high - margin < values.max() <= high + 1e-5


def test_crop_flip_cuts_the_window_that_slicing_gives(images: torch.Tensor) -> None:
    uniform = torch.tensor(
        [[0.0, 0.0, 0.0], [0.999, 0.0, 0.9], [0.5, 0.5, 0.1], [0.5, 0.5, 0.5], [0.3, 0.8, 0.7]]
    )
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    got = crop_flip(images, uniform)
    for i, (down, right, flip) in enumerate(uniform.tolist()):
        top, left = int(down * 5), int(right * 5)
        expected = padded[i, :, top : top + 16, left : left + 16]
        if flip >= 0.5:
            expected = expected.flip(-1)
        assert torch.equal(got[i], expected)
    assert torch.equal(got[2], images[2])  # the middle of five places is the image itself


def test_none_draws_nothing_and_leaves_the_images(images: torch.Tensor) -> None:
    assert draw("none", 5, np.random.default_rng(0)) is None
    assert apply("none", images, None) is images
