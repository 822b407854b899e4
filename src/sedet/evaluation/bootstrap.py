"""How sure a difference between two detectors is: paired bootstrap over the images both were judged on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from sedet.data.chance import generator
from sedet.data.table import AnnotationTable
from sedet.detectors.regions import Detections
from sedet.errors import SedetError
from sedet.evaluation.coco import COCO_AREA_RANGES, IOU_THRESHOLDS, area_bounds
from sedet.evaluation.matching import ClassRecords, average_precision, per_image_records

MetricName = Literal["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]


Pair = tuple[AnnotationTable, Sequence[Detections], Sequence[Detections]]
"""Two detectors' answers on the same images."""


class Difference(NamedTuple):
    """Second minus first detector in percent points, with the bounds of the 95 % interval."""

    difference: float
    low: float
    high: float


def paired_bootstrap(
    table: AnnotationTable,
    detections_a: Sequence[Detections],
    detections_b: Sequence[Detections],
    draws: int = 1000,
    seed: int = 0,
    metric: MetricName = "ap",
    area_ranges: tuple[float, float] = COCO_AREA_RANGES,
) -> Difference:
    """Difference b - a of a COCO metric with its 95 % percentile interval over resampled images.

    Detections are matched once; a draw counts each image as often as it was drawn. Classes without an object
    in a draw are left out of that draw's mean, as COCO does.

    Args:
        table: the ground truth.
        detections_a, detections_b: one entry an image, xyxy in pixels of the original image.
        draws: resamples of the images.
        seed: base of the draws; the same images are drawn for the same seed, number of images and of draws.
        metric: a metric's name, as in ``Metrics``.
        area_ranges: sides in original pixels that part the sizes.

    Raises:
        SedetError: an unknown metric, no draws, or no objects to measure by.
    """
    if draws < 1:
        raise SedetError(f"{draws} draws: the bootstrap needs at least one")
    thresholds, area = _measure(metric, area_ranges)
    records = [per_image_records(table, detections, thresholds, area) for detections in (detections_a, detections_b)]
    images = len(table)
    plain = [mean_ap(r, np.ones((1, images)))[0] for r in records]
    if np.isnan(plain).any():
        raise SedetError(f"{table.source}: there are no objects to measure {metric} by")
    weights = generator(seed, "bootstrap").multinomial(images, np.full(images, 1 / images), draws)
    a, b = (mean_ap(r, weights.astype(np.float64)) for r in records)
    # A draw without any object has no AP; it says nothing about the difference.
    low, high = np.nanpercentile(b - a, [2.5, 97.5])
    return Difference(float(plain[1] - plain[0]), float(low), float(high))


def joint_bootstrap(
    pairs: Sequence[Pair],
    draws: int = 1000,
    metric: MetricName = "ap",
    sizes: tuple[float, float] = (32.0, 96.0),
    same_images: bool = True,
) -> dict[str, Any] | None:
    """Mean difference over pairs (second minus first), with its 95 % percentile interval over resampled images.

    With one pair this is :func:`paired_bootstrap`, draw for draw.

    Returns:
        ``difference``, ``low``, ``high``, and ``each``, the difference of every pair; None where there are no objects
        to measure by.

    Raises:
        SedetError: an unknown metric.
    """
    thresholds, area = _measure(metric, sizes)
    plain: list[float] = []
    drawn: list[NDArray[np.float64]] = []
    for number, (table, a, b) in enumerate(pairs):
        images = len(table)
        name = ("bootstrap",) if same_images or number == 0 else ("bootstrap", number)
        weights = generator(0, *name).multinomial(images, np.full(images, 1 / images), draws).astype(np.float64)
        first, second = (per_image_records(table, d, thresholds, area) for d in (a, b))
        plain.append(float((mean_ap(second, np.ones((1, images))) - mean_ap(first, np.ones((1, images))))[0]))
        drawn.append(mean_ap(second, weights) - mean_ap(first, weights))
    if np.isnan(plain).any():
        return None
    low, high = np.nanpercentile(np.mean(drawn, axis=0), [2.5, 97.5])
    return {
        "difference": round(float(np.mean(plain)), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
        "each": [round(v, 3) for v in plain],
    }


def _measure(metric: str, sizes: tuple[float, float]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """The IoU thresholds and the bounds of the area that a metric counts by."""
    if metric not in get_args(MetricName):
        raise SedetError(f"there is no metric '{metric}' to compare by; use one of {get_args(MetricName)}")
    thresholds = {"ap50": IOU_THRESHOLDS[:1], "ap75": IOU_THRESHOLDS[5:6]}.get(metric, IOU_THRESHOLDS)
    return thresholds, area_bounds(sizes)[metric.removeprefix("ap_") if "_" in metric else "all"]


def mean_ap(records: Sequence[ClassRecords], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean AP over classes and thresholds in percent points.

    Args:
        records: one entry a class.
        weights: float64 [draws, images], how often each image counts.

    Returns:
        float64 [draws]; nan where no object counts.
    """
    total, present = np.zeros(len(weights)), np.zeros(len(weights))
    for r in records:
        if not r.objects.any():
            continue
        values = average_precision(r, weights).mean(axis=1)
        seen = ~np.isnan(values)
        total[seen] += values[seen]
        present += seen
    mean = np.full(len(weights), np.nan)
    np.divide(100 * total, present, out=mean, where=present > 0)
    return mean
