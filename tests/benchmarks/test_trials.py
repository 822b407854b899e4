"""What a trial's record says of runs, whole ones and those of which only the log and the curve came back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import sedet
from benchmarks.trials import markdown, trial
from tests.training import runs


def test_a_run_is_told_alike_by_its_settings_and_by_its_plan(tmp_path: Path) -> None:
    sedet.train(replace(runs.data(tmp_path), guard=False))
    whole = trial(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").unlink()
    packed = trial(tmp_path / "run")
    assert whole is not None and packed is not None
    for key in ("name", "method", "seed", "steps", "curve", "from", "to"):
        assert whole[key] == packed[key], key
    assert whole["settings"]["backbone"] == "lcnet_035" and whole["settings"]["steps"] == 4
    assert packed["settings"]["backbone"].startswith("lcnet_035") and packed["settings"]["batch"]
    (_, _, line) = markdown([packed]).splitlines()
    assert line.startswith("| run | sed | 4/4 |")


@pytest.mark.parametrize("content", [None, "step,teacher_ap\n1,\n"])
def test_a_run_without_an_evaluation_is_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics.csv").write_text(content)
    assert trial(tmp_path) is None
