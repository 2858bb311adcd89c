"""`trace` on a small model that drops tokens."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.transforms import v2

import adacomcat
from adacomcat.cli.trace import named
from adacomcat.methods.registry import build_method
from adacomcat.plan import Plan

SIDE, PATCHES = 32, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A DeiT of three blocks and 16 patches that prunes and merges in the last two."""
    torch.manual_seed(0)
    options = {"img_size": SIDE, "patch_size": 8, "depth": 3, "embed_dim": 48, "num_heads": 3}
    args = {"num_classes": 4, **options}
    model = timm.create_model("deit_tiny_patch16_224", **args).eval()
    method = build_method(model, {"name": "diffrate"})
    counts = {1: (14, 11), 2: (9, 6)}
    decisions = {
        f"blocks.{block}.{kind}": kept
        for block, kinds in counts.items()
        for kind, kept in zip(("prune", "merge"), kinds, strict=True)
    }
    method.commit_(Plan("diffrate", decisions))
    directory = tmp_path_factory.mktemp("stored") / "model"
    adacomcat.save(model, directory, model_args=args)
    return directory


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two pictures, neither of the model's size, one gray."""
    directory = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    paths = [directory / "colors.png", directory / "gray.png"]
    Image.fromarray(noise).save(paths[0])
    Image.fromarray(noise[..., 0]).save(paths[1])
    return paths


def test_every_patch_is_dropped_or_in_one_of_as_many_tokens_as_the_block_leaves(
    cli, folder, pictures, tmp_path
):
    output = tmp_path / "new" / "tokens.npz"
    done = cli("trace", "--from", folder, "--image", *pictures, "--output", output)
    assert done.status == 0, done.err
    assert "2 images, 5 of 16 patches left at the end" in done.out
    with np.load(output, allow_pickle=False) as stored:
        found = dict(stored)
    assert list(found["names"]) == ["colors.png", "gray.png"]
    assert (found["model"], found["container"]) == ("deit_tiny_patch16_224", "blocks")
    # Without the class token.
    np.testing.assert_array_equal(found["counts"], [[16, 16, 16], [16, 13, 10], [10, 8, 5]])
    tokens = found["tokens"]
    assert tokens.shape == (2, 3, PATCHES)
    for image in tokens:
        np.testing.assert_array_equal(image[0], np.arange(PATCHES))
        for block, left, dropped in ((1, 10, 3), (2, 5, None)):
            assert len(set(image[block]) - {-1}) == left
            if dropped is not None:
                assert (image[block] == -1).sum() == dropped
        # What was dropped stays so, and what was merged stays together.
        assert (image[2][image[1] == -1] == -1).all()
        for token in set(image[1]) - {-1}:
            assert len(set(image[2][image[1] == token])) == 1


def test_the_images_are_those_that_the_model_sees(cli, folder, pictures, tmp_path):
    output = tmp_path / "tokens.npz"
    assert cli("trace", "--from", folder, "--image", *pictures, "--output", output).status == 0
    images = np.load(output)["images"]
    crop = timm.create_model("deit_tiny_patch16_224").pretrained_cfg["crop_pct"]
    resize = timm.data.create_transform((3, SIDE, SIDE), interpolation="bicubic", crop_pct=crop)
    shown = v2.Compose(resize.transforms[:-1])
    for path, found in zip(pictures, images, strict=True):
        expected = shown(Image.open(path).convert("RGB"))
        np.testing.assert_allclose(found / 255, expected.permute(1, 2, 0).numpy(), atol=1e-6)


def test_names_go_on_with_the_largest_part():
    # Three patches behind a class token: 1 and 2 merge, then 0 joins them; and 0 is dropped.
    merged = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]])
    joined = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 1]])
    dropped = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 1]])
    for last, names in ((joined, [1, 1, 1]), (dropped, [-1, 1, 1])):
        found = named([merged[None], last[None]], prefix=1)
        np.testing.assert_array_equal(found, [[[0, 1, 1], names]])


def test_what_cannot_be_traced_is_refused_by_name(cli, folder, pictures, searched, tmp_path):
    output = tmp_path / "tokens.npz"
    allowed = "allowed: one of a method that drops some"
    done = cli("trace", "--from", searched, "--image", pictures[0], "--output", output)
    assert (done.status, done.err) == (
        2,
        f"error: --from: got 'a model that keeps all its tokens', {allowed}\n",
    )
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    done = cli("trace", "--from", folder, "--image", broken, "--output", output)
    assert done.status == 2
    assert done.err.startswith(f"error: --image: got {str(broken)!r}, allowed: an image (")
    done = cli("trace", "--from", folder, "--image", pictures[0], "--output", tmp_path / "a.txt")
    assert done.err == (
        f"error: --output: got '{tmp_path}/a.txt', allowed: a name that ends in .npz\n"
    )
    output.write_text("")
    done = cli("trace", "--from", folder, "--image", pictures[0], "--output", output)
    assert done.err == f"error: --output: got '{output}', allowed: a new file\n"
