"""What detectors answer with."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

FULL_LEVELS = (3, 4, 5, 6, 7)
"""Pyramid levels of a full-size view: strides 8 to 128."""
HALF_LEVELS = (2, 3, 4, 5, 6)
"""Pyramid levels of the half-size view: one lower, so that grids match (our design)."""


@dataclass(frozen=True, slots=True)
class Regions:
    """A detector's raw answers on a batch, one row a region: FCOS's locations, RetinaNet's anchors, those of Faster
    R-CNN's first stage (of one class: an object), and of its second stage the regions of interest.

    Levels come in order, each row-major; regions of interest have no order.

    Attributes:
        logits: float [batch, regions, classes], one sigmoid a class (no background logit); with ``softmax`` one more,
            the background, last.
        boxes: float [batch, regions, 4], xyxy in pixels of the view.
        quality: float [batch, regions] logits (FCOS centerness), or None.
        points: float [regions, 2], x and y of the region's centre in pixels of the view; of regions of interest, which
            are other ones in each image, [batch, regions, 2].
        strides: float [regions], or [batch, regions], pixels of the view.
        valid: bool [batch, regions], False where the centre lies in padding.
        per_cell: regions of one cell of a level, which follow each other (FCOS: 1; else the anchors of a cell).
        anchors: float [regions, 4], xyxy in pixels of the view, or None where there are none; of regions of interest,
            which stand for them, [batch, regions, 4].
        deltas: float [batch, regions, 4], from the anchors to the boxes, or None; of regions of interest those of
            every class, [batch, regions, classes, 4].
        softmax: whether the logits are those of one softmax, the background among them.
        maps: of a first stage, the pyramid's maps that the second looks at, each [batch, channels, height, width].
        content: of a first stage, int64 [batch, 2], width and height of each view's content, pixels; or None.
    """

    logits: Tensor
    boxes: Tensor
    quality: Tensor | None
    points: Tensor
    strides: Tensor
    valid: Tensor
    per_cell: int = 1
    anchors: Tensor | None = None
    deltas: Tensor | None = None
    softmax: bool = False
    maps: tuple[Tensor, ...] = ()
    content: Tensor | None = None

    def __len__(self) -> int:
        return int(self.logits.shape[1])

    def images(self, part: slice) -> Regions:
        """The answers for some images of the batch."""
        own = {name: getattr(self, name) for name in ("logits", "boxes", "quality", "valid", "deltas", "content")}
        own |= {name: getattr(self, name) for name in ("points", "strides", "anchors") if self.points.dim() == 3}
        rows = {name: value[part] for name, value in own.items() if value is not None}
        return replace(self, **rows, maps=tuple(feature[part] for feature in self.maps))

    def scores(self) -> Tensor:
        """float [batch, regions, classes]: the probability of each class, the background's left out."""
        return self.logits.softmax(dim=-1)[..., :-1] if self.softmax else self.logits.sigmoid()


@dataclass(frozen=True, slots=True)
class Detections:
    """Final detections of one image, best first.

    Attributes:
        boxes: float32 [n, 4], xyxy pixels, in the frame the producer states (view, or original image).
        scores: float32 [n] in 0..1.
        labels: int64 [n], 0-based classes.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return int(self.scores.shape[0])
