import numpy as np
import pytest

from analysis import table_probabilities as fig

LOGITS = {"blocks.0.qk": {"4": 0.0, "8": 1.0, "16": 3.0}, "head": {"2": 0.0, "10": 0.5}}
PLANS = {1: {"blocks.0.qk": 8, "head": 10}, 3: {"blocks.0.qk": 8, "head": 2}}


@pytest.fixture
def searched(tmp_path, record, write_results, trace):
    """One trial of `adaptive`: searches at epochs 1 and 3, temperatures 5 and 0.5, equal logits."""

    def make(source, **search):
        made = record("adaptive", 0, searches=2, plan=PLANS[3])
        made["config"]["method"] = {"name": "lowrank"} | ({"source": source} if source else {})
        root = write_results(tmp_path / "r", [made, record("never", 0)], seeds=(0,))
        options = {"temperature": lambda e: 5.0 if e == 1 else 0.5, "logits": LOGITS} | search
        trace(root, made, PLANS, 4, **options)
        trace(root, record("never", 0), {}, 4)
        return root

    return make


def test_probabilities_are_the_softmax_at_the_temperature_of_the_search(searched):
    made = fig.data(searched("dense"))
    assert tuple(made) == fig.COLUMNS
    rows = made.set_index(["site", "epoch"])
    first, second = (rows.loc[("blocks.0.qk", epoch)] for epoch in (1, 3))
    # By hand: e^(3/5) / (e^0 + e^(1/5) + e^(3/5)), and so on.
    assert first["top_probability"] == pytest.approx(1.8221188 / (1 + 1.2214028 + 1.8221188))
    assert second["top_probability"] == pytest.approx(403.428793 / (1 + 7.3890561 + 403.428793))
    plain = 20.0855369 / (1 + 2.7182818 + 20.0855369)
    assert first["top_probability_plain"] == pytest.approx(plain)
    assert second["top_probability_plain"] == pytest.approx(plain)
    assert first[["candidates", "top_rank", "rank"]].tolist() == [3, 16, 8]
    assert not first["last"] and second["last"]


@pytest.mark.parametrize("source", ["current", None])
def test_ranks_above_the_current_one_are_no_candidates(source, searched):
    made = fig.data(searched(source)).set_index(["site", "epoch"])
    assert made.loc[("blocks.0.qk", 1), "candidates"] == 3
    # 8 is in force since epoch 1, so that 16 has no singular values left.
    later = made.loc[("blocks.0.qk", 3)]
    assert later[["candidates", "top_rank"]].tolist() == [2, 8]
    assert later["top_probability"] == pytest.approx(1 / (1 + np.exp(-2)))


def test_the_smallest_candidate_always_stays():
    found = fig.likeliest({"4": 0.0, "8": 9.0}, 1.0, 2)
    assert found["candidates"] == 1 and found["top_rank"] == 4
    assert found["top_probability"] == found["top_probability_plain"] == 1


def test_an_arm_that_never_searches_keeps_a_row(searched):
    made = fig.data(searched("dense")).set_index("arm")
    assert (
        np.isnan(made.loc["never", "seed"]) and made.loc["fixed_1", "left_out_why"] == "1 pending"
    )


def test_without_logits_there_are_ranks_alone(searched):
    made = fig.data(searched("dense", logits={}, temperature=None))
    assert made["top_probability"].isna().all()
    assert "No logits were recorded" in fig.note(made)
    first, ranks = fig.summarize(made).values()
    assert set(first["in the search"]) == {""}
    assert ranks.to_dict("records") == [{"arm": "adaptive", "qk": "8.0", "head": "2.0"}]


def test_a_study_without_a_search_is_refused(tmp_path, record, write_results, trace):
    made = record("never", 0)
    root = write_results(tmp_path / "r", [made], arms={"never": "never"}, seeds=(0,))
    trace(root, made, {}, 3)
    with pytest.raises(ValueError, match="a finished trial that searched"):
        fig.data(root)


def test_the_summary_has_medians_of_first_and_last_searches(searched):
    made = fig.data(searched("dense"))
    lines, _ = fig.summarize(made).values()
    assert list(lines["search"]) == ["first", "last"]
    for row, epoch in zip(lines.to_dict("records"), (1, 3), strict=True):
        median = made.loc[made["epoch"] == epoch, "top_probability"].median()
        assert row["in the search"].startswith(f"{median:.3f} (")
        assert (row["even odds"], row["alone"]) == ("0.333", "0%")
