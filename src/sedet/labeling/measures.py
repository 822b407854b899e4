"""How much a human label of an image would help: measures of one image, from detections alone.

The formulas are this project's own. All lie in 0..1; larger means that a label helps more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sedet.detectors.regions import Detections

MOST_UNCERTAIN = 10
"""Detections of an image that its uncertainty looks at."""
SAME_OBJECT = 0.5
"""IoU from which on two boxes of a class can be the same object."""


def uncertainty(scores: NDArray[np.float64], cut: float) -> float:
    """How unsure a detector is of an image: mean of the 10 largest u, over fewer detections of all; 0 without any.

    A detection of score s has u = s / cut below the cut and (1 - s) / (1 - cut) above it: 1 where the decision to
    keep it is open, 0 where it is clear.

    Args:
        scores: float64 [n] in 0..1, also of detections below the cut.
        cut: the score from which on detections are kept.
    """
    if not len(scores):
        return 0.0
    cut = min(max(cut, 1e-3), 1 - 1e-3)
    u = np.where(scores < cut, scores / cut, (1 - scores) / (1 - cut))
    return float(np.sort(u)[::-1][:MOST_UNCERTAIN].mean())


def disagreement(a: Detections, b: Detections) -> float:
    """How far two answers on one image are apart: 1 - 2 sum(IoU * min(s, t)) / (sum(s) + sum(t)).

    The sum goes over pairs of one class, matched greedily by IoU from 0.5 on, each box once; s and t are their
    scores. 0 where both say the same (also nothing at all), 1 where no box pairs.
    """
    s, t = a.scores.numpy().astype(np.float64), b.scores.numpy().astype(np.float64)
    total = float(s.sum() + t.sum())
    if total <= 0:
        return 0.0
    iou = pairwise_iou(a.boxes.numpy(), b.boxes.numpy())
    iou[a.labels.numpy()[:, None] != b.labels.numpy()[None, :]] = 0
    shared = sum(iou[i, j] * min(s[i], t[j]) for i, j in greedy_pairs(iou, SAME_OBJECT))
    return float(min(1.0, max(0.0, 1 - 2 * shared / total)))


def pairwise_iou(a: NDArray[np.generic], b: NDArray[np.generic]) -> NDArray[np.float64]:
    """float64 [n, m] of boxes [n, 4] and [m, 4], xyxy; 0 where a box has no area."""
    one = np.asarray(a, dtype=np.float64).reshape(-1, 1, 4)
    two = np.asarray(b, dtype=np.float64).reshape(1, -1, 4)
    sides = np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2])
    common = sides.clip(min=0).prod(axis=-1)
    areas = [(x[..., 2:] - x[..., :2]).clip(min=0).prod(axis=-1) for x in (one, two)]
    union = areas[0] + areas[1] - common
    return np.where(union > 0, common / np.where(union > 0, union, 1), 0.0)


def greedy_pairs(iou: NDArray[np.float64], least: float) -> list[tuple[int, int]]:
    """Pairs (row, column) by falling IoU from ``least`` on, each row and column once; of equal ones the first."""
    rows, columns = np.nonzero(iou >= least)
    order = np.argsort(-iou[rows, columns], kind="stable")
    used: tuple[set[int], set[int]] = (set(), set())
    pairs = []
    for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            pairs.append((i, j))
    return pairs
