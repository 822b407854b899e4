"""Which detection stands for which object, at one IoU: what the analyses of a detector's answers start from.

The rules are COCO's (as in matching.py, which keeps only what AP needs): greedy by score, each class in each image
alone; detections of crowd and difficult objects are neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedet.data.table import AnnotationTable
from sedet.detectors.regions import Detections
from sedet.evaluation.coco import as_arrays

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ImagePairs:
    """Detections of one image against its objects; crowd and difficult ones are not among the objects.

    Attributes:
        scores: float64 [n], best first.
        labels: int64 [n], classes of the detections.
        iou: float64 [n, objects], whatever the classes.
        matched: int64 [n], the object that each detection stands for, or -1.
        ignored: bool [n], unmatched and on a crowd or difficult object of its class: not counted at all.
        true_labels: int64 [objects].
        areas: float64 [objects], by which COCO tells small from large, square pixels of the original image.
    """

    scores: Floats
    labels: NDArray[np.int64]
    iou: Floats
    matched: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    true_labels: NDArray[np.int64]
    areas: Floats

    @property
    def own_class(self) -> NDArray[np.bool_]:
        """bool [n, objects]: both are of one class."""
        same: NDArray[np.bool_] = self.labels[:, None] == self.true_labels[None, :]
        return same

    def scores_of_objects(self) -> Floats:
        """float64 [objects]: the score of the detection that stands for each, -1 where none does."""
        found = np.full(len(self.true_labels), -1.0)
        hit = self.matched >= 0
        found[self.matched[hit]] = self.scores[hit]
        return found


def pair(
    table: AnnotationTable, detections: Sequence[Detections], iou: float = 0.5, limit: int | None = None
) -> list[ImagePairs]:
    """Match the detections of every image.

    What is matched above a score is the same whether or not the detections below it are there.

    Args:
        table: the ground truth.
        detections: one entry an image, xyxy in pixels of the original image.
        iou: least IoU of a match.
        limit: detections of a class in an image that are looked at, best first. Default: all.
    """
    least = min(iou, 1 - 1e-10)
    found = []
    for truth, (boxes, scores, labels) in zip(table.objects, as_arrays(table, detections), strict=True):
        order = np.argsort(-scores, kind="stable")
        if limit is not None:
            ranks = np.zeros(len(order), np.int64)
            for c in np.unique(labels):
                own = labels[order] == c
                ranks[own] = np.arange(own.sum())
            order = order[ranks < limit]
        boxes, scores, labels = boxes[order], scores[order], labels[order]
        crowd = truth.ignored
        true_boxes, true_labels = truth.boxes.astype(np.float64), truth.labels
        overlap = _overlap(boxes, true_boxes[~crowd])
        hidden = _overlap(boxes, true_boxes[crowd], crowd=True) >= least
        hidden &= labels[:, None] == true_labels[crowd][None, :]
        matched = _match(np.where(labels[:, None] == true_labels[~crowd][None, :], overlap, 0.0), least)
        found.append(
            ImagePairs(
                scores,
                labels,
                overlap,
                matched,
                hidden.any(axis=1) & (matched < 0),
                true_labels[~crowd],
                truth.areas[~crowd],
            )
        )
    return found


def _match(overlap: Floats, least: float) -> NDArray[np.int64]:
    """int64 [n]: the object each detection takes, best first; -1 none. Overlap [n, objects], 0 between classes."""
    matched = np.full(len(overlap), -1, np.int64)
    if not overlap.size:
        return matched
    free = np.ones(overlap.shape[1], bool)
    for d in np.flatnonzero(overlap.max(axis=1) >= least):
        open_to = np.where(free & (overlap[d] >= least), overlap[d], -1.0)
        best = len(open_to) - 1 - int(np.argmax(open_to[::-1]))  # of equal ones the last, as COCO has it
        if open_to[best] >= 0:
            matched[d] = best
            free[best] = False
    return matched


def _overlap(boxes: Floats, others: Floats, crowd: bool = False) -> Floats:
    """IoU [n, others]; with ``crowd`` the share of each box that lies inside. Boxes xyxy."""
    low, high = np.maximum(boxes[:, None, :2], others[None, :, :2]), np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared: Floats = np.maximum(high - low, 0).prod(axis=-1)
    area, other_area = ((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (boxes, others))
    union = area[:, None] + (0.0 if crowd else other_area[None, :] - shared)
    result: Floats = np.zeros_like(shared)
    np.divide(shared, union, out=result, where=shared > 0)
    return result
