"""Cells to plan and to measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.plan import Cell, Inputs, Job, load_recipe, make_job

ROOT = Path(__file__).resolve().parents[2]
INPUTS = Inputs("l.json", "images", ("pool.txt",), "dev.json", "images", "digest")
COMMIT = "c" * 40


def cell(**changes: Any) -> Cell:
    usual: dict[str, Any] = {"dataset": "vehicles", "percent": 50.0, "fold": 1, "method": "sed", "variant": "default"}
    return Cell(**{**usual, "seed": 0, "recipe": "tiny", "split": "dev", **changes})


def job(length: float | None = None, extra: dict[str, Any] | None = None, **changes: Any) -> Job:
    c = cell(**changes)
    return make_job(c, load_recipe(c.recipe, c.dataset), INPUTS, extra, length)
