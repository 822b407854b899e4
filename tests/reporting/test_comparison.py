"""A comparison's report: what it says first, against entries made by hand, and what it has of what is there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sedet.compare.cells import Cell, Comparison, Pool, write_data
from sedet.compare.table import load_rows, summarize
from sedet.reporting.comparison_charts import MOST_METHODS, shown_methods, training_charts
from sedet.reporting.comparison_page import _without_labels, comparison_page, comparison_verdict

from .made import comparison_folder, run_folder

SUPERVISED: dict[str, Any] = {
    "labels": "10 %",
    "method": "supervised",
    "ceiling": False,
    "runs": 1,
    "tried": 1,
    "ap": 20.0,
    "ap_deviation": None,
    "gain": None,
    "low": None,
    "high": None,
    "gain_deviation": None,
    "paired": None,
    "ahead": None,
    "gap_share": None,
}
SED = SUPERVISED | {
    "method": "sed",
    "ap": 22.0,
    "gain": 2.0,
    "low": 0.5,
    "high": 3.5,
    "paired": 1,
    "ahead": 1,
    "gap_share": 0.25,
}
ALL = SUPERVISED | {"labels": "all", "ceiling": True, "ap": 28.0}


def test_of_many_rows_the_best_have_a_line() -> None:
    rows = [SUPERVISED | {"ap": 1.0}, *(SED | {"method": f"sed:gamma={i}.0", "ap": 10.0 + i} for i in range(9))]
    rows += [SED | {"method": "csd", "ap": None}]
    shown, told = shown_methods([*rows, ALL])
    assert shown == ["supervised", *(f"sed:gamma={i}.0" for i in range(2, 9))] and len(shown) == MOST_METHODS
    assert told == " Of 11 those with the highest AP, and supervised."
    assert shown_methods(rows[:3]) == (["supervised", "sed:gamma=0.0", "sed:gamma=1.0"], "")


def test_a_gain_that_is_sure() -> None:
    said = comparison_verdict([SUPERVISED, SED, ALL])
    assert said.headline == "With 10 % of the labels, unlabelled images added 2.0 AP (sed)."
    assert said.good is True and [score.ap for score in said.scores] == [20.0, 22.0, 28.0]
    assert said.notes[0] == "The gain's 95 % interval is +0.5 to +3.5 AP."
    assert "25 % of the way" in said.notes[1] and "not conclusive" in said.notes[-1]


def test_a_gain_that_may_be_chance() -> None:
    said = comparison_verdict([SUPERVISED, SED | {"low": -0.5}, ALL])
    assert said.good is None and said.notes[0].endswith("-0.5 to +3.5 AP: it may as well be nothing.")


def test_several_pairs_of_runs_are_told_of() -> None:
    said = comparison_verdict([SUPERVISED, SED | {"runs": 4, "paired": 3, "ahead": 2, "gain_deviation": 1.0}, ALL])
    assert "It is ahead of supervised in 2 of 3 pairs of runs." in said.notes
    assert any("3 pairs of runs tell of that" in note for note in said.notes)
    assert not any("not conclusive" in note for note in said.notes)


def test_a_loss_and_the_best_of_several() -> None:
    lost = SED | {"ap": 17.0, "gain": -3.0, "low": -4.0, "high": -2.0, "gap_share": -0.4}
    worse = lost | {"method": "csd", "ap": 15.0, "gain": -5.0}
    said = comparison_verdict([SUPERVISED, worse, lost])
    assert said.headline == "With 10 % of the labels, unlabelled images cost 3.0 AP (sed)." and said.good is False
    assert any("best of 2 methods" in note for note in said.notes)


def test_the_fewest_labels_are_told_of() -> None:
    more = [entry | {"labels": "20 %", "ap": entry["ap"] + 5} for entry in (SUPERVISED, SED)]
    assert "With 10 %" in comparison_verdict([SUPERVISED, SED, *more, ALL]).headline


def test_what_is_missing() -> None:
    assert comparison_verdict([ALL]).headline.startswith("No method that uses unlabelled images")
    alone = comparison_verdict([SED | {"gain": None, "low": None, "high": None}])
    assert alone.headline == "sed reaches 22.0 AP with 10 % of the labels." and "not known" in alone.notes[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Pool]:
    root = tmp_path_factory.mktemp("made")
    run_folder(root)
    return comparison_folder(root)


def page(made: tuple[Comparison, Pool]) -> str:
    return comparison_page(made[0], summarize(made[0], made[1].val), made[1]).decode()


def test_everything_is_in_it(made: tuple[Comparison, Pool]) -> None:
    text = page(made)
    sections = ("verdict", "table", "training", "quality", "pseudo", "data", "runs", "settings", "environment")
    assert all(f'<section id="{name}"' in text for name in sections)
    assert "the detector of sed, 50 % of the labels, fold 1, would label" in text
    for row in ("labelled, 50 %, fold 1", "labelled, all", "validation", "unlabelled, with the labelled images"):
        assert f">{row}<" in text
    assert "chosen for every run, by hand or by a protocol" in text and "a processor" in text


def test_the_head_tells_the_gain_of_the_table(made: tuple[Comparison, Pool]) -> None:
    text, (alone, sed) = page(made), summarize(made[0], made[1].val)
    assert (
        alone["method"] == "supervised"
        and sed["gain"] == pytest.approx(sed["ap"] - alone["ap"], abs=0.01)
        and sed["gain"] > 5
    )
    assert f"With 50 % of the labels, unlabelled images added {sed['gain']:.1f} AP (sed)." in text
    assert f"95 % interval is {sed['low']:+.1f} to {sed['high']:+.1f} AP" in text


def test_curves_are_means_over_runs_with_the_fewest_labels(made: tuple[Comparison, Pool]) -> None:
    comparison, pool = made
    entries, rows = summarize(comparison, pool.val), load_rows(comparison)
    (chart,) = training_charts(comparison.out / "runs", entries, rows)
    assert chart.rows == (("2", "10.0", "10.0"), ("4", "15.0", "16.0")) and chart.columns[1:] == ("supervised", "sed")
    again = {replace(cell, seed=1): row for cell, row in rows.items()}  # nothing is kept of these
    (same,) = training_charts(comparison.out / "runs", entries, rows | again)
    assert same.rows == chart.rows
    assert training_charts(comparison.out, entries, rows) == []


def test_pseudo_labels_are_shown_on_images_whose_labels_were_not_used(made: tuple[Comparison, Pool]) -> None:
    comparison, pool = made
    one = Cell(0.0, 1, 0, "sed", shots=1)  # an image of each of the two classes
    write_data(replace(comparison, cells=(one,)), pool)
    assert len(pool.table) == 6 and len(pool.more) == 5
    assert len(_without_labels(comparison, one, pool)) == 4 + 5
    assert _without_labels(comparison, Cell(100.0, 1, 0, "sed"), pool) == list(pool.more)


def test_a_detector_that_is_gone_is_told(made: tuple[Comparison, Pool]) -> None:
    file = made[0].out / "runs" / "p50-f1-s0-sed" / "best.safetensors"
    whole = file.read_bytes()
    try:
        file.write_bytes(b"damaged")
        assert "detector cannot be loaded, so its pseudo labels are not shown" in page(made)
        file.unlink()
        text = page(made)
        assert "runs/p50-f1-s0-sed/best.safetensors, is not here" in text and 'id="pseudo-gallery"' not in text
    finally:
        file.write_bytes(whole)
