"""Scale-Equivalent Distillation (SED) for semi-supervised object detection.

Paper: Guo, Mu, Chen, Wang, Yu, Luo, "Scale-Equivalent Distillation for Semi-Supervised Object Detection", CVPR 2022
(arXiv:2203.12244). Only its abstract and one figure caption are available to us. From the paper are the three parts:

  (a) consistency between different-sized images,
  (b) self-distillation in place of hard pseudo labels,
  (c) a re-weighting that implicitly screens potential foreground on unlabelled images.

Everything else here - the pairing of levels, every formula, normaliser, weight and schedule - is our design:

  teacher (EMA)  <-  weak view            p_T, b_T, q_T at every region r, detached, no threshold, no NMS
                     weak view, double    joined on the lowest level up to largest_zoom, half on all others (join.py)
  student        <-  strong view          L_distill           (or weak views in pairs: student_view, overlay)
  student        <-  the same, half       L_scale: level P_l of the full view against P_{l-1} of the half view, which
                                          have the same grid; boxes of the half view are doubled

  L_cls  = sum_r m_r sum_c w_rc KL(p_T,rc || p_S,rc) / N        w_rc = |p_T - p_S|^gamma (or another, see class_weights)
  L_qual = sum_r m_r v_r KL(q_T || q_S) / V                     v_r = (max_c p_T)^2
  L_box  = sum_r m_r v_r u_r BoxLoss(b_T, b_S) / V              V = max(1, sum_r m_r v_r), N = V by default
                                                                u_r = (1 - IoU(b_T, b_S))^gamma_box
  total  = L_sup + lambda_u(t) (L_distill + lambda_s L_scale)      each L: L_cls, and at choice L_box, L_qual

Faster R-CNN is distilled at both stages: the first's regions as above, as one class, and the RoIs that the teacher
proposes, looked at by teacher and student at both sizes, one level lower in the half view. Their scores are a softmax:
L_cls is the KL divergence of a RoI's distribution with one weight, w_r = half the sum of |p_T - p_S| over the classes
(the background among them), v_r = (1 - p_T(background))^2, and boxes are those of the teacher's best class.

b_T is the teacher's box at the region, or at choice the vote of all that answer for its object (vote.py). At choice the
student sees unlabelled images in pairs, laid over each other, and learns the surer of both answers (overlay.py), and
p_T is sharpened in L_cls, not in v_r: between the classes of a region (temperature) or away from 0.5 (sharpness).
m_r is 0 in padding, where the region's centre is erased, and where the teacher's box is erased beyond the limit:
there the student cannot see what the teacher saw, and the discrepancy weight would be at its largest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from sedet.config import SEDConfig
from sedet.data.batch import Batch, pixels
from sedet.data.views import erased_share
from sedet.detectors.build import Detector
from sedet.detectors.faster_rcnn import FasterRCNN, boxes_of
from sedet.detectors.normalizer import process_mean
from sedet.detectors.regions import HALF_LEVELS, Regions
from sedet.methods.join import join_rois, join_sizes, paired_iou
from sedet.methods.method import Method, Progress
from sedet.methods.overlay import overlay_batch, overlay_target
from sedet.methods.pseudo_labels import pseudo_labels
from sedet.methods.supervised import joint_views, labeled_losses
from sedet.methods.vote import voted_boxes

MIN_SIDE = 1e-3
"""Boxes with a shorter side, pixels, teach no box: the GIoU of two empty boxes is 1."""
PARTS = ("class", "box", "quality")
RPN_PARTS = ("rpn_class", "rpn_box")


class SED(Method):
    """One SED step. See the module's text; every choice is a field of :class:`sedet.config.SEDConfig`.

    A view that is left open there is the strong one here, and such a quality weight 0: what follows from other settings
    is filled in by :func:`sedet.training.plan.sed_defaults`.
    """

    def __init__(self, config: SEDConfig, half_size: bool = True, erase_limit: float = 0.7) -> None:
        self.config, self.half_size, self.erase_limit = config, half_size, erase_limit
        self.weights = {
            "class": config.class_weight,
            "box": config.box_weight,
            "quality": config.quality_weight or 0.0,
        }
        self.uses_unlabeled = config.distill or config.scale
        self.largest_zoom = config.largest_zoom if config.three_sizes and self.uses_unlabeled else 0.0
        self.uses_half = half_size or config.scale
        self.pairs = config.overlay > 0

    def losses(
        self,
        student: Detector,
        teacher: Detector,
        labeled: Batch,
        unlabeled: Batch | None,
        progress: Progress,
    ) -> dict[str, Tensor]:
        """Weighted losses of one step: ``sup_*``, ``distill_*`` and ``scale_*``; the latter two are 0 in burn-in."""
        config, count = self.config, len(labeled)
        weight = config.weight * progress.unlabeled_weight
        if unlabeled is None or not self.uses_unlabeled or weight == 0.0:
            unlabeled = None

        # Views of one size share a forward: labelled first, then unlabelled.
        pairs = unlabeled is not None and self.pairs and bool(torch.rand(()) < config.overlay)
        shown = None if unlabeled is None else self.seen(unlabeled, pairs)
        full = student(*joint_views(labeled, shown if config.distill else None, half=False))
        half = None
        if self.half_size or (config.scale and unlabeled is not None):
            half_labeled = labeled if self.half_size else None
            half = student(*joint_views(half_labeled, shown if config.scale else None, half=True), HALF_LEVELS)
        assert labeled.targets is not None
        labeled_half = half.images(slice(0, count)) if half is not None and self.half_size else None
        losses = labeled_losses(student, full.images(slice(0, count)), labeled_half, labeled.targets)

        zero = full.logits.new_zeros(())
        parts = PARTS + RPN_PARTS if isinstance(student, FasterRCNN) else PARTS
        losses |= {f"{view}_{part}": zero for view in ("distill", "scale") for part in parts}
        if unlabeled is None or shown is None:  # both or neither
            return losses

        views: list[tuple[str, Regions, float]] = []
        if config.distill:
            views.append(("distill", full.images(slice(count, None)), weight))
        if config.scale and half is not None:
            own = slice(count if self.half_size else 0, None)
            views.append(("scale", half.images(own), weight * config.scale_weight))
        share = progress.between(config.class_share, config.class_share_end)
        answer, second = teacher_answers(teacher, unlabeled, share, config.box_share)
        if config.targets == "hard":
            labels = pseudo_labels(teacher, answer, shown, config.threshold, self.erase_limit)
        else:
            sharper = config.temperature, config.sharpness
            answer = voted_boxes(answer) if config.box_target == "voted" else answer
            target = teacher_target(answer, shown, self.erase_limit, *sharper)
            target = overlay_target(target, answer.valid) if pairs else target
            if second is not None:
                roi_target = teacher_target(second, shown, self.erase_limit, *sharper)
        for name, regions, view_weight in views:
            scale = 2.0 if name == "scale" else 1.0
            if config.targets == "hard":
                terms = student.loss(regions, [t.halved() for t in labels] if name == "scale" else labels)
            else:
                terms = distillation(target, regions, scale, config)
                if second is not None and isinstance(student, FasterRCNN):
                    assert second.anchors is not None
                    seen = student.look(regions, second.anchors / scale, second.valid)
                    seen = boxes_of(seen, roi_target.logits[..., :-1].argmax(dim=-1))
                    first = {f"rpn_{part}": terms[part] for part in ("class", "box")}
                    terms = first | distillation(roi_target, seen, scale, config)
            for part in parts:
                part_weight = self.weights[part.removeprefix("rpn_")]
                if part_weight > 0:
                    # Detectors without a quality logit have no such loss of their own.
                    losses[f"{name}_{part}"] = view_weight * part_weight * terms.get(part, zero)
        return losses

    def seen(self, unlabeled: Batch, pairs: bool) -> Batch:
        """The batch with the student's views as ``strong`` and ``half``, and what is erased of them."""
        if self.config.student_view == "weak":
            assert unlabeled.weak is not None and unlabeled.weak_half is not None
            uncovered = torch.zeros_like(unlabeled.erased)
            unlabeled = replace(unlabeled, strong=unlabeled.weak, half=unlabeled.weak_half, erased=uncovered)
        return overlay_batch(unlabeled) if pairs else unlabeled


@torch.no_grad()
def teacher_answers(
    teacher: Detector, batch: Batch, class_share: float = 0.5, box_share: float = 1.0
) -> tuple[Regions, Regions | None]:
    """The teacher's answers on the weak view, joined over the sizes the batch has: all regions, and RoIs if any."""
    assert batch.weak is not None
    full = teacher(pixels(batch.weak), batch.content)
    answer, sizes, shares = full, None, (class_share, box_share)
    if batch.weak_double is not None:
        assert batch.weak_half is not None and batch.doubled is not None
        double = teacher(pixels(batch.weak_double), 2 * batch.content[batch.doubled]) if len(batch.doubled) else None
        half = teacher(pixels(batch.weak_half), batch.content // 2, HALF_LEVELS)
        answer, sizes = join_sizes(full, double, half, *shares, batch.doubled), (double, half)
    if not isinstance(teacher, FasterRCNN):
        return answer, None
    rois, valid = teacher.propose(answer)
    if sizes is None:
        return answer, teacher.look(full, rois, valid)
    return answer, join_rois(teacher, full, *sizes, rois, valid, *shares, batch.doubled)


@dataclass(frozen=True, slots=True)
class TeacherTarget:
    """The teacher's detached answers, shared by both views.

    Attributes:
        logits: float [batch, regions, classes], sharpened as asked for; of RoIs those of a softmax, background last.
        boxes: float [batch, regions, 4], xyxy in pixels of the full view.
        quality: float [batch, regions] logits, or None.
        mask: bool [batch, regions], m_r.
        foreground: float [batch, regions], v_r.
        softmax: whether the logits are those of one softmax.
    """

    logits: Tensor
    boxes: Tensor
    quality: Tensor | None
    mask: Tensor
    foreground: Tensor
    softmax: bool = False


@torch.no_grad()
def teacher_target(
    answer: Regions, batch: Batch, erase_limit: float, temperature: float = 1.0, sharpness: float = 1.0
) -> TeacherTarget:
    """What the teacher's answers on the weak view ask of the student, and where (m_r and v_r).

    A temperature T below 1 sharpens between the classes of a region: p_c becomes p_max (p_c / p_max)^(1/T). Whether
    there is an object at all stays as the teacher sees it. The sharpness s does not leave it: logits become s times as
    large, so that scores move away from 0.5, towards labels as s grows (of a softmax: p_c^s, divided by their sum).
    v_r stays that of the teacher's own scores. Both are our design.
    """
    logits, scores = answer.logits.detach(), answer.scores().detach()
    object_score = scores.sum(dim=-1) if answer.softmax else scores.amax(dim=-1)
    if temperature != 1.0:
        best = scores.amax(dim=-1, keepdim=True).clamp(min=1e-9)
        sharper = (scores / best) ** (1.0 / temperature)
        if answer.softmax:  # what the classes have together stays
            sharper = sharper / sharper.sum(dim=-1, keepdim=True).clamp(min=1e-9) * object_score[..., None]
            logits = torch.cat([sharper, 1 - object_score[..., None]], dim=-1).clamp(min=1e-6).log()
        else:
            logits = (best * sharper).logit(eps=1e-6)
    logits = sharpness * logits
    points, erased = answer.points[..., None, :], batch.erased  # unused rectangles are empty: they hide nothing
    around = erased[:, None, :, :]
    hidden = ((points >= around[..., :2]) & (points < around[..., 2:])).all(dim=-1).any(dim=-1)
    mask = answer.valid & ~hidden & (erased_share(answer.boxes.detach(), erased) <= erase_limit)
    quality = None if answer.quality is None else answer.quality.detach()
    return TeacherTarget(logits, answer.boxes.detach(), quality, mask, object_score**2, answer.softmax)


def distillation(target: TeacherTarget, student: Regions, box_scale: float, config: SEDConfig) -> dict[str, Tensor]:
    """The distillation losses of one student view: ``class``, ``box`` and ``quality``, unweighted scalars.

    Args:
        target: the teacher's answers on the full view.
        student: the student's, region for region; on the half-size view its pixels are twice as large.
        box_scale: pixels of the full view in one of the student's: 1, or 2 for the half-size view.

    Returns:
        Scalars; sums run over the batch, normalisers over all processes.
    """
    mask = target.mask
    visible = mask * target.foreground
    total = process_mean(visible.sum(), least=1.0)  # V

    weights = torch.where(mask[..., None], class_weights(target.logits, student.logits, config, target.softmax), 0.0)
    divisor = total
    if config.normalizer == "weights":
        divisor = process_mean(weights.sum(), least=1.0)
    elif config.normalizer == "count":
        divisor = process_mean(mask.sum().float(), least=1.0)
    # where() and not a product: logits under the mask may be anything, infinite too
    divergence = softmax_kl if target.softmax else binary_kl
    term = torch.where(mask[..., None], divergence(target.logits, student.logits), 0.0)
    losses = {"class": (weights * term).sum() / divisor}

    losses["quality"] = student.logits.new_zeros(())
    if target.quality is not None and student.quality is not None:
        term = torch.where(mask, binary_kl(target.quality, student.quality), 0.0)
        losses["quality"] = (visible * term).sum() / total

    boxes = student.boxes * box_scale
    sides = torch.minimum(target.boxes[..., 2:] - target.boxes[..., :2], boxes[..., 2:] - boxes[..., :2])
    usable = (mask & (sides.detach().amin(dim=-1) >= MIN_SIDE)).nonzero(as_tuple=True)
    wanted, given = target.boxes[usable], boxes[usable]
    if config.box_loss == "giou":
        term = generalized_box_iou_loss(given, wanted, reduction="none")
    else:
        stride = (student.strides * box_scale).expand(mask.shape)[usable]
        term = F.smooth_l1_loss(given / stride[:, None], wanted / stride[:, None], reduction="none").sum(dim=-1)
    losses["box"] = (visible[usable] * box_weights(wanted, given, config.box_gamma) * term).sum() / total
    return losses


@torch.no_grad()
def class_weights(teacher: Tensor, student: Tensor, config: SEDConfig, softmax: bool = False) -> Tensor:
    """w_rc, float [batch, regions, classes], detached: the implicit screening of foreground (the paper's part c).

    Where neither sees an object both scores are near zero and so is the weight: the mass of easy background, which
    would drown everything else, falls away without any threshold. With a softmax one weight a region, [..., 1].
    """
    if softmax:
        p_teacher, p_student = teacher.softmax(dim=-1), student.softmax(dim=-1)
        if config.reweight == "discrepancy":  # the total variation distance, in 0..1 as |p_T - p_S| is
            return ((p_teacher - p_student).abs().sum(dim=-1, keepdim=True) / 2) ** config.gamma
        return 1 - p_teacher[..., -1:] if config.reweight == "foreground" else torch.ones_like(p_teacher[..., :1])
    p_teacher, p_student = teacher.sigmoid(), student.sigmoid()
    if config.reweight == "discrepancy":
        return (p_teacher - p_student).abs() ** config.gamma
    if config.reweight == "foreground":
        return p_teacher.amax(dim=-1, keepdim=True).expand_as(p_teacher)
    return torch.ones_like(p_teacher)


@torch.no_grad()
def box_weights(teacher: Tensor, student: Tensor, gamma: float) -> Tensor:
    """u_r, float [boxes], detached: (1 - IoU)^gamma of each pair of boxes, float [boxes, 4], xyxy.

    The teacher's boxes are right by and large, not to the pixel: where both nearly agree, the labels know better.
    """
    return (1 - paired_iou(teacher, student)).clamp(min=0) ** gamma  # 0 ** 0 is 1


def binary_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL between Bernoulli distributions given as logits, elementwise: cross-entropy minus the teacher's entropy.

    As the cross-entropy, but zero where both agree. The teacher's side is detached.
    """
    teacher = teacher.detach()
    probability = teacher.sigmoid()
    bce = F.binary_cross_entropy_with_logits
    return bce(student, probability, reduction="none") - bce(teacher, probability, reduction="none")


def softmax_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL between the distributions of two softmaxes over the last axis, float [..., 1]. The teacher's is detached."""
    teacher = teacher.detach().log_softmax(dim=-1)
    return (teacher.exp() * (teacher - student.log_softmax(dim=-1))).sum(dim=-1, keepdim=True)
