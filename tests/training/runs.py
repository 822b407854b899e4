"""Tiny trainings on disk, for the tests of what surrounds the loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sedet.config import ModelConfig, TrainConfig
from sedet.detectors.build import Detector
from sedet.evaluation.coco import Metrics
from sedet.training.validate import Judge
from tests.data.sets import coco

CLASSES = ("cat", "dog")


def data(root: Path, labeled: int = 6, unlabeled: int = 5, val: int = 3) -> TrainConfig:
    """Labelled and val images in COCO JSON and a folder of unlabelled ones; settings of a training of moments."""
    rng = np.random.default_rng(0)

    def boxes(count: int) -> list[list[tuple[int, list[float]]]]:
        return [[(3 + 4 * (i % 2), [*map(float, rng.integers(0, 24, 2)), 30.0, 20.0])] for i in range(count)]

    categories = ((3, "cat"), (7, "dog"))
    coco(root / "labeled", boxes(labeled), categories=categories)
    coco(root / "val", boxes(val), categories=categories, seed=100)
    coco(root / "unlabeled", boxes(unlabeled), categories=categories, seed=200)
    (root / "unlabeled" / "labels.json").unlink()
    return TrainConfig(
        labeled=str(root / "labeled" / "labels.json"),
        unlabeled=(str(root / "unlabeled"),),
        val=str(root / "val" / "labels.json"),
        out=str(root / "run"),
        backbone="lcnet_035",
        weights="none",
        image_size=64,
        batch=2,
        steps=4,
        burn_in=0.5,
        eval_every=2,
        device="cpu",
        report=False,  # takes longer than these trainings
        threads=1,
        model=ModelConfig(neck_channels=8, head_convs=1),
    )


def supervised(config: TrainConfig) -> TrainConfig:
    return replace(config, method="supervised", unlabeled=())


def metrics(ap: float) -> Metrics:
    return Metrics(ap, ap, ap, ap, ap, ap, ap, {}, images=1, boxes=1)


def judged(monkeypatch: pytest.MonkeyPatch, scores: Iterable[float]) -> None:
    """Every judgement in turn (teacher, student, teacher, ...) gives the next of ``scores``."""
    values: Iterator[float] = iter(scores)

    def judge(self: Judge, model: Detector, find_score: bool = True) -> Metrics:
        return metrics(next(values))

    monkeypatch.setattr(Judge, "judge", judge)


def snapshot(run: Path) -> dict[str, Any]:
    """The bytes of a run's numbers."""
    return {name: (run / name).read_bytes() for name in ("metrics.csv", "best.safetensors")}


def snapshot_of_all(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}
