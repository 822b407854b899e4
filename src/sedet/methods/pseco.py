"""PseCo (Li et al., ECCV 2022): regions chosen by what they predict, boxes weighed by agreement, two sizes.

  pseudo labels  the teacher's detections on the weak view, score > 0.6
  RoIs           the teacher's proposals there; for each of them, by the teacher's second stage:
                   p_r   a softmax over the classes, the background left out
                   b_r   the box it decodes for its best class
  may answer     RoI r for the pseudo label g of largest IoU(b_r, g), where that is >= 0.4
  quality        q_rg = sqrt(IoU(b_r, g) p_r(class of g))
  positives      of the RoIs that may answer for g the k_g of largest q_rg, k_g = max(1, floor(sum of the 12 largest
                 IoU(b_r, g) among them)); all others are background
  u_g            mean over the positives of g of IoU(b_S, g)     b_S: the box that the student decodes there
  s              sum over positives of u / sum over positives of u^2
  L_class  = sum over RoIs of CE / their number
  L_box    = s times the sum over positives of u_g^2 smooth L1 / number of RoIs
  L_rpn_*  = the detector's own, with the pseudo labels as labels
  total    = L_sup + weight(t) (all four on the full view + all four on the half-size view)

The half-size view has the same RoIs (halved, looked at one level lower), the same positives, and the same u and s,
which are of the full view.

Facts of the publication's code, with the cross-entropy that our second stage has: all of the above, the weight 2 (1
with all of COCO's labels), and that RoIs are drawn from the teacher's proposals alone, without the pseudo boxes; u is
over the positives drawn. (Its focal second stage has a sigmoid for p_r and a threshold of 0.5.)

Our choice: b_r is clipped to the content; the proposals are those that the teacher's detections come from; RoIs are
drawn, and boxes taught (smooth L1), as in the detector's own loss. A pseudo label erased beyond the limit is ignored:
it teaches nothing, and RoIs whose centre it holds are no background. Labelled images are learnt as the twin does, so
their RoIs have the labelled boxes among them, and they may include the half-size view. The ramp, the burn-in and the
teacher's average are those of every method here; the number of RoIs and s are over all processes. Defined for Faster
R-CNN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image

from sedet.config import PseCoConfig
from sedet.data.batch import Batch, Targets, pixels
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
from sedet.methods.pseudo_labels import as_labels
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
        assert isinstance(student, FasterRCNN) and isinstance(teacher, FasterRCNN)
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
        assert unlabeled.weak is not None
        with torch.no_grad():
            answer = teacher(pixels(unlabeled.weak), unlabeled.content)
        found = teacher.detect(answer, unlabeled.content, score_threshold=config.threshold)
        labels = as_labels(found, unlabeled, self.erase_limit)
        rois, indices = draw(teacher, answer, labels, config)
        views = (full.images(slice(count, None)), half.images(slice(count if self.half_size else 0, None)))
        taught = pseco_losses(student, *views, rois, indices, labels)
        return losses | {name: weight * value for name, value in taught.items()}


def pseco_losses(
    student: FasterRCNN,
    full: Regions,
    half: Regions,
    rois: Sequence[Tensor],
    indices: Sequence[Tensor],
    labels: Sequence[Targets],
) -> dict[str, Tensor]:
    """The losses of both stages on both views, ``pseco_*`` and ``pseco_half_*`` of :data:`PARTS`: unweighted scalars.

    Args:
        full, half: the student's first stage on both views. Anchors to learn from are drawn with torch's generator.
        rois, indices: of :func:`draw`; labels: the pseudo labels, one an image; in pixels of the full view.
    """
    label = roi_labels(indices, labels, student.spec.classes)
    number = process_mean(full.logits.new_tensor(float(len(label))), least=1.0)
    logits, deltas = student.second_stage(full, rois)
    agreed = agreement(deltas, rois, indices, labels)
    square = agreed**2
    share = square * process_mean(agreed.sum()) / process_mean(square.sum(), least=1e-9)

    losses = {}
    for name, regions, targets in (("pseco", full, labels), ("pseco_half", half, [t.halved() for t in labels])):
        if name == "pseco_half":
            rois = [boxes / 2 for boxes in rois]
            logits, deltas = student.second_stage(half, rois)
        box_terms = share * roi_box_terms(deltas, rois, indices, targets)
        losses[f"{name}_class"] = F.cross_entropy(logits, label, reduction="sum") / number
        losses[f"{name}_box"] = box_terms.sum() / number
        losses |= {f"{name}_{part}": value for part, value in rpn_loss(regions, targets).items()}
    return losses


@torch.no_grad()
def draw(
    teacher: FasterRCNN, answer: Regions, labels: Sequence[Targets], config: PseCoConfig
) -> tuple[list[Tensor], list[Tensor]]:
    """The teacher's proposals to learn from, drawn with torch's generator.

    Args:
        answer: the teacher's first stage on the weak view; labels: the pseudo labels, one an image, in its pixels.

    Returns:
        The RoIs of each image, float [n, 4], and which pseudo label each answers for, int64 [n], -1 the background.
    """
    proposals = [boxes[valid] for boxes, valid in zip(*teacher.propose(answer), strict=True)]
    rois, indices = [], []
    for boxes, index in zip(proposals, assign(teacher, answer, proposals, labels, config), strict=True):
        drawn = torch.cat(sample(index, teacher.spec.roi_samples, POSITIVE_SHARE)).sort().values
        rois.append(boxes[drawn])
        indices.append(index[drawn])
    return rois, indices


@torch.no_grad()
def assign(
    teacher: FasterRCNN,
    answer: Regions,
    proposals: Sequence[Tensor],
    labels: Sequence[Targets],
    config: PseCoConfig,
) -> list[Tensor]:
    """Which pseudo label each proposal answers for, by what the teacher predicts there.

    Args:
        answer: the teacher's first stage.
        proposals: float [n, 4] of each image, xyxy pixels of the same view.

    Returns:
        Of each image int64 [n], the pseudo label's index, -1 background, -2 ignored (as in the detector's own loss:
        background whose centre lies in an ignored box).
    """
    assert answer.content is not None
    logits, deltas = teacher.second_stage(answer, proposals)
    counts = [len(boxes) for boxes in proposals]
    every_score, every_delta = torch.split(logits[:, :-1].softmax(dim=-1), counts), torch.split(deltas, counts)
    found = []
    for i, (boxes, target) in enumerate(zip(proposals, labels, strict=True)):
        score, row = every_score[i], torch.arange(counts[i], device=boxes.device)
        width, height = answer.content[i].tolist()
        decoded = decode(every_delta[i][row, score.argmax(dim=-1)], boxes, BOX_WEIGHTS)
        overlap = box_iou(clip_boxes_to_image(decoded, (height, width)), target.boxes)
        index = by_prediction(overlap, score[:, target.labels], config.candidate_iou, config.candidates)
        if len(target.ignore):
            gone = centers_inside((boxes[:, :2] + boxes[:, 2:]) / 2, target.ignore).any(dim=1)
            index = torch.where(gone & (index < 0), -2, index)
        found.append(index)
    return found


def by_prediction(overlap: Tensor, score: Tensor, least: float, candidates: int) -> Tensor:
    """The pseudo label that each RoI answers for, int64 [RoIs], -1 for none.

    Args:
        overlap: float [RoIs, labels], the IoU of the box that each predicts.
        score: float [RoIs, labels], what it gives the label's class.
        least: smallest IoU of what a RoI predicts with what it answers for.
        candidates: how many of the largest IoUs of those that may answer are summed to say how many do.
    """
    if not overlap.numel():
        return overlap.new_full((len(overlap),), -1, dtype=torch.int64)
    best, nearest = overlap.max(dim=1)
    label = torch.arange(overlap.shape[1], device=overlap.device)
    may = (nearest[:, None] == label) & (best >= least)[:, None]
    largest = torch.where(may, overlap, 0.0).topk(min(candidates, len(overlap)), dim=0).values
    number = largest.sum(dim=0).floor().clamp(min=1)
    quality = torch.where(may, (overlap * score).sqrt(), -1.0)
    rank = quality.argsort(dim=0, descending=True, stable=True).argsort(dim=0)
    return torch.where((may & (rank < number)).any(dim=1), nearest, -1)


@torch.no_grad()
def agreement(deltas: Tensor, rois: Sequence[Tensor], indices: Sequence[Tensor], labels: Sequence[Targets]) -> Tensor:
    """u of each RoI that answers for a pseudo label, float [such RoIs], in their order: one value a label, 0..1.

    Args:
        deltas: float [all RoIs, classes, 4], the student's.
        rois, indices: of :func:`draw`.
    """
    found = []
    parts = torch.split(deltas, [len(boxes) for boxes in rois])
    for own, boxes, index, target in zip(parts, rois, indices, labels, strict=True):
        row = (index >= 0).nonzero().squeeze(1)
        label = index[row]
        decoded = decode(own[row, target.labels[label]], boxes[row], BOX_WEIGHTS)
        total = decoded.new_zeros(len(target.boxes)).index_add(0, label, paired_iou(decoded, target.boxes[label]))
        found.append((total / torch.bincount(label, minlength=len(target.boxes)).clamp(min=1))[label])
    return torch.cat(found)
