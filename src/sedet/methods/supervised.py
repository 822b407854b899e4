"""Training on the labels alone: the twin that every comparison uses, and the labelled part of every method."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sedet.data.batch import Batch, Targets, pixels
from sedet.detectors.build import Detector
from sedet.detectors.regions import HALF_LEVELS, Regions
from sedet.methods.method import Method, Progress


class Supervised(Method):
    """The detector's own loss on strong views, at full and (by default) at half size.

    Args:
        half_size: train on the half-size view too (our design: the mean of both).
    """

    uses_unlabeled = False

    def __init__(self, half_size: bool = True) -> None:
        self.half_size = self.uses_half = half_size

    def losses(
        self,
        student: Detector,
        teacher: Detector,
        labeled: Batch,
        unlabeled: Batch | None,
        progress: Progress,
    ) -> dict[str, Tensor]:
        full = student(pixels(labeled.strong), labeled.content)
        half = None
        if self.half_size:
            half = student(pixels(labeled.half), labeled.content // 2, HALF_LEVELS)
        assert labeled.targets is not None
        return labeled_losses(student, full, half, labeled.targets)


def labeled_losses(
    student: Detector, full: Regions, half: Regions | None, targets: Sequence[Targets]
) -> dict[str, Tensor]:
    """Mean of the detector's loss at full size and at half size (boxes halved), keys prefixed ``sup_``."""
    losses = student.loss(full, targets)
    if half is not None:
        small = student.loss(half, [t.halved() for t in targets])
        losses = {key: (value + small[key]) / 2 for key, value in losses.items()}
    return {f"sup_{key}": value for key, value in losses.items()}


def joint_views(labeled: Batch | None, unlabeled: Batch | None, half: bool) -> tuple[Tensor, Tensor]:
    """Images and contents of the batches that are given, at one size."""
    given = [b for b in (labeled, unlabeled) if b is not None]
    images = torch.cat([b.half if half else b.strong for b in given])
    content = torch.cat([b.content for b in given])
    return pixels(images), content // 2 if half else content
