"""Jitter uncertainty: how far a detection's box moves when the second stage refines it from jittered copies.

  b_j = b + deviation e_j * (width, height, width, height),  e_j normal, 4 numbers     j = 1..count
  r_j = the teacher's second stage at b_j, the box of the detection's class
  u   = mean over the 4 coordinates of  std_j(r_j) / ((width + height) / 2)

Soft Teacher's measure of how well a box is known (Xu et al., ICCV 2021). Our choice: each coordinate is drawn by
itself, by the side along it; refined boxes are clipped to the content, as the detections are; the standard deviation
is the sample's (divided by count - 1), 0 with a single jitter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from sedet.detectors.anchors import decode
from sedet.detectors.faster_rcnn import BOX_WEIGHTS, FasterRCNN
from sedet.detectors.regions import Detections, Regions

LEAST_SIDE = 1e-6
"""Pixels; a candidate without an area divides by no less."""


@torch.no_grad()
def jitter_uncertainty(
    model: FasterRCNN, regions: Regions, found: Sequence[Detections], count: int = 10, deviation: float = 0.06
) -> list[Tensor]:
    """How uncertain the box of each detection is, float [n] for each image, 0 the surest. No gradient.

    Args:
        model: whose second stage refines the copies; the teacher.
        regions: its first stage's answers on the view the detections lie in.
        found: one an image, xyxy pixels of that view; none are fine.
        count: jittered copies of each.
        deviation: of each coordinate, as a share of the box's side along it.
    """
    assert regions.content is not None
    copies = [jittered(detections.boxes, count, deviation) for detections in found]  # each [n, count, 4]
    _, deltas = model.second_stage(regions, [boxes.flatten(0, 1) for boxes in copies])
    uncertain, start = [], 0
    for i, (detections, boxes) in enumerate(zip(found, copies, strict=True)):
        label = detections.labels.repeat_interleave(count)
        rows = deltas[start + torch.arange(len(label), device=label.device), label].view_as(boxes)
        start += len(label)
        width, height = regions.content[i].tolist()
        refined = clip_boxes_to_image(decode(rows, boxes, BOX_WEIGHTS), (height, width))
        uncertain.append(relative_spread(refined, detections.boxes))
    return uncertain


def jittered(boxes: Tensor, count: int, deviation: float) -> Tensor:
    """float [n, count, 4]: copies of float [n, 4] boxes, xyxy, each coordinate moved; torch's generator draws.

    A corner that moves past the other one changes places with it, so that what comes are boxes at any deviation.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)[:, None]
    shift = torch.randn(len(boxes), count, 4, device=boxes.device, dtype=boxes.dtype)
    corners = (boxes[:, None] + deviation * sides * shift).view(len(boxes), count, 2, 2)
    return torch.cat([corners.amin(dim=-2), corners.amax(dim=-2)], dim=-1)


def relative_spread(refined: Tensor, boxes: Tensor) -> Tensor:
    """float [n]: the mean deviation of the 4 coordinates of float [n, count, 4], over half of width + height.

    Args:
        refined: xyxy, what each of the copies became.
        boxes: float [n, 4], xyxy, what they are copies of.
    """
    half = (boxes[:, 2:] - boxes[:, :2]).sum(dim=1).clamp(min=LEAST_SIDE) / 2
    squares = (refined - refined.mean(dim=1, keepdim=True)) ** 2
    deviation = (squares.sum(dim=1) / max(1, refined.shape[1] - 1)).sqrt()
    return deviation.mean(dim=1) / half
