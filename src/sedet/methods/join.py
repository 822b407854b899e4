"""The teacher's answers at three sizes as one. Our design: the paper is not known to let its teacher look twice.

Dense detectors, and the first stage of Faster R-CNN, are joined region by region (``join_sizes``), the second stage
RoI by RoI (``join_rois``).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sedet.detectors.faster_rcnn import FasterRCNN, boxes_of
from sedet.detectors.regions import Regions

AGREEMENT, SURER = 0.6, 1.5
"""Boxes of two sizes are averaged above this IoU; below it the other size's is taken if it is this many times surer."""


@torch.no_grad()
def join_sizes(
    full: Regions,
    double: Regions | None,
    half: Regions,
    class_share: float = 0.5,
    box_share: float = 1.0,
    doubled: Tensor | None = None,
) -> Regions:
    """The teacher's answers on the weak view at full, double and half size, joined on the full view's regions.

    Every region is judged at two sizes. Small objects, those of the lowest level P_3, are seen better at double size:
    there their region is the one of P_4 with the same grid, or one of the four of P_3 in it, whichever is the most
    confident. All larger ones are seen once more at half size, one level lower, as the scale part pairs them.
    Class scores are a mean of both sizes. Boxes (and quality) that agree are averaged, weighted by the best class
    score, so that both place the box better than either; the mean of two that disagree would be neither, so there the
    full view's stays unless the other size is clearly surer (our design; docs/decisions.md). A detector whose answers
    are the same at all sizes is left as it is, unless a finer cell of the double view is surer.

    Args:
        full: regions of levels P3..P7.
        double: of the same view at double size and the same levels, or of some images of it; None: of no image.
        half: of the same view at half size, levels P2..P6.
        class_share: weight of the other size's class scores, 0..1; the full view's have the rest.
        box_share: how far boxes that agree go from the full view's towards their mean by confidence, 0..1.
        doubled: int64 [k], the images of ``double``; None: all. Of the others small objects are judged once.
    """
    logits, boxes, quality = half.logits.clone(), half.boxes * 2, half.quality
    quality = None if quality is None else quality.clone()
    stride = full.strides.min()
    here = (full.strides == stride).nonzero().squeeze(1)
    logits[:, here], boxes[:, here] = full.logits[:, here], full.boxes[:, here]
    if quality is not None and full.quality is not None:
        quality[:, here] = full.quality[:, here]
    if double is not None:
        image = torch.arange(len(logits), device=logits.device) if doubled is None else doubled
        chosen, seen = _at_double_size(double, here, full.per_cell), torch.arange(len(image), device=image.device)
        to, at = (image[:, None], here), (seen[:, None], chosen)
        logits[to], boxes[to] = double.logits[at], double.boxes[at] / 2
        if quality is not None and double.quality is not None:
            quality[to] = double.quality[at]

    p_full, p_other = full.logits.sigmoid(), logits.sigmoid()
    share = share_of_other(full.boxes, boxes, p_full.amax(dim=-1), p_other.amax(dim=-1), box_share)
    boxes = torch.lerp(full.boxes, boxes, share[..., None])
    if quality is not None and full.quality is not None:
        quality = torch.lerp(full.quality, quality, share)
    mean = torch.lerp(p_full, p_other, class_share)
    return replace(full, logits=mean.logit(eps=1e-6), boxes=boxes, quality=quality, deltas=None)


def _at_double_size(double: Regions, here: Tensor, cell: int) -> Tensor:
    """Which region of the double view answers for each of the full view's lowest level, int64 [batch, regions of it].

    Args:
        here: int64, these regions; cell: regions of one cell, since each anchor is joined with its own kind.
    """
    side, stride = math.isqrt(len(here) // cell), double.strides.min()
    cells = (double.strides == stride).nonzero().squeeze(1).view(side, 2, side, 2, cell)
    options = [(double.strides == 2 * stride).nonzero().squeeze(1)]
    options += [cells[:, i, :, j].reshape(-1) for i in (0, 1) for j in (0, 1)]
    index = torch.stack(options)  # [5, regions of the lowest level]
    seen = double.logits.masked_fill(~double.valid[..., None], -math.inf)  # padding has no say
    best = seen[:, index].amax(dim=-1).argmax(dim=1)
    return index.t()[torch.arange(len(here), device=best.device), best]


@torch.no_grad()
def join_rois(
    teacher: FasterRCNN,
    full: Regions,
    double: Regions | None,
    half: Regions,
    rois: Tensor,
    valid: Tensor,
    class_share: float = 0.5,
    box_share: float = 1.0,
    doubled: Tensor | None = None,
) -> Regions:
    """The second stage's answers at given RoIs of the full view, joined as those of dense detectors are.

    A RoI of the lowest level is looked at again at double size, all larger ones at half size.

    Args:
        full, double, half: the first stage's regions of the view at each size.
        rois: float [batch, n, 4], xyxy pixels of the full view; valid: bool [batch, n].
        class_share, box_share, doubled: as for :func:`join_sizes`.
    """
    here, small = teacher.look(full, rois, valid), teacher.look(half, rois / 2, valid)
    low = (here.strides == full.strides.min())[..., None]
    p_full = here.scores()
    p_other = torch.where(low, p_full, small.scores())
    if double is not None:
        image = torch.arange(len(rois), device=rois.device) if doubled is None else doubled
        twice = teacher.look(double, 2 * rois[image], valid[image])
        p_other[image] = torch.where(low[image], twice.scores(), p_other[image])
    mean = torch.lerp(p_full, p_other, class_share)
    mean = torch.cat([mean, 1 - mean.sum(dim=-1, keepdim=True)], dim=-1)
    best = mean[..., :-1].argmax(dim=-1)
    here, small = boxes_of(here, best), boxes_of(small, best)
    boxes = torch.where(low, here.boxes, small.boxes * 2)
    if double is not None:
        boxes[image] = torch.where(low[image], boxes_of(twice, best[image]).boxes / 2, boxes[image])
    share = share_of_other(here.boxes, boxes, p_full.amax(dim=-1), p_other.amax(dim=-1), box_share)
    return replace(here, logits=mean.clamp(min=1e-6).log(), boxes=torch.lerp(here.boxes, boxes, share[..., None]))


def share_of_other(
    full: Tensor, other: Tensor, sure_full: Tensor, sure_other: Tensor, box_share: float = 1.0
) -> Tensor:
    """How much of the other size's box enters, float [...] in 0..1: see :func:`join_sizes`.

    Args:
        full, other: boxes of both sizes, float [..., 4], in the same pixels.
        sure_full, sure_other: each one's best class score, float [...].
        box_share: factor where both agree.
    """
    share = box_share * sure_other / (sure_full + sure_other).clamp(min=1e-12)
    agree = paired_iou(full, other) > AGREEMENT
    return torch.where(agree, share, (sure_other > SURER * sure_full).to(share.dtype))


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of each box of [..., 4] with the one at its place in the other tensor, [...]; 0 where neither has an area."""
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(dim=-1)
    area = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(dim=-1) + (b[..., 2:] - b[..., :2]).clamp(min=0).prod(dim=-1)
    return overlap / (area - overlap).clamp(min=1e-9)
