"""Ranking images by how much a human label would help. The formulas are this project's own.

The priority of an image is the mean, over the measures there are (``sedet.labeling.measures``), of its percentile:
p = (images with a smaller value + half of the others with an equal one) / (images - 1).

What is alike need not be labelled twice. So images are taken greedily (weighted k-center): next comes the one with
the largest value p * d / 2, d being the Euclidean distance of its pooled features, which have length 1, to the
nearest image taken before (d / 2 = 1 for the first, and at most 1). The value of images taken never rises.

Memory is bounded: only the CANDIDATES images of the highest priority take part, the others follow by priority; and
after PICKS images taken (or as many as are exported) the rest is ordered by the value it has then.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sedet.labeling.parts import whole
from sedet.labeling.shards import MEASURES, read_features, read_shard

CANDIDATES = 50_000
PICKS = 1_000
MOST_PICKS = 10_000

COLUMNS = ("rank", "image", "value", "priority", *MEASURES, "diversity", "boxes")


def percentiles(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Where each value lies among all, float64 [n] in 0..1: 0 for the smallest, 1 for the largest, 0.5 if all equal."""
    n = len(values)
    if n < 2:
        return np.full(n, 0.5)
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, "left")
    equal = np.searchsorted(ordered, values, "right") - below
    return np.asarray((below + (equal - 1) / 2) / (n - 1), dtype=np.float64)


def priorities(measures: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    """Mean of the percentiles, float64 [n]. A measure that is nan for an image does not count."""
    usable = [values for values in measures if len(values) and not np.isnan(values).any()]
    if not usable:
        return np.full(len(measures[0]) if measures else 0, 0.5)
    return np.asarray(np.mean([percentiles(values) for values in usable], axis=0), dtype=np.float64)


def greedy_order(
    priority: NDArray[np.float64], features: NDArray[np.floating], picks: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Weighted k-center, see the module.

    Args:
        priority: float64 [n].
        features: [n, dimensions]; of no dimensions: all are equally far from each other.
        picks: images taken one by one.

    Returns:
        int64 [n], the order; and float64 [n], by image, the diversity d / 2 it had when it was taken (in the end).
    """
    n = len(priority)
    diversity = np.ones(n)
    taken = np.zeros(n, dtype=bool)
    order: list[int] = []
    points = features.astype(np.float32)
    for _ in range(min(picks, n)):
        value = np.where(taken, -1.0, priority * diversity)
        best = int(np.argmax(value))
        taken[best] = True
        order.append(best)
        if points.shape[1]:
            away = np.linalg.norm(points - points[best], axis=1).astype(np.float64) / 2
            diversity = np.where(taken, diversity, np.minimum(diversity, away))
    rest = np.flatnonzero(~taken)
    rest = rest[np.lexsort((-priority[rest], -(priority * diversity)[rest]))]
    return np.concatenate([np.array(order, dtype=np.int64), rest]), diversity


def rank_images(out: Path, shards: int, shard_size: int, classes: Sequence[str], top: int | None) -> list[int]:
    """Rank the labelled images of a folder and write ``ranking.csv``, best first. Unreadable images are left out.

    Returns:
        The first ``top`` images by their number in the list (all if it is None), best first.
    """
    number, boxes = [], []
    columns: dict[str, list[NDArray[np.float32]]] = {name: [] for name in MEASURES}
    for shard in range(shards):
        records = [(i, r) for i, r in enumerate(read_shard(out, shard, len(classes))) if r.error is None]
        number.append(np.array([shard * shard_size + i for i, _ in records], dtype=np.int64))
        boxes.append(np.array([len(r.boxes) for _, r in records], dtype=np.int32))
        for name in MEASURES:
            found = [r.measures.get(name, math.nan) for _, r in records]
            columns[name].append(np.array(found, dtype=np.float32))
    numbers, counts = np.concatenate(number), np.concatenate(boxes)
    measures = {name: np.concatenate(values) for name, values in columns.items()}
    priority = priorities(list(measures.values()))
    order, diversity = _order(out, numbers, priority, shard_size, top)
    _write(out, numbers, counts, measures, priority, order, diversity)
    return [int(i) for i in numbers[order[:top]]]


def _order(
    out: Path, numbers: NDArray[np.int64], priority: NDArray[np.float64], shard_size: int, top: int | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows in rank order, and the diversity of each (nan for those that did not take part)."""
    by_priority = np.argsort(-priority, kind="stable")
    candidates = np.sort(by_priority[:CANDIDATES])
    rows = []
    wanted = numbers[candidates]
    for shard in np.unique(wanted // shard_size):
        features = read_features(out, int(shard))
        inside = wanted[wanted // shard_size == shard] % shard_size
        rows.append(np.zeros((len(inside), 0), np.float16) if features is None else features[inside])
    wide = max((r.shape[1] for r in rows), default=0)
    table = np.concatenate([r if r.shape[1] == wide else np.zeros((len(r), wide), np.float16) for r in rows])
    picks = min(max(top or 0, PICKS), MOST_PICKS)
    order, found = greedy_order(priority[candidates], table, picks)
    diversity = np.full(len(priority), np.nan)
    diversity[candidates] = found
    return np.concatenate([candidates[order], by_priority[CANDIDATES:]]), diversity


def _write(
    out: Path,
    numbers: NDArray[np.int64],
    counts: NDArray[np.int32],
    measures: dict[str, NDArray[np.float32]],
    priority: NDArray[np.float64],
    order: NDArray[np.int64],
    diversity: NDArray[np.float64],
) -> None:
    listing, path = out / "images.txt", out / "ranking.csv"
    offsets = np.fromiter(_offsets(listing), dtype=np.int64)  # a list of them would take 5 times as much
    with whole(path) as part, part.open("w", encoding="utf-8", newline="", errors="backslashreplace") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        with listing.open("rb") as names:
            for rank, row in enumerate(order.tolist(), start=1):
                names.seek(int(offsets[numbers[row]]))
                d = diversity[row]
                value = priority[row] * (0 if math.isnan(d) else d)
                figures = [value, priority[row], *(measures[name][row] for name in MEASURES), d]
                texts = ["" if math.isnan(v) else f"{v:.5f}" for v in figures]
                rows.writerow([rank, json.loads(names.readline()), *texts, counts[row]])
        file.flush()
        os.fsync(file.fileno())


def _offsets(path: Path) -> Iterator[int]:
    position = 0
    with path.open("rb") as file:
        for line in file:
            yield position
            position += len(line)
