"""Pictures with labels erased in places, mixed, and set as mosaics: the geometry of MixPL, whose text says why so.

What is random is drawn with torch's global generator, in the functions whose names begin with ``draw``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sedet.data.batch import Targets, pixels
from sedet.data.views import MIN_VISIBLE

PATCHES, PATCH_SIDE = 20, 0.1
"""Most erased patches an image, and their longest side as a share of the content's."""
TILES = 4
TILE_SHARES = (400 / 1333, 800 / 1333)
"""Long side of an image in a mosaic, as a share of the canvas."""
CENTERS = (0.4, 0.6)
"""Where the corners of a mosaic's images meet, as a share of the canvas."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A view with labels, on the canvas that all views share.

    Attributes:
        image: uint8 [3, side, side], RGB, black at the right and the bottom; of a mixture float32 in 0..1.
        size: width and height of the content, pixels.
        targets: its boxes, xyxy in its pixels.
    """

    image: Tensor
    size: tuple[int, int]
    targets: Targets


def as_float(image: Tensor) -> Tensor:
    """An image as the detector wants it, float32 in 0..1."""
    return image if image.is_floating_point() else pixels(image)


def draw_patches(width: int, height: int) -> Tensor:
    """What is erased of a content of this size: int64 [1 to 20, 4], xyxy pixels, each side at most 0.1 of its."""
    count = int(torch.randint(1, PATCHES + 1, ()))
    content = torch.tensor([width, height])
    longest = (PATCH_SIDE * content).long().clamp(min=1)
    sides = 1 + (torch.rand(count, 2) * longest).long().minimum(longest - 1)
    corners = (torch.rand(count, 2) * (content - sides + 1)).long().minimum(content - sides)
    return torch.cat([corners, corners + sides], dim=1)


def union_share(boxes: Tensor, rectangles: Tensor) -> Tensor:
    """Share of each box's area under the union of any number of rectangles, float [boxes] in 0..1.

    The rectangles' edges cut the plane into cells, each of which is covered as a whole or not at all.

    Args:
        boxes: float [n, 4], xyxy.
        rectangles: float [k, 4], xyxy; those without an area cover nothing.
    """
    covered: list[Tensor] = []
    spans: list[Tensor] = []
    for low, high in ((0, 2), (1, 3)):
        edges = torch.unique(rectangles[:, [low, high]])
        start, end = edges[:-1], edges[1:]
        covered.append((rectangles[:, low, None] <= start) & (rectangles[:, high, None] >= end))
        inner = torch.minimum(boxes[:, high, None], end) - torch.maximum(boxes[:, low, None], start)
        spans.append(inner.clamp(min=0))
    cells = (covered[0][:, :, None] & covered[1][:, None, :]).any(dim=0)
    hidden = (spans[0][:, :, None] * spans[1][:, None, :] * cells).sum(dim=(1, 2))
    whole = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
    return (hidden / whole.clamp(min=1e-6)).clamp(max=1)


def mixup(a: Picture, b: Picture) -> Picture:
    """The mean of two pictures, with the boxes of both; on the device of the first."""
    there = b.targets.to(a.image.device)
    targets = Targets(
        torch.cat([a.targets.boxes, there.boxes]),
        torch.cat([a.targets.labels, there.labels]),
        torch.cat([a.targets.ignore, there.ignore]),
    )
    size = (max(a.size[0], b.size[0]), max(a.size[1], b.size[1]))
    return Picture((pixels(a.image) + pixels(b.image.to(a.image.device))) / 2, size, targets)


def draw_mosaic(tiles: Sequence[Picture]) -> Picture:
    """A mosaic of four pictures, their sizes and the centre drawn."""
    side = tiles[0].image.shape[-1]
    shares = torch.empty(TILES).uniform_(*TILE_SHARES)
    x, y = (side * torch.empty(2).uniform_(*CENTERS)).round().long().tolist()
    return mosaic(tiles, [share * side for share in shares.tolist()], (x, y))


def mosaic(tiles: Sequence[Picture], long_sides: Sequence[float], center: tuple[int, int]) -> Picture:
    """Four pictures in the quarters round a centre: upper left, upper right, lower left, lower right.

    Args:
        tiles: on canvases of one side; the mosaic has such a canvas too, and all of it is content.
        long_sides: to which the long side of each one's content is resized, pixels.
        center: x and y, pixels, where a corner of each lies.
    """
    canvas = torch.zeros_like(tiles[0].image, dtype=torch.float32)
    side, targets = canvas.shape[-1], []
    for n, (tile, long_side) in enumerate(zip(tiles, long_sides, strict=True)):
        width, height = (max(1, round(s * long_side / max(tile.size))) for s in tile.size)
        left = center[0] if n % 2 else center[0] - width
        top = center[1] if n // 2 else center[1] - height
        window = (max(0, left), max(0, top), min(side, left + width), min(side, top + height))
        content = pixels(tile.image[None, :, : tile.size[1], : tile.size[0]].to(canvas.device))
        small = F.interpolate(content, (height, width), mode="bilinear", antialias=True)[0]
        x1, y1, x2, y2 = window
        canvas[:, y1:y2, x1:x2] = small[:, y1 - top : y2 - top, x1 - left : x2 - left]
        scale = (width / tile.size[0], height / tile.size[1])
        targets.append(placed(tile.targets.to(canvas.device), scale, (left, top), window))
    boxes, labels, ignore = (torch.cat([getattr(t, name) for t in targets]) for name in ("boxes", "labels", "ignore"))
    return Picture(canvas, (side, side), Targets(boxes, labels, ignore))


def placed(
    targets: Targets, scale: tuple[float, float], shift: tuple[float, float], window: tuple[int, int, int, int]
) -> Targets:
    """Boxes scaled, then moved, then clipped to a window; those of which too little is left are ignored, or gone.

    Args:
        scale, shift: of x and y.
        window: xyxy pixels of the new frame.
    """

    def move(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        there = boxes * boxes.new_tensor(scale * 2) + boxes.new_tensor(shift * 2)
        low, high = boxes.new_tensor(window[:2] * 2), boxes.new_tensor(window[2:] * 2)
        inner = there.maximum(low).minimum(high)
        sides = inner[:, 2:] - inner[:, :2]
        share = sides.prod(dim=1) / (there[:, 2:] - there[:, :2]).prod(dim=1).clamp(min=1e-6)
        present = (sides > 0).all(dim=1)
        return inner, present, present & (share >= MIN_VISIBLE) & (sides >= 1.0).all(dim=1)

    boxes, present, usable = move(targets.boxes)
    ignore, left, _ = move(targets.ignore)
    return Targets(boxes[usable], targets.labels[usable], torch.cat([boxes[present & ~usable], ignore[left]]))
