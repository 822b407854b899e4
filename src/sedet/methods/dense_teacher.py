"""Dense Teacher (Zhou et al., ECCV 2022): the teacher's dense answers as soft labels, without boxes or a threshold.

  the top share of all locations of a batch, by the teacher's best class score   -> positive
  L_cls  = [ sum over positives BCE(p_S, p_T) |p_T - p_S|^2  +  sum elsewhere BCE(p_S, 0) p_S^2 ] / sum of their scores
  L_box  = mean over positives of GIoU(b_T, b_S)
  L_qual = mean over positives of BCE(q_S, q_T)
  total  = L_sup + weight(t) (class_weight L_cls + box_weight L_box + quality_weight L_qual)

Facts of the publication's code: the share of 1 %, the losses and what they are divided by, class weight 4 (3 with 1 %
of COCO's labels, 2 with all of them), box and quality weight 1. Our choice: the ramp and the teacher's average are
those of every method here, the labelled loss may include the half-size view as the twin's does, and regions in
padding or that the student cannot see for erasing are left out, as in SED. Each process, and each part of a batch that
is taken in parts, chooses the share of its own images. Defined for FCOS.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from sedet.config import DenseTeacherConfig
from sedet.data.batch import Batch, pixels
from sedet.detectors.build import Detector
from sedet.detectors.normalizer import process_mean
from sedet.detectors.regions import HALF_LEVELS, Regions
from sedet.methods.method import Method, Progress
from sedet.methods.sed import TeacherTarget, teacher_target
from sedet.methods.supervised import joint_views, labeled_losses

PARTS = ("class", "box", "quality")


class DenseTeacher(Method):
    """One step of Dense Teacher. See the module's text."""

    def __init__(self, config: DenseTeacherConfig, half_size: bool = True, erase_limit: float = 0.7) -> None:
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
        """Weighted losses of one step: ``sup_*`` and ``dense_*``; the latter are 0 in the burn-in."""
        config, count = self.config, len(labeled)
        weight = progress.unlabeled_weight
        if weight == 0.0:
            unlabeled = None
        full = student(*joint_views(labeled, unlabeled, half=False))
        half = student(*joint_views(labeled, None, half=True), HALF_LEVELS) if self.half_size else None
        assert labeled.targets is not None
        losses = labeled_losses(student, full.images(slice(0, count)), half, labeled.targets)
        zero = full.logits.new_zeros(())
        losses |= {f"dense_{part}": zero for part in PARTS}
        if unlabeled is None:
            return losses
        assert unlabeled.weak is not None
        with torch.no_grad():
            answer = teacher(pixels(unlabeled.weak), unlabeled.content)
        parts = dense_losses(
            teacher_target(answer, unlabeled, self.erase_limit), full.images(slice(count, None)), config.share
        )
        weights = (config.class_weight, config.box_weight, config.quality_weight)
        for part, part_weight in zip(PARTS, weights, strict=True):
            losses[f"dense_{part}"] = weight * part_weight * parts[part]
        return losses


def dense_losses(target: TeacherTarget, student: Regions, share: float) -> dict[str, Tensor]:
    """The losses against the teacher's answers: ``class``, ``box`` and ``quality``, unweighted scalars.

    Args:
        target: the teacher's answers on the same regions; those outside of its mask are left out.
        student: the student's answers on the strong view.
        share: part of all regions of the batch that is positive.
    """
    mask = target.mask
    p_teacher, p_student = target.logits.sigmoid(), student.logits.sigmoid()
    best = torch.where(mask, p_teacher.amax(dim=-1), -1.0).flatten()
    chosen = best.topk(min(int(mask.sum()), max(1, int(share * best.numel())))).indices
    positive = torch.zeros_like(best, dtype=torch.bool)
    positive[chosen] = True
    positive = positive.view(mask.shape)

    wanted = torch.where(positive[..., None], p_teacher, 0.0)
    focus = (wanted - p_student) ** 2  # its gradient counts, as in the publication
    term = focus * F.binary_cross_entropy_with_logits(student.logits, wanted, reduction="none")
    term = torch.where(mask[..., None], term, 0.0)
    sure = process_mean(best[chosen].sum(), least=1e-3)
    losses = {"class": term.sum() / sure}

    number = process_mean(positive.sum().float(), least=1.0)
    given = student.boxes[positive]
    losses["box"] = generalized_box_iou_loss(given, target.boxes[positive], reduction="sum") / number
    losses["quality"] = student.logits.new_zeros(())
    if target.quality is not None and student.quality is not None:
        goal = target.quality[positive].sigmoid()
        losses["quality"] = (
            F.binary_cross_entropy_with_logits(student.quality[positive], goal, reduction="sum") / number
        )
    return losses
