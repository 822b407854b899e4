"""What a run says while it trains, where there is no terminal for a progress bar."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from sedet.config import TrainConfig
from sedet.methods.method import Progress
from sedet.training import runlog
from sedet.training.loop import State
from sedet.training.run import make_fabric
from sedet.training.runlog import RunLog, losses_by_part

PROGRESS = Progress(step=0, burn_in=0, ramp=1, steps=20)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(runlog.time, "monotonic", lambda: now[0])
    return now


def tick(log: RunLog, clock: list[float], steps: range, seconds: float) -> None:
    for step in steps:
        clock[0] += seconds
        log.tick(State(step=step), {"sup_class": 1.0, "sup_box": 0.5}, seconds, PROGRESS)


def test_a_line_a_minute_says_how_far_it_is_and_how_long_it_takes(
    tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    log = RunLog(tmp_path, total=20, images_per_step=(2, 2))
    tick(log, clock, range(1, 8), seconds=20.0)
    log.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "step  4/20  loss 1.500  0.05 steps/s  5 minutes left at this speed",
        "step  7/20  loss 1.500  0.05 steps/s  4 minutes left at this speed",
    ]
    assert "step  4/20" in (tmp_path / "train.log").read_text()


def test_an_evaluation_is_a_line_too_and_the_last_step_needs_none(
    tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    log = RunLog(tmp_path, total=8, images_per_step=(2, 0))
    tick(log, clock, range(1, 4), seconds=20.0)
    scores = {f"{who}_{what}": 1.0 for who in ("teacher", "student") for what in ("ap", "ap50")}
    log.row(State(step=3), scores)
    tick(log, clock, range(4, 6), seconds=20.0)
    tick(log, clock, range(8, 9), seconds=100.0)
    log.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "AP 1.0 teacher" in lines[0]


def test_a_process_that_does_not_speak_is_silent(
    tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    log = RunLog(tmp_path, total=20, images_per_step=(2, 2), speaks=False)
    tick(log, clock, range(1, 20), seconds=100.0)
    log.close()
    assert capsys.readouterr().err == ""


def test_fabric_gives_no_advice_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lightning_fabric.utilities.rank_zero"):
        make_fabric(TrainConfig(device="cpu", precision="bf16", out=str(tmp_path / "run")))
    assert not caplog.text


def test_losses_of_every_method_are_part_of_the_curves() -> None:
    rows: list[dict[str, Any]] = [
        {
            "step": 1,
            "sup_class": 1.0,
            "sup_box": 0.5,
            "distill_class": 0.0,
            "teacher_ap": 3.0,
            "labels_recall_best": 0.5,
        },
        {"step": 2, "sup_class": 0.5, "mixup_class": 0.25, "mosaic_box": 2.0, "scale_class": 0.125, "student_ap": 9.0},
    ]
    assert losses_by_part(rows) == {
        "labelled": [1.5, 0.5],
        "half-size distillation": [0.0, 0.125],
        "unlabelled": [0.0, 2.25],
    }
    rows[0]["dense_class"] = ""  # a cell of metrics.csv that was left empty
    assert losses_by_part(rows)["unlabelled"] == [0.0, 2.25]
    assert losses_by_part([]) == {}
