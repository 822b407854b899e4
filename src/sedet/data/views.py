"""Views of an image: weak, strong and half-size, each with the 3x3 matrix that leads to it.

The geometry is our matrix, carried out by torchvision's transforms v2 functional operations; the photometric part
uses its transform classes. A view holds its content only; padding is added when views are stacked.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vf

from sedet.config import ViewConfig
from sedet.data import chance
from sedet.data.batch import Targets
from sedet.data.table import Objects

CANVAS_MULTIPLE = 64
"""Full views are padded to a multiple of this, half views to half of it: then all level grids pair (our design)."""

MIN_VISIBLE = 0.3
"""A box of which less than this share is left after cropping is ignored: neither object nor background."""

# Random erasings of the strong view: probability, area and aspect ranges (Unbiased Teacher's strong view).
ERASINGS = ((0.7, (0.05, 0.2), (0.3, 3.3)), (0.5, (0.02, 0.2), (0.1, 6.0)), (0.3, (0.02, 0.2), (0.05, 8.0)))


@dataclass(frozen=True, slots=True)
class View:
    """One view of an image.

    Attributes:
        image: uint8 [3, height, width], RGB, content without padding; both sides even.
        matrix: float64 [3, 3], original pixel coordinates -> this view's.
        erased: float32 [k, 4], erased rectangles, xyxy in this view's pixels.
        zoom: how large it is; 1: the image's long side has ``image_size`` pixels, as in inference.
    """

    image: Tensor
    matrix: NDArray[np.float64]
    erased: Tensor
    zoom: float = 1.0

    @property
    def width(self) -> int:
        return int(self.image.shape[-1])

    @property
    def height(self) -> int:
        return int(self.image.shape[-2])


def even(value: float) -> int:
    """Nearest even integer, at least 2: so that the half-size view is exactly half."""
    return max(2, 2 * round(value / 2))


def canvas_side(image_size: int) -> int:
    """Side of the square canvas that views of this size are padded to."""
    return math.ceil(image_size / CANVAS_MULTIPLE) * CANVAS_MULTIPLE


def plain_view(image: NDArray[np.uint8], image_size: int, original: tuple[int, int] | None = None) -> View:
    """The view of inference: the long side resized to ``image_size``.

    Args:
        image: uint8 [height, width, 3], RGB; may be a shrunk copy of the original.
        image_size: pixels.
        original: width and height of the original image, for the matrix; default: those of ``image``.
    """
    return _place(image, original, image_size, zoom=1.0, corner=(0.0, 0.0), flip=(False, False))


def weak_view(
    image: NDArray[np.uint8],
    image_size: int,
    config: ViewConfig,
    rng: np.random.Generator,
    original: tuple[int, int] | None = None,
    factor: int = 1,
) -> View:
    """Resize, scale jitter (log-uniform; a random crop where it leaves the canvas) and flips.

    With ``factor`` 2 the same geometry at exactly double size, from the same draws.
    """
    zoom = float(np.exp(rng.uniform(math.log(config.scale_min), math.log(config.scale_max))))
    corner = (float(rng.random()), float(rng.random()))
    flip = (bool(rng.random() < config.flip), bool(rng.random() < config.vertical_flip))
    return _place(image, original, image_size, zoom, corner, flip, factor)


def _place(
    image: NDArray[np.uint8],
    original: tuple[int, int] | None,
    image_size: int,
    zoom: float,
    corner: tuple[float, float],
    flip: tuple[bool, bool],
    factor: int = 1,
) -> View:
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    height, width = pixels.shape[-2:]
    original_width, original_height = original or (width, height)
    scale = zoom * image_size / max(width, height)
    zoomed_width, zoomed_height = even(width * scale), even(height * scale)
    side = even(image_size)
    if zoom == 1:  # nothing is to be cropped; width * scale may be just above an odd size, and so rounded up from it
        zoomed_width, zoomed_height = min(zoomed_width, side), min(zoomed_height, side)
    pixels = vf.resize(pixels, [factor * zoomed_height, factor * zoomed_width], antialias=True)
    matrix = np.diag([zoomed_width / original_width, zoomed_height / original_height, 1.0])
    crop_width, crop_height = min(zoomed_width, side), min(zoomed_height, side)
    left = int(corner[0] * (zoomed_width - crop_width + 1))
    top = int(corner[1] * (zoomed_height - crop_height + 1))
    pixels = vf.crop(pixels, factor * top, factor * left, factor * crop_height, factor * crop_width)
    matrix = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]], dtype=np.float64) @ matrix
    if flip[0]:
        pixels = vf.horizontal_flip(pixels)
        matrix = np.array([[-1, 0, crop_width], [0, 1, 0], [0, 0, 1]], dtype=np.float64) @ matrix
    if flip[1]:
        pixels = vf.vertical_flip(pixels)
        matrix = np.array([[1, 0, 0], [0, -1, crop_height], [0, 0, 1]], dtype=np.float64) @ matrix
    matrix = np.diag([factor, factor, 1.0]) @ matrix
    return View(pixels, matrix, torch.zeros(0, 4), factor * zoom)


def strong_view(weak: View, config: ViewConfig, seed: int, *keys: int | str) -> View:
    """The weak view's geometry with colour jitter, grey, blur and random erasing.

    Args:
        seed, keys: what the draw is a function of (see :mod:`sedet.data.chance`).
    """
    sigma = max(0.6, 2.0 * max(weak.width, weak.height) / 640)  # 2 px belongs to images of usual size
    kernel = min(2 * math.ceil(2 * sigma) + 1, 2 * (min(weak.width, weak.height) // 2) - 1)
    photometric = v2.Compose(
        [
            v2.ToPILImage(),  # whose hue takes half the time of the same on tensors, which was most of a view's
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=config.jitter),
            v2.RandomGrayscale(p=config.grey),
            v2.PILToTensor(),
            v2.RandomApply([v2.GaussianBlur(max(kernel, 1), (0.1, sigma))], p=config.blur),
        ]
    )
    with chance.torch_seed(seed, "photometric", *keys):
        image = photometric(weak.image)
    rectangles = []
    if config.erase:
        rng = chance.generator(seed, "erase", *keys)
        image = image.clone()
        for probability, area, aspect in ERASINGS:
            if rng.random() >= probability:
                continue
            size = rng.uniform(*area) * weak.width * weak.height
            ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
            height = min(weak.height, max(1, round(math.sqrt(size * ratio))))
            width = min(weak.width, max(1, round(math.sqrt(size / ratio))))
            top = int(rng.integers(weak.height - height + 1))
            left = int(rng.integers(weak.width - width + 1))
            colour = torch.from_numpy(rng.integers(0, 256, (3, 1, 1), dtype=np.uint8))
            image[:, top : top + height, left : left + width] = colour
            rectangles.append([left, top, left + width, top + height])
    erased = torch.tensor(rectangles, dtype=torch.float32).reshape(-1, 4)
    return View(image, weak.matrix, erased, weak.zoom)


def half_view(view: View) -> View:
    """The same content at exactly half the size."""
    image = vf.resize(view.image, [view.height // 2, view.width // 2], antialias=True)
    return View(image, np.diag([0.5, 0.5, 1.0]) @ view.matrix, view.erased / 2, view.zoom / 2)


def map_boxes(boxes: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """Boxes [n, 4] xyxy through a 3x3 matrix of scales, shifts and flips; corners come out sorted."""
    if len(boxes) == 0:
        return boxes.reshape(0, 4).astype(np.float32)
    corners = boxes.reshape(-1, 2, 2).astype(np.float64)
    moved = corners @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1).astype(np.float32)


def view_targets(view: View, objects: Objects, config: ViewConfig) -> Targets:
    """An image's objects in the pixels of a view, clipped to its content.

    Crowd and difficult objects, objects cropped to under MIN_VISIBLE of their area, and objects erased beyond
    ``config.erase_limit`` become ignore regions.
    """
    boxes = map_boxes(objects.boxes, view.matrix)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    limit = np.array([view.width, view.height, view.width, view.height], dtype=np.float32)
    clipped = np.clip(boxes, 0, limit)
    sides = clipped[:, 2:] - clipped[:, :2]
    visible = sides.prod(axis=1) / np.maximum(area, 1e-6)
    present = (sides > 0).all(axis=1)
    tensor = torch.from_numpy(clipped)
    gone = erased_share(tensor, view.erased).numpy() > config.erase_limit
    usable = present & (visible >= MIN_VISIBLE) & (sides >= 1.0).all(axis=1) & ~gone & ~objects.ignored
    ignore = present & ~usable
    return Targets(
        tensor[torch.from_numpy(usable)],
        torch.from_numpy(objects.labels[usable]),
        tensor[torch.from_numpy(ignore)],
    )


def erased_share(boxes: Tensor, erased: Tensor) -> Tensor:
    """Share of each box's area that lies under the union of the erased rectangles.

    Args:
        boxes: float [..., n, 4], xyxy.
        erased: float [..., k, 4], xyxy, k small (inclusion and exclusion over its subsets); empty ones cover nothing.

    Returns:
        float [..., n] in 0..1.
    """
    covered = boxes.new_zeros(boxes.shape[:-1])
    rectangles = erased.unsqueeze(-3).unbind(dim=-2)
    for count in range(1, len(rectangles) + 1):
        for chosen in itertools.combinations(rectangles, count):
            low = reduce(torch.maximum, [r[..., :2] for r in chosen], boxes[..., :2])
            high = reduce(torch.minimum, [r[..., 2:] for r in chosen], boxes[..., 2:])
            sign = 1.0 if count % 2 else -1.0
            covered = covered + sign * (high - low).clamp(min=0).prod(dim=-1)
    area = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)
    return (covered / area.clamp(min=1e-6)).clamp(0, 1)


def stack_views(views: Sequence[View], side: int) -> tuple[Tensor, Tensor]:
    """Views padded with black at the right and the bottom to a square canvas.

    Returns:
        uint8 [batch, 3, side, side], and int64 [batch, 2], width and height of each content.
    """
    images = torch.zeros(len(views), 3, side, side, dtype=torch.uint8)
    for i, view in enumerate(views):
        images[i, :, : view.height, : view.width] = view.image
    content = torch.tensor([[v.width, v.height] for v in views], dtype=torch.int64).reshape(-1, 2)
    return images, content
