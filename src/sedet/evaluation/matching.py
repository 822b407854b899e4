"""COCO's matching of detections to objects, kept image by image: the bootstrap draws images.

``coco_metrics`` uses the common evaluator; here the same rules are written once more because it does not give
its matches out. Tests hold the two to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedet.data.table import AnnotationTable
from sedet.detectors.regions import Detections
from sedet.evaluation.coco import EVERY_AREA, IOU_THRESHOLDS, MAX_DETECTIONS, as_arrays

RECALLS: NDArray[np.float64] = np.linspace(0, 1, 101)
"""Recalls at which COCO reads the precision."""


@dataclass(frozen=True, slots=True)
class ClassRecords:
    """The matched detections of one class over all images, best first (equal scores: in image order).

    Attributes:
        image: int64 [n], index of the image.
        scores: float64 [n].
        correct: bool [thresholds, n], matched to an object that counts.
        counted: bool [thresholds, n], false for detections of ignored objects or outside of the area range.
        objects: int64 [images], objects that count.
    """

    image: NDArray[np.int64]
    scores: NDArray[np.float64]
    correct: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    objects: NDArray[np.int64]


def per_image_records(
    table: AnnotationTable,
    detections: Sequence[Detections],
    thresholds: NDArray[np.float64] = IOU_THRESHOLDS,
    area: tuple[float, float] = EVERY_AREA,
    limit: int = MAX_DETECTIONS,
) -> list[ClassRecords]:
    """Match by COCO's rules: greedily by score, each class in each image alone.

    Args:
        table: the ground truth; crowd and difficult objects are ignore regions.
        detections: one entry an image, xyxy in pixels of the original image.
        thresholds: float64 [thresholds], least IoU of a match.
        area: smallest and largest area of the objects that count, square pixels.
        limit: detections a class and image that are looked at, best first.

    Returns:
        One entry a class of the table.
    """
    arrays = as_arrays(table, detections)
    classes = len(table.classes)
    images: list[list[NDArray[np.int64]]] = [[] for _ in range(classes)]
    scores: list[list[NDArray[np.float64]]] = [[] for _ in range(classes)]
    correct: list[list[NDArray[np.bool_]]] = [[] for _ in range(classes)]
    counted: list[list[NDArray[np.bool_]]] = [[] for _ in range(classes)]
    objects = np.zeros((classes, len(table)), np.int64)
    for i, (truth, (boxes, score, labels)) in enumerate(zip(table.objects, arrays, strict=True)):
        true_boxes = truth.boxes.astype(np.float64)
        outside = _outside(truth.areas, area)
        for c in np.unique(np.concatenate([truth.labels, labels])):
            own = truth.labels == c
            crowd, ignored = truth.ignored[own], truth.ignored[own] | outside[own]
            objects[c, i] = int((~ignored).sum())
            chosen = np.flatnonzero(labels == c)
            chosen = chosen[np.argsort(-score[chosen], kind="stable")[:limit]]
            hit, hit_ignored = _match(boxes[chosen], true_boxes[own], crowd, ignored, thresholds)
            images[c].append(np.full(len(chosen), i))
            scores[c].append(score[chosen])
            correct[c].append(hit & ~hit_ignored)
            counted[c].append(~hit_ignored & (hit | ~_outside(_areas(boxes[chosen]), area)))
    return [_joined(images[c], scores[c], correct[c], counted[c], objects[c], len(thresholds)) for c in range(classes)]


def average_precision(records: ClassRecords, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """COCO's 101-point AP of one class when each image counts several times.

    Args:
        records: the matches of the class.
        weights: float64 [draws, images], how often each image counts; all 1: the plain AP.

    Returns:
        float64 [draws, thresholds] in 0..1; nan where no object counts.
    """
    draws, thresholds = len(weights), len(records.correct)
    total = weights @ records.objects.astype(np.float64)  # [draws]
    result = np.zeros((draws, thresholds))
    chunk = max(1, 4_000_000 // max(1, len(records.image)))  # keeps the arrays below within some 100 MB
    for start in range(0, draws, chunk):
        part = slice(start, start + chunk)
        weight = weights[part][:, records.image]  # [draws, detections]
        positives = np.zeros_like(weight)
        previous: NDArray[np.bool_] | None = None
        for t in range(thresholds):
            if previous is None or not np.array_equal(previous, records.counted[t]):
                previous = records.counted[t]
                positives = np.cumsum(weight * previous, axis=1)
            # Precision has its maxima, and recall its steps, at correct detections only.
            at = np.flatnonzero(records.correct[t])
            if not len(at):
                continue
            true = np.cumsum(weight[:, at], axis=1)
            precision = true / (positives[:, at] + np.spacing(1))
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = true / np.maximum(total[part, None], 1)
            reached = np.searchsorted(RECALLS, recall, side="right")  # recalls read up to this detection
            result[part, t] = (np.diff(reached, axis=1, prepend=0) * envelope).sum(1) / len(RECALLS)
    result[total == 0] = np.nan
    return result


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _outside(areas: NDArray[np.float64], bounds: tuple[float, float]) -> NDArray[np.bool_]:
    return (areas < bounds[0]) | (areas > bounds[1])


def _match(
    boxes: NDArray[np.float64],
    true_boxes: NDArray[np.float64],
    crowd: NDArray[np.bool_],
    ignored: NDArray[np.bool_],
    thresholds: NDArray[np.float64],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For detections in order of score: bool [thresholds, n] matched, and matched to an ignored object."""
    hit = np.zeros((len(thresholds), len(boxes)), bool)
    hit_ignored = np.zeros_like(hit)
    if not len(boxes) or not len(true_boxes):
        return hit, hit_ignored
    order = np.argsort(ignored, kind="stable")  # objects that count go before ignored ones
    crowd, ignored = crowd[order], ignored[order]
    overlap = _overlap(boxes, true_boxes[order], crowd)
    least = np.minimum(thresholds, 1 - 1e-10)
    taken = np.zeros((len(thresholds), len(true_boxes)), bool)
    counting = int((~ignored).sum())
    rows = np.arange(len(thresholds))
    for d in np.flatnonzero(overlap.max(1) >= least.min()):
        free = (overlap[d] >= least[:, None]) & (~taken | crowd)  # [thresholds, objects]
        for part in (slice(0, counting), slice(counting, len(order))):
            candidates = np.where(free[:, part], overlap[d, part], -1.0)
            if not candidates.shape[1]:
                continue
            # the best overlap; of equal ones the last, as the reference has it
            best = candidates.shape[1] - 1 - np.argmax(candidates[:, ::-1], axis=1)
            new = (candidates[rows, best] >= 0) & ~hit[:, d]
            taken[rows[new], best[new] + part.start] = True
            hit_ignored[new, d] = part.start == counting
            hit[new, d] = True
    return hit, hit_ignored


def _overlap(
    boxes: NDArray[np.float64], true_boxes: NDArray[np.float64], crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """IoU [n, objects]; for crowds the share of the detection that lies inside."""
    corner = np.maximum(boxes[:, None, :2], true_boxes[None, :, :2])
    extent = np.maximum(np.minimum(boxes[:, None, 2:], true_boxes[None, :, 2:]) - corner, 0)
    shared = extent[..., 0] * extent[..., 1]
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[:, None]
    true_area = (true_boxes[:, 2] - true_boxes[:, 0]) * (true_boxes[:, 3] - true_boxes[:, 1])
    union = np.where(crowd, area, area + true_area - shared)
    overlap: NDArray[np.float64] = np.zeros_like(shared)
    np.divide(shared, union, out=overlap, where=shared > 0)
    return overlap


def _joined(
    images: list[NDArray[np.int64]],
    scores: list[NDArray[np.float64]],
    correct: list[NDArray[np.bool_]],
    counted: list[NDArray[np.bool_]],
    objects: NDArray[np.int64],
    thresholds: int,
) -> ClassRecords:
    if not images:
        none = np.zeros((thresholds, 0), bool)
        return ClassRecords(np.zeros(0, np.int64), np.zeros(0), none, none, objects)
    score = np.concatenate(scores)
    order = np.argsort(-score, kind="stable")
    return ClassRecords(
        np.concatenate(images)[order],
        score[order],
        np.concatenate(correct, axis=1)[:, order],
        np.concatenate(counted, axis=1)[:, order],
        objects,
    )
