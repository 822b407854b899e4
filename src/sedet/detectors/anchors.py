"""Anchors: boxes of fixed shapes at every cell, what is measured from them, and which object each answers for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from sedet.detectors.dense import grid_points

SCALES = (4.0, 4.0 * 2 ** (1 / 3), 4.0 * 2 ** (2 / 3))
"""Sides of the square of a RetinaNet anchor's area, in strides."""
RATIOS = (0.5, 1.0, 2.0)
"""Height over width."""
LARGEST_GROWTH = math.log(1000 / 16)
"""A box is at most e to this times as wide or high as its anchor (torchvision's limit too)."""


def cell_anchors(
    stride: float, scales: Sequence[float], ratios: Sequence[float], torchvision: bool, device: torch.device
) -> Tensor:
    """float [ratios * scales, 4]: the anchors of one cell around its centre, xyxy pixels; the scales run fastest.

    Sides are exact multiples of the stride, so that those of P_l are twice those of P_{l-1}: the scale part pairs
    them. torchvision rounds instead, which breaks that.

    Args:
        torchvision: round as torchvision's ``AnchorGenerator`` does.
    """
    sizes = torch.tensor([scale * stride for scale in scales], device=device)
    if torchvision:
        sizes = sizes.trunc()
    height = torch.tensor(ratios, device=device).sqrt()
    widths, heights = ((1 / height)[:, None] * sizes).flatten(), (height[:, None] * sizes).flatten()
    boxes = torch.stack([-widths, -heights, widths, heights], dim=1) / 2
    return boxes.round() if torchvision else boxes


def grid_anchors(
    height: int,
    width: int,
    stride: float,
    scales: Sequence[float],
    ratios: Sequence[float],
    torchvision: bool,
    device: torch.device,
) -> Tensor:
    """float [height * width * anchors a cell, 4], xyxy pixels of the view: row-major, a cell's anchors together.

    Args:
        torchvision: as torchvision has them: rounded, around the cells' upper left corners.
    """
    points = grid_points(height, width, stride, device) - (stride / 2 if torchvision else 0.0)
    cell = cell_anchors(stride, scales, ratios, torchvision, device)
    return (points.repeat(1, 2)[:, None] + cell[None]).reshape(-1, 4)


def decode(deltas: Tensor, anchors: Tensor, weights: tuple[float, float, float, float] = (1.0,) * 4) -> Tensor:
    """Boxes, xyxy, of deltas from anchors: shifts of the centre in anchor sides, and log growth of the sides.

    Args:
        deltas: float [..., 4]: x, y, width, height.
        anchors: float [..., 4], xyxy.
        weights: the deltas are this many times larger (Faster R-CNN's box head: 10, 10, 5, 5).
    """
    scaled = deltas / deltas.new_tensor(weights)
    sides = anchors[..., 2:] - anchors[..., :2]
    centers = anchors[..., :2] + sides / 2 + scaled[..., :2] * sides
    half = sides * scaled[..., 2:].clamp(max=LARGEST_GROWTH).exp() / 2
    return torch.cat([centers - half, centers + half], dim=-1)


def encode(boxes: Tensor, anchors: Tensor, weights: tuple[float, float, float, float] = (1.0,) * 4) -> Tensor:
    """Deltas that :func:`decode` turns into ``boxes``; both float [..., 4], xyxy, with an area."""
    sides, anchor_sides = boxes[..., 2:] - boxes[..., :2], anchors[..., 2:] - anchors[..., :2]
    shift = ((boxes[..., :2] + sides / 2) - (anchors[..., :2] + anchor_sides / 2)) / anchor_sides
    return torch.cat([shift, (sides / anchor_sides).log()], dim=-1) * boxes.new_tensor(weights)


def match_anchors(
    anchors: Tensor, boxes: Tensor, high: float, low: float, every_object: bool = True, usable: Tensor | None = None
) -> Tensor:
    """Which object each anchor answers for, by IoU.

    Args:
        anchors: float [anchors, 4]; boxes: float [objects, 4]; xyxy.
        high: least IoU of a positive.
        low: below it an anchor is background; between both it is ignored.
        every_object: each object also gets the anchors that overlap it most, whatever their IoU.
        usable: bool [anchors], those that may be positive. Default: all.

    Returns:
        int64 [anchors]: the object's index, -1 background, -2 ignored.
    """
    if not len(boxes):
        return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    overlap = box_iou(boxes, anchors)  # [objects, anchors]
    if usable is not None:
        overlap = torch.where(usable[None], overlap, -1.0)
    best, matched = overlap.max(dim=0)
    index = torch.where(best >= high, matched, torch.where(best < low, -1, -2))
    if every_object:
        most = overlap.max(dim=1, keepdim=True).values
        wanted = ((overlap == most) & (most > 0)).any(dim=0)
        index = torch.where(wanted, matched, index)
    return index
