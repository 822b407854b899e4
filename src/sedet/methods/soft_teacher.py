"""Soft Teacher (Xu et al., ICCV 2021): background weighed by the teacher, boxes taught by those that jitter little.

  candidates     the teacher's detections on the weak view, score > 0.5
  sure           those of score >= 0.9: they teach objectness (RPN) and classes
  steady         those of jitter uncertainty < 0.02 (jitter.py), whatever their score: they teach boxes
  L_class  = sum_r w_r CE(student_r, label_r) / sum_r w_r          RoIs drawn by the sure ones; w_r = 1 where r answers
                                                                   for one, else the teacher's background score of r
  L_box    = sum over RoIs of a steady one of smooth L1 / number of RoIs drawn
  L_rpn_*  = the detector's own, with the sure ones as labels
  total    = L_sup + weight(t) (L_class + L_box + L_rpn_class + L_rpn_box)

Facts of the publication's code: the three thresholds, the teacher's background score (at the same RoIs, on the weak
view) as the weight, 10 jitters of deviation 0.06 of the size, the weight 4 (2 with all of COCO's labels). Our choice:
what both sums are divided by; the sure ones teach the RPN's boxes too; classes and boxes have a draw of RoIs each,
of the student's proposals and the candidates that teach; candidates erased beyond the limit teach nothing and what
lies on them is no background; class and box losses are the detector's own; the ramp, the burn-in and the teacher's
average are those of every method here, and the labelled loss may include the half-size view as the twin's does.
Defined for Faster R-CNN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sedet.config import SoftTeacherConfig
from sedet.data.batch import Batch, Targets, pixels
from sedet.detectors.build import Detector
from sedet.detectors.faster_rcnn import FasterRCNN, roi_box_terms, roi_labels
from sedet.detectors.normalizer import process_mean
from sedet.detectors.regions import HALF_LEVELS, Detections, Regions
from sedet.detectors.rpn import rpn_loss
from sedet.methods.jitter import jitter_uncertainty
from sedet.methods.method import Method, Progress
from sedet.methods.pseudo_labels import hidden
from sedet.methods.supervised import joint_views, labeled_losses

PARTS = ("class", "box", "rpn_class", "rpn_box")


class SoftTeacher(Method):
    """One step of Soft Teacher. See the module's text."""

    def __init__(self, config: SoftTeacherConfig, half_size: bool = True, erase_limit: float = 0.7) -> None:
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
        """Weighted losses of one step: ``sup_*`` and ``soft_*``; the latter are 0 in the burn-in."""
        assert isinstance(student, FasterRCNN) and isinstance(teacher, FasterRCNN)
        config, count = self.config, len(labeled)
        weight = config.weight * progress.unlabeled_weight
        if weight == 0.0:
            unlabeled = None
        full = student(*joint_views(labeled, unlabeled, half=False))
        half = student(*joint_views(labeled, None, half=True), HALF_LEVELS) if self.half_size else None
        assert labeled.targets is not None
        losses = labeled_losses(student, full.images(slice(0, count)), half, labeled.targets)
        zero = full.logits.new_zeros(())
        losses |= {f"soft_{part}": zero for part in PARTS}
        if unlabeled is None:
            return losses
        assert unlabeled.weak is not None
        with torch.no_grad():
            answer = teacher(pixels(unlabeled.weak), unlabeled.content)
        found = teacher.detect(answer, unlabeled.content, score_threshold=config.candidate_threshold)
        spread = jitter_uncertainty(teacher, answer, found, config.jitters, config.jitter)
        sure, steady = teaching(found, spread, unlabeled, config, self.erase_limit)
        parts = soft_losses(student, teacher, full.images(slice(count, None)), answer, sure, steady)
        return losses | {f"soft_{part}": weight * parts[part] for part in PARTS}


def teaching(
    found: Sequence[Detections],
    spread: Sequence[Tensor],
    batch: Batch,
    config: SoftTeacherConfig,
    erase_limit: float,
) -> tuple[list[Targets], list[Targets]]:
    """Which candidates teach objectness and classes, and which teach boxes, as labels of the strong view.

    Args:
        found: the candidates, one an image, xyxy pixels of the full view.
        spread: float [n] of each image, their jitter uncertainty.
        erase_limit: those erased beyond it are ignored, in both.
    """
    sure: list[Targets] = []
    steady: list[Targets] = []
    for candidates, uncertainty, erased in zip(found, spread, batch.erased, strict=True):
        gone = hidden(candidates.boxes, erased, erase_limit)
        for labels, which in (
            (sure, candidates.scores >= config.threshold),
            (steady, uncertainty < config.uncertainty),
        ):
            which = which & ~gone
            labels.append(Targets(candidates.boxes[which], candidates.labels[which], candidates.boxes[gone]))
    return sure, steady


def soft_losses(
    student: FasterRCNN,
    teacher: FasterRCNN,
    seen: Regions,
    answer: Regions,
    sure: Sequence[Targets],
    steady: Sequence[Targets],
) -> dict[str, Tensor]:
    """The losses of both stages, one of :data:`PARTS` each: unweighted scalars. RoIs are drawn by torch's generator.

    Args:
        seen: the student's first stage on the strong view.
        answer: the teacher's on the weak view, of the same geometry.
        sure, steady: what teaches classes and what teaches boxes, one an image, in pixels of both views.
    """
    losses = rpn_loss(seen, sure)
    proposals = student.candidates(seen)

    rois, indices = student.draw(proposals, sure)
    logits, _ = student.second_stage(seen, rois)
    with torch.no_grad():
        background = teacher.second_stage(answer, rois)[0].softmax(dim=-1)[:, -1]
    losses["class"] = class_loss(logits, roi_labels(indices, sure, student.spec.classes), background)

    rois, indices = student.draw(proposals, steady)
    number = sum(len(index) for index in indices)
    rois = [roi[index >= 0] for roi, index in zip(rois, indices, strict=True)]  # the background has no box to learn
    indices = [index[index >= 0] for index in indices]
    _, deltas = student.second_stage(seen, rois)
    divisor = process_mean(deltas.new_tensor(float(number)), least=1.0)
    losses["box"] = roi_box_terms(deltas, rois, indices, steady).sum() / divisor
    return losses


def class_loss(logits: Tensor, label: Tensor, background: Tensor) -> Tensor:
    """Cross-entropy, the background weighed by how sure the teacher is of it, over the sum of the weights.

    Args:
        logits: float [RoIs, classes + 1], the background last.
        label: int64 [RoIs], the last class for the background.
        background: float [RoIs] in 0..1, the teacher's score of the background.
    """
    weight = torch.where(label == logits.shape[1] - 1, background.detach(), 1.0)
    term = F.cross_entropy(logits, label, reduction="none")
    return (weight * term).sum() / process_mean(weight.sum(), least=1.0)
