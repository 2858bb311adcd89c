"""The golden tests on a folder of other cases, whose files lack some of the keys."""

import json
import os
import re
import subprocess
import sys
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

from adacomcat.testing.golden import Numbers, diffrate_vit, golden_folder, reference_rows

TESTS = Path(__file__).parent
FILES = [
    TESTS / "test_golden_comcat.py",
    TESTS / "io" / "test_comcat.py",
    TESTS / "methods" / "tokens" / "test_golden_blocks.py",
    TESTS / "methods" / "tokens" / "test_golden_macs.py",
    TESTS / "methods" / "tokens" / "test_golden_search.py",
    TESTS / "methods" / "tokens" / "test_rates.py",
]
CORE = Numbers.read("comcat_core.npz")
DIFFRATE = Numbers.read("diffrate", "diffrate.npz")
RATES = golden_folder() / "diffrate" / "published_rates.json"
needs_numbers = pytest.mark.skipif(
    not (CORE and DIFFRATE and RATES.is_file()), reason=f"no reference numbers at {golden_folder()}"
)


def first_images(numbers, family, case, count):
    """A family `few` with one case, of the first so many images of another."""
    kept, batch = {}, len(numbers["deit/input"])
    for key, value in numbers.items():
        if key.startswith(f"{family}/w/") or key == f"{family}/input":
            kept[f"few{key.removeprefix(family)}"] = value[:count] if key.endswith("put") else value
        elif key.startswith(f"{family}/{case}/"):
            whole = value.ndim < 2
            assert whole or len(value) == batch
            kept[f"few{key.removeprefix(family)}"] = value if whole else value[:count]
    # Other images have other logits of the dense model; it is these that tell the heads.
    return kept


def first_blocks(numbers, family, case, depth):
    """A family `short` without the last blocks, where only tokens are known."""
    late = [f"blocks.{i}." for i in range(depth, 99)] + [f"block{i}/" for i in range(depth, 99)]
    kept = {"short/input": numbers[f"{family}/input"]}
    for key, value in numbers.items():
        name = key.removeprefix(f"{family}/")
        if name.startswith(("w/", f"{case}/block")) and not any(part in key for part in late):
            kept[f"short/{name}"] = value
    for kind in ("prune_kept", "merge_kept"):
        kept[f"short/{case}/{kind}"] = numbers[f"{family}/{case}/{kind}"][:depth]
    patch = numbers[f"{family}/w/patch_embed.proj.weight"]
    width, classes = len(patch), len(numbers[f"{family}/w/head.weight"])
    heads = diffrate_vit(numbers, family).blocks[0].attn.num_heads
    image = numbers[f"{family}/input"].shape[-1]
    sizes = [width, depth, heads, classes, image, patch.shape[-1]]
    return kept | {"short/geometry": torch.tensor(sizes)}


def without(numbers, *patterns):
    """What no pattern fits; a folder that holds nothing of the kind cannot be made poorer."""
    for pattern in patterns:
        if not any(re.fullmatch(pattern, key) for key in numbers):
            pytest.skip(f"no {pattern} to leave out in {golden_folder()}")
    return {k: v for k, v in numbers.items() if not any(re.fullmatch(p, k) for p in patterns)}


def write(path, numbers):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{key: value.numpy() for key, value in numbers.items()})


@pytest.fixture
def other_folder(tmp_path):
    """Cases renamed, added by slicing and deprived of keys; partners that are an empty tensor."""
    folder = tmp_path / "numbers"
    case = "eval_mix"
    without(DIFFRATE, *(rf"deit/{name}/logits" for name in (case, "eval_full", "eval_prune")))
    numbers = {re.sub("^deit/eval_prune/", "deit/eval_0.62/", k): v for k, v in DIFFRATE.items()}
    for key, value in DIFFRATE.items():
        place, _, kind = key.rpartition("/")
        if kind == "ids" and f"{place}/dst" not in DIFFRATE:
            place = place.replace("/eval_prune/", "/eval_0.62/")
            numbers[f"{place}/dst"] = value[:, :0]
            numbers[f"{place}/node_max"] = torch.empty(len(value), 0)
    numbers = without(
        numbers,
        "deit/dense_logits",
        rf"deit/{case}/block\d+/source",
        rf"deit/{case}/block\d+/order",
        r"deit/eval_full/block1/x",
        r"deit/eval_full/flops",
        r"deit/eval_merge/block\d+/dst",
        r"deit/eval_merge/logits",
        r"deit/train/loss",
        r"mae/train/(ce|block2/size)",
        r"flops_search/T0\.6/final_prune",
        # For time alone.
        r"flops_search/T(0\.8|1\.0)/.*",
        r"flops_table/ViT-[LH]-MAE/.*",
        r"flops_table/ViT-S-DeiT/2\.5/tokens_after_block",
    )
    numbers["deit/eval_void/note"] = torch.zeros(1)
    numbers |= first_images(DIFFRATE, "deit", case, 2) | first_blocks(DIFFRATE, "deit", case, 3)
    write(folder / "diffrate" / "diffrate.npz", numbers)
    write(folder / "comcat_core.npz", without(CORE, "search_ce", "alpha_grad3", "maxrank_logits"))
    rates = json.loads(RATES.read_text())
    rates = {name: found for name, found in rates.items() if name == "ViT-S-DeiT"}
    (folder / "diffrate" / "published_rates.json").write_text(json.dumps(rates))
    return folder


def outcomes(folder, report):
    """Test -> the reason why it was skipped, None where it passed, in a process of its own."""
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", "-k", "golden or reference"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *map(str, FILES)],
        env={**os.environ, "ADACOMCAT_GOLDEN": str(folder)},
        capture_output=True,
        text=True,
        timeout=840,
    )
    assert done.returncode == 0, done.stdout
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        skipped = case.find("skipped")
        found[case.get("name")] = None if skipped is None else skipped.get("message")
    return found


SKIPPED = {
    "test_dense_logits_are_golden_in_diffrate[deit]": "no deit/dense_logits in ",
    "test_sources_of_each_token_are_golden_in_diffrate[deit/eval_mix/1]": "eval_mix/block1/source",
    "test_partners_are_golden_in_diffrate[deit/eval_mix/2]": "no deit/eval_mix/block2/order in ",
    "test_partners_are_golden_in_diffrate[deit/eval_merge/2]": "no deit/eval_merge/block2/dst in ",
    "test_tokens_are_golden_in_diffrate[deit/eval_full/1]": "no deit/eval_full/block1/x in ",
    "test_macs_are_golden_in_diffrate[deit/eval_full]": "no deit/eval_full/flops in ",
    "test_logits_are_golden_in_diffrate[deit/eval_merge-exact]": "no deit/eval_merge/logits in ",
    "test_logits_are_golden_in_diffrate[deit/eval_void-exact]": "no deit/eval_void/prune_kept in ",
    "test_golden_diffrate_search_loss[deit]": "no deit/train/loss in ",
    "test_golden_diffrate_search_entropy[mae]": "no mae/train/ce in ",
    "test_golden_diffrate_search_tokens[mae-2-size]": "no mae/train/block2/size in ",
    "test_golden_diffrate_counts_of_a_search_for_macs_alone[prune-T0.6]": "T0.6/final_prune in ",
    "test_golden_diffrate_tokens_of_published_rates[ViT-S-DeiT-2.5]": "2.5/tokens_after_block in ",
    "test_golden_diffrate_macs_of_published_rates[ViT-T-DeiT-0.6]": "no counts of ViT-T-DeiT at ",
    "test_golden_comcat_search_entropy": "no search_ce in ",
    "test_golden_comcat_search_gradients[3]": "no alpha_grad3 in ",
    "test_golden_comcat_largest_ranks": "no maxrank_logits in ",
    "test_the_references_checkpoint_has_its_ranks": "no reference checkpoint with numbers at ",
}
COMPARED = [
    # Beside what is skipped, in the same case or step.
    "test_partners_are_golden_in_diffrate[deit/eval_0.62/1]",
    "test_cosines_of_partners_are_golden_in_diffrate[deit/eval_full/1]",
    "test_cosines_of_partners_are_golden_in_diffrate[deit/eval_merge/2]",
    "test_sizes_are_golden_in_diffrate[deit/eval_mix/1]",
    "test_sizes_are_golden_in_diffrate[deit/eval_full/1]",
    "test_sources_of_each_token_are_golden_in_diffrate[deit/eval_merge/2]",
    "test_logits_are_golden_in_diffrate[deit/eval_0.62-exact]",
    "test_golden_diffrate_search_gradient_of_the_loss[deit]",
    "test_golden_diffrate_search_logits[mae]",
    "test_golden_diffrate_search_tokens[mae-2-x]",
    "test_golden_diffrate_counts_of_a_search_for_macs_alone[merge-T0.6]",
    "test_golden_diffrate_macs_of_published_rates[ViT-S-DeiT-2.5]",
    "test_golden_diffrate_macs_of_published_rates[ViT-T-DeiT-dense]",
    "test_golden_comcat_search_loss",
    "test_golden_comcat_search_gradients[2]",
    # What no other folder has.
    "test_logits_are_golden_in_diffrate[few/eval_mix-exact]",
    "test_sources_of_each_token_are_golden_in_diffrate[few/eval_mix/3]",
    "test_partners_are_golden_in_diffrate[few/eval_mix/1]",
    "test_tokens_are_golden_in_diffrate[short/eval_mix/2]",
    "test_cosines_of_partners_are_golden_in_diffrate[short/eval_mix/2]",
]


@needs_numbers
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_golden_tests_skip_what_a_folder_lacks_and_compare_the_rest(other_folder, tmp_path):
    found = outcomes(other_folder, tmp_path / "report.xml")
    reasons = {name: found[name] for name in SKIPPED}
    assert all(reasons[name] and part in reasons[name] for name, part in SKIPPED.items()), reasons
    assert not {name: found[name] for name in COMPARED if found[name] is not None}
    assert all(reason is None or "no " in reason for reason in found.values())


def test_a_missing_key_is_named_and_skips(tmp_path):
    write(tmp_path / "some.npz", {"case/x": torch.ones(2)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADACOMCAT_GOLDEN", str(tmp_path))
        numbers = Numbers.read("some.npz")
        none = Numbers.read("other.npz")
    case = numbers.below("case/")
    assert numbers.folders() == ["case"] and torch.equal(case["x"], torch.ones(2))
    assert "y" not in case and case.get("y") is None
    with pytest.raises(unittest.SkipTest, match="no case/y in .*some.npz"):
        case["y"]
    assert not none and "ADACOMCAT_GOLDEN" in none.absent


def test_a_missing_table_is_named_and_skips(tmp_path, monkeypatch):
    monkeypatch.setenv("ADACOMCAT_REFERENCE", str(tmp_path))
    with pytest.raises(unittest.SkipTest, match="no trace.csv in .*ADACOMCAT_REFERENCE"):
        reference_rows("trace.csv")
    (tmp_path / "trace.csv").write_text("epoch,lr\n1,0.5\n")
    assert reference_rows("trace.csv") == [{"epoch": "1", "lr": "0.5"}]
