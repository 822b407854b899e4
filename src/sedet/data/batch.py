"""What a training step is given: targets of one view, and batches of views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Targets:
    """The objects of one view.

    Attributes:
        boxes: float32 [n, 4], xyxy in pixels of the view, clipped to its content.
        labels: int64 [n], 0-based classes.
        ignore: float32 [k, 4], regions that are neither object nor background (crowd, difficult, erased).
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor

    def halved(self) -> Targets:
        """For the half-size view."""
        return Targets(self.boxes / 2, self.labels, self.ignore / 2)

    def to(self, device: torch.device) -> Targets:
        return Targets(
            self.boxes.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.ignore.to(device, non_blocking=True),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Views of some images, padded to one canvas; weak and strong view share their geometry.

    Attributes:
        strong: uint8 [batch, 3, side, side], RGB.
        half: uint8 [batch, 3, side / 2, side / 2], the strong view at exactly half size.
        weak: uint8 [batch, 3, side, side], or None where no method needs it (labelled images).
        content: int64 [batch, 2], width and height of the full view's content, pixels.
        erased: float32 [batch, 3, 4], erased rectangles of the full view, xyxy pixels; unused rows are zero.
        targets: one an image, in the full view's pixels; None for unlabelled images.
        names: the images' names, for messages.
        skipped: names of images that could not be read and were replaced by others.
        double: uint8 [batch, 3, 2 * side, 2 * side], the weak view at double size, or None.
    """

    strong: Tensor
    half: Tensor
    weak: Tensor | None
    content: Tensor
    erased: Tensor
    targets: tuple[Targets, ...] | None
    names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    double: Tensor | None = None

    def __len__(self) -> int:
        return len(self.strong)

    def to(self, device: torch.device) -> Batch:
        return Batch(
            strong=self.strong.to(device, non_blocking=True),
            half=self.half.to(device, non_blocking=True),
            weak=None if self.weak is None else self.weak.to(device, non_blocking=True),
            content=self.content.to(device, non_blocking=True),
            erased=self.erased.to(device, non_blocking=True),
            targets=None if self.targets is None else tuple(t.to(device) for t in self.targets),
            names=self.names,
            skipped=self.skipped,
            double=None if self.double is None else self.double.to(device, non_blocking=True),
        )

    def first(self, count: int) -> Batch:
        """The first images of the batch."""
        return Batch(
            strong=self.strong[:count],
            half=self.half[:count],
            weak=None if self.weak is None else self.weak[:count],
            content=self.content[:count],
            erased=self.erased[:count],
            targets=None if self.targets is None else self.targets[:count],
            names=self.names[:count],
            skipped=self.skipped,
            double=None if self.double is None else self.double[:count],
        )

    def pin_memory(self) -> Batch:
        """Called by the loader when it feeds a GPU."""
        return Batch(
            strong=self.strong.pin_memory(),
            half=self.half.pin_memory(),
            weak=None if self.weak is None else self.weak.pin_memory(),
            content=self.content.pin_memory(),
            erased=self.erased.pin_memory(),
            targets=self.targets,
            names=self.names,
            skipped=self.skipped,
            double=None if self.double is None else self.double.pin_memory(),
        )


def pixels(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 0..1."""
    return images.float() / 255.0
