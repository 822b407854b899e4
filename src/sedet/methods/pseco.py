"""PseCo (Li et al., ECCV 2022): regions chosen by what they predict, boxes weighed by agreement, two sizes.

  pseudo labels  the teacher's detections on the weak view, score from 0.5
  may answer     RoI r for pseudo label g where IoU(r, g) >= 0.4
  quality        q_rg = sqrt(IoU(r, g) p_S,r(class of g))             p_S: the student's score at the RoI
  positives      the k_g of largest q_rg, k_g = max(1, floor(sum of the 12 largest IoU(., g))); a RoI that two labels
                 want answers for the one of larger quality; all others are background
  w_g            (mean over the positives of g of IoU(b_S, g))^2      b_S: the box that the student decodes there
  L_class  = sum over RoIs drawn of CE / their number
  L_box    = sum over positives drawn of w_g smooth L1 / number of RoIs drawn
  L_rpn_*  = the detector's own, with the pseudo labels as labels
  total    = L_sup + weight(t) (all four on the full view + all four on the half-size view)

Facts of the publication's code: the threshold of 0.5, the least IoU, the quality, the number of positives, the box
weight, the half-size view with the same targets, the weight 2 (1 with all of COCO's labels). Our choice: whatever is
left open there. Scores, and the boxes of the weight, are the student's own on the view that is learnt from, before
its step and without a gradient, the boxes of the label's class and clipped to the content; the RoIs are the student's
proposals with the pseudo boxes among them, as in the detector's own loss, and all of them count in k; a label that
loses a RoI to another gets none in its place; the weight is of all positives, also those not drawn. The half-size
view (boxes halved, RoIs one level lower) proposes and assigns by itself, and both views are added, not averaged.
The RPN is trained in the usual way; pseudo labels erased beyond the limit are ignored. The ramp, the burn-in and the
teacher's average are those of every method here, and the labelled loss may include the half-size view as the twin's
does. Defined for Faster R-CNN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image

from sedet.config import PseCoConfig
from sedet.data.batch import Batch, Targets
from sedet.detectors.anchors import decode
from sedet.detectors.build import Detector
from sedet.detectors.dense import centers_inside
from sedet.detectors.faster_rcnn import (
    BOX_WEIGHTS,
    POSITIVE_SHARE,
    FasterRCNN,
    roi_box_terms,
    roi_labels,
)
from sedet.detectors.normalizer import process_mean
from sedet.detectors.regions import HALF_LEVELS, Regions
from sedet.detectors.rpn import rpn_loss, sample
from sedet.methods.join import paired_iou
from sedet.methods.method import Method, Progress
from sedet.methods.pseudo_labels import as_labels, teacher_detections
from sedet.methods.supervised import joint_views, labeled_losses

PARTS = ("class", "box", "rpn_class", "rpn_box")


class PseCo(Method):
    """One step of PseCo. See the module's text."""

    uses_half = True

    def __init__(self, config: PseCoConfig, half_size: bool = True, erase_limit: float = 0.7) -> None:
        self.config, self.half_size, self.erase_limit = config, half_size, erase_limit

    def losses(
        self,
        student: Detector,
        teacher: Detector,
        labeled: Batch,
        unlabeled: Batch | None,
        progress: Progress,
    ) -> dict[str, Tensor]:
        """Weighted losses of one step: ``sup_*``, ``pseco_*``, ``pseco_half_*``; the latter two are 0 in burn-in."""
        assert isinstance(student, FasterRCNN)
        config, count = self.config, len(labeled)
        weight = config.weight * progress.unlabeled_weight
        if weight == 0.0:
            unlabeled = None
        half_labeled = labeled if self.half_size else None
        full = student(*joint_views(labeled, unlabeled, half=False))
        half = None
        if self.half_size or unlabeled is not None:
            half = student(*joint_views(half_labeled, unlabeled, half=True), HALF_LEVELS)
        assert labeled.targets is not None
        small = half.images(slice(0, count)) if half is not None and self.half_size else None
        losses = labeled_losses(student, full.images(slice(0, count)), small, labeled.targets)
        zero = full.logits.new_zeros(())
        losses |= {f"{view}_{part}": zero for view in ("pseco", "pseco_half") for part in PARTS}
        if unlabeled is None or half is None:
            return losses
        found = teacher_detections(teacher, unlabeled, config.threshold)
        labels = as_labels(found, unlabeled, self.erase_limit)
        start = count if self.half_size else 0
        views = (
            ("pseco", full.images(slice(count, None)), labels),
            ("pseco_half", half.images(slice(start, None)), [t.halved() for t in labels]),
        )
        for view, regions, targets in views:
            parts = pseco_losses(student, regions, targets, config)
            losses |= {f"{view}_{part}": weight * parts[part] for part in PARTS}
        return losses


def pseco_losses(
    student: FasterRCNN, regions: Regions, targets: Sequence[Targets], config: PseCoConfig
) -> dict[str, Tensor]:
    """The losses of both stages on one view, one of :data:`PARTS` each: unweighted scalars.

    Args:
        regions: the student's first stage. RoIs to learn from are drawn with torch's generator.
        targets: the pseudo labels, one an image, in pixels of that view.
    """
    losses = rpn_loss(regions, targets)
    pool = [torch.cat([p, t.boxes]) for p, t in zip(student.candidates(regions), targets, strict=True)]
    rois, indices, sure = [], [], []
    for boxes, (index, agreed) in zip(pool, assign(student, regions, pool, targets, config), strict=True):
        drawn = torch.cat(sample(index, student.spec.roi_samples, POSITIVE_SHARE)).sort().values
        rois.append(boxes[drawn])
        indices.append(index[drawn])
        sure.append(agreed[index[drawn][index[drawn] >= 0]])
    logits, deltas = student.second_stage(regions, rois)
    label = roi_labels(indices, targets, student.spec.classes)
    number = process_mean(logits.new_tensor(float(len(label))), least=1.0)
    losses["class"] = F.cross_entropy(logits, label, reduction="sum") / number
    losses["box"] = (torch.cat(sure) * roi_box_terms(deltas, rois, indices, targets)).sum() / number
    return losses


@torch.no_grad()
def assign(
    student: FasterRCNN,
    regions: Regions,
    pool: Sequence[Tensor],
    targets: Sequence[Targets],
    config: PseCoConfig,
) -> list[tuple[Tensor, Tensor]]:
    """Which pseudo label each RoI answers for, by the student's own predictions, and how far these agree.

    Args:
        pool: float [n, 4] of each image, its RoIs, xyxy pixels of the view.

    Returns:
        Of each image int64 [n], the pseudo label's index, -1 background, -2 ignored (as in the detector's own loss:
        background whose centre lies in an ignored box); and float [labels], the weight of each one's boxes.
    """
    assert regions.content is not None
    overlaps = [box_iou(boxes, target.boxes) for boxes, target in zip(pool, targets, strict=True)]
    # Only RoIs that may answer for anything are looked at here: few of them all.
    near = [(overlap >= config.candidate_iou).any(dim=1).nonzero().squeeze(1) for overlap in overlaps]
    logits, deltas = student.second_stage(regions, [boxes[row] for boxes, row in zip(pool, near, strict=True)])
    scores = logits.softmax(dim=-1)
    found, start = [], 0
    for i, (boxes, target, overlap, row) in enumerate(zip(pool, targets, overlaps, near, strict=True)):
        here = start + torch.arange(len(row), device=row.device)
        start += len(row)
        score = torch.zeros_like(overlap)
        score[row] = scores[here][:, target.labels]
        index = by_prediction(overlap, score, config.candidate_iou, config.candidates)

        positive = index[row] >= 0
        wanted = index[row][positive]
        width, height = regions.content[i].tolist()
        decoded = decode(deltas[here[positive], target.labels[wanted]], boxes[row[positive]], BOX_WEIGHTS)
        agreed = agreement(clip_boxes_to_image(decoded, (height, width)), wanted, target.boxes)
        if len(target.ignore):
            gone = centers_inside((boxes[:, :2] + boxes[:, 2:]) / 2, target.ignore).any(dim=1)
            index = torch.where(gone & (index < 0), -2, index)
        found.append((index, agreed))
    return found


def by_prediction(overlap: Tensor, score: Tensor, least: float, candidates: int) -> Tensor:
    """The pseudo label that each RoI answers for, int64 [RoIs], -1 for none.

    Args:
        overlap: float [RoIs, labels], their IoU.
        score: float [RoIs, labels], the student's score of the label's class at the RoI.
        least: smallest IoU of a RoI with what it answers for.
        candidates: how many of a label's largest IoUs are summed to say how many RoIs answer for it.
    """
    if not overlap.numel():
        return overlap.new_full((len(overlap),), -1, dtype=torch.int64)
    may = overlap >= least
    quality = torch.where(may, (overlap * score).sqrt(), -1.0)
    number = overlap.topk(min(candidates, len(overlap)), dim=0).values.sum(dim=0).floor().clamp(min=1)
    rank = quality.argsort(dim=0, descending=True, stable=True).argsort(dim=0)
    quality = torch.where(may & (rank < number), quality, -1.0)
    best, index = quality.max(dim=1)
    return torch.where(best >= 0, index, -1)


def agreement(decoded: Tensor, index: Tensor, boxes: Tensor) -> Tensor:
    """The weight of each pseudo box, float [labels] in 0..1: the squared mean IoU of its positives; 0 without any.

    Args:
        decoded: float [positives, 4], the boxes that they predict; xyxy.
        index: int64 [positives], the pseudo box that each answers for.
        boxes: float [labels, 4], the pseudo boxes.
    """
    total = boxes.new_zeros(len(boxes)).index_add(0, index, paired_iou(decoded, boxes[index]))
    return (total / torch.bincount(index, minlength=len(boxes)).clamp(min=1)) ** 2
