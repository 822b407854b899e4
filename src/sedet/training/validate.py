"""Judge a detector on an annotation table: batches in, COCO metrics out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from sedet.data.images import read_image
from sedet.data.table import AnnotationTable, ImageEntry
from sedet.detectors.build import Detector
from sedet.detectors.inference import detect
from sedet.detectors.regions import Detections
from sedet.errors import ImageError
from sedet.evaluation.coco import COCO_AREA_RANGES, Metrics, coco_metrics
from sedet.evaluation.pseudo_labels import best_row, label_figures, label_sweep
from sedet.training.memory import is_out_of_memory


class Judge:
    """Evaluates detectors on one table; keeps its shrunk images in memory (up to a limit) between evaluations.

    Images that cannot be read are left out of the metrics, as by ``sedet eval``; one that was broken once stays out,
    so that all of a judge's scores are over the same images.

    Args:
        table: ground truth.
        image_size: long side the detector sees, pixels.
        batch: images a forward.
        cache: memory for decoded images, GiB.
        area_ranges: sides that part small, medium and large, original pixels.
    """

    def __init__(
        self,
        table: AnnotationTable,
        image_size: int,
        batch: int = 16,
        cache: float = 1.0,
        area_ranges: tuple[float, float] = COCO_AREA_RANGES,
    ) -> None:
        self.table, self.image_size, self.batch = table, image_size, batch
        self.area_ranges = area_ranges
        self._left = int(cache * 2**30)
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self._unread: set[int] = set()

    @property
    def unread(self) -> list[str]:
        """Paths of the images that could not be read so far."""
        return [str(self.table.images[i].path) for i in sorted(self._unread)]

    def detections(self, model: Detector) -> list[Detections]:
        """One an image of the table, boxes in its original pixels; none for an image that cannot be read."""
        results: list[Detections] = []
        while (start := len(results)) < len(self.table):
            part = range(start, min(start + self.batch, len(self.table)))
            try:
                results += list(self._batch(model, part))
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or len(part) == 1:
                    raise
            self.batch = (len(part) + 1) // 2  # outside of the handler, which holds the failed batch's memory
            torch.cuda.empty_cache()
        return results

    def judge(self, model: Detector, find_score: bool = True) -> Metrics:
        """Metrics over the images that can be read; ``find_score``: with the score to cut at and ``labels``."""
        found = self.detections(model)
        read = [i for i in range(len(self.table)) if i not in self._unread]
        table, judged = self.table.subset(read), [found[i] for i in read]
        metrics = coco_metrics(table, judged, area_ranges=self.area_ranges)
        if not find_score:
            return metrics
        rows = label_sweep(table, judged)
        best = best_row(rows)
        return replace(metrics, best_score=best.threshold if best else None, labels=label_figures(rows))

    def _batch(self, model: Detector, indices: range) -> Iterator[Detections]:
        images = [self._image(i) for i in indices]
        found = iter(detect(model, [image for image in images if image is not None], self.image_size))
        for i, image in zip(indices, images, strict=True):
            if image is None:
                yield Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
                continue
            detections, entry = next(found), self.table.images[i]
            height, width = image.shape[:2]
            scale = torch.tensor([_width(entry, width) / width, _height(entry, height) / height] * 2)
            yield Detections(detections.boxes * scale, detections.scores, detections.labels)

    def _image(self, index: int) -> NDArray[np.uint8] | None:
        image = self._cache.get(index)
        if index in self._unread:
            return None
        if image is None:
            entry = self.table.images[index]
            try:
                # twice the size and no smaller: the view's own resize then decides the pixels
                image = read_image(entry.path, use_exif=entry.use_exif, max_side=math.ceil(2 * self.image_size))
            except ImageError:
                self._unread.add(index)
                return None
            if image.nbytes <= self._left:
                self._left -= image.nbytes
                self._cache[index] = image
        return image


def _width(entry: ImageEntry, decoded: int) -> int:
    return entry.width or decoded


def _height(entry: ImageEntry, decoded: int) -> int:
    return entry.height or decoded
