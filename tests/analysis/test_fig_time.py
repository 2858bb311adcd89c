import json

import numpy as np
import pandas as pd
import pytest

from analysis import fig_time as fig

(EXHIBIT,) = fig.EXHIBITS

EPOCHS = 5


def epoch_rows(searched, data_s, train_s=10.0, search_s=4.0, rebuild_s=1.0, eval_s=0.5):
    """Five epochs of search and one of finetuning, a search at those in `searched`."""
    rows = []
    for step in range(EPOCHS + 1):
        due = step in searched
        clocks = {
            "train_s": train_s,
            "search_s": search_s if due else 0.0,
            "rebuild_s": rebuild_s if due else 0.0,
            "eval_s": eval_s,
            "data_s": data_s[step] if data_s else None,
        }
        rows.append(
            {
                "phase": "search" if step < EPOCHS else "finetune",
                "epoch": step % EPOCHS,
                "step_epoch": step,
                "searched": due,
                **clocks,
                "wall_s": sum(value or 0.0 for name, value in clocks.items() if name != "data_s"),
            }
        )
    return rows


@pytest.fixture
def timed(tmp_path, record, write_results):
    """Writes a results directory: arm -> epochs searched, all with three seeds."""

    def make(arms, data_s=None, other_s=2.0):
        records, traces = [], {}
        for arm, searched in arms.items():
            rows = epoch_rows(searched, data_s)
            names = ("train_s", "search_s", "rebuild_s", "eval_s", "data_s", "wall_s")
            sums = {
                name: None if data_s is None and name == "data_s" else sum(r[name] for r in rows)
                for name in names
            }
            sums["wall_s"] += other_s
            for seed in range(3):
                one = record(arm, seed, searches=len(searched), **sums)
                records.append(one)
                traces[one["trial_id"]] = rows
        root = write_results(tmp_path / "r", records, arms=dict.fromkeys(arms, ""))
        for name, rows in traces.items():
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (root / "trials" / name / "epochs.jsonl").write_text(text)
        return root

    return make


def test_clocks_add_up_and_waiting_is_taken_out(timed):
    # Epoch 0 starts the loaders; later epochs wait 0.25 s for training, searched ones 1 s more.
    waits = [3.0, 1.25, 0.25, 1.25, 0.25, 0.25]
    made = fig.data(timed({"adaptive": {1, 3}}, waits))
    assert list(made.columns) == list(fig.COLUMNS) and len(made) == 3
    row = made.iloc[0]
    assert row["search_s"] == pytest.approx(8.0 - 2.0)
    assert row["train_s"] == pytest.approx(60.0 - (sum(waits) - 2.0))
    assert row["data_s"] == pytest.approx(sum(waits))
    assert row["rebuild_s"] == pytest.approx(2.0) and row["eval_s"] == pytest.approx(3.0)
    assert row["other_s"] == pytest.approx(2.0)
    assert made[list(fig.PARTS)].sum(axis=1).to_numpy() == pytest.approx(made["wall_s"])


def test_shares_by_hand(timed):
    made = fig.data(timed({"fixed_1": {1, 2, 3, 4}, "adaptive": {1, 2}, "never": set()}))
    shares = made.groupby("arm")[["searching_share", "every_epoch_share"]].first()
    # Six epochs of 10.5 s and 2 s around them; a search takes 4 + 1 s; four are possible.
    assert shares.loc["fixed_1"].tolist() == pytest.approx([20 / 85] * 2)
    assert shares.loc["adaptive"].tolist() == pytest.approx([10 / 75, 20 / 85])
    assert shares.loc["never", "searching_share"] == 0
    assert np.isnan(shares.loc["never", "every_epoch_share"])
    assert fig.most(made).startswith("At most 23.5 % of a run")
    assert "measured on every epoch's own trials: 3 trials" in fig.most(made)
    alone = made[made["arm"] == "adaptive"]
    assert "23.5 %" in fig.most(alone) and "estimated" in fig.most(alone)
    assert "no interval" in fig.most(alone.head(2))
    assert fig.most(made[made["arm"] == "never"]) == ""


def test_the_published_run_could_have_saved_a_fifth():
    # Sums of the published DeiT-S log: six searches, 29 possible; 33.7 h had it used them all.
    trial = pd.Series(
        {
            "arm": "adaptive",
            "seed": 0,
            "searches": 6,
            "train_s": 92293.0,
            "search_s": 5370.0,
            "rebuild_s": None,
            "eval_s": 3113.0,
            "data_s": None,
            "wall_s": 100776.0,
        }
    )
    epochs = pd.DataFrame({"phase": ["search"] * 30, "searched": False, "data_s": None})
    found = fig.clocks(trial, epochs)
    assert found["every_epoch_share"] == pytest.approx(0.2139, abs=1e-4)
    assert np.isnan(found["rebuild_s"]) and found["other_s"] == 0


def test_arms_without_a_finished_trial_stay_and_are_counted(timed, drawn):
    root = timed({"adaptive": {1}})
    study = json.loads((root / "study.json").read_text())
    study["arms"].append({"name": "once", "label": "ONCE"})
    (root / "study.json").write_text(json.dumps(study))
    made = fig.data(root).set_index("arm")
    assert np.isnan(made.loc["once", "wall_s"])
    assert made.loc["once", "left_out_why"] == "3 pending"
    texts = [text.get_text() for text in drawn(EXHIBIT, fig.data(root)).axes[0].texts]
    assert texts[1] == " no finished trial"


def test_bars_are_the_means_and_the_note_says_what_is_missing(timed, drawn):
    made = fig.data(timed({"fixed_1": {1, 2, 3, 4}, "adaptive": {1, 2}}))
    (ax,) = drawn(EXHIBIT, made).axes
    widths = np.array([[bar.get_width() for bar in bars] for bars in ax.containers])
    np.testing.assert_allclose(widths.sum(axis=0), [85, 75])
    named = dict(zip((t.get_text() for t in ax.get_legend().get_texts()), widths, strict=True))
    np.testing.assert_allclose(named["searching"], [16, 8])
    assert [text.get_text() for text in ax.texts] == [
        " 85.0, 23.5% searching",
        " 75.0, 13.3% searching",
    ]
    assert "Not recorded: waiting for data." in fig.note(made)
    # Parts that stand side by side differ in grayscale.
    shades = [
        np.dot(bars[0].get_facecolor()[:3], (0.2126, 0.7152, 0.0722)) for bars in ax.containers
    ]
    assert np.abs(np.diff(shades)).min() > 0.05


def test_results_without_clocks_are_refused(results):
    with pytest.raises(ValueError, match="wall_s.*with their clocks"):
        fig.data(results)


def test_the_summary_has_seconds_and_the_share_of_searching(timed):
    made = fig.data(timed({"fixed_1": {1, 2, 3, 4}, "never": set()}))
    (shown,) = fig.summarize(made).values()
    assert list(shown["searching %"]) == ["23.5", "0.0"] and list(shown["all"]) == ["85.0", "65.0"]
    assert fig.note(made).startswith("At most 23.5 %")
