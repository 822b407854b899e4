"""What SED's settings become where they were left open: by detector, targets and labelled boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sedet.config import SEDConfig, TrainConfig
from sedet.methods.sed import SED
from sedet.settings import load_config
from sedet.training import plan
from sedet.training.run import train
from tests import tiny

OLD = SEDConfig(overlay=0.0, student_view="strong", box_weight=0.0, quality_weight=0.0)


@pytest.mark.parametrize(
    ("boxes", "weight"),
    [(0, 1.0), (1, 1.0), (150, 1.0), (151, 0.99), (260, 0.33), (300, 0.25), (1500, 0.01), (10**6, 0)],
)
def test_boxes_weigh_less_the_more_there_are(boxes: int, weight: float) -> None:
    for detector in ("fcos", "retinanet"):
        found = plan.sed_defaults(SEDConfig(), detector, boxes)
        assert (found.overlay, found.student_view) == (1.0, "weak")
        assert found.box_weight == found.quality_weight == weight


def test_where_pairs_are_not_defined_all_stays_plain() -> None:
    assert plan.sed_defaults(SEDConfig(), "faster_rcnn", 10) == OLD
    assert plan.sed_defaults(SEDConfig(targets="hard"), "fcos", 10) == replace(OLD, targets="hard")


def test_what_was_given_stays() -> None:
    assert plan.sed_defaults(OLD, "fcos", 10) == OLD
    given = plan.sed_defaults(SEDConfig(overlay=0.0), "fcos", 10)
    assert (given.student_view, given.box_weight) == ("strong", 1.0)
    given = plan.sed_defaults(SEDConfig(overlay=0.5, box_weight=0.2), "fcos", 10)
    assert (given.student_view, given.box_weight, given.quality_weight) == ("strong", 0.2, 0.2)
    given = plan.sed_defaults(SEDConfig(student_view="strong", quality_weight=0.0), "fcos", 10)
    assert (given.overlay, given.student_view, given.box_weight, given.quality_weight) == (1.0, "strong", 1.0, 0.0)


def test_what_is_left_open_is_off_in_the_method_itself() -> None:
    method = SED(SEDConfig())
    assert method.overlay == 0 and method.weights == {"class": 1.0, "box": 0.0, "quality": 0.0}


def test_the_plan_says_it() -> None:
    few = plan.sed_defaults(SEDConfig(), "fcos", 58)
    assert plan.sed_line(few, 58) == (
        "unlabelled images in pairs, weak view; learnt: classes and boxes (weight 1, for 58 labelled ones)"
    )
    assert plan.sed_line(OLD, 9) == "unlabelled images strong view; learnt: classes"
    assert "50% in pairs" in plan.sed_line(replace(few, overlay=0.5), 9)
    assert plan.sed_line(replace(OLD, targets="hard"), 9).endswith("hard labels over 0.7")


def test_a_run_counts_its_own_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.dataset(tmp_path / "data", labeled=4, val=1)
    train(replace(tiny.config(folder, tmp_path / "run", steps=2, burn_in=0.5, eval_every=9), sed=SEDConfig()))
    saved = load_config(tmp_path / "run" / "config.yaml").sed
    assert (saved.overlay, saved.student_view, saved.box_weight, saved.quality_weight) == (1.0, "weak", 1.0, 1.0)
    said = capsys.readouterr()
    assert "learnt: classes and boxes" in " ".join(f"{said.out} {said.err}".split())


def test_settings_of_every_kind_are_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("sed: {student_view: null, overlay: null, box_weight: 0.5}")
    assert load_config(tmp_path / "c.yaml") == TrainConfig(sed=SEDConfig(box_weight=0.5))
    (tmp_path / "c.yaml").write_text("sed: {student_view: weak}")
    assert load_config(tmp_path / "c.yaml").sed.student_view == "weak"
