"""What kinds of errors a detector makes, and what each costs, after TIDE (Bolya et al., ECCV 2020).

A detection that stands for no object (right: same class, IoU >= t_f = 0.5, COCO's matching) is, with t_b = 0.1,

  localization  t_b <= IoU < t_f with an object of its class          right, were its box better
  class         IoU >= t_f with an object of another class            right, were its class another
  duplicate     IoU >= t_f with an object of its class, which a better one has
  background    IoU < t_b with every object
  both          anything else: t_b <= IoU < t_f with objects of other classes alone

and an object that no detection stands for is missed, unless a localization or class error points at it. A detection
that fits several is the first in this order, as in TIDE's code, where the object it points at is the one it overlaps
most. Detections of crowd and difficult objects are no errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedet.data.table import AnnotationTable
from sedet.detectors.regions import Detections
from sedet.evaluation.coco import MAX_DETECTIONS
from sedet.evaluation.matching import ClassRecords, average_precision
from sedet.evaluation.pairs import ImagePairs, pair

FOREGROUND, BACKGROUND = 0.5, 0.1
"""t_f and t_b."""
KINDS = ("localization", "class", "duplicate", "background", "both")
ERRORS = (*KINDS, "missed")
RIGHT, IGNORED = -1, -2


@dataclass(frozen=True, slots=True)
class ImageErrors:
    """The errors of one image.

    Attributes:
        kind: int64 [n], of each detection: its place in KINDS, or RIGHT, or IGNORED.
        target: int64 [n], the object that a localization or class error points at, else -1.
        missed: bool [objects].
    """

    kind: NDArray[np.int64]
    target: NDArray[np.int64]
    missed: NDArray[np.bool_]


def classify(p: ImagePairs) -> ImageErrors:
    """The errors of one image whose detections were matched at t_f."""
    kind = np.full(len(p.scores), KINDS.index("background"), np.int64)
    target = np.full(len(p.scores), -1, np.int64)
    if len(p.true_labels) and len(p.scores):
        own, other = np.where(p.own_class, p.iou, 0.0), np.where(p.own_class, 0.0, p.iou)
        best_own, best_other = own.max(axis=1), other.max(axis=1)
        # From the last of the order to the first, so that the first that fits stays.
        kind[p.iou.max(axis=1) >= BACKGROUND] = KINDS.index("both")
        kind[best_own >= FOREGROUND] = KINDS.index("duplicate")
        wrong_class = best_other >= FOREGROUND
        misplaced = (best_own >= BACKGROUND) & (best_own < FOREGROUND)
        kind[wrong_class], target[wrong_class] = KINDS.index("class"), other.argmax(axis=1)[wrong_class]
        kind[misplaced], target[misplaced] = KINDS.index("localization"), own.argmax(axis=1)[misplaced]
    kind[p.matched >= 0], kind[p.ignored] = RIGHT, IGNORED
    target[kind < 0] = -1
    missed = np.ones(len(p.true_labels), bool)
    missed[p.matched[p.matched >= 0]] = False
    missed[target[target >= 0]] = False
    return ImageErrors(kind, target, missed)


def error_breakdown(table: AnnotationTable, detections: Sequence[Detections], cut: float = 0.0) -> dict[str, Any]:
    """Counts of the errors, and the AP at IoU 0.5 that mending each kind alone would gain.

    Mending makes a localization or class error right if its object is not found yet and no better such error points at
    it, and else removes it; duplicate, background and both are removed; missed objects leave the truth. A gain below
    zero, which the 101 recalls AP is read at can bring about, counts as zero, as in TIDE.

    Args:
        table: the ground truth.
        detections: one entry an image, xyxy in pixels of the original image.
        cut: lowest score of the detections that ``counts_from_cut`` looks at, as if there were no others.

    Returns:
        ``ap50`` in percent points; ``counts`` and ``dap`` (percent points) by error, ``right``; ``cut``,
        ``counts_from_cut``, ``right_from_cut``. AP is nan without objects.
    """
    pairs = pair(table, detections, FOREGROUND, MAX_DETECTIONS)
    errors = [classify(p) for p in pairs]
    plain = _ap(table, pairs, errors, None)
    kept = [d.scores >= float(np.float32(cut)) for d in detections]
    above = [Detections(d.boxes[k], d.scores[k], d.labels[k]) for d, k in zip(detections, kept, strict=True)]
    errors_above = [classify(p) for p in pair(table, above, FOREGROUND, MAX_DETECTIONS)]
    return {
        "ap50": plain,
        "right": sum(int((e.kind == RIGHT).sum()) for e in errors),
        "counts": count(errors),
        "dap": {name: _gain(_ap(table, pairs, errors, name), plain) for name in ERRORS},
        "cut": cut,
        "right_from_cut": sum(int((e.kind == RIGHT).sum()) for e in errors_above),
        "counts_from_cut": count(errors_above),
    }


def count(errors: Sequence[ImageErrors]) -> dict[str, int]:
    """How many errors of each kind there are; missed objects too."""
    counts = {name: sum(int((e.kind == n).sum()) for e in errors) for n, name in enumerate(KINDS)}
    return counts | {"missed": sum(int(e.missed.sum()) for e in errors)}


def mended(p: ImagePairs, e: ImageErrors, name: str | None) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """An image's detections once the errors of one name are mended (None: none are).

    Returns:
        int64 [n], the class each then has, -1 removed (as ignored ones are); and bool [n], whether it is right.
    """
    labels, right = p.labels.copy(), e.kind == RIGHT
    labels[e.kind == IGNORED] = -1
    if name is None or name == "missed":
        return labels, right
    wrong = e.kind == KINDS.index(name)
    labels[wrong] = -1
    taken = set(p.matched[p.matched >= 0].tolist())
    for d in np.flatnonzero(e.target >= 0):  # best first
        goal = int(e.target[d])
        if goal in taken:
            continue
        taken.add(goal)  # also by an error of the other kind: it stays, and the object waits for it
        if wrong[d]:
            labels[d], right[d] = p.true_labels[goal], True
    return labels, right


def _ap(table: AnnotationTable, pairs: Sequence[ImagePairs], errors: Sequence[ImageErrors], name: str | None) -> float:
    """Mean AP at t_f over the classes that have objects, with the errors of one name mended, percent points."""
    counts = np.zeros((len(table.classes), len(pairs)), np.int64)
    labels, right, image = [], [], []
    for i, (p, e) in enumerate(zip(pairs, errors, strict=True)):
        gone = e.missed if name == "missed" else np.zeros(len(e.missed), bool)
        np.add.at(counts[:, i], p.true_labels[~gone], 1)
        label, correct = mended(p, e, name)
        labels.append(label)
        right.append(correct)
        image.append(np.full(len(label), i))
    if not pairs:
        return math.nan
    all_labels, all_right, all_images = np.concatenate(labels), np.concatenate(right), np.concatenate(image)
    scores = np.concatenate([p.scores for p in pairs])
    order = np.argsort(-scores, kind="stable")
    values = []
    for c, objects in enumerate(table.class_counts()):
        own = order[all_labels[order] == c]
        if not objects or not (len(own) or counts[c].any()):
            continue
        correct = all_right[own][None]
        records = ClassRecords(all_images[own], scores[own], correct, np.ones_like(correct), counts[c])
        # A class that is left with no object but has detections stays what it was, zero.
        values.append(float(np.nan_to_num(average_precision(records, np.ones((1, len(pairs))))[0, 0])))
    return 100 * float(np.mean(values)) if values else math.nan


def _gain(fixed: float, plain: float) -> float:
    """Percent points; nan where one of the two is."""
    gain = fixed - plain
    return gain if math.isnan(gain) else max(gain, 0.0)
