"""What runs were planned to cost and did cost, read from their logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.plans import cost, main


def run(folder: Path, last: str) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text("method: sed\nimage_size: 128\nbatch: 8\nsteps: 560\n")
    (folder / "train.log").write_text(f"2026-11-23 03:59:04,187 Plan\n2026-11-23 03:59:06,081 {last}\n")
    return folder


def test_the_last_line_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "Measured: 230.4 s, 1.2 GiB of memory. Planned: 150.5 s (-35%), 1.3 GiB of memory (+8%)."
    found = cost(run(tmp_path / "a", line))
    assert found is not None and (found["measured"], found["planned"]) == (230.4, 150.5)
    assert (found["memory"], found["planned_memory"], found["name"], found["steps"]) == (1.2, 1.3, "a", 560)
    unplanned = run(tmp_path / "b", "Measured: 2.4 s, 1.2 GiB of memory.")
    assert cost(unplanned) is None and cost(tmp_path / "absent") is None
    assert main([str(tmp_path / "a"), str(unplanned)]) == 0
    told = capsys.readouterr().out
    assert '"runs": 1' in told and '"time_within_30_percent": 0' in told and '"memory_within_30_percent": 1' in told
    assert main([str(unplanned)]) == 2
