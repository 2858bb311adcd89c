import pytest
import timm
import torch

from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.plan import Plan
from adacomcat.testing.models import tiny_vit


def shapes_only(name, **options):
    """A model without weights."""
    with torch.device("meta"):
        return timm.create_model(name, **options)


@pytest.fixture(scope="module")
def deit_small():
    return shapes_only("deit_small_patch16_224")


def sites(model, **settings):
    return {site.name: site for site in LowRank(model, LowRankConfig(**settings)).sites}


def ranks(site):
    return [candidate.rank for candidate in site.candidates]


def nominal(site):
    return [candidate.nominal for candidate in site.candidates]


def test_sites_are_in_the_published_order(deit_small):
    names = list(sites(deit_small))
    assert names[:5] == [
        "blocks.0.qk",
        "blocks.0.vo",
        "blocks.0.fc1",
        "blocks.0.fc2",
        "blocks.1.qk",
    ]
    assert names[-1] == "head"
    assert len(names) == 49


def test_paper_menus_round_down_to_whole_heads(deit_small):
    found = sites(deit_small, space="paper", allow_larger=True)
    for kind in ("qk", "vo"):
        assert ranks(found[f"blocks.3.{kind}"]) == [60, 126, 192, 252, 318]
        # The search counts the menu's entries, not what they are rounded to.
        assert nominal(found[f"blocks.3.{kind}"]) == [64, 128, 192, 256, 320]
    for name in ("blocks.3.fc1", "blocks.3.fc2", "head"):
        assert ranks(found[name]) == nominal(found[name]) == [64, 128, 192, 256, 320]


@pytest.mark.parametrize(
    ("name", "width", "attention", "linear"),
    [
        ("deit_tiny_patch16_224", 192, [30, 63, 96, 126, 159], [32, 64, 96, 128, 160]),
        (
            "deit_base_patch16_224",
            768,
            [120, 192, 252, 312, 384, 444, 504],
            [128, 192, 256, 320, 384, 448, 512],
        ),
    ],
)
def test_paper_menus_of_the_other_widths(name, width, attention, linear):
    found = sites(shapes_only(name, depth=1), space="paper")
    assert ranks(found["blocks.0.qk"]) == ranks(found["blocks.0.vo"]) == attention
    assert ranks(found["blocks.0.fc2"]) == [r for r in linear if 5 * r <= 4 * width]


def test_larger_than_dense_only_when_asked_for(deit_small):
    # 1920 weights a rank against 384 x 1536: above 307 two factors are the larger.
    assert ranks(sites(deit_small, space="paper")["blocks.0.fc1"]) == [64, 128, 192, 256]
    # 1384 a rank against 384 x 1000: above 277.
    assert ranks(sites(deit_small, space="paper")["head"]) == [64, 128, 192, 256]
    narrow = tiny_vit(num_classes=4)
    for site in sites(narrow, fractions=(0.25, 0.5, 0.75, 1)).values():
        dense = site.cost("params", None)
        assert all(site.cost("params", rank) <= dense for rank in ranks(site))
    assert ranks(sites(narrow, fractions=(0.25, 1), allow_larger=True)["head"]) == [1, 4]
    with pytest.raises(ValueError, match=r"of head .* method\.keep_dense.* method\.allow_larger"):
        sites(narrow, sites=("head",), fractions=(1,))


def test_fractions_of_each_site():
    found = sites(tiny_vit(), fractions=(0.25, 0.5, 0.75))
    assert ranks(found["blocks.0.qk"]) == [8, 16, 24]
    assert ranks(found["blocks.1.fc1"]) == [8, 16, 24]
    # round(2.5), 5; 7.5 rounds to 8, which costs more than dense (8 x 42 > 320).
    assert ranks(found["head"]) == [2, 5]


def test_aligned_ranks_are_multiples_of_eight(deit_small):
    for site in sites(deit_small, space="aligned").values():
        assert all(rank // site.groups % 8 == 0 for rank in ranks(site))
        assert len(set(ranks(site))) == len(ranks(site)) > 1
    with pytest.raises(ValueError, match="at least 8 singular values .*blocks.0.qk has 4"):
        sites(tiny_vit(num_heads=8), space="aligned")


def test_ranks_of_a_kind_replace_the_space():
    found = sites(tiny_vit(), ranks={"qk": (9, 4, 16, 11), "head": (3, 1)})
    # Over four heads 9 and 11 are both 8; the cheaper entry stands for them.
    assert ranks(found["blocks.0.qk"]) == [4, 8, 16]
    assert nominal(found["blocks.0.qk"]) == [4, 9, 16]
    assert ranks(found["head"]) == [1, 3]
    assert ranks(found["blocks.0.vo"]) == ranks(sites(tiny_vit())["blocks.0.vo"])


@pytest.mark.parametrize(("kind", "rank"), [("qk", 33), ("qk", 3), ("head", 11), ("fc1", 33)])
def test_a_rank_that_no_site_can_have(kind, rank):
    with pytest.raises(ValueError, match=rf"method\.ranks\.{kind}: got {rank}, .*full rank"):
        sites(tiny_vit(), ranks={kind: (rank,)})


def test_sites_by_kind_and_pattern():
    model = tiny_vit()
    assert list(sites(model, sites=("vo", "head"))) == ["blocks.0.vo", "blocks.1.vo", "head"]
    assert list(sites(model, sites=("blocks.1.*",), keep_dense=("*.fc?",))) == [
        "blocks.1.qk",
        "blocks.1.vo",
    ]
    # A kind that a headless backbone lacks is no mistake.
    assert "head" not in sites(tiny_vit(num_classes=0))


@pytest.mark.parametrize("field", ["sites", "keep_dense"])
def test_a_pattern_that_matches_nothing(field):
    with pytest.raises(ValueError, match=rf"method\.{field}: got 'blocks\.2\.\*', .*blocks\.0\.qk"):
        sites(tiny_vit(), **{field: ("qk", "blocks.2.*")})


def test_no_site_left():
    with pytest.raises(ValueError, match="at least one site left"):
        sites(tiny_vit(), sites=("qk",), keep_dense=("blocks.*",))


def test_paper_menu_of_another_width():
    with pytest.raises(ValueError, match="192, 384, 768; blocks.0.qk has 32"):
        sites(tiny_vit(), space="paper")
    with pytest.raises(ValueError, match="head has 10: .*keep_dense"):
        sites(shapes_only("deit_tiny_patch16_224", num_classes=10), space="paper")


@pytest.mark.parametrize(
    ("site", "rank", "allowed"),
    [
        ("blocks.0.qk", 36, "multiples of 4 heads up to 32"),
        ("blocks.0.vo", 6, "multiples of 4 heads up to 32"),
        ("blocks.1.fc2", 33, "1 to 32"),
        ("head", 11, "1 to 10"),
    ],
)
def test_a_plan_with_a_rank_that_a_site_cannot_have(site, rank, allowed):
    method = LowRank(tiny_vit(), LowRankConfig())
    decisions = {s.name: s.full for s in method.sites}
    with pytest.raises(ValueError, match=rf"plan\.decisions\.{site}: got {rank}, .*{allowed}"):
        method.commit_(Plan("lowrank", decisions | {site: rank}))
    with pytest.raises(ValueError, match=rf"plan\.decisions\.{site}: got 0"):
        method.commit_(Plan("lowrank", decisions | {site: 0}))
