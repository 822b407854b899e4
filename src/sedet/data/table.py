"""The annotation table: what every data format is read into, and the only thing the rest of the library sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sedet.errors import DataError


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image, not decoded.

    Attributes:
        path: absolute path of the file.
        name: the name its source gives it (relative, forward slashes); used in messages and outputs.
        width, height: pixels, after EXIF orientation if ``use_exif``. 0 if not known before decoding.
        id: the identifier in the source (COCO image id), or the index for formats that have none, and for COCO
            files whose ids are not all whole numbers.
        use_exif: whether the annotations refer to the image turned as its EXIF orientation says.
    """

    path: Path
    name: str
    width: int
    height: int
    id: int
    use_exif: bool = True


@dataclass(frozen=True, slots=True)
class Objects:
    """The annotated objects of one image.

    Attributes:
        boxes: float32 [n, 4], xyxy in pixels of the original image, corners (not inclusive pixel indices).
        labels: int64 [n], 0-based index into the table's classes.
        crowd: bool [n], regions of many objects (COCO ``iscrowd``): neither positives nor negatives.
        difficult: bool [n], Pascal VOC ``difficult``: ignored in evaluation, as crowd is.
        outlines: float64 [n], the area of the object's outline in square pixels of the original image, by which
            COCO tells small from large; nan where the source does not state it.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    outlines: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    @staticmethod
    def empty() -> Objects:
        return Objects.build([], [])

    @staticmethod
    def build(
        boxes: Sequence[Sequence[float]] | NDArray[np.float32],
        labels: Sequence[int] | NDArray[np.int64],
        crowd: Sequence[bool] | None = None,
        difficult: Sequence[bool] | None = None,
        outlines: Sequence[float] | None = None,
    ) -> Objects:
        """From plain sequences; ``crowd`` and ``difficult`` default to false, ``outlines`` to not stated."""
        n = len(labels)
        with np.errstate(over="ignore"):  # corners too large for float32 become infinite, which ``clean`` tells of
            corners = np.asarray(boxes, dtype=np.float32).reshape(n, 4)
        return Objects(
            corners,
            np.asarray(labels, dtype=np.int64),
            np.zeros(n, bool) if crowd is None else np.asarray(crowd, dtype=bool),
            np.zeros(n, bool) if difficult is None else np.asarray(difficult, dtype=bool),
            np.full(n, np.nan) if outlines is None else np.asarray(outlines, dtype=np.float64),
        )

    def select(self, keep: NDArray[np.bool_]) -> Objects:
        return Objects(self.boxes[keep], self.labels[keep], self.crowd[keep], self.difficult[keep], self.outlines[keep])

    @property
    def areas(self) -> NDArray[np.float64]:
        """float64 [n], square pixels of the original image: the outline's area where it is stated, else the box's."""
        sides = self.boxes[:, 2:].astype(np.float64) - self.boxes[:, :2]
        return np.where(np.isnan(self.outlines), sides[:, 0] * sides[:, 1], self.outlines)

    @property
    def ignored(self) -> NDArray[np.bool_]:
        """bool [n]: crowd or difficult."""
        return self.crowd | self.difficult


@dataclass(frozen=True, slots=True)
class AnnotationTable:
    """Images with their objects.

    Attributes:
        classes: class names; labels index into it.
        images, objects: one entry an image, in the same order.
        source: file or folder it was read from, for messages.
        category_ids: the source's category id of each class (COCO ids have gaps); 1.. where it has none.
        root: the folder image names are relative to.
    """

    classes: tuple[str, ...]
    images: tuple[ImageEntry, ...]
    objects: tuple[Objects, ...]
    source: str
    category_ids: tuple[int, ...]
    root: Path

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Iterable[int]) -> AnnotationTable:
        """The images at ``indices``, in that order, with all classes kept."""
        indices = list(indices)
        return replace(
            self,
            images=tuple(self.images[i] for i in indices),
            objects=tuple(self.objects[i] for i in indices),
        )

    def with_classes(self, names: Sequence[str]) -> AnnotationTable:
        """Pick and order classes; objects of other classes are dropped, their images stay.

        Raises:
            DataError: a name is not a class of this table; names the nearest one.
        """
        import difflib

        index = {name: i for i, name in enumerate(self.classes)}
        for name in names:
            if name not in index:
                near = difflib.get_close_matches(name, self.classes, n=1)
                if "," in name:
                    raise DataError(f"there is no class '{name}'", self.source, "Separate classes by spaces")
                hint = f"Did you mean '{near[0]}'?" if near else f"Its classes are: {', '.join(self.classes)}"
                raise DataError(f"there is no class '{name}'", self.source, hint)
        if len(set(names)) != len(names):
            raise DataError(f"a class is named twice in {', '.join(names)}", self.source, "Name each once")
        mapping = np.full(len(self.classes), -1, dtype=np.int64)
        for new, name in enumerate(names):
            mapping[index[name]] = new
        objects = []
        for o in self.objects:
            labels = mapping[o.labels]
            objects.append(replace(o, labels=labels).select(labels >= 0))
        ids = tuple(self.category_ids[index[name]] for name in names)
        return replace(self, classes=tuple(names), objects=tuple(objects), category_ids=ids)

    def class_counts(self) -> NDArray[np.int64]:
        """int64 [classes]: boxes of each class, crowd and difficult ones left out."""
        counts = np.zeros(len(self.classes), dtype=np.int64)
        for o in self.objects:
            counts += np.bincount(o.labels[~o.ignored], minlength=len(self.classes))
        return counts
