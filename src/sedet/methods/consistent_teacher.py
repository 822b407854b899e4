"""Consistent-Teacher (Wang et al., CVPR 2023): a threshold for each class that follows its scores, and pseudo labels
answered for by the regions to which they come cheapest.

  memory     of each class the last ``buffer`` scores of the teacher's detections
  threshold  of each class: a mixture of two Gaussians is fitted to its scores; the lowest that rather belongs to the
             higher one (thresholds)
  cost       of a region r for a pseudo label j whose box holds its centre, by the student's answers (assign):
             BCE(p_r,label(j), 1) + 3 (1 - IoU(b_r, box_j)) + max(0, strides between the centres - 3)
  answer     the k_j cheapest, k_j the sum of the 13 largest IoUs, at least 1; of several labels a region takes the
             one it is cheapest for
  L_cls      = sum over regions of the focal loss / P            P: regions that answer, at least 1
  L_box      = sum over those of GIoU / P
  L_qual     = sum over those of BCE(q_r, centerness) / P        where the detector has one
  total      = L_sup + weight(t) (L_cls + L_box + L_qual)

Facts of the publication's code: a threshold a class from a mixture of two Gaussians over a buffer of 100 scores, an
assignment by cost with the top 13, weight 2. Our choice: all of what is written above beyond that. In particular which
scores are remembered (detections after non-maximum suppression of more than 0.05, the best 20 of an image), how the
mixture is fitted and read, the fixed threshold of 0.5 where it says nothing, and that none is below 0.2; the terms of
the cost; and the losses, which are FCOS's own kinds for RetinaNet too, with hard targets. The cost assigns unlabelled
images alone: the labelled loss and the burn-in are the twin's, so that all methods share one. Left out is the module
that aligns the features of classes and boxes: it changes the detector. The ramp and the teacher's average are those of
every method here. Each process remembers the scores of its own images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from sedet.config import ConsistentTeacherConfig
from sedet.data.batch import Batch, Targets
from sedet.detectors.build import Detector
from sedet.detectors.dense import centers_inside
from sedet.detectors.fcos import centerness
from sedet.detectors.normalizer import process_mean
from sedet.detectors.regions import HALF_LEVELS, Detections, Regions
from sedet.methods.method import Method, Progress
from sedet.methods.pseudo_labels import as_labels, keep, teacher_detections
from sedet.methods.supervised import joint_views, labeled_losses

LEAST_SCORE = 0.05
"""Detections above it are remembered."""
AN_IMAGE = 20
"""Most of one image and class that are: its best."""
FEWEST, FALLBACK = 10, 0.5
"""With fewer scores of a class, or none that tell two kinds apart, its threshold is this fixed one."""
LOWEST = 0.2
"""No threshold is below it: where a class has doubtful scores alone, two Gaussians split those all the same."""
ROUNDS = 50
"""Steps of the mixture's fit."""
SMALLEST_VARIANCE = 1e-4
"""Of a Gaussian: a deviation of 0.01."""
APART = 0.02
"""Gaussians whose means are nearer than this tell nothing apart."""
BOX_COST = 3.0
"""Weight of 1 - IoU in the cost."""
FREE_DISTANCE = 3.0
"""Strides between the centres of a region and of a box from which on the distance costs."""

PARTS = ("class", "box", "quality")


class ConsistentTeacher(Method):
    """One step of Consistent-Teacher. See the module's text.

    Attributes:
        scores: float64 [classes, buffer] on the CPU, the newest last, NaN for those not there yet; None before the
            first unlabelled batch.
    """

    def __init__(self, config: ConsistentTeacherConfig, half_size: bool = True, erase_limit: float = 0.7) -> None:
        self.config, self.half_size, self.erase_limit = config, half_size, erase_limit
        self.uses_half = half_size
        self.scores: Tensor | None = None

    def losses(
        self,
        student: Detector,
        teacher: Detector,
        labeled: Batch,
        unlabeled: Batch | None,
        progress: Progress,
    ) -> dict[str, Tensor]:
        """Weighted losses of one step: ``sup_*`` and ``consistent_*``; the latter are 0 in the burn-in."""
        count, weight = len(labeled), self.config.weight * progress.unlabeled_weight
        if progress.unlabeled_weight == 0.0:
            unlabeled = None
        full = student(*joint_views(labeled, unlabeled, half=False))
        half = student(*joint_views(labeled, None, half=True), HALF_LEVELS) if self.half_size else None
        assert labeled.targets is not None
        losses = labeled_losses(student, full.images(slice(0, count)), half, labeled.targets)
        zero = full.logits.new_zeros(())
        losses |= {f"consistent_{part}": zero for part in PARTS}
        if unlabeled is None:
            return losses
        found = teacher_detections(teacher, unlabeled, LEAST_SCORE)
        if self.scores is None:
            shape = (full.logits.shape[-1], self.config.buffer)
            self.scores = torch.full(shape, torch.nan, dtype=torch.float64)
        self.scores = remember(self.scores, found)
        least = thresholds(self.scores).to(full.logits)
        sure = [keep(detections, detections.scores >= least[detections.labels]) for detections in found]
        labels = as_labels(sure, unlabeled, self.erase_limit)
        parts = consistent_losses(full.images(slice(count, None)), labels, self.config.candidates)
        return losses | {f"consistent_{part}": weight * parts[part] for part in PARTS}

    def state(self) -> dict[str, Tensor]:
        """``scores``, once there are any."""
        return {} if self.scores is None else {"scores": self.scores}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave.

        Raises:
            ValueError, KeyError: it is another method's, or of another buffer.
        """
        if not state:
            self.scores = None
            return
        scores = state["scores"]
        if len(state) > 1 or scores.dim() != 2 or scores.shape[1] != self.config.buffer:
            raise ValueError(f"these are not {self.config.buffer} scores of each class")
        self.scores = scores.detach().to("cpu", torch.float64, copy=True)


def remember(scores: Tensor, found: Sequence[Detections]) -> Tensor:
    """The memory with the scores of new detections, which push out the oldest of their class.

    Args:
        scores: float64 [classes, buffer], the newest last.
        found: of each image, best first. At most ``AN_IMAGE`` of a class are taken, else one image would fill the
            memory with its doubtful ones, and the best last, so that it is the worst that go first.

    Returns:
        float64 [classes, buffer], new.
    """
    rows = list(scores)
    for detections in found:
        new, labels = detections.scores.cpu().to(scores.dtype), detections.labels.cpu()
        for label in sorted(set(labels.tolist())):
            best = new[labels == label][:AN_IMAGE].flip(0)
            rows[label] = torch.cat([rows[label], best])[-scores.shape[1] :]
    return torch.stack(rows)


@torch.no_grad()
def thresholds(scores: Tensor) -> Tensor:
    """Least score of a pseudo label of each class: the lowest remembered one that rather is of the higher Gaussian.

    The mixture of two Gaussians is fitted by expectation maximisation in a fixed number of rounds, from means at the
    lowest and the highest score, the variance of all and equal shares. A Gaussian that is much wider than the other
    claims the far side of that one too: below the lower mean no score belongs to the higher Gaussian.

    Args:
        scores: float64 [classes, buffer], NaN where there is none.

    Returns:
        float64 [classes], at least ``LOWEST``; ``FALLBACK`` where there are fewer than ``FEWEST`` scores or the
        Gaussians coincide.
    """
    used = ~scores.isnan()
    x = torch.where(used, scores, 0.0)[:, None]  # [classes, 1, buffer]
    number = used.sum(dim=1)
    total = number.clamp(min=1).to(x.dtype)[:, None]
    mean = torch.stack(
        [torch.where(used, scores, torch.inf).amin(dim=1), torch.where(used, scores, -torch.inf).amax(dim=1)], dim=1
    )
    mean = torch.where(number[:, None] > 0, mean, 0.0)  # [classes, 2]: the lower Gaussian and the higher
    middle = x.sum(dim=-1) / total
    variance = ((x[:, 0] - middle) ** 2 * used).sum(dim=1, keepdim=True) / total
    variance = variance.clamp(min=SMALLEST_VARIANCE).expand(-1, 2)
    share = torch.full_like(mean, 0.5)

    def belongs() -> Tensor:
        """float64 [classes, 2, buffer]: the probabilities that a score is of each Gaussian."""
        density = share.log()[..., None] - variance.log()[..., None] / 2
        return (density - (x - mean[..., None]) ** 2 / variance[..., None] / 2).softmax(dim=1) * used[:, None]

    for _ in range(ROUNDS):
        posterior = belongs()
        weight = posterior.sum(dim=-1).clamp(min=1e-9)
        share = weight / total
        mean = (posterior * x).sum(dim=-1) / weight
        spread = (posterior * (x - mean[..., None]) ** 2).sum(dim=-1) / weight
        variance = spread.clamp(min=SMALLEST_VARIANCE)
    high = (belongs()[:, 1] > 0.5) & used & (scores >= mean[:, :1])
    lowest = torch.where(high, scores, torch.inf).amin(dim=1)
    told = (number >= FEWEST) & (mean[:, 1] - mean[:, 0] >= APART) & lowest.isfinite()
    return torch.where(told, lowest.clamp(min=LOWEST), FALLBACK)


@torch.no_grad()
def assign(regions: Regions, image: int, target: Targets, candidates: int) -> Tensor:
    """Which pseudo label each region of one image answers for, by the cost of the student's own answers.

    A label whose box holds the centre of no region is answered for by none.

    Args:
        regions: the student's answers on the strong view.
        target: pseudo labels in the same pixels.
        candidates: largest IoUs that add up to a label's number of regions, and the largest such number.

    Returns:
        int64 [regions]: the label's index, -1 background, -2 ignored (in padding; its centre in an ignored box).
    """
    points, valid = regions.points, regions.valid[image]
    index = torch.full((len(regions),), -1, dtype=torch.int64, device=points.device)
    if len(target.ignore):
        index[centers_inside(points, target.ignore).any(dim=1)] = -2
    if len(target.labels):
        possible = centers_inside(points, target.boxes) & valid[:, None]  # [regions, labels]
        iou = torch.where(possible, box_iou(regions.boxes[image], target.boxes), 0.0)
        middle = (target.boxes[:, :2] + target.boxes[:, 2:]) / 2
        away = (points[:, None] - middle[None]).norm(dim=-1) / regions.strides[:, None]
        cost = F.softplus(-regions.logits[image][:, target.labels])  # the cross-entropy of p and 1
        cost = cost + BOX_COST * (1 - iou) + (away - FREE_DISTANCE).clamp(min=0)
        cost = torch.where(possible, cost, torch.inf)
        most = min(candidates, len(regions))
        number = iou.topk(most, dim=0).values.sum(dim=0).int().clamp(1, most)
        cheapest = cost.topk(most, dim=0, largest=False).indices  # [most, labels], the cheapest first
        rank = torch.arange(most, device=points.device)[:, None]
        chosen = torch.zeros_like(possible).scatter_(0, cheapest, rank < number[None])
        least, label = torch.where(chosen, cost, torch.inf).min(dim=1)
        index = torch.where(least.isfinite(), label, index)
    return torch.where(valid, index, -2)


def consistent_losses(student: Regions, targets: Sequence[Targets], candidates: int) -> dict[str, Tensor]:
    """The losses against pseudo labels: ``class``, ``box`` and ``quality``, unweighted scalars.

    Args:
        student: the student's answers on the strong views.
        targets: one an image, in the same pixels. Empty ones are fine: all of the image is background.
        candidates: see :func:`assign`.
    """
    index = torch.stack([assign(student, i, target, candidates) for i, target in enumerate(targets)])
    positive, use = index >= 0, index > -2
    number = process_mean(positive.sum().float(), least=1.0)
    wanted = torch.cat([target.boxes[row[row >= 0]] for target, row in zip(targets, index, strict=True)])
    wanted = wanted.to(student.boxes.dtype)
    labels = torch.cat([target.labels[row[row >= 0]] for target, row in zip(targets, index, strict=True)])
    goal = torch.zeros_like(student.logits)
    goal[positive] = F.one_hot(labels, goal.shape[-1]).to(goal.dtype)
    focal = sigmoid_focal_loss(student.logits[use], goal[use], alpha=0.25, gamma=2.0, reduction="sum")
    giou = generalized_box_iou_loss(student.boxes[positive], wanted, reduction="sum")
    losses = {"class": focal / number, "box": giou / number, "quality": student.logits.new_zeros(())}
    if student.quality is not None:
        points = student.points[None].expand(len(targets), -1, -1)[positive]
        quality = F.binary_cross_entropy_with_logits(
            student.quality[positive], centerness(points, wanted), reduction="sum"
        )
        losses["quality"] = quality / number
    return losses
