"""Large images in tiles: small objects keep their pixels. supervision's InferenceSlicer cuts and joins."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sedet.detectors.regions import Detections
from sedet.errors import ConfigError, SedetError
from sedet.predictor import Pixels, Predictor

if TYPE_CHECKING:
    import supervision

JOIN = 0.5
"""Of two boxes of a class the less certain goes if they share more than this part of the smaller one: a box that a
tile's edge has cut lies within the whole one."""
TILES_AT_ONCE = 8


class TiledPredictor(Predictor):
    """A detector that looks at images in overlapping tiles, each resized to its image size, and at the whole.

    Attributes:
        tile: side of a tile, pixels of the image.
        overlap: share of a tile that it has in common with the next.
        whole: whether the whole image is looked at too, for objects larger than a tile.
    """

    full_size = True

    def __init__(self, original: Predictor, tile: int, overlap: float = 0.2, whole: bool = True) -> None:
        """
        Raises:
            ConfigError: a tile under 32 pixels, or an overlap that is not from 0 to 0.9.
            SedetError: supervision is not installed.
        """
        if tile < 32:
            raise ConfigError(f"tiles must be 32 pixels or more, not {tile}")
        if not 0 <= overlap <= 0.9:
            raise ConfigError(f"tiles must overlap by 0 to 0.9 of their side, not {overlap:g}")
        need_supervision()
        self.__dict__.update(original.__dict__)
        self.tile, self.overlap, self.whole = tile, overlap, whole

    def detect(self, images: Sequence[Pixels], score_threshold: float, max_detections: int) -> list[Detections]:
        """As ``Predictor.detect``; of a larger image each tile can have ``max_detections``."""
        return [self.in_tiles(image, score_threshold, max_detections) for image in images]

    def in_tiles(self, image: Pixels, score_threshold: float, max_detections: int) -> Detections:
        """Detections of one image: those of its tiles, and of the whole, joined class by class."""
        plain = super().detect
        if max(image.shape[:2]) <= self.tile:
            return plain([image], score_threshold, max_detections)[0]
        sv = need_supervision()

        def look(tiles: list[Any]) -> list[supervision.Detections]:
            found = plain([np.ascontiguousarray(t) for t in tiles], score_threshold, max_detections)
            return [as_supervision(one) for one in found]

        slicer = sv.InferenceSlicer(
            look,
            slice_wh=self.tile,
            overlap_wh=int(self.tile * self.overlap),
            overlap_filter="none",
            batch_size=TILES_AT_ONCE,
        )
        parts = [slicer(image)]
        if self.whole:
            parts.append(as_supervision(plain([image], score_threshold, max_detections)[0]))
        merged = sv.Detections.merge([part for part in parts if len(part)])
        if not len(merged):
            return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
        merged = merged.with_nms(threshold=JOIN, overlap_metric=sv.OverlapMetric.IOS)
        order = np.argsort(-merged.confidence, kind="stable")
        boxes, scores, labels = merged.xyxy[order], merged.confidence[order], merged.class_id[order]
        return Detections(
            torch.from_numpy(boxes.astype(np.float32)),
            torch.from_numpy(scores.astype(np.float32)),
            torch.from_numpy(labels.astype(np.int64)),
        )


def as_supervision(found: Detections) -> supervision.Detections:
    sv = need_supervision()
    return sv.Detections(
        xyxy=found.boxes.numpy().reshape(-1, 4),
        confidence=found.scores.numpy(),
        class_id=found.labels.numpy().astype(int),
    )


def need_supervision() -> Any:
    """
    Raises:
        SedetError: supervision is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it tells that OpenCV is not installed, which is not needed here
            import supervision
    except ImportError as error:
        raise SedetError("tiles need supervision: pip install supervision") from error
    return supervision
