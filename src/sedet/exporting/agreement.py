"""Whether an exported detector says what the one it was made from says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchvision.ops import box_iou

from sedet.detectors.regions import Detections

LEAST_IOU = 0.9
"""Two boxes of a class that overlap less are not the same detection."""


@dataclass(frozen=True)
class Tolerance:
    """What may differ.

    Attributes:
        score: largest difference of two scores of the same detection.
        missing: largest share of detections without a counterpart.
    """

    score: float
    missing: float


TOLERANCES = {"fp32": Tolerance(0.01, 0.01), "fp16": Tolerance(0.05, 0.05)}
"""By precision, on the same pixels; int8 has none, what it costs is told in AP. Detections without a counterpart are
allowed for, because where two boxes overlap as much as non-maximum suppression just allows, the last digit decides
which of them stays."""

RESIZED_TOLERANCES = {"fp32": Tolerance(0.05, 0.05), "fp16": Tolerance(0.1, 0.1)}
"""By precision, on images that the file resizes itself: a pixel may round to the neighbouring level."""


@dataclass(frozen=True)
class Agreement:
    """How detections agree with those of the original.

    Attributes:
        images: images looked at.
        detections: detections of the original that were looked for, and the other way round.
        missing: those without a counterpart of the same class that overlaps by ``LEAST_IOU``.
        score: largest difference between the scores of two counterparts.
        pixels: largest distance between the sides of two counterparts, original pixels.
    """

    images: int
    detections: int
    missing: int
    score: float
    pixels: float

    def within(self, tolerance: Tolerance) -> bool:
        """Whether something was compared, and differs by no more than this."""
        few = self.missing <= tolerance.missing * self.detections
        return self.detections > 0 and few and self.score <= tolerance.score

    def __str__(self) -> str:
        missing = f"{self.missing} of {self.detections} detections without a counterpart"
        return f"{missing}, scores differ by up to {self.score:.4f}, sides by {self.pixels:.1f} pixels"


def agreement(
    original: Sequence[Detections],
    exported: Sequence[Detections],
    score: float,
    most: int | None = None,
    margin: float = 0.02,
) -> Agreement:
    """Compare detections image by image, in both directions.

    Args:
        original, exported: made with a lowest score of at most ``score``.
        score: detections from ``score + margin`` on are looked for, in all of the other's.
        most: detections an image can have; where the other has as many, those it has no room for are not looked for.
    """
    count, missing, by_score, by_pixels = 0, 0, 0.0, 0.0
    for first, second in zip(original, exported, strict=True):
        for wanted, given in ((first, second), (second, first)):
            lowest = score
            if most is not None and len(given.scores) >= most:
                lowest = max(score, float(given.scores.min()))
            sure = wanted.scores >= lowest + margin
            boxes, scores, labels = wanted.boxes[sure], wanted.scores[sure], wanted.labels[sure]
            count += len(boxes)
            if not len(boxes) or not len(given.boxes):
                missing += len(boxes)
                continue
            overlap = box_iou(boxes, given.boxes) * (labels[:, None] == given.labels[None])
            best, index = overlap.max(dim=1)
            same = best >= LEAST_IOU
            missing += int((~same).sum())
            if same.any():
                index = index[same]
                by_score = max(by_score, float((scores[same] - given.scores[index]).abs().max()))
                by_pixels = max(by_pixels, float((boxes[same] - given.boxes[index]).abs().max()))
    return Agreement(len(original), count, missing, by_score, by_pixels)
