"""What SED's settings become that follow from others, and what the plan says of them."""

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


def test_pairs_come_in_the_weak_view_and_centerness_with_the_boxes() -> None:
    plain = plan.sed_defaults(SEDConfig())
    assert (plain.student_view, plain.overlay, plain.box_weight, plain.quality_weight) == ("strong", 0, 0, 0)
    few = plan.sed_defaults(SEDConfig(overlay=1.0, box_weight=0.5))
    assert (few.student_view, few.quality_weight) == ("weak", 0.5)
    assert plan.sed_defaults(SEDConfig(overlay=0.5)).student_view == "strong", "half of the images come alone"


def test_what_was_given_stays() -> None:
    given = SEDConfig(overlay=1.0, student_view="strong", box_weight=1.0, quality_weight=0.0)
    assert plan.sed_defaults(given) == given
    given = SEDConfig(student_view="weak", quality_weight=0.3)
    assert plan.sed_defaults(given) == given


def test_what_is_left_open_is_off_in_the_method_itself() -> None:
    assert SED(SEDConfig(box_weight=1.0)).weights == {"class": 1.0, "box": 1.0, "quality": 0.0}


def test_the_plan_says_it() -> None:
    plain = plan.sed_defaults(SEDConfig())
    few = plan.sed_defaults(SEDConfig(overlay=1.0, box_weight=1.0))
    assert plan.sed_line(few, 8) == "unlabelled images in pairs, weak view; learnt: classes, boxes, quality"
    assert plan.sed_line(plain, 8) == "unlabelled images strong view; learnt: classes"
    assert "50% in pairs" in plan.sed_line(replace(few, overlay=0.5), 8)
    assert plan.sed_line(replace(plain, targets="hard"), 8).endswith("learnt: classes, from hard labels over 0.7")
    assert plan.sed_line(replace(few, class_weight=0.0, quality_weight=0.3), 8).endswith("boxes, quality (weight 0.3)")
    assert plan.sed_line(replace(few, distill=False, scale=False), 8).endswith("learnt: nothing")
    assert plan.sed_line(replace(few, sharpness=4.0), 8).endswith("quality; logits of the scores times 4")
    assert "logits" not in plan.sed_line(replace(few, sharpness=4.0, class_weight=0.0), 8)
    assert plan.sed_line(replace(few, sharpness=4.0, distill=False, scale=False), 1).endswith("learnt: nothing")
    assert "makes no pairs" in plan.sed_line(few, 1) and "makes no pairs" not in plan.sed_line(plain, 1)


def test_a_run_says_and_saves_what_it_took(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.dataset(tmp_path / "data", labeled=4, val=1)
    config = tiny.config(folder, tmp_path / "run", steps=2, burn_in=0.5, eval_every=9)
    train(replace(config, sed=SEDConfig(overlay=1.0, box_weight=1.0)))
    saved = load_config(tmp_path / "run" / "config.yaml").sed
    assert (saved.student_view, saved.quality_weight) == ("weak", 1.0)
    said = capsys.readouterr()
    assert "in pairs, weak view; learnt: classes, boxes, quality" in " ".join(f"{said.out} {said.err}".split())


def test_settings_of_every_kind_are_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("sed: {student_view: null, quality_weight: null, box_weight: 0.5}")
    assert load_config(tmp_path / "c.yaml") == TrainConfig(sed=SEDConfig(box_weight=0.5))
    (tmp_path / "c.yaml").write_text("sed: {student_view: weak}")
    assert load_config(tmp_path / "c.yaml").sed.student_view == "weak"
