"""Batches for each training step: a function of (seed, step), whatever the number of workers or processes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from sedet.config import ViewConfig
from sedet.data import chance
from sedet.data.batch import Batch
from sedet.data.images import read_image
from sedet.data.table import AnnotationTable, Objects
from sedet.data.views import (
    View,
    canvas_side,
    half_view,
    stack_views,
    strong_view,
    view_targets,
    weak_view,
)
from sedet.errors import DataError, ImageError, SedetError


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a training set; ``objects`` is None in the unlabelled pool.

    ``size`` is the original width and height, (0, 0) where unknown.
    """

    path: Path
    name: str
    size: tuple[int, int]
    use_exif: bool
    objects: Objects | None


def labeled_samples(table: AnnotationTable) -> list[Sample]:
    return [
        Sample(image.path, image.name, (image.width, image.height), image.use_exif, objects)
        for image, objects in zip(table.images, table.objects, strict=True)
    ]


def unlabeled_samples(paths: Sequence[Path]) -> list[Sample]:
    return [Sample(path, str(path), (0, 0), True, None) for path in paths]


class ImageCache:
    """Decoded images, shrunk to what training can use, in memory up to a limit."""

    def __init__(self, limit: float, max_side: int) -> None:
        self._left = int(limit * 2**30)
        self._max_side = max_side
        self._images: dict[Path, NDArray[np.uint8]] = {}

    def read(self, sample: Sample) -> NDArray[np.uint8]:
        """uint8 [height, width, 3], RGB. Raises ImageError."""
        image = self._images.get(sample.path)
        if image is None:
            image = read_image(sample.path, use_exif=sample.use_exif, max_side=self._max_side)
            if image.nbytes <= self._left:
                self._left -= image.nbytes
                self._images[sample.path] = image
        return image


class StepData(Dataset[tuple[Batch, Batch | None]]):
    """The batches of each micro-step: labelled, and unlabelled from the end of the burn-in on.

    The stream of each set is endless: shuffled passes, so that a small set never ends an epoch early and one
    image is enough. Process ``rank`` of ``world`` takes its share of each joint batch.

    Args:
        labeled, unlabeled: the samples; ``unlabeled`` may be empty.
        batch, unlabeled_batch: images of each kind in a micro-step, over all processes.
        image_size: long side of a view at zoom 1, pixels.
        unlabeled_from: first micro-step with unlabelled images.
        largest_zoom: unlabelled batches hold ``weak_double`` as well, for a teacher that looks at half, full and double
            size, of the images that are shown no larger than at this zoom then; 0: of none, and no such batch.
        labeled_weak: whether labelled batches hold ``weak`` as well; its objects are those of the strong view.
        cache: memory for decoded images, GiB, of all ``workers`` together.
    """

    def __init__(
        self,
        labeled: Sequence[Sample],
        unlabeled: Sequence[Sample],
        *,
        batch: int,
        unlabeled_batch: int,
        image_size: int,
        views: ViewConfig,
        seed: int,
        unlabeled_from: int,
        largest_zoom: float = 0.0,
        labeled_weak: bool = False,
        cache: float = 0.0,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.labeled, self.unlabeled = labeled, unlabeled
        self.batch, self.unlabeled_batch = batch, unlabeled_batch
        self.image_size, self.views, self.seed = image_size, views, seed
        self.unlabeled_from = unlabeled_from
        self.largest_zoom, self.labeled_weak = largest_zoom, labeled_weak
        self.rank, self.world = rank, world
        self.cache = cache
        self._cache_limit = cache / max(1, workers)  # each worker process fills its own
        self._caches: dict[str, ImageCache] = {}

    def forget(self) -> None:
        """Begin with empty caches."""
        self._caches = {}

    @property
    def doubled_share(self) -> float:
        """Expected share of unlabelled images that the teacher is shown at double size too."""
        low, high = self.views.scale_min, self.views.scale_max
        if 2 * low > self.largest_zoom:
            return 0.0
        if 2 * high <= self.largest_zoom:
            return 1.0
        return math.log(self.largest_zoom / 2 / low) / math.log(high / low)

    def in_parts(self, parts: int) -> StepData:
        """The same images, each batch in so many micro-steps (of a data set whose batches were whole)."""
        data = copy.copy(self)
        data.batch, data.unlabeled_batch = self.batch // parts, self.unlabeled_batch // parts
        data.unlabeled_from = self.unlabeled_from * parts
        return data

    def __getitem__(self, step: int) -> tuple[Batch, Batch | None]:
        labeled = self._read("labeled", self.labeled, self.batch, step)
        unlabeled = None
        if self.unlabeled and self.unlabeled_batch and step >= self.unlabeled_from:
            unlabeled = self._read("unlabeled", self.unlabeled, self.unlabeled_batch, step - self.unlabeled_from)
        return labeled, unlabeled

    def _read(self, purpose: str, samples: Sequence[Sample], batch: int, step: int) -> Batch:
        share = batch // self.world
        views, targets, names, skipped = [], [], [], []
        weak: list[View] = []
        doubled: dict[int, View] = {}
        labelled = samples[0].objects is not None
        for slot in range(self.rank * share, (self.rank + 1) * share):
            position = step * batch + slot
            sample, image, broken = self._pick(samples, purpose, position)
            skipped += broken
            names.append(sample.name)
            original = sample.size if sample.size[0] else None
            rng = partial(chance.generator, self.seed, purpose, "geometry", position)
            weak.append(weak_view(image, self.image_size, self.views, rng(), original))
            if not labelled and 2 * weak[-1].zoom <= self.largest_zoom + 1e-9:
                doubled[len(weak) - 1] = weak_view(image, self.image_size, self.views, rng(), original, factor=2)
            views.append(strong_view(weak[-1], self.views, self.seed, purpose, position))
            if sample.objects is not None:
                targets.append(view_targets(views[-1], sample.objects, self.views))
        side = canvas_side(self.image_size)
        strong, content = stack_views(views, side)
        half, _ = stack_views([half_view(v) for v in views], side // 2)
        return Batch(
            strong=strong,
            half=half,
            weak=None if labelled and not self.labeled_weak else stack_views(weak, side)[0],
            content=content,
            erased=_pad_erased(views),
            targets=tuple(targets) if labelled else None,
            names=tuple(names),
            skipped=tuple(skipped),
            weak_half=None if labelled else stack_views([half_view(v) for v in weak], side // 2)[0],
            weak_double=None if labelled or not self.largest_zoom else stack_views([*doubled.values()], 2 * side)[0],
            doubled=None if labelled or not self.largest_zoom else torch.tensor([*doubled], dtype=torch.int64),
        )

    def _pick(
        self, samples: Sequence[Sample], purpose: str, position: int
    ) -> tuple[Sample, NDArray[np.uint8], list[str]]:
        """The sample at a position of the stream; the next in the set that can be read, where it cannot be."""
        if purpose not in self._caches:
            # One a purpose: what SED's double-size views need must not change the labelled images' pixels.
            zoom = max(1.0, self.views.scale_max)
            if purpose == "unlabeled":
                zoom = max(zoom, min(2 * zoom, self.largest_zoom))
            limit = self._cache_limit / (2 if self.unlabeled else 1)
            self._caches[purpose] = ImageCache(limit, math.ceil(self.image_size * zoom))
        index = chance.endless_index(self.seed, purpose, len(samples), position)
        broken: list[str] = []
        for offset in range(len(samples)):
            sample = samples[(index + offset) % len(samples)]
            try:
                return sample, self._caches[purpose].read(sample), broken
            except ImageError as error:
                broken.append(sample.name)
                wrong = error.what
        kind = "labelled" if purpose == "labeled" else "unlabelled"
        raise DataError(
            f"none of the {len(samples)} {kind} images can be read (the last tried: {wrong})",
            sample.path,
            "Replace them: sedet check tells what is wrong with each",
        )


def _pad_erased(views: Sequence[View]) -> torch.Tensor:
    erased = torch.zeros(len(views), 3, 4)
    for i, view in enumerate(views):
        erased[i, : len(view.erased)] = view.erased
    return erased


class _Steps(torch.utils.data.Sampler[int]):
    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return max(0, self.stop - self.start)


class _Reported(Dataset[tuple[Batch, Batch | None] | SedetError]):
    """Errors as items: one raised in a worker process would arrive with a traceback in its text."""

    def __init__(self, data: StepData) -> None:
        self.data = data

    def __getitem__(self, step: int) -> tuple[Batch, Batch | None] | SedetError:
        try:
            return self.data[step]
        except SedetError as error:
            return error


def step_loader(data: StepData, start: int, stop: int, workers: int, pin: bool) -> Iterator[tuple[Batch, Batch | None]]:
    """Micro-steps ``start`` to ``stop`` in order."""
    loader = DataLoader(
        _Reported(data),
        batch_size=None,
        sampler=_Steps(start, stop),
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=3 if workers else None,
        worker_init_fn=_one_thread if workers else None,
    )
    items = iter(loader)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            if not workers or str(error).startswith("Caught "):  # what a process met is told by it
                raise
            # A batch lies with the process that made it until it is fetched: killed in between, it took it along.
            raise RuntimeError("DataLoader worker (pid unknown) exited unexpectedly") from error
        if isinstance(item, SedetError):
            raise item
        yield item


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
