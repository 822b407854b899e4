"""What a training step is given: targets of one view, and batches of views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

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
        return _moved([self], device)[0]


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
        weak_half: uint8 [batch, 3, side / 2, side / 2], the weak view at exactly half size; None where ``weak`` is.
        weak_double: uint8 [k, 3, 2 * side, 2 * side], the weak view of some images at double size; None where it is
            not asked for (``StepData``'s ``largest_zoom``) and for labelled images.
        doubled: int64 [k], ascending: which images these are; None where ``weak_double`` is.
    """

    strong: Tensor
    half: Tensor
    weak: Tensor | None
    content: Tensor
    erased: Tensor
    targets: tuple[Targets, ...] | None
    names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    weak_half: Tensor | None = None
    weak_double: Tensor | None = None
    doubled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.strong)

    def to(self, device: torch.device) -> Batch:
        moved = self._each(lambda images: images.to(device, non_blocking=True))
        return moved if moved.targets is None else replace(moved, targets=_moved(moved.targets, device))

    def first(self, count: int) -> Batch:
        """The first images of the batch."""
        targets = None if self.targets is None else self.targets[:count]
        part = replace(self._each(lambda images: images[:count]), targets=targets, names=self.names[:count])
        if self.doubled is not None and self.weak_double is not None:
            large = int((self.doubled < count).sum())
            part = replace(part, weak_double=self.weak_double[:large], doubled=self.doubled[:large])
        return part

    def pin_memory(self) -> Batch:
        """Called by the loader when it feeds a GPU."""
        return self._each(lambda images: images.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with each of its own tensors (not the targets') changed."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {name: change(value) for name, value in given.items() if isinstance(value, Tensor)}
        return replace(self, **changed)


def _moved(targets: Sequence[Targets], device: torch.device) -> tuple[Targets, ...]:
    """On the device, in three copies whatever the batch; each image's tensors are views of them."""

    def split(tensors: list[Tensor]) -> tuple[Tensor, ...]:
        joint = torch.cat(tensors).to(device, non_blocking=True)
        return torch.split(joint, [len(t) for t in tensors])

    columns = (split([getattr(t, f.name) for t in targets]) for f in fields(Targets))
    return tuple(Targets(*one) for one in zip(*columns, strict=True))


def pixels(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 0..1."""
    return images.float() / 255.0
