"""What makes learning from a detector's own answers hard, measured on its detections and the truth.

Lost objects (false negatives), boxes that lie badly, objects of every size, and classes of unequal frequency. What
needs the network itself, its answers at two sizes and the weights on its regions, is in two_sizes.py.

Everything returned is plain: numbers (nan where there is nothing to measure by), lists and dicts with names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sedet.data.table import AnnotationTable, Objects
from sedet.detectors.regions import Detections
from sedet.evaluation.bootstrap import mean_ap
from sedet.evaluation.coco import COCO_AREA_RANGES, area_bounds
from sedet.evaluation.matching import ClassRecords, per_image_records
from sedet.evaluation.pairs import ImagePairs
from sedet.evaluation.pseudo_labels import HARD

THRESHOLDS = tuple(i / 20 for i in range(1, 20))
PLACED = 0.1
"""A box lies on an object of its class from this IoU on, however badly."""
WELL = 0.75
"""IoU from which on a box lies well (COCO's stricter one)."""
SIZE_EDGES = tuple(2.0 ** (k / 2) for k in range(-14, 1))
"""Bounds of half-octaves of an object's side, sqrt(width * height), as a share of the image's long side."""


def false_negatives(
    table: AnnotationTable,
    pairs: Sequence[ImagePairs],
    thresholds: Sequence[float] = THRESHOLDS,
    hard: Sequence[float] = HARD,
    area_ranges: tuple[float, float] = COCO_AREA_RANGES,
) -> dict[str, Any]:
    """The share of objects that get no pseudo label when detections are cut at a score.

    Args:
        table: the ground truth.
        pairs: its detections matched, one entry an image.
        thresholds: scores to cut at.
        hard: the ones to give precision, recall and counts for.
        area_ranges: sides in original pixels that part small, medium and large.

    Returns:
        ``objects``; ``thresholds``; ``lost``: share of objects lost at each threshold, for ``all``, ``small``,
        ``medium``, ``large``; ``lost_by_class``: the same by class name; ``objects_by_size``, ``objects_by_class``;
        ``hard``: rows of ``threshold``, ``precision``, ``recall``, ``lost_objects``, ``labels_per_image``.
    """
    found = _joined([p.scores_of_objects() for p in pairs])
    areas, labels = _joined([p.areas for p in pairs]), _joined([p.true_labels for p in pairs])

    def lost(which: NDArray[np.bool_]) -> list[float]:
        own = found[which]
        return [float((own < _cut(t)).mean()) if len(own) else math.nan for t in thresholds]

    sizes = {
        name: (areas >= low) & (areas <= high)  # both included, as in COCO
        for name, (low, high) in area_bounds(area_ranges).items()
    }
    classes = {name: labels == c for c, name in enumerate(table.classes)}
    scores = _joined([p.scores[~p.ignored] for p in pairs])
    right = _joined([(p.matched >= 0)[~p.ignored] for p in pairs])
    every = _joined([p.scores for p in pairs])
    rows = []
    for threshold in hard:
        kept, missing = scores >= _cut(threshold), int((found < _cut(threshold)).sum())
        rows.append(
            {
                "threshold": float(threshold),
                "precision": float(right[kept].mean()) if kept.any() else math.nan,
                "recall": 1 - missing / len(found) if len(found) else math.nan,
                "lost_objects": missing,
                "labels_per_image": float((every >= _cut(threshold)).sum()) / len(pairs) if pairs else math.nan,
            }
        )
    return {
        "objects": len(found),
        "thresholds": list(thresholds),
        "lost": {name: lost(which) for name, which in sizes.items()},
        "objects_by_size": {name: int(which.sum()) for name, which in sizes.items()},
        "lost_by_class": {name: lost(which) for name, which in classes.items()},
        "objects_by_class": {name: int(which.sum()) for name, which in classes.items()},
        "hard": rows,
    }


def localization(pairs: Sequence[ImagePairs], cut: float, bins: int = 18, score_bins: int = 10) -> dict[str, Any]:
    """How well boxes lie: the IoU of each with the object of its class that it overlaps most.

    Boxes that overlap none by PLACED, and those of crowd and difficult objects, are left out: they are no matter of
    place. Several boxes on one object all count.

    Args:
        pairs: matched detections, one entry an image.
        cut: lowest score of a pseudo box, for the histogram and the numbers over all.
        bins: of the histogram, from PLACED to 1.
        score_bins: equally wide, from 0 to 1.

    Returns:
        ``cut``, ``boxes``, ``mean_iou``, ``share_well`` (IoU of WELL and more), ``share_poor`` (IoU under 0.5);
        ``histogram``: ``edges`` and ``counts``; ``by_score``: rows of ``from``, ``to``, ``boxes``, ``mean_iou``,
        ``share_well``.
    """
    scores, best = [], []
    for p in pairs:
        iou = np.where(p.own_class, p.iou, 0.0).max(axis=1, initial=0.0)
        placed = (iou >= PLACED) & ~p.ignored
        scores.append(p.scores[placed])
        best.append(iou[placed])
    score, value = _joined(scores), _joined(best)
    pseudo = value[score >= _cut(cut)]
    counts, edges = np.histogram(pseudo, bins=bins, range=(PLACED, 1.0))
    place = np.clip((score * score_bins).astype(np.int64), 0, score_bins - 1)
    rows = []
    for n in range(score_bins):
        here = value[place == n]
        row = {"from": n / score_bins, "to": (n + 1) / score_bins, "boxes": len(here)}
        rows.append(row | {"mean_iou": _mean(here), "share_well": _mean(here >= WELL)})
    return {
        "cut": cut,
        "boxes": len(pseudo),
        "mean_iou": _mean(pseudo),
        "share_well": _mean(pseudo >= WELL),
        "share_poor": _mean(pseudo < 0.5),
        "histogram": {"edges": edges.round(6).tolist(), "counts": counts.tolist()},
        "by_score": rows,
    }


def by_object_size(table: AnnotationTable, detections: Sequence[Detections], cut: float) -> list[dict[str, Any]]:
    """AP and recall over the objects of one size, in half-octaves of their side relative to the image's long side.

    By COCO's rules for sizes: objects of other sizes, and detections of other sizes without an object, do not count.

    Args:
        table: the ground truth.
        detections: one entry an image, xyxy in pixels of the original image.
        cut: score that ``recall_cut`` is measured at.

    Returns:
        Rows of ``from``, ``to`` (shares of the long side; the first bin from 0), ``objects``, ``ap`` (IoU .50:.95) and
        ``ap50`` in percent points, ``recall`` and ``recall_cut`` (IoU 0.5; of all detections, and of those from
        ``cut`` on) in 0..1.
    """
    table, detections = _in_long_sides(table, detections)
    areas = _joined([o.areas[~o.ignored] for o in table.objects])
    rows = []
    for low, high in size_bins():
        bounds = (low**2, math.inf if high >= 1 else math.nextafter(high**2, 0))
        objects = int(((areas >= bounds[0]) & (areas <= bounds[1])).sum())
        row: dict[str, Any] = {"from": low, "to": high, "objects": objects}
        row |= dict.fromkeys(("ap", "ap50", "recall", "recall_cut"), math.nan)
        if objects:
            records = per_image_records(table, detections, area=bounds)
            once = np.ones((1, len(table)))
            right = sum(int(r.correct[0].sum()) for r in records)
            above = sum(int((r.correct[0] & (r.scores >= _cut(cut))).sum()) for r in records)
            row["ap"] = float(mean_ap(records, once)[0])
            row["ap50"] = float(mean_ap([_at_first(r) for r in records], once)[0])
            row["recall"], row["recall_cut"] = right / objects, above / objects
        rows.append(row)
    return rows


def size_bins() -> list[tuple[float, float]]:
    """From (included) and to (left out, but for the last) of each bin of relative sizes."""
    return list(zip((0.0, *SIZE_EDGES[:-1]), SIZE_EDGES, strict=True))


def size_bin(sides: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin that each relative side falls in, int64."""
    return np.minimum(np.searchsorted(SIZE_EDGES, sides, side="right"), len(SIZE_EDGES) - 1).astype(np.int64)


def class_frequencies(table: AnnotationTable) -> dict[str, Any]:
    """Objects of each class, crowd and difficult ones left out.

    Returns:
        ``classes``: by name ``objects``, ``share`` of all objects, ``images`` that hold any; and ``most_to_least``:
        how many times as many objects the most frequent class has as the rarest that has any.
    """
    counts = table.class_counts()
    images = np.zeros(len(table.classes), np.int64)
    for o in table.objects:
        images[np.unique(o.labels[~o.ignored])] += 1
    total, present = int(counts.sum()), counts[counts > 0]
    return {
        "classes": {
            name: {
                "objects": int(counts[c]),
                "share": float(counts[c] / total) if total else math.nan,
                "images": int(images[c]),
            }
            for c, name in enumerate(table.classes)
        },
        "most_to_least": float(present.max() / present.min()) if len(present) else math.nan,
    }


def _in_long_sides(
    table: AnnotationTable, detections: Sequence[Detections]
) -> tuple[AnnotationTable, list[Detections]]:
    """Truth and detections in shares of their image's long side; IoU does not change. Areas are those of boxes."""
    objects, found = [], []
    for image, o, d in zip(table.images, table.objects, detections, strict=True):
        side = max(image.width, image.height, 1)
        boxes = (o.boxes.astype(np.float64) / side).astype(np.float32)
        objects.append(Objects(boxes, o.labels, o.crowd, o.difficult, np.full(len(o), np.nan)))
        found.append(Detections(d.boxes.to(torch.float64) / side, d.scores, d.labels))
    return replace(table, objects=tuple(objects)), found


def _at_first(records: ClassRecords) -> ClassRecords:
    """The records at their first threshold alone."""
    return replace(records, correct=records.correct[:1], counted=records.counted[:1])


def _cut(threshold: float) -> float:
    """In the scores' own precision: a score of 0.7 is not below a threshold of 0.7."""
    return float(np.float32(threshold))


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0)
