"""What a person changed: boxes before and after, matched. The rules are this project's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from sedet.labeling.measures import SAME_OBJECT, greedy_pairs, pairwise_iou

KEPT_IOU = 0.95
KEPT_PIXELS = 1.0
"""A box counts as kept from this IoU on, or if no side moved by more than so many pixels: tools round."""


@dataclass(frozen=True, slots=True)
class BoxChanges:
    """Boxes by what became of them.

    A box before and one after are the same object if their IoU is 0.5 or more, matched greedily, first within a
    class, then between classes. ``relabelled`` ones may have moved too.
    """

    kept: int = 0
    moved: int = 0
    relabelled: int = 0
    added: int = 0
    removed: int = 0

    def __add__(self, other: BoxChanges) -> BoxChanges:
        one, two = asdict(self), asdict(other)
        return BoxChanges(**{key: one[key] + two[key] for key in one})

    @property
    def any(self) -> bool:
        return bool(self.moved or self.relabelled or self.added or self.removed)

    def __str__(self) -> str:
        return ", ".join(f"{count} {key}" for key, count in asdict(self).items())


def matches(
    before: NDArray[np.floating], names: Sequence[str], after: NDArray[np.floating], new: Sequence[str]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs (before, after) of one class, and of different classes."""
    iou = pairwise_iou(before, after)
    equal = np.array([[a == b for b in new] for a in names], dtype=bool).reshape(iou.shape)
    same = greedy_pairs(np.where(equal, iou, 0.0), SAME_OBJECT)
    rest = np.where(equal, 0.0, iou)
    for i, j in same:
        rest[i, :] = 0
        rest[:, j] = 0
    return same, greedy_pairs(rest, SAME_OBJECT)


def kept_pairs(
    before: NDArray[np.floating], after: NDArray[np.floating], same: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Those of the pairs of one class whose box stayed where it was."""
    iou = pairwise_iou(before, after)
    return [
        (i, j)
        for i, j in same
        if iou[i, j] >= KEPT_IOU or np.abs(np.asarray(before[i]) - np.asarray(after[j])).max() <= KEPT_PIXELS
    ]


def compare(
    before: NDArray[np.floating], names: Sequence[str], after: NDArray[np.floating], new: Sequence[str]
) -> BoxChanges:
    """What became of the boxes of one image.

    Args:
        before, after: [n, 4] and [m, 4], xyxy pixels.
        names, new: their classes.
    """
    same, other = matches(before, names, after, new)
    kept = len(kept_pairs(before, after, same))
    paired = len(same) + len(other)
    return BoxChanges(kept, len(same) - kept, len(other), len(new) - paired, len(names) - paired)
