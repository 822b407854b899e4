"""The two frames that boxes of an image can be in: the image as stored, and as its EXIF orientation turns it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sedet.data.images import read_header

Float = TypeVar("Float", bound=np.floating[Any])

# EXIF orientations by what turns the stored image: width and height change places, then sides are mirrored.
_MIRRORS_X = (2, 3, 6, 7)
_MIRRORS_Y = (3, 4, 7, 8)
_SWAPS = (5, 6, 7, 8)


def reframed(boxes: NDArray[Float], path: Path, before: bool, after: bool) -> NDArray[Float]:
    """Boxes of one frame of an image in the other one, or as they are where both are the same.

    Args:
        boxes: [n, 4], xyxy pixels.
        path: the image.
        before, after: ``use_exif`` of the frame they are in, and of the one to bring them to.

    Raises:
        ImageError: the image cannot be read.
    """
    if before == after or not len(boxes):
        return boxes
    width, height, orientation = read_header(path)
    turned = (height, width) if orientation in _SWAPS else (width, height)
    if after:
        return _mirrored(_swapped(boxes, orientation), turned, orientation)
    return _swapped(_mirrored(boxes, turned, orientation), orientation)


def _swapped(boxes: NDArray[Float], orientation: int) -> NDArray[Float]:
    return boxes[:, [1, 0, 3, 2]] if orientation in _SWAPS else boxes


def _mirrored(boxes: NDArray[Float], size: tuple[int, int], orientation: int) -> NDArray[Float]:
    """Mirrored in the turned frame, whose (width, height) is ``size``."""
    x1, y1, x2, y2 = boxes.T
    if orientation in _MIRRORS_X:
        x1, x2 = size[0] - x2, size[0] - x1
    if orientation in _MIRRORS_Y:
        y1, y2 = size[1] - y2, size[1] - y1
    return np.stack([x1, y1, x2, y2], axis=1)
