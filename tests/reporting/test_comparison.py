"""What a comparison's report says first, against entries made by hand."""

from __future__ import annotations

from typing import Any

from sedet.reporting.comparison_page import comparison_verdict

SUPERVISED: dict[str, Any] = {
    "labels": "10 %",
    "method": "supervised",
    "ceiling": False,
    "runs": 1,
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
