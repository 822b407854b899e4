"""Precision and recall of detections as labels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sedet.data.table import Objects
from sedet.evaluation.pseudo_labels import SCORES, best_score, label_figures, label_sweep, pseudo_label_quality

from .cases import NOTHING, make_detections, make_table, random_case


def test_counted_by_hand() -> None:
    first = Objects.build([[0, 0, 100, 100], [200, 0, 300, 100]], [0, 1])
    second = Objects.build([[0, 0, 50, 50], [100, 100, 200, 200]], [1, 1], difficult=[False, True])
    table = make_table([first, second])
    detections = [
        # right, wrong class, a second one on the same object
        make_detections([[0, 0, 100, 98], [200, 0, 300, 100], [0, 0, 100, 100]], [0.9, 0.8, 0.3], [0, 0, 0]),
        # right, on the difficult object
        make_detections([[0, 0, 50, 50], [100, 100, 200, 200]], [0.5, 0.7], [1, 1]),
    ]
    rows = pseudo_label_quality(table, detections, [0.2, 0.5, 0.6, 0.95])
    assert [r.threshold for r in rows] == [0.2, 0.5, 0.6, 0.95]
    assert [r.precision for r in rows[:3]] == pytest.approx([2 / 4, 2 / 3, 1 / 2])
    assert math.isnan(rows[3].precision)
    assert [r.recall for r in rows] == pytest.approx([2 / 3, 2 / 3, 1 / 3, 0])
    assert [r.labels for r in rows] == pytest.approx([5 / 2, 4 / 2, 3 / 2, 0])
    # at a stricter IoU the box of height 98 is still right, at .99 no longer: the lower-scored one takes over
    strict = pseudo_label_quality(table, detections, [0.2], iou=0.99)[0]
    assert strict.recall == pytest.approx(2 / 3)


def test_cutting_after_matching_equals_matching_what_is_left() -> None:
    table, detections = random_case(2, crowd=0.2)
    for threshold in (0.25, 0.5, 0.75):
        left = [
            make_detections(d.boxes[keep], d.scores[keep], d.labels[keep])
            for d in detections
            for keep in [d.scores >= np.float32(threshold)]
        ]
        cut = pseudo_label_quality(table, detections, [threshold])[0]
        alone = pseudo_label_quality(table, left, [0.0])[0]
        assert cut[1:] == pytest.approx(alone[1:])


def test_a_score_equal_to_the_threshold_is_kept() -> None:
    table = make_table([Objects.build([[0, 0, 9, 9]], [0])])
    found = [make_detections([[0, 0, 9, 9]], [0.7], [0])]
    assert pseudo_label_quality(table, found, [0.7])[0].recall == 1


def test_the_best_score_is_that_of_all_rows() -> None:
    table, detections = random_case(4, crowd=0.2)
    detections = [make_detections(d.boxes, d.scores * 0.02, d.labels) for d in detections]  # some below every threshold
    rows = pseudo_label_quality(table, detections, SCORES)
    f1 = [2 * r.precision * r.recall / (r.precision + r.recall) if r.recall > 0 else 0.0 for r in rows]
    assert best_score(table, detections) == max(zip(f1, SCORES, strict=True))[1]


def test_empty() -> None:
    row = pseudo_label_quality(make_table([Objects.empty()]), [NOTHING], [0.5])[0]
    assert math.isnan(row.precision) and math.isnan(row.recall) and row.labels == 0
    assert math.isnan(pseudo_label_quality(make_table([]), [], [0.5])[0].labels)


def test_the_best_score_by_hand() -> None:
    table = make_table([Objects.build([[0, 0, 100, 100], [200, 0, 300, 100]], [0, 0])])
    boxes = [[0, 0, 100, 100], [400, 0, 500, 100], [200, 0, 300, 100], [600, 0, 700, 100], [700, 0, 800, 100]]
    found = make_detections(boxes, [0.9, 0.6, 0.405, 0.2, 0.2], [0] * 5)
    # F1 at .9: 2/3; at .6: 1/2; at .4: 4/5; at .2: 4/7
    assert best_score(table, [found]) == 0.4
    assert best_score(table, [make_detections(boxes[:2], [0.9, 0.6], [0, 0])]) == 0.9
    assert best_score(table, [NOTHING]) is None
    assert best_score(table, [make_detections(boxes[1:2], [0.6], [0])]) is None, "nothing right"
    assert best_score(make_table([Objects.build([], [])]), [found]) is None, "no objects"


@pytest.mark.parametrize("seed", range(3))
def test_the_best_score_is_the_best_of_all(seed: int) -> None:
    table, detections = random_case(seed, crowd=0.2)
    best = best_score(table, detections)
    assert best is not None

    def f1(threshold: float) -> float:
        row = pseudo_label_quality(table, detections, [threshold])[0]
        total = row.precision + row.recall
        return 2 * row.precision * row.recall / total if total > 0 else 0.0

    assert f1(best) == max(f1(i / 100) for i in range(1, 100))


def test_the_figures_of_an_evaluation_by_hand() -> None:
    table = make_table([Objects.build([[0, 0, 100, 100], [200, 0, 300, 100]], [0, 0])])
    boxes = [[0, 0, 100, 100], [400, 0, 500, 100], [200, 0, 300, 100], [600, 0, 700, 100], [700, 0, 800, 100]]
    found = make_detections(boxes, [0.9, 0.6, 0.405, 0.2, 0.2], [0] * 5)
    assert label_figures(label_sweep(table, [found])) == pytest.approx(
        {
            **{"precision_0.5": 1 / 2, "recall_0.5": 1 / 2, "precision_0.7": 1.0, "recall_0.7": 1 / 2},
            **{"precision_0.9": 1.0, "recall_0.9": 1 / 2},
            **{"precision_best": 2 / 3, "recall_best": 1.0, "score_best": 0.4},
        }
    )
    nothing = label_figures(label_sweep(table, [NOTHING]))
    assert math.isnan(nothing["score_best"]) and math.isnan(nothing["precision_0.5"]) and nothing["recall_0.5"] == 0
