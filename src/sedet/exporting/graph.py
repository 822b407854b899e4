"""The whole way from uint8 images to detections as one module of tensor operations, of which a graph can be traced.

It says the same as :func:`sedet.detectors.inference.detect`, but every tensor has a shape that follows from the batch
and the settings alone: candidates that do not count keep their place with a score of 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from sedet.data.views import canvas_side
from sedet.detectors import faster_rcnn as two_stage
from sedet.detectors import rpn
from sedet.detectors.anchors import decode
from sedet.detectors.build import Detector
from sedet.detectors.dense import level_slices
from sedet.detectors.faster_rcnn import FasterRCNN
from sedet.detectors.fcos import FCOS
from sedet.detectors.folding import bake_norms
from sedet.detectors.regions import Regions

CANDIDATES = 1000
"""Class scores kept before non-maximum suppression, as in the detectors' own ``detect``."""
LEAST_SIDE = 1e-2
"""Boxes narrower or lower than this, in pixels of the canvas, are no detections."""

Suppress = Callable[[Tensor, Tensor, Tensor, int, float], Tensor]
"""Boxes [b, n, 4], scores [b, n], groups int64 [b, n], number of groups, IoU -> bool [b, n], which are kept."""


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, count: int, iou: float) -> Tensor:
    """Non-maximum suppression, each group of each image alone; boxes with a score of 0 are never kept.

    Groups are kept apart by moving them: in float64, whose digits suffice for that.
    """
    batch, number = scores.shape
    image = torch.arange(batch, device=boxes.device)[:, None]
    used = scores > 0
    # Boxes without a score are a group apart, so that they suppress nothing.
    apart = (image * (count + 1) + torch.where(used, groups, count)).double()
    span = boxes.double().abs().amax() * 2 + 1
    moved = boxes.double() + (apart * span)[..., None]
    kept = nms(moved.reshape(-1, 4), scores.double().reshape(-1), iou)
    mask = torch.zeros_like(scores, dtype=torch.bool).reshape(-1)
    mask = mask.index_put((kept,), torch.ones((), dtype=torch.bool, device=boxes.device))
    return mask.reshape(batch, number) & used


class Deployed(nn.Module):
    """uint8 images in, padded detections out.

    Args:
        model: the detector; a copy of it is taken.
        image_size: long side that images are resized to, pixels.
        score: lowest score of a detection (itself excluded); a buffer, which can be set afterwards.
        max_detections: detections of an image that there is room for.
        half: whether the network computes in float16; boxes, scores and all that follows them stay in float32.
        suppress: how non-maximum suppression is done.
    """

    def __init__(
        self,
        model: Detector,
        image_size: int,
        score: float,
        max_detections: int,
        half: bool = False,
        suppress: Suppress = suppress,
    ) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        bake_norms(self.model.backbone.body)
        self.dtype = torch.float16 if half else torch.float32
        self.model.to(self.dtype)
        self.image_size, self.side, self.most = image_size, canvas_side(image_size), max_detections
        self.suppress = suppress
        self.score: Tensor
        self.register_buffer("score", torch.tensor(score, dtype=torch.float32))
        with torch.no_grad():  # one look at an empty canvas tells how the regions are laid out
            size = torch.full((1, 2), self.side)
            regions = self.model(torch.zeros(1, 3, self.side, self.side, dtype=self.dtype), size)
        self.levels = level_slices(regions)
        self.strides: list[float] = torch.unique_consecutive(regions.strides).tolist()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Detections, best first.

        Args:
            images: uint8 [batch, height, width, 3], RGB, of any size, the same for a batch.

        Returns:
            boxes float32 [batch, max, 4], xyxy in pixels of ``images``; scores float32 [batch, max]; labels
            int64 [batch, max]; count int64 [batch]. Rows from ``count`` on are zeros, with label -1.
        """
        canvas, content, original = self.place(images)
        regions = self.model(canvas.to(self.dtype), content)
        scores, boxes, labels, iou = self.candidates(regions, content)
        limit = torch.cat([content, content], dim=1)[:, None].to(boxes.dtype)
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        usable = (boxes[..., 2:] - boxes[..., :2] > LEAST_SIDE).all(dim=-1) & (scores > self.score)
        scores = torch.where(usable, scores, 0.0)
        kept = self.suppress(boxes, scores, labels, self.model.spec.classes, iou)
        top, order = torch.where(kept, scores, 0.0).topk(min(self.most, scores.shape[1]))
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        labels = labels.gather(1, order)
        found = top > 0
        size = torch.cat([original, original])
        scale = (torch.cat([content[0], content[0]]).double() / size).float()
        boxes = torch.minimum(boxes / scale, size.float()) * found[..., None]
        labels = torch.where(found, labels, -1)
        room = self.most - order.shape[1]
        if room > 0:
            boxes, top, labels = (
                F.pad(boxes, (0, 0, 0, room)),
                F.pad(top, (0, room)),
                F.pad(labels, (0, room), value=-1),
            )
        return boxes, top, labels, found.sum(dim=1)

    def place(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Resize, antialiased, onto the canvas.

        Returns:
            float32 [batch, 3, side, side] in 0..1; int64 [batch, 2], width and height of the content; and
            float64 [2], width and height of the images.
        """
        batch, height, width, _ = images.shape
        device = images.device
        columns, rows = torch.arange(width, device=device), torch.arange(height, device=device)
        original = torch.stack([columns[-1] + 1, rows[-1] + 1]).double()
        # As the views are placed: each side to an even number of pixels.
        content = 2 * (original * self.image_size / original.amax(dim=0) / 2).round().clamp(min=1)
        across = resize_weights(columns, original[0], content[0], self.side)
        down = resize_weights(rows, original[1], content[1], self.side)
        pixels = images.permute(0, 3, 1, 2).float()
        # Rounded after each pass, as PyTorch does with bytes.
        pixels = (torch.matmul(pixels, across.T) + 0.5).floor().clamp(0, 255)
        pixels = (torch.matmul(down, pixels) + 0.5).floor().clamp(0, 255)
        return pixels / 255.0, content.long()[None].expand(batch, -1), original

    def candidates(self, regions: Regions, content: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
        """Scores [b, n], boxes [b, n, 4] and labels [b, n] of the best answers, and the IoU to suppress at."""
        if isinstance(self.model, FasterRCNN):
            scores, boxes = self.second_stage(self.model, regions, content)
            return *best(scores, boxes, [slice(0, scores.shape[1])]), 0.5
        scores = regions.logits.sigmoid()
        if isinstance(self.model, FCOS):
            assert regions.quality is not None
            scores = (scores * regions.quality.sigmoid()[..., None]).sqrt()
        scores = scores * regions.valid[..., None]
        one = isinstance(self.model, FCOS)
        groups = [slice(0, scores.shape[1])] if one else self.levels
        return *best(scores, regions.boxes, groups), 0.6 if one else 0.5

    def second_stage(self, model: FasterRCNN, regions: Regions, content: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores [b, rois, classes] and boxes [b, rois, classes, 4] of the proposals."""
        proposals = model.spec.proposals
        objectness = torch.where(regions.valid, regions.logits[..., 0].sigmoid(), 0.0)
        picked = [objectness[:, s].topk(min(proposals, s.stop - s.start)) for s in self.levels]
        scores = torch.cat([top for top, _ in picked], dim=1)
        where = torch.cat([i + s.start for (_, i), s in zip(picked, self.levels, strict=True)], dim=1)
        level = torch.cat([torch.full_like(i, n) for n, (_, i) in enumerate(picked)], dim=1)
        boxes = regions.boxes.gather(1, where[..., None].expand(-1, -1, 4))
        boxes = torch.minimum(boxes.clamp(min=0), torch.cat([content, content], dim=1)[:, None].to(boxes.dtype))
        usable = (boxes[..., 2:] - boxes[..., :2] >= rpn.LEAST_SIDE).all(dim=-1)
        scores = torch.where(usable, scores, 0.0)
        kept = self.suppress(boxes, scores, level, len(self.levels), rpn.NMS_IOU)
        top, order = torch.where(kept, scores, 0.0).topk(min(proposals, scores.shape[1]))
        rois = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        flat = rois.reshape(-1, 4)
        number = rois.shape[1]
        image = torch.arange(rois.shape[0], device=rois.device)[:, None].expand(-1, number).reshape(-1, 1)
        rows = torch.cat([image.to(flat.dtype), flat], dim=1)
        side = (flat[:, 2:] - flat[:, :2]).clamp(min=0).prod(dim=-1).sqrt()
        strides = self.strides[:-1]
        own = torch.floor((side / two_stage.ROI_STRIDES).clamp(min=1e-6).log2() + 1e-6).clamp(
            torch.tensor(strides[0]).log2().item(), torch.tensor(strides[-1]).log2().item()
        )
        pooled = torch.zeros((), device=rois.device)
        for stride, feature in zip(strides, regions.maps[:-1], strict=True):
            part = roi_align(feature.float(), rows, two_stage.POOLED, 1.0 / stride, two_stage.SAMPLING_RATIO)
            pooled = pooled + part * (2.0**own == stride)[:, None, None, None]
        logits, deltas = (x.float() for x in model.box_predictor(model.box_head(pooled.to(self.dtype))))
        probability = logits.softmax(dim=-1)[:, 1:].reshape(-1, number, model.spec.classes)  # the background is first
        moves = deltas.unflatten(1, (-1, 4))[:, 1:].reshape(-1, number, model.spec.classes, 4)
        return probability * (top > 0)[..., None], decode(moves, rois[:, :, None], two_stage.BOX_WEIGHTS)


def best(scores: Tensor, boxes: Tensor, groups: list[slice]) -> tuple[Tensor, Tensor, Tensor]:
    """The best class scores [b, n] of each group of regions, with their boxes [b, n, 4] and classes [b, n]."""
    classes = scores.shape[-1]
    kept: list[tuple[Tensor, Tensor]] = []
    for group in groups:
        flat = scores[:, group].flatten(1)
        top, where = flat.topk(min(CANDIDATES, (group.stop - group.start) * classes))
        kept.append((top, where + group.start * classes))
    score, where = (torch.cat(parts, dim=1) for parts in zip(*kept, strict=True))
    index = where if boxes.dim() == 4 else torch.div(where, classes, rounding_mode="floor")
    picked = boxes.reshape(boxes.shape[0], -1, 4).gather(1, index[..., None].expand(-1, -1, 4))
    return score, picked, where % classes


def resize_weights(positions: Tensor, before: Tensor, after: Tensor, side: int) -> Tensor:
    """float32 [side, before]: what each pixel adds to each row of the canvas; zeros from ``after`` on.

    PyTorch's antialiased bilinear filter: a triangle as wide as two pixels of the smaller of both images. As a
    matrix it needs no resizing operation, in which runtimes differ, and pads in the same step.

    Args:
        positions: int64 [before], 0, 1, 2, ...
        before, after: float64 [], pixels.
    """
    step = before / after
    rows = torch.arange(side, device=positions.device)
    center = step * (rows.double() + 0.5)
    weights = (1 - ((positions.double()[None] + 0.5 - center[:, None]) / step.clamp(min=1)).abs()).clamp(min=0)
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-9)
    weights = weights * (rows.double() < after)[:, None]
    # PyTorch resizes bytes with weights of 16 bits: as many places behind the point as the largest has room for.
    places = (torch.log2(32767.5 / weights.amax(dim=(0, 1))).ceil() - 1).clamp(max=22)
    unit = torch.pow(2.0, places)
    return ((weights * unit + 0.5).floor() / unit).float()
