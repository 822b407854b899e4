"""Small tables and detections to judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sedet.data.table import AnnotationTable, ImageEntry, Objects
from sedet.detectors.regions import Detections


def make_table(objects: list[Objects], classes: int = 3) -> AnnotationTable:
    return AnnotationTable(
        classes=tuple(f"class {c}" for c in range(classes)),
        images=tuple(ImageEntry(Path(f"/{i}.jpg"), f"{i}.jpg", 400, 300, i) for i in range(len(objects))),
        objects=tuple(objects),
        source="made.json",
        category_ids=tuple(range(1, classes + 1)),
        root=Path("/"),
    )


def make_detections(boxes: object, scores: object, labels: object) -> Detections:
    return Detections(
        torch.as_tensor(np.asarray(boxes, np.float32).reshape(-1, 4)),
        torch.as_tensor(np.asarray(scores, np.float32)),
        torch.as_tensor(np.asarray(labels, np.int64)),
    )


NOTHING = make_detections([], [], [])


def random_case(
    seed: int, images: int = 25, classes: int = 5, crowd: float = 0.1, dense: int = 12
) -> tuple[AnnotationTable, list[Detections]]:
    """Objects of every size; detections are jittered objects and noise. The last class is absent."""
    rng = np.random.default_rng(seed)
    objects, detections = [], []
    for image in range(images):
        n = int(rng.integers(0, dense))
        corner, side = rng.uniform(0, 200, (n, 2)), np.exp(rng.uniform(1.5, 5.2, (n, 2)))
        boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
        labels = rng.integers(0, classes - 1, n)
        # every third image states its outlines, which fill some of their boxes
        outlines = np.prod(side, axis=1) * (0.2 + 0.8 * np.arange(n) / max(1, n)) if image % 3 == 0 else None
        objects.append(Objects.build(boxes, labels, rng.random(n) < crowd, rng.random(n) < crowd / 2, outlines))
        again = rng.integers(0, n, int(rng.integers(0, 2 * n))) if n else np.zeros(0, int)
        size = (boxes[again, 2:] - boxes[again, :2]).repeat(2, 0).reshape(-1, 4)
        near = boxes[again] + rng.normal(0, 0.12, (len(again), 4)) * size
        near = np.concatenate([np.minimum(near[:, :2], near[:, 2:]), np.maximum(near[:, :2], near[:, 2:])], 1)
        noise = rng.uniform(0, 200, (int(rng.integers(0, 6)), 4))
        noise[:, 2:] += noise[:, :2]
        found = np.concatenate([near, noise])
        classes_found = np.concatenate([labels[again], rng.integers(0, classes, len(noise))])
        scores = np.round(rng.random(len(found)), 2)  # rounded, so that there are ties
        detections.append(make_detections(found, scores, classes_found))
    return make_table(objects, classes), detections
