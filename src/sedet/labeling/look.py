"""What a detector, seen in several ways, says of images: at full and half size, its features, and its student."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sedet.data.batch import pixels
from sedet.data.views import canvas_side, half_view, plain_view, stack_views
from sedet.detectors.regions import HALF_LEVELS, Detections
from sedet.predictor import Pixels, Predictor

FEATURES = 64
"""Numbers that stay of an image's pooled features."""


@dataclass(frozen=True, slots=True)
class Look:
    """The answers on one image; boxes xyxy in the pixels of the image as given.

    Attributes:
        full: at the detector's own size.
        half: at half of it, or None where it was not asked for.
        features: float32 [FEATURES or fewer], of length 1 before they were projected; None as above.
    """

    full: Detections
    half: Detections | None = None
    features: NDArray[np.float32] | None = None


def look(predictor: Predictor, images: Sequence[Pixels], floor: float, most: int, rank: bool) -> list[Look]:
    """Answers on a few images, one batch.

    Args:
        floor: lowest score of a detection.
        most: most detections an image.
        rank: see them at half size too, and keep features.
    """
    if not rank:
        return [Look(found) for found in predictor.detect(images, floor, most)]
    with pooled(predictor) as rows:
        full = predictor.detect(images, floor, most)
    features = torch.cat(rows)
    if len(features) != len(images):  # a batch did not fit in memory and was parted after its features were taken
        features = torch.cat([_alone(predictor, image) for image in images])
    small = project(features.numpy())
    half = half_size(predictor, images, floor, most)
    return [Look(*answer) for answer in zip(full, half, small, strict=True)]


@torch.inference_mode()
def half_size(predictor: Predictor, images: Sequence[Pixels], floor: float, most: int) -> list[Detections]:
    """Detections at half the detector's image size, on levels P2..P6; boxes in the pixels of the images given.

    Seen there every object has half the size, while the grids are those of the full view.
    """
    side = canvas_side(predictor.image_size) // 2
    views = [half_view(plain_view(image, predictor.image_size)) for image in images]
    stacked, content = stack_views(views, side)
    content = content.to(predictor.device)
    regions = predictor.model(pixels(stacked.to(predictor.device)), content, HALF_LEVELS)
    results = []
    for view, found in zip(views, predictor.model.detect(regions, content, floor, most), strict=True):
        scale = torch.tensor([view.matrix[0, 0], view.matrix[1, 1]] * 2, dtype=torch.float32)
        results.append(Detections(found.boxes.float().cpu() / scale, found.scores.float().cpu(), found.labels.cpu()))
    return results


@contextmanager
def pooled(predictor: Predictor) -> Iterator[list[Tensor]]:
    """Collects float32 [batch, channels] of each pass: the backbone's stride-32 features, averaged over the content."""
    rows: list[Tensor] = []

    def keep(module: object, args: tuple[Any, ...], output: Sequence[Tensor]) -> None:
        content, maps = args[1], output[-1].float()
        for image, (width, height) in enumerate(content.tolist()):
            part = maps[image, :, : max(1, -(-height // 32)), : max(1, -(-width // 32))]
            rows.append(part.mean(dim=(1, 2))[None].cpu())

    handle = predictor.model.backbone.register_forward_hook(keep)
    try:
        yield rows
    finally:
        handle.remove()


def project(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features of length 1, by a fixed random projection at FEATURES numbers: it keeps distances nearly.

    Args:
        features: float32 [n, channels].
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    channels = unit.shape[1]
    if channels <= FEATURES:
        return np.asarray(unit, dtype=np.float32)
    rng = np.random.default_rng(channels)  # the same for all processes, runs and images
    return np.asarray(unit @ (rng.standard_normal((channels, FEATURES)) / np.sqrt(FEATURES)), dtype=np.float32)


def _alone(predictor: Predictor, image: Pixels) -> Tensor:
    with pooled(predictor) as rows:
        predictor.detect([image], 1.0, 1)
    return rows[-1]
