"""Unbiased Teacher (Liu et al., ICLR 2021): confident detections teach classes, and no boxes.

  label     the teacher's detections on the weak view of score > threshold
  L_unsup   = the class parts of the detector's loss on the strong view with these labels: no box is taught
  L_sup     = the detector's loss, mean of the labelled images' strong and weak views
  total     = L_sup + weight(t) L_unsup

Facts of the publication's code: the threshold 0.7; box regression on pseudo labels off; labelled images in strong and
in weak form; in Faster R-CNN's second stage a focal loss of gamma 1.5 in place of the cross-entropy (the first keeps
its own); weight 4 (2 for VOC and for all of COCO's labels). Our choice: the focal loss and the weak views join when the
unlabelled images do, so that the burn-in is that of every method here; where the labelled images are trained on at
half size too, that is the mean with both full-size views; a box erased in the strong view is ignored in the weak one
too; objectness is a class part; on dense detectors, whose class
loss is focal anyway, centerness is taught as little as boxes are; the ramp and the teacher's average. Defined for every
detector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sedet.config import UnbiasedTeacherConfig
from sedet.data.batch import Batch, Targets, pixels
from sedet.detectors.build import Detector
from sedet.detectors.faster_rcnn import FasterRCNN
from sedet.detectors.regions import HALF_LEVELS, Regions
from sedet.methods.method import Method, Progress
from sedet.methods.pseudo_labels import as_labels, teacher_detections
from sedet.methods.supervised import joint_views, labeled_losses

PARTS = ("class", "rpn_class")
"""What pseudo labels teach, where the detector has it."""


class UnbiasedTeacher(Method):
    """One step of Unbiased Teacher. See the module's text."""

    labeled_weak = True

    def __init__(self, config: UnbiasedTeacherConfig, half_size: bool = True, erase_limit: float = 0.7) -> None:
        self.config, self.half_size, self.erase_limit = config, half_size, erase_limit
        self.uses_half = half_size

    def losses(
        self,
        student: Detector,
        teacher: Detector,
        labeled: Batch,
        unlabeled: Batch | None,
        progress: Progress,
    ) -> dict[str, Tensor]:
        """Weighted losses of one step: ``sup_*`` and ``unbiased_*``; the latter are 0 in the burn-in."""
        config, count = self.config, len(labeled)
        weight = config.weight * progress.unlabeled_weight
        if progress.unlabeled_weight == 0.0:
            unlabeled = None
        half = student(*joint_views(labeled, None, half=True), HALF_LEVELS) if self.half_size else None
        assert labeled.targets is not None
        if unlabeled is None:
            full = student(*joint_views(labeled, None, half=False))
            losses = labeled_losses(student, full, half, labeled.targets)
            return losses | {f"unbiased_{part}": full.logits.new_zeros(()) for part in self._parts(student)}

        assert labeled.weak is not None
        images = pixels(torch.cat([labeled.strong, labeled.weak, unlabeled.strong]))
        seen = student(images, torch.cat([labeled.content, labeled.content, unlabeled.content]))
        views = [self._loss(student, seen.images(slice(i * count, (i + 1) * count)), labeled.targets) for i in (0, 1)]
        losses = {f"sup_{key}": (views[0][key] + views[1][key]) / 2 for key in views[0]}
        if half is not None:
            small = self._loss(student, half, [t.halved() for t in labeled.targets])
            losses = {key: (value + small[key.removeprefix("sup_")]) / 2 for key, value in losses.items()}
        labels = as_labels(teacher_detections(teacher, unlabeled, config.threshold), unlabeled, self.erase_limit)
        taught = self._loss(student, seen.images(slice(2 * count, None)), labels)
        return losses | {f"unbiased_{part}": weight * taught[part] for part in self._parts(student)}

    def _loss(self, student: Detector, regions: Regions, targets: Sequence[Targets]) -> dict[str, Tensor]:
        if isinstance(student, FasterRCNN):
            return student.loss(regions, targets, self.config.focal_gamma)
        return student.loss(regions, targets)

    @staticmethod
    def _parts(student: Detector) -> tuple[str, ...]:
        return PARTS if isinstance(student, FasterRCNN) else PARTS[:1]
