"""What the dense detectors share: the cells of a level, and final detections from the answers of all regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from sedet.detectors.regions import Detections, Regions


def grid_points(height: int, width: int, stride: float, device: torch.device) -> Tensor:
    """float [height * width, 2]: centres of the cells, x and y in pixels, row-major."""
    y = (torch.arange(height, device=device) + 0.5) * stride
    x = (torch.arange(width, device=device) + 0.5) * stride
    return torch.stack([x[None].expand(height, -1), y[:, None].expand(-1, width)], dim=-1).reshape(-1, 2)


def flatten_map(maps: Tensor, channels: int) -> Tensor:
    """[batch, regions * channels, height, width] -> [batch, height * width * regions, channels]"""
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, channels)  # len() would fix the batch of a traced graph


def level_slices(regions: Regions) -> list[slice]:
    """Where the regions of each pyramid level lie."""
    counts = torch.unique_consecutive(regions.strides, return_counts=True)[1].tolist()
    ends = [sum(counts[: n + 1]) for n in range(len(counts))]
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]


def centers_inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Which points lie in which boxes, borders excluded.

    Args:
        points: float [points, 2].
        boxes: float [..., 1, boxes, 4], or [boxes, 4]: xyxy.

    Returns:
        bool [..., points, boxes].
    """
    return ((points[:, None] > boxes[..., :2]) & (points[:, None] < boxes[..., 2:])).all(dim=-1)


def final_detections(
    scores: Tensor,
    boxes: Tensor,
    content: Tensor,
    score_threshold: float,
    max_detections: int,
    nms_threshold: float,
    candidates: int,
    groups: Sequence[slice] = (slice(None),),
) -> list[Detections]:
    """Non-maximum suppression class by class, each view alone.

    Args:
        scores: float [batch, regions, classes] in 0..1.
        boxes: float [batch, regions, 4], xyxy pixels of the view; or one a class, [batch, regions, classes, 4].
        content: int64 [batch, 2], width and height of each view's content; boxes are clipped to it.
        score_threshold: lowest score of a detection (itself excluded).
        max_detections: most detections a view.
        nms_threshold: IoU above which the less certain of two boxes of a class goes.
        candidates: class scores kept before it in each of ``groups``.
        groups: parts of the regions, such as pyramid levels, that have ``candidates`` of their own.
    """
    classes = scores.shape[-1]
    found = []
    for i in range(len(scores)):
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for group in groups:
            flat, group_boxes = scores[i, group].flatten(), boxes[i, group]
            top, where = flat.topk(min(candidates, len(flat)))
            above = top > score_threshold
            row, label = where[above] // classes, where[above] % classes
            picked = group_boxes[row] if boxes.dim() == 3 else group_boxes[row, label]
            kept.append((picked, top[above], label))
        box, score, label = (torch.cat(parts) for parts in zip(*kept, strict=True))
        box = clip_boxes_to_image(box, (int(content[i, 1]), int(content[i, 0])))
        sized = ((box[:, 2] - box[:, 0]) > 1e-2) & ((box[:, 3] - box[:, 1]) > 1e-2)
        box, score, label = box[sized], score[sized], label[sized]
        keep = batched_nms(box, score, label, nms_threshold)[:max_detections]
        found.append(Detections(box[keep], score[keep], label[keep]))
    return found
