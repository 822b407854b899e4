"""One box for all regions that answer for an object: a vote among the teacher's boxes. Our design.

Many regions answer for one object, and their boxes differ. Taught the teacher's box at its own place, a region learns
hardly more than it knows. The mean of all boxes of an object places it better than most of them, and every region can
learn from it, as it does from a label - without a threshold, and without a decision about what is an object at all.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torchvision.ops import batched_nms, box_iou

from sedet.detectors.regions import Regions

SAME_OBJECT = 0.5
"""Regions of one class whose boxes overlap the surest one's by more than this (IoU) answer for one object."""
CANDIDATES = 1000
"""Regions an image, the surest, among which objects are looked for."""


@torch.no_grad()
def voted_boxes(answer: Regions, overlap: float = SAME_OBJECT) -> Regions:
    """The answers with each region's box replaced by the vote of its object; classes and centerness stay as they are.

    (A centerness that follows from the voted box ranks regions far worse than their own: docs/experiments.md.)

    Non-maximum suppression finds the surest region of each object. All regions of its class that overlap with it, and
    that no surer object claims, are weighed by their IoU with it times their score squared; the object's box is the
    mean of theirs.

    Args:
        answer: dense regions of one view.
        overlap: IoU above which two boxes of a class are one object.
    """
    scores = answer.scores()
    if answer.quality is not None:
        scores = (scores * answer.quality.sigmoid()[..., None]).sqrt()
    sure, label = scores.masked_fill(~answer.valid[..., None], 0.0).max(dim=-1)
    boxes = answer.boxes.clone()
    for i, own in enumerate(answer.boxes):
        order = sure[i].argsort(descending=True, stable=True)[:CANDIDATES]
        kept = order[batched_nms(own[order], sure[i][order], label[i][order], overlap)]
        iou = box_iou(own, own[kept])  # [regions, objects], the surest object first
        same = (iou > overlap) & (label[i][:, None] == label[i][kept][None]) & answer.valid[i][:, None]
        objects = same & (same.cumsum(dim=1) == 1)  # the surest of those it could answer for
        votes = (objects * iou * sure[i][:, None] ** 2).t()  # [objects, regions]
        total = votes.sum(dim=1, keepdim=True)
        mean = votes @ own / total.clamp(min=1e-12)
        has, which = objects.max(dim=1)
        has &= total[which, 0] > 0
        boxes[i] = torch.where(has[:, None], mean[which], own)
    return replace(answer, boxes=boxes, deltas=None)
