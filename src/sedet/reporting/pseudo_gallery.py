"""What a detector would label, on a few images of many: the gallery of pseudo labels (the template ``pseudo.html``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sedet.data.images import read_image
from sedet.data.table import AnnotationTable
from sedet.detectors.regions import Detections
from sedet.errors import ImageError
from sedet.predictor import Predictor
from sedet.reporting.draw import class_colour
from sedet.reporting.gallery import READ, Budget, Mark, Picture
from sedet.reporting.judged import from_score

SHOWN = 24
"""Images that are shown."""
LEAST_SCORE = 0.1
"""Pseudo labels below are not shown."""
SIDE = 360
"""Longest side of a picture, pixels."""
KEYS = 20
"""Classes whose colours are told."""


@dataclass(frozen=True)
class PseudoGallery:
    """Images with what a detector would label on them.

    Attributes:
        by: the detector, in words.
        classes: names by label; cut: score that the page cuts at before anybody moves its slider.
        images: how many there were to take the pictures from, evenly; judged: they have labels, and are judged by.
    """

    pictures: tuple[Picture, ...]
    by: str
    classes: tuple[str, ...]
    cut: float
    images: int
    judged: bool = False
    least: float = LEAST_SCORE

    @property
    def key(self) -> list[tuple[str, str]]:
        """Name and colour of the classes that the pictures show, the most frequent first."""
        counts = Counter(mark.label for picture in self.pictures for mark in picture.marks)
        return [(self.classes[label], _hex(label)) for label, _ in counts.most_common(KEYS)]


def unlabeled_gallery(
    predictor: Predictor, paths: Sequence[Path], budget: Budget, by: str = "the detector", batch: int = 8
) -> PseudoGallery:
    """What a detector finds on some unlabelled images.

    Args:
        paths: all there are; those that cannot be read are left out.
        by: the detector, in words.
        batch: images at a time.
    """
    pictures: list[Picture] = []
    places = _evenly(len(paths))
    for start in range(0, len(places), batch):
        read: list[tuple[Path, NDArray[np.uint8]]] = []
        for place in places[start : start + batch]:
            try:
                read.append((paths[place], read_image(paths[place], max_side=2 * predictor.image_size)))
            except ImageError:
                continue
        found = predictor.detect([pixels for _, pixels in read], LEAST_SCORE, 100) if read else []
        for (path, pixels), one in zip(read, found, strict=True):
            pictures += _pictured(path.name, pixels, one, predictor.classes, budget)
    return PseudoGallery(tuple(pictures), by, predictor.classes, predictor.score, len(paths))


def judged_gallery(
    table: AnnotationTable, detections: Sequence[Detections], cut: float, budget: Budget, by: str = "the detector"
) -> PseudoGallery:
    """What was found on some of the images that a detector is judged by; their labels are not drawn.

    Args:
        detections: one entry an image of ``table``, xyxy in pixels of the original image, labels into its classes.
        cut: score that the page cuts at first.
        by: the detector, in words.
    """
    pictures: list[Picture] = []
    for place in _evenly(len(table)):
        entry = table.images[place]
        try:
            pixels = read_image(entry.path, use_exif=entry.use_exif, max_side=READ)
        except ImageError:
            continue
        height, width = pixels.shape[:2]
        scale = torch.tensor([width / (entry.width or width), height / (entry.height or height)] * 2)
        found = from_score([detections[place]], LEAST_SCORE)[0]
        pictures += _pictured(entry.name, pixels, replace(found, boxes=found.boxes * scale), table.classes, budget)
    return PseudoGallery(tuple(pictures), by, table.classes, cut, len(table), judged=True)


def _evenly(count: int) -> list[int]:
    """At most SHOWN places of a row, evenly taken."""
    return [int(place) for place in np.unique(np.linspace(0, count - 1, min(count, SHOWN)).round())]


def _pictured(
    name: str, pixels: NDArray[np.uint8], found: Detections, classes: Sequence[str], budget: Budget
) -> list[Picture]:
    """One picture with boxes in its own pixels; none where the page has no room."""
    uri = budget.spend(pixels, SIDE)
    if uri is None:
        return []
    height, width = pixels.shape[:2]
    boxes = found.boxes.double().numpy().round(1).tolist()
    rows = zip(boxes, found.labels.tolist(), found.scores.tolist(), strict=True)
    marks = tuple(
        Mark((x1, y1, x2, y2), "found", f"{classes[label]} {score:.2f}", label, score, _hex(label))
        for (x1, y1, x2, y2), label, score in rows
    )
    return [Picture(uri, width, height, name, "", marks)]


def _hex(label: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*class_colour(label))
