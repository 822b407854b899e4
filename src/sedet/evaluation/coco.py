"""COCO's detection metrics of an annotation table, in percent points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sedet.data.table import AnnotationTable
from sedet.detectors.regions import Detections
from sedet.errors import SedetError
from sedet.text import printable

if TYPE_CHECKING:
    from rich.table import Table

COCO_AREA_RANGES = (32.0, 96.0)
"""Sides of the squares, in original pixels, that part small from medium and medium from large objects."""
MAX_DETECTIONS = 100
"""Detections of one class in one image that are counted, best first."""
IOU_THRESHOLDS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
EVERY_AREA = (0.0, 1e10)


@dataclass(frozen=True)
class Metrics:
    """COCO's metrics in percent points (0..100); nan where there is nothing to measure them by.

    Attributes:
        ap: mean over classes and IoU .50:.95.
        ap50: at IoU .50.
        ap75: at IoU .75.
        ap_small: over small objects only, by the outline's area where the annotations state it (COCO's ``area``),
            else the box's.
        ap_medium: over those of medium size.
        ap_large: over large ones.
        ar100: recall with 100 detections an image and class, mean over classes and IoU .50:.95.
        per_class: class name -> ``ap``, ``ap50`` and ``boxes`` (ground truth, without ignored ones).
        images: how many were judged by.
        boxes: how many were judged by; crowd and difficult ones are not counted.
        area_ranges: sides in original pixels that part small, medium and large.
        best_score: the score to cut at for the best F1, where it was looked for.
        labels: what the detections are worth as labels, where it was asked for; see
            ``sedet.evaluation.pseudo_labels``.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar100: float
    per_class: dict[str, dict[str, float]]
    images: int
    boxes: int
    area_ranges: tuple[float, float] = COCO_AREA_RANGES
    best_score: float | None = None
    labels: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: nan becomes None."""

        def plain(value: float) -> float | None:
            return None if math.isnan(value) else value

        return {
            **{name: plain(getattr(self, name)) for name in SUMMARY},
            "per_class": {
                name: {key: plain(value) for key, value in row.items()} for name, row in self.per_class.items()
            },
            "images": self.images,
            "boxes": self.boxes,
            "area_ranges": list(self.area_ranges),
            "best_score": self.best_score,
        }

    def table(self, title: str = "") -> Table:
        """A rich table: one row over all, one a class, and the sizes below."""
        from rich.markup import escape
        from rich.table import Table

        def show(value: float) -> str:
            return "–" if math.isnan(value) else f"{value:.1f}"

        small, large = self.area_ranges
        table = Table(
            title=escape(printable(title)) or None,
            caption=f"{self.images} images. Small is under {small:g}², large over {large:g}² px. "
            "–: no objects to measure by."
            + (f" Best F1 at score {self.best_score:g}." if self.best_score is not None else ""),
        )
        table.add_column("")
        for heading in ("AP", "AP50", "AP75", "boxes"):
            table.add_column(heading, justify="right")
        table.add_row(
            "all",
            show(self.ap),
            show(self.ap50),
            show(self.ap75),
            str(self.boxes),
            style="bold",
            end_section=True,
        )
        for name, row in self.per_class.items():
            table.add_row(escape(printable(name)), show(row["ap"]), show(row["ap50"]), "", str(int(row["boxes"])))
        table.add_section()
        for name in ("small", "medium", "large"):
            table.add_row(name, show(getattr(self, f"ap_{name}")))
        table.add_row("recall (AR100)", show(self.ar100))
        return table


SUMMARY = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100")
"""Names of the metrics that are one number each."""


def area_bounds(area_ranges: tuple[float, float] = COCO_AREA_RANGES) -> dict[str, tuple[float, float]]:
    """Square pixels from, to (both included, as in COCO) of each size.

    Raises:
        SedetError: the two sides are not positive and rising.
    """
    small, large = area_ranges
    if not 0 < small < large:
        raise SedetError(f"area ranges {area_ranges}: give two sides in pixels, the smaller one first")
    return {
        "all": EVERY_AREA,
        "small": (0.0, small**2),
        "medium": (small**2, large**2),
        "large": (large**2, EVERY_AREA[1]),
    }


def coco_metrics(
    table: AnnotationTable,
    detections: Sequence[Detections],
    area_ranges: tuple[float, float] = COCO_AREA_RANGES,
) -> Metrics:
    """Judge detections by COCO's rules. Prints nothing.

    Args:
        table: the ground truth; crowd and difficult objects are ignore regions (``iscrowd``).
        detections: one entry an image of ``table``, xyxy in pixels of the original image.
        area_ranges: sides in original pixels that part small, medium and large objects.

    Raises:
        SedetError: not one entry an image, a label without a class, or a box or score that is not finite.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    arrays = as_arrays(table, detections)
    bounds = area_bounds(area_ranges)
    counts = table.class_counts()
    if not len(table) or not table.classes:
        return _empty(table, area_ranges)

    def quiet(*_: object) -> None:
        pass

    def dataset(annotations: list[dict[str, Any]]) -> Any:
        # Image, category and annotation ids start at 1: the evaluator takes 0 for "unmatched".
        return COCO(
            {
                "images": [{"id": i + 1} for i in range(len(table))],
                "categories": [{"id": c + 1, "name": name} for c, name in enumerate(table.classes)],
                "annotations": [{"id": n + 1, **a} for n, a in enumerate(annotations)],
            },
            print_function=quiet,
        )

    truth = [
        _annotation(i, box, label, ignored=bool(ignored)) | {"area": float(area)}
        for i, o in enumerate(table.objects)
        for box, label, ignored, area in zip(o.boxes.astype(np.float64), o.labels, o.ignored, o.areas, strict=True)
    ]
    found = [
        _annotation(i, box, label) | {"score": float(score)}
        for i, (boxes, scores, labels) in enumerate(arrays)
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]
    evaluator = COCOeval_faster(dataset(truth), dataset(found), "bbox", print_function=quiet)
    evaluator.params.maxDets = [MAX_DETECTIONS]
    evaluator.params.areaRng = [list(b) for b in bounds.values()]
    evaluator.params.areaRngLbl = list(bounds)
    evaluator.params.iouThrs = IOU_THRESHOLDS
    evaluator.evaluate()
    evaluator.accumulate()

    shape = (len(IOU_THRESHOLDS), 101, len(table.classes), len(bounds))
    # precision [IoU, recall, class, area], recall [IoU, class, area]; the evaluator's -1 means "no objects"
    precision = _missing_to_nan(np.asarray(evaluator.eval["precision"]).reshape(shape))
    recall = _missing_to_nan(np.asarray(evaluator.eval["recall"]).reshape(shape[0], *shape[2:]))
    at50, at75 = 0, 5
    return Metrics(
        ap=_mean(precision[..., 0]),
        ap50=_mean(precision[at50, ..., 0]),
        ap75=_mean(precision[at75, ..., 0]),
        ap_small=_mean(precision[..., 1]),
        ap_medium=_mean(precision[..., 2]),
        ap_large=_mean(precision[..., 3]),
        ar100=_mean(recall[..., 0]),
        per_class={
            name: {
                "ap": _mean(precision[:, :, c, 0]),
                "ap50": _mean(precision[at50, :, c, 0]),
                "boxes": int(counts[c]),
            }
            for c, name in enumerate(table.classes)
        },
        images=len(table),
        boxes=int(counts.sum()),
        area_ranges=area_ranges,
    )


Arrays = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]
"""Boxes [n, 4] xyxy, scores [n], labels [n] of one image."""


def as_arrays(table: AnnotationTable, detections: Sequence[Detections]) -> list[Arrays]:
    """Detections as NumPy arrays, checked against the table they are judged by."""
    if len(detections) != len(table):
        raise SedetError(
            f"{len(detections)} images with detections for {len(table)} images of {table.source}: "
            "give one entry an image, in the table's order"
        )
    arrays: list[Arrays] = []
    for image, d in zip(table.images, detections, strict=True):
        boxes = d.boxes.detach().cpu().numpy().astype(np.float64).reshape(-1, 4)
        scores = d.scores.detach().cpu().numpy().astype(np.float64)
        labels = d.labels.detach().cpu().numpy().astype(np.int64)
        if not len(boxes) == len(scores) == len(labels):
            raise SedetError(f"{image.name}: {len(boxes)} boxes, {len(scores)} scores, {len(labels)} labels")
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise SedetError(f"{image.name}: a detection is not finite; the detector's weights are damaged")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(table.classes):
            raise SedetError(
                f"{image.name}: a detection has class {labels.min()} or {labels.max()}, "
                f"but {table.source} has {len(table.classes)} classes"
            )
        arrays.append((boxes, scores, labels))
    return arrays


def _annotation(image: int, box: NDArray[np.float64], label: int, ignored: bool = False) -> dict[str, Any]:
    x1, y1, x2, y2 = box.tolist()
    width, height = x2 - x1, y2 - y1
    return {
        "image_id": image + 1,
        "category_id": int(label) + 1,
        "bbox": [x1, y1, width, height],
        "area": width * height,
        "iscrowd": int(ignored),
    }


def _missing_to_nan(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(values < 0, np.nan, values)


def _mean(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) * 100 if present.size else math.nan


def _empty(table: AnnotationTable, area_ranges: tuple[float, float]) -> Metrics:
    per_class = {name: {"ap": math.nan, "ap50": math.nan, "boxes": 0} for name in table.classes}
    summary: dict[str, Any] = dict.fromkeys(SUMMARY, math.nan)
    return Metrics(**summary, per_class=per_class, images=len(table), boxes=0, area_ranges=area_ranges)
