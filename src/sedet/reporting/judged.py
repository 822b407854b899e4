"""What a report says of a detector on labelled data: metrics, curves, confusions and errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedet.data.table import AnnotationTable
from sedet.detectors.regions import Detections
from sedet.evaluation.coco import Metrics, coco_metrics
from sedet.evaluation.errors import error_breakdown
from sedet.evaluation.matching import ClassRecords, per_image_records
from sedet.evaluation.pairs import ImagePairs, pair
from sedet.evaluation.pseudo_labels import PseudoLabelQuality, best_row, label_sweep

POINTS = 100
"""Most points of a precision-recall curve."""


@dataclass(frozen=True)
class ClassFigures:
    """One class.

    Attributes:
        objects: in the ground truth, without ignored ones.
        ap, ap50: percent points, nan without objects.
        recalls, precisions: the curve at IoU 0.5, best scores first, at most :data:`POINTS` points.
        score, precision, recall, f1: at the score of the class's best F1; nan where nothing right is found.
    """

    name: str
    objects: int
    ap: float
    ap50: float
    recalls: tuple[float, ...]
    precisions: tuple[float, ...]
    score: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Judged:
    """A detector's answers on labelled data, judged.

    Attributes:
        table: the ground truth, images that could be read; detections: one entry an image.
        cut: the score that errors and confusions are counted from; best: the sweep's row of the best F1, or None.
        sweep: precision and recall at every hundredth, all classes together.
        confusion: int64 [classes + 1, classes + 1], rows truth, columns answers; the last row is background,
            the last column missed.
        errors: from :func:`sedet.evaluation.errors.error_breakdown`.
    """

    table: AnnotationTable
    detections: Sequence[Detections]
    cut: float
    metrics: Metrics
    sweep: tuple[PseudoLabelQuality, ...]
    best: PseudoLabelQuality | None
    classes: tuple[ClassFigures, ...]
    confusion: NDArray[np.int64]
    errors: dict[str, Any]


def judge(table: AnnotationTable, detections: Sequence[Detections], cut: float) -> Judged:
    """Judge detections by labelled data.

    Args:
        table: the ground truth.
        detections: one entry an image, xyxy in pixels of the original image.
        cut: score that errors and confusions are counted from.
    """
    metrics = coco_metrics(table, detections)
    sweep = label_sweep(table, detections)
    above = from_score(detections, cut)
    records = per_image_records(table, detections, np.array([0.5]), limit=1_000_000)
    return Judged(
        table,
        detections,
        cut,
        metrics,
        tuple(sweep),
        best_row(sweep),
        tuple(class_figures(name, r, metrics.per_class[name]) for name, r in zip(table.classes, records, strict=True)),
        confusion_matrix(table, pair(table, above)),
        error_breakdown(table, detections, cut),
    )


def from_score(detections: Sequence[Detections], cut: float) -> list[Detections]:
    """The detections with at least this score."""
    kept = [d.scores >= float(np.float32(cut)) for d in detections]
    return [Detections(d.boxes[k], d.scores[k], d.labels[k]) for d, k in zip(detections, kept, strict=True)]


def class_figures(name: str, records: ClassRecords, metrics: dict[str, float]) -> ClassFigures:
    """The curve of one class from its matched detections (at one IoU)."""
    objects = int(records.objects.sum())
    right = np.cumsum(records.correct[0] & records.counted[0])
    counted = np.cumsum(records.counted[0])
    used = counted > 0
    precision = right[used] / counted[used]
    recall = right[used] / objects if objects else np.full(int(used.sum()), math.nan)
    both = precision + recall
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(both > 0, 2 * precision * recall / both, 0.0)
    # One score cuts after the last of its detections.
    scores = records.scores[used]
    last = np.append(scores[1:] != scores[:-1], True) if len(scores) else np.zeros(0, bool)
    f1 = np.where(last, f1, 0.0)
    place = int(np.argmax(f1)) if len(f1) and np.nanmax(f1) > 0 else None
    keep = _thinned(len(recall))
    at = (math.nan,) * 4 if place is None else (scores[place], precision[place], recall[place], f1[place])
    return ClassFigures(
        name,
        objects,
        metrics["ap"],
        metrics["ap50"],
        tuple(recall[keep].tolist()),
        tuple(precision[keep].tolist()),
        *(float(value) for value in at),
    )


def confusion_matrix(table: AnnotationTable, pairs: Sequence[ImagePairs]) -> NDArray[np.int64]:
    """Truth against answers.

    What stands for an object of its own class (COCO's matching) is right. What is left over is matched across classes,
    greedily by IoU, from the pairs' own least IoU of 0.5 on; the rest is background, or missed. Detections of crowd and
    difficult objects do not count.

    Args:
        pairs: one entry an image, of the detections from the score to cut at, matched at IoU 0.5.

    Returns:
        int64 [classes + 1, classes + 1]: rows truth (last: background), columns answers (last: missed).
    """
    n = len(table.classes)
    found = np.zeros((n + 1, n + 1), np.int64)
    for p in pairs:
        hit = p.matched >= 0
        np.add.at(found, (p.true_labels[p.matched[hit]], p.labels[hit]), 1)
        free = np.ones(len(p.true_labels), bool)
        free[p.matched[hit]] = False
        left = ~hit & ~p.ignored
        overlap = np.where(left[:, None] & free[None, :], p.iou, 0.0)
        while overlap.size and overlap.max() >= 0.5:
            d, t = (int(i) for i in np.unravel_index(int(overlap.argmax()), overlap.shape))
            found[p.true_labels[t], p.labels[d]] += 1
            left[d], free[t] = False, False
            overlap[d], overlap[:, t] = 0.0, 0.0
        found[n] += np.bincount(p.labels[left], minlength=n + 1)
        found[:, n] += np.bincount(p.true_labels[free], minlength=n + 1)
    return found


def most_confused(table: AnnotationTable, confusion: NDArray[np.int64], limit: int = 10) -> list[tuple[str, str, int]]:
    """Pairs of classes that are mistaken most: truth, answer, how often."""
    n = len(table.classes)
    wrong = confusion[:n, :n].copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    places = [np.unravel_index(int(i), wrong.shape) for i in order]
    return [(table.classes[t], table.classes[a], int(wrong[t, a])) for t, a in places if wrong[t, a]]


def _thinned(count: int) -> NDArray[np.int64]:
    """At most POINTS indices of a row, the first and the last among them."""
    return (
        np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(np.int64))
        if count
        else np.zeros(0, np.int64)
    )
