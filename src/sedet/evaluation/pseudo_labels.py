"""How good a detector's answers would be as labels, over score thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sedet.data.table import AnnotationTable
from sedet.detectors.regions import Detections
from sedet.evaluation.matching import per_image_records

SCORES = tuple(i / 100 for i in range(1, 100))
"""Thresholds that are tried for the best one."""
HARD = (0.5, 0.7, 0.9)
"""Thresholds that hard pseudo labels are usually cut at."""


class PseudoLabelQuality(NamedTuple):
    """What the detections with at least ``threshold`` are worth as labels.

    Attributes:
        threshold: least score.
        precision: share of the labels that are right, 0..1; nan where there are none.
        recall: share of the objects that have a label, 0..1; nan where there are no objects.
        labels: labels an image, right or wrong, those of ignored objects included.
    """

    threshold: float
    precision: float
    recall: float
    labels: float


def pseudo_label_quality(
    table: AnnotationTable,
    detections: Sequence[Detections],
    thresholds: Sequence[float],
    iou: float = 0.5,
) -> list[PseudoLabelQuality]:
    """One row a threshold, over all classes together.

    A label is right if it meets an object of its class that no better one has; labels of crowd and difficult
    objects are neither right nor wrong.

    Args:
        table: the ground truth.
        detections: one entry an image, xyxy in pixels of the original image.
        thresholds: scores to cut at, 0..1.
        iou: least IoU of a match.
    """
    # Greedy by score: what lies above a threshold is matched the same whether or not the rest is there.
    records = per_image_records(table, detections, np.array([iou]), limit=1_000_000)
    objects = sum(int(r.objects.sum()) for r in records)
    rows = []
    for threshold in thresholds:
        # in the scores' own precision: a score of 0.7 is not below a threshold of 0.7
        kept = [r.scores >= float(np.float32(threshold)) for r in records]
        right = sum(int((r.correct[0] & k).sum()) for r, k in zip(records, kept, strict=True))
        counted = sum(int((r.counted[0] & k).sum()) for r, k in zip(records, kept, strict=True))
        labels = sum(int(k.sum()) for k in kept)
        rows.append(
            PseudoLabelQuality(
                float(threshold),
                right / counted if counted else math.nan,
                right / objects if objects else math.nan,
                labels / len(table) if len(table) else math.nan,
            )
        )
    return rows


def label_sweep(table: AnnotationTable, detections: Sequence[Detections], iou: float = 0.5) -> list[PseudoLabelQuality]:
    """Quality at every hundredth of :data:`SCORES`."""
    # What lies below every threshold is most of the detections, and cannot change what is matched above it.
    keeps = [d.scores >= SCORES[0] for d in detections]
    detections = [Detections(d.boxes[k], d.scores[k], d.labels[k]) for d, k in zip(detections, keeps, strict=True)]
    return pseudo_label_quality(table, detections, SCORES, iou)


def best_row(rows: Sequence[PseudoLabelQuality]) -> PseudoLabelQuality | None:
    """The row with the best F1, the highest threshold of equally good ones; None where nothing right is found."""
    best, found = 0.0, None
    for row in rows:
        if row.precision > 0 and row.recall > 0:  # nan is neither
            f1 = 2 * row.precision * row.recall / (row.precision + row.recall)
            if f1 >= best:
                best, found = f1, row
    return found


def best_score(table: AnnotationTable, detections: Sequence[Detections], iou: float = 0.5) -> float | None:
    """The score to cut at for the best F1 (harmonic mean of precision and recall), over all classes together.

    Detectors differ in how sure they are, and soft targets change it, so no one threshold suits all.

    Returns:
        A score in hundredths, the highest of equally good ones; None where nothing right is found.
    """
    best = best_row(label_sweep(table, detections, iou))
    return None if best is None else best.threshold


def label_figures(rows: Sequence[PseudoLabelQuality]) -> dict[str, float]:
    """What is kept of a sweep at each evaluation of a training: the usual hard thresholds, and the best one.

    Returns:
        ``precision_0.5``, ``recall_0.5`` and the same at 0.7 and 0.9; ``score_best``, ``precision_best`` and
        ``recall_best`` at the score of the best F1. 0..1; nan where there is nothing to measure by.
    """
    at = {row.threshold: row for row in rows}
    best = best_row(rows)
    named = {**{f"{t:g}": at[t] for t in HARD}, "best": best}
    figures = {
        f"{what}_{name}": math.nan if row is None else float(getattr(row, what))
        for name, row in named.items()
        for what in ("precision", "recall")
    }
    return {**figures, "score_best": math.nan if best is None else best.threshold}
