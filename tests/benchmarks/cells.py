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


def row(ap: float, **changes: Any) -> dict[str, Any]:
    usual = {
        "dataset": "coco-people", "percent": 10.0, "fold": 1, "seed": 0, "recipe": "cpu", "split": "dev",
        "method": "supervised", "variant": "default", "teacher": True, "trial": False, "trials": 2, "detector": "fcos",
        "ap50": 2 * ap, "ap75": ap, "ap_small": ap / 2, "ap_medium": ap, "ap_large": None,
        "labeled_images": 170, "unlabeled_images": 1700, "steps": 100, "burn_in_steps": 30, "image_size": 192,
        "backbone": "b", "burn_in_ap": 5.0, "seconds": 900.0, "burn_in_seconds": 300.0, "device": "cpu",
        "machine": {"processor": "p", "cores": 2, "threads": 2}, "commit": COMMIT, "versions": {"torch": "2"},
        "per_class": {"cat": {"ap": ap, "ap50": ap, "boxes": 9}}, "config_id": "c0ffee", "time": "2030-01-01T00:00:00Z",
    }  # fmt: skip
    return {**usual, "ap": ap, **changes}


def result(ap: float, **changes: Any) -> dict[str, Any]:
    teacher = row(ap, **changes)
    curve = [{"step": s, "teacher_ap": ap, "student_ap": ap - 1} for s in (50, 100)]
    return {"rows": [teacher, {**teacher, "teacher": False, "ap": ap - 1}], "curve": curve, "settings": {}}
