"""Hard pseudo labels: the teacher's detections on unlabelled images, taken as if they were labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sedet.data.batch import Batch, Targets, pixels
from sedet.data.views import erased_share
from sedet.detectors.build import Detector
from sedet.detectors.regions import Detections, Regions


@torch.no_grad()
def teacher_detections(teacher: Detector, batch: Batch, threshold: float) -> list[Detections]:
    """What the teacher finds on the weak view, above a score, in the full view's pixels."""
    assert batch.weak is not None
    return teacher.detect(teacher(pixels(batch.weak), batch.content), batch.content, score_threshold=threshold)


@torch.no_grad()
def as_labels(found: Sequence[Detections], batch: Batch, erase_limit: float) -> list[Targets]:
    """Detections as labels of the strong view; those erased beyond the limit are ignored, as labelled boxes are."""
    labels = []
    for detections, erased in zip(found, batch.erased, strict=True):
        gone = hidden(detections.boxes, erased, erase_limit)
        labels.append(Targets(detections.boxes[~gone], detections.labels[~gone], detections.boxes[gone]))
    return labels


def hidden(boxes: Tensor, erased: Tensor, erase_limit: float) -> Tensor:
    """bool [boxes]: erased beyond the limit. ``erased``: float [rectangles, 4], unused rows zero."""
    return erased_share(boxes, erased) > erase_limit


def pseudo_labels(
    teacher: Detector, answer: Regions, batch: Batch, threshold: float, erase_limit: float
) -> list[Targets]:
    """Hard labels from answers that are already there: the teacher's boxes after NMS that score above ``threshold``."""
    return as_labels(teacher.detect(answer, batch.content, score_threshold=threshold), batch, erase_limit)


def keep(found: Detections, which: Tensor) -> Detections:
    """Some of the detections of an image; ``which``: bool or int64 over them."""
    return Detections(found.boxes[which], found.scores[which], found.labels[which])
