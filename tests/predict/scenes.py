"""Scenes with a red rectangle, and a detector that finds it: then the right answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sedet.detectors.regions import Detections

CLASSES = ("cat", "red box")
BOX = (20, 10, 50, 30)


def find_red(
    model: Any, images: Sequence[NDArray[np.uint8]], size: int, score_threshold: float, most: int
) -> list[Detections]:
    """One detection of class 1, score .75, around all red pixels of an image; one of class 0 at .2 in its corner."""
    found = []
    for image in images:
        rows, columns = np.nonzero((image[..., 0] > 180) & (image[..., 1] < 80) & (image[..., 2] < 80))
        boxes, scores, labels = [[0.0, 0.0, 5.0, 5.0]], [0.2], [0]
        if len(rows):
            red = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            boxes, scores, labels = [red, *boxes], [0.75, 0.2], [1, 0]
        keep = [i for i, s in enumerate(scores) if s > score_threshold][:most]
        found.append(
            Detections(
                torch.tensor([boxes[i] for i in keep], dtype=torch.float32).reshape(-1, 4),
                torch.tensor([scores[i] for i in keep], dtype=torch.float32),
                torch.tensor([labels[i] for i in keep], dtype=torch.int64),
            )
        )
    return found


def scene(width: int = 80, height: int = 60, box: tuple[int, int, int, int] | None = BOX) -> NDArray[np.uint8]:
    image = np.full((height, width, 3), 120, np.uint8)
    if box is not None:
        image[box[1] : box[3], box[0] : box[2]] = (255, 0, 0)
    return image


def save(path: Path, image: NDArray[np.uint8] | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene() if image is None else image).save(path, **options)
    return path
