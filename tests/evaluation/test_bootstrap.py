"""The per-image matches, and the bootstrap that rests on them."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest

from sedet.data.table import AnnotationTable, Objects
from sedet.detectors.regions import Detections
from sedet.errors import SedetError
from sedet.evaluation.bootstrap import MetricName, mean_ap, paired_bootstrap
from sedet.evaluation.coco import IOU_THRESHOLDS, area_bounds, coco_metrics
from sedet.evaluation.matching import per_image_records

from .cases import NOTHING, make_detections, make_table, random_case


@pytest.mark.parametrize("seed", range(8))
def test_weights_of_one_reproduce_coco_ap(seed: int) -> None:
    table, detections = random_case(seed, crowd=0.2)
    metrics = coco_metrics(table, detections)
    for size, area in area_bounds().items():
        records = per_image_records(table, detections, area=area)
        expected = metrics.ap if size == "all" else getattr(metrics, f"ap_{size}")
        assert mean_ap(records, np.ones((1, len(table))))[0] == pytest.approx(expected, abs=1e-6, nan_ok=True)
    for t, expected in ((0, metrics.ap50), (5, metrics.ap75)):
        records = per_image_records(table, detections, IOU_THRESHOLDS[t : t + 1])
        assert mean_ap(records, np.ones((1, len(table))))[0] == pytest.approx(expected, abs=1e-6)


def test_of_objects_met_equally_well_the_last_is_taken() -> None:
    left, right, between = [0, 0, 100, 100], [20, 0, 120, 100], [10, 0, 110, 100]
    found = [make_detections([between, left], [0.9, 0.8], [0, 0])]
    values = []
    for boxes in ([left, right], [right, left]):
        table = make_table([Objects.build(boxes, [0, 0])], classes=1)
        values.append(mean_ap(per_image_records(table, found), np.ones((1, 1)))[0])
        assert values[-1] == pytest.approx(coco_metrics(table, found).ap, abs=1e-6)
    assert values[0] > values[1]


def untied(detections: list[Detections]) -> list[Detections]:
    """Scores that differ over all images: the order among equal ones depends on the order of images."""
    rng = np.random.default_rng(0)
    return [make_detections(d.boxes, rng.random(len(d)), d.labels) for d in detections]


@pytest.mark.parametrize("seed", range(4))
def test_weights_equal_copies_of_the_images(seed: int) -> None:
    table, detections = random_case(seed, images=12, crowd=0.2)
    detections = untied(detections)
    weights = np.random.default_rng(seed).multinomial(12, np.full(12, 1 / 12), 5).astype(float)
    values = mean_ap(per_image_records(table, detections), weights)
    for row, value in zip(weights, values, strict=True):
        drawn = np.repeat(np.arange(12), row.astype(int))
        expected = coco_metrics(table.subset(drawn), [detections[i] for i in drawn]).ap
        assert value == pytest.approx(expected, abs=1e-6)


def worse(table: AnnotationTable, detections: list[Detections], every: int) -> list[Detections]:
    return [NOTHING if i % every == 0 else d for i, d in enumerate(detections)]


@pytest.mark.parametrize("metric", get_args(MetricName))
def test_difference_is_that_of_the_metrics(metric: MetricName) -> None:
    table, a = random_case(5)
    b = worse(table, a, 3)
    result = paired_bootstrap(table, a, b, draws=40, metric=metric)
    expected = getattr(coco_metrics(table, b), metric) - getattr(coco_metrics(table, a), metric)
    assert result.difference == pytest.approx(expected, abs=1e-6)
    assert result.low <= result.high


def test_a_clear_loss_lies_wholly_below_zero_and_turns_with_the_order() -> None:
    table, a = random_case(7, images=40)
    b = worse(table, a, 2)
    forth = paired_bootstrap(table, a, b, draws=200)
    back = paired_bootstrap(table, b, a, draws=200)
    assert forth.low < forth.difference < forth.high < 0
    assert back == pytest.approx((-forth.difference, -forth.high, -forth.low))


def test_the_same_answers_differ_by_nothing_and_chance_follows_the_seed() -> None:
    table, a = random_case(8)
    assert paired_bootstrap(table, a, a, draws=20) == (0, 0, 0)
    b = worse(table, a, 4)
    assert paired_bootstrap(table, a, b, draws=20, seed=1) == paired_bootstrap(table, a, b, draws=20, seed=1)
    assert paired_bootstrap(table, a, b, draws=20, seed=1) != paired_bootstrap(table, a, b, draws=20, seed=2)


def test_draws_without_objects_are_left_out() -> None:
    box = [[0.0, 0.0, 50.0, 50.0]]
    table = make_table([Objects.build(box, [0]), Objects.empty(), Objects.empty()])
    good, none = make_detections(box, [0.9], [0]), NOTHING
    result = paired_bootstrap(table, [none, none, none], [good, none, none], draws=50)
    assert result == pytest.approx((100, 100, 100))


def test_nothing_to_measure_by_and_wrong_names_are_errors() -> None:
    table = make_table([Objects.empty()])
    with pytest.raises(SedetError, match="no objects to measure ap by"):
        paired_bootstrap(table, [NOTHING], [NOTHING])
    with pytest.raises(SedetError, match="no metric 'map'"):
        paired_bootstrap(table, [NOTHING], [NOTHING], metric="map")  # type: ignore[arg-type]
    with pytest.raises(SedetError, match="0 draws"):
        paired_bootstrap(table, [NOTHING], [NOTHING], draws=0)


def test_records_state_each_match() -> None:
    # one object, a crowd; a hit, a second hit on the same object, one in the crowd, one on nothing
    table = make_table([Objects.build([[0, 0, 100, 100], [200, 0, 400, 200]], [0, 0], crowd=[False, True])], classes=1)
    found = [[0, 0, 100, 90], [0, 0, 100, 100], [210, 10, 250, 50], [0, 200, 50, 250]]
    record = per_image_records(table, [make_detections(found, [0.6, 0.9, 0.8, 0.7], [0] * 4)], np.array([0.5]))
    assert record[0].scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert record[0].correct[0].tolist() == [True, False, False, False]
    assert record[0].counted[0].tolist() == [True, False, True, True]
    assert record[0].objects.tolist() == [1]
    assert math.isnan(mean_ap(per_image_records(make_table([]), []), np.ones((1, 0)))[0])
