"""COCO's matching and AP once more, looped and in plain Python: what analyses are held to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sedet.data.table import AnnotationTable
from sedet.detectors.regions import Detections

Box = Sequence[float]


def iou(a: Box, b: Box, crowd: bool = False) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    area = (a[2] - a[0]) * (a[3] - a[1])
    return w * h / (area if crowd else area + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


class Found:
    """One detection, with what became of it."""

    def __init__(self, image: int, box: Box, score: float, label: int) -> None:
        self.image, self.box, self.score, self.label = image, box, score, label
        self.object: int | None = None
        self.ignored = False


class Truth:
    """One object that counts."""

    def __init__(self, image: int, box: Box, label: int, area: float) -> None:
        self.image, self.box, self.label, self.area = image, box, label, area
        self.score: float | None = None  # of the detection that found it


def match(
    table: AnnotationTable, detections: Sequence[Detections], least: float = 0.5
) -> tuple[list[Found], list[Truth]]:
    """All detections (image by image, best first) and all objects that count, matched; ``object`` indexes these."""
    found: list[Found] = []
    objects: list[Truth] = []
    for i, (o, d) in enumerate(zip(table.objects, detections, strict=True)):
        crowds = []
        own: list[int] = []
        for box, label, ignored, area in zip(
            o.boxes.tolist(), o.labels.tolist(), o.ignored.tolist(), o.areas.tolist(), strict=True
        ):
            if ignored:
                crowds.append((box, label))
            else:
                own.append(len(objects))
                objects.append(Truth(i, box, label, area))
        rows = list(zip(d.boxes.tolist(), d.scores.tolist(), d.labels.tolist(), strict=True))
        for box, score, label in sorted(rows, key=lambda row: -row[1]):
            f = Found(i, box, score, label)
            best = least
            for n in own:
                t = objects[n]
                if t.label == label and t.score is None and iou(box, t.box) >= best:
                    best, f.object = iou(box, t.box), n
            if f.object is not None:
                objects[f.object].score = score
            else:
                f.ignored = any(c == label and iou(box, b, crowd=True) >= least for b, c in crowds)
            found.append(f)
    return found, objects


def ap(rows: Sequence[tuple[float, bool]], objects: int) -> float:
    """101-point AP of (score, right), in percent points; equal scores in the order given."""
    true, points = 0, []
    for n, (_, right) in enumerate(sorted(rows, key=lambda row: -row[0]), 1):
        true += right
        points.append((true / objects, true / n) if objects else (0.0, 0.0))
    total = 0.0
    for level in np.linspace(0, 1, 101).tolist():
        total += max((p for r, p in points if r >= level), default=0.0)
    return 100 * total / 101 if objects else math.nan
