"""The error breakdown against cases worked out by hand, and a looped reference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sedet.data.table import AnnotationTable, Objects
from sedet.detectors.regions import Detections
from sedet.evaluation.coco import coco_metrics
from sedet.evaluation.errors import ERRORS, KINDS, RIGHT, classify, error_breakdown
from sedet.evaluation.pairs import pair

from .cases import NOTHING, make_detections, make_table, random_case
from .naive import Found, ap, iou, match

SQUARE = [0.0, 0.0, 10.0, 10.0]
FAR = [100.0, 100.0, 110.0, 110.0]


def shifted(by: float, box: list[float] = SQUARE) -> list[float]:
    """IoU with the box (side 10): (10 - by) / (10 + by)."""
    return [box[0] + by, box[1], box[2] + by, box[3]]


def kinds(objects: Objects, detections: Detections) -> list[str]:
    """The error of each detection, best first."""
    (p,) = pair(make_table([objects]), [detections])
    return ["right" if k == RIGHT else "ignored" if k < 0 else KINDS[k] for k in classify(p).kind.tolist()]


def test_every_kind_of_error() -> None:
    truth = Objects.build([SQUARE, FAR], [0, 1])
    boxes = [
        shifted(1),  # right: IoU 9/11
        shifted(2),  # the same object again
        shifted(5),  # IoU 1/3, own class
        shifted(1),  # of another class, IoU 9/11
        shifted(6),  # of another class, IoU 1/4
        [300, 300, 310, 310],
        shifted(9),  # IoU 1/19 < 0.1
    ]
    found = make_detections(boxes, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], [0, 0, 0, 2, 2, 0, 0])
    expected = ["right", "duplicate", "localization", "class", "both", "background", "background"]
    assert kinds(truth, found) == expected
    result = error_breakdown(make_table([truth]), [found], cut=0.65)
    counts = {"localization": 1, "class": 1, "duplicate": 1, "background": 2, "both": 1}
    assert result["counts"] == counts | {"missed": 1} and result["right"] == 1
    above = {"localization": 1, "class": 0, "duplicate": 1, "background": 0, "both": 0}
    assert result["counts_from_cut"] == above | {"missed": 1} and result["right_from_cut"] == 1


def test_bounds_of_the_iou() -> None:
    """0.5 is foreground and 0.1 is no background."""
    truth = Objects.build([[0, 0, 20, 10]], [0])
    half, tenth = [0, 0, 10, 10], [0, 0, 2, 10]
    assert kinds(truth, make_detections([half, tenth], [0.9, 0.8], [0, 0])) == ["right", "localization"]
    assert kinds(truth, make_detections([half, tenth], [0.9, 0.8], [1, 1])) == ["class", "both"]
    assert kinds(truth, make_detections([[0, 0, 1.9, 10]], [0.9], [0])) == ["background"]


def test_a_misplaced_box_on_another_class_counts_as_misplaced() -> None:
    truth = Objects.build([SQUARE, shifted(5)], [0, 1])
    assert kinds(truth, make_detections([shifted(5)], [0.9], [0])) == ["localization"]


def test_crowds_make_no_errors() -> None:
    truth = Objects.build([SQUARE, FAR], [0, 0], crowd=[True, False], difficult=[False, True])
    boxes = [shifted(4), [100, 100, 105, 105], shifted(4), [300, 300, 310, 310]]
    found = make_detections(boxes, [0.9, 0.8, 0.7, 0.6], [0, 0, 1, 0])
    # of another class than the crowd's it is not excused; nothing but the crowd is there to be confused with
    assert kinds(truth, found) == ["ignored", "ignored", "background", "background"]
    assert error_breakdown(make_table([truth]), [found])["counts"]["missed"] == 0


def test_what_mending_gains_by_hand() -> None:
    """Two objects of one class, one found by a box that lies badly and is the better of two."""
    truth = Objects.build([SQUARE, FAR], [0, 0])
    boxes = [SQUARE, shifted(5, FAR), shifted(6, FAR), SQUARE]
    found = make_detections(boxes, [0.9, 0.8, 0.7, 0.6], [0, 0, 0, 0])
    result = error_breakdown(make_table([truth], 1), [found])
    half = 100 * 51 / 101  # precision 1 up to recall 0.5
    assert result["ap50"] == pytest.approx(half)
    assert result["counts"] == dict(zip(ERRORS, (2, 0, 1, 0, 0, 0), strict=True))
    assert result["dap"]["localization"] == pytest.approx(100 - half)  # the first is mended, the second removed
    assert result["dap"]["duplicate"] == 0 and result["dap"]["missed"] == 0
    missed = error_breakdown(make_table([truth], 1), [make_detections([SQUARE], [0.9], [0])])
    assert missed["counts"]["missed"] == 1 and missed["dap"]["missed"] == pytest.approx(100 - half)


def test_a_class_error_is_right_in_the_other_class() -> None:
    truth = Objects.build([SQUARE, FAR], [0, 1])
    found = make_detections([FAR, SQUARE], [0.9, 0.8], [0, 0])
    result = error_breakdown(make_table([truth], 2), [found])
    # class 0: a wrong one before the right one; class 1: nothing
    assert result["ap50"] == pytest.approx((50 + 0) / 2)
    assert result["counts"] == dict(zip(ERRORS, (0, 1, 0, 0, 0, 0), strict=True))
    assert result["dap"]["class"] == pytest.approx(100 - 25)


def naive_breakdown(table: AnnotationTable, detections: list[Detections]) -> tuple[dict[str, int], dict[str, float]]:
    """Counts and AP (``""``: as it is) with each error mended, by loops over everything."""
    found, objects = match(table, detections)
    error: dict[Found, str] = {}
    goal: dict[Found, int] = {}
    for f in found:
        own = [(iou(f.box, t.box), -n) for n, t in enumerate(objects) if t.image == f.image and t.label == f.label]
        other = [(iou(f.box, t.box), -n) for n, t in enumerate(objects) if t.image == f.image and t.label != f.label]
        best_own, best_other = max(own, default=(0.0, 0)), max(other, default=(0.0, 0))
        if f.object is not None or f.ignored:
            continue
        if 0.1 <= best_own[0] < 0.5:
            error[f], goal[f] = "localization", -best_own[1]
        elif best_other[0] >= 0.5:
            error[f], goal[f] = "class", -best_other[1]
        elif best_own[0] >= 0.5:
            error[f] = "duplicate"
        else:
            error[f] = "background" if max(best_own[0], best_other[0]) < 0.1 else "both"
    matched = {f.object for f in found if f.object is not None}
    first: dict[int, Found] = {}
    for f, n in goal.items():
        if n not in matched and (n not in first or f.score > first[n].score):
            first[n] = f
    missed = [n for n in range(len(objects)) if n not in matched and n not in goal.values()]
    counts = {name: sum(e == name for e in error.values()) for name in KINDS} | {"missed": len(missed)}
    values = {}
    for name in ("", *ERRORS):
        rows: dict[int, list[tuple[float, bool]]] = {c: [] for c in range(len(table.classes))}
        for f in found:
            if f.ignored:
                continue
            if name and error.get(f) == name:
                if f in goal and first.get(goal[f]) is f:
                    rows[objects[goal[f]].label].append((f.score, True))
            else:
                rows[f.label].append((f.score, f.object is not None))
        numbers = [
            sum(t.label == c and not (name == "missed" and n in missed) for n, t in enumerate(objects)) for c in rows
        ]
        present = [c for c in rows if any(t.label == c for t in objects) and (rows[c] or numbers[c])]
        parts = [ap(rows[c], numbers[c]) if numbers[c] else 0.0 for c in present]
        values[name] = sum(parts) / len(parts) if parts else math.nan
    return counts, values


def confused_case(seed: int) -> tuple[AnnotationTable, list[Detections]]:
    """Crowds too, duplicates, and every third detection of another class."""
    table, detections = random_case(seed, images=20, classes=4, crowd=0.1)
    rng = np.random.default_rng(seed)
    confused = []
    for d in detections:
        labels = d.labels.numpy().copy()
        wrong = rng.random(len(labels)) < 0.35
        labels[wrong] = rng.integers(0, 3, wrong.sum())
        confused.append(make_detections(d.boxes.numpy(), d.scores.numpy(), labels))
    return table, confused


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_reference(seed: int) -> None:
    table, detections = confused_case(seed)
    result = error_breakdown(table, detections)
    counts, values = naive_breakdown(table, detections)
    assert result["counts"] == counts
    assert all(counts.values())
    assert result["ap50"] == pytest.approx(values[""], abs=1e-9)
    assert result["ap50"] == pytest.approx(coco_metrics(table, detections).ap50, abs=1e-6)
    for name in ERRORS:
        assert result["dap"][name] == pytest.approx(max(values[name] - values[""], 0), abs=1e-9), name


def test_errors_from_a_score_on_are_those_of_a_detector_that_shows_no_more() -> None:
    table, detections = random_case(3, images=8)
    kept = [d.scores >= 0.5 for d in detections]
    above = [Detections(d.boxes[k], d.scores[k], d.labels[k]) for d, k in zip(detections, kept, strict=True)]
    result = error_breakdown(table, detections, cut=0.5)
    assert result["counts_from_cut"] == error_breakdown(table, above)["counts"] != result["counts"]


def test_at_most_100_of_a_class_in_an_image() -> None:
    boxes = [FAR] * 100 + [SQUARE]
    found = make_detections(boxes, np.linspace(0.9, 0.1, 101), [0] * 101)
    result = error_breakdown(make_table([Objects.build([SQUARE], [0])], 1), [found])
    assert result["right"] == 0 and result["counts"]["background"] == 100


@pytest.mark.parametrize(
    ("objects", "found"),
    [
        ([], []),
        ([Objects.empty()], [NOTHING]),
        ([Objects.empty()], [make_detections([SQUARE], [0.5], [0])]),
        ([Objects.build([SQUARE], [0])], [NOTHING]),
        ([Objects.build([SQUARE], [0], crowd=[True])], [make_detections([SQUARE], [0.5], [0])]),
    ],
    ids=["no images", "nothing", "no objects", "no detections", "a crowd alone"],
)
def test_degenerate_cases(objects: list[Objects], found: list[Detections]) -> None:
    result = error_breakdown(make_table(objects, 1), found, 0.3)
    assert set(result["dap"]) == set(ERRORS)
    if any((~o.ignored).any() for o in objects):
        assert result["ap50"] == 0 and result["counts"]["missed"] == 1
        assert math.isnan(result["dap"]["missed"])  # nothing would be left to measure by
    else:
        assert math.isnan(result["ap50"]) and all(math.isnan(v) for v in result["dap"].values())
