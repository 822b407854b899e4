"""Lost objects, boxes that lie badly, sizes, classes and calibration: by hand, and against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sedet.data.table import Objects
from sedet.detectors.regions import Detections
from sedet.evaluation.calibration import calibration
from sedet.evaluation.challenges import (
    HARD,
    SIZE_EDGES,
    THRESHOLDS,
    by_object_size,
    class_frequencies,
    false_negatives,
    localization,
    size_bin,
    size_bins,
)
from sedet.evaluation.coco import area_bounds, coco_metrics
from sedet.evaluation.matching import per_image_records
from sedet.evaluation.pairs import pair
from sedet.evaluation.pseudo_labels import pseudo_label_quality

from .cases import NOTHING, make_detections, make_table, random_case
from .naive import ap, iou, match

SEEDS = range(5)
SQUARE = [0.0, 0.0, 10.0, 10.0]
DEGENERATE = [
    ([], []),
    ([Objects.empty()], [NOTHING]),
    ([Objects.empty()], [make_detections([SQUARE], [0.5], [0])]),
    ([Objects.build([SQUARE], [0])], [NOTHING]),
    ([Objects.build([SQUARE], [0], crowd=[True])], [make_detections([SQUARE], [0.5], [0])]),
]
degenerate = pytest.mark.parametrize(
    ("objects", "found"), DEGENERATE, ids=["no images", "nothing", "no objects", "no detections", "a crowd alone"]
)


@pytest.mark.parametrize("seed", SEEDS)
def test_pairs_are_coco_s_matches(seed: int) -> None:
    table, detections = random_case(seed, crowd=0.15)
    for least in (0.5, 0.75):
        pairs = pair(table, detections, least)
        records = per_image_records(table, detections, np.array([least]), limit=10**6)
        for c, record in enumerate(records):
            right = np.concatenate([(p.matched >= 0)[p.labels == c] for p in pairs])
            ignored = np.concatenate([p.ignored[p.labels == c] for p in pairs])
            scores = np.concatenate([p.scores[p.labels == c] for p in pairs])
            order = np.argsort(-scores, kind="stable")
            assert np.array_equal(right[order], record.correct[0])
            assert np.array_equal(~ignored[order], record.counted[0])
        found, objects = match(table, detections, least)
        scores = np.concatenate([p.scores_of_objects() for p in pairs])
        assert scores.tolist() == [-1 if t.score is None else t.score for t in objects]
        assert sum(f.ignored for f in found) == sum(p.ignored.sum() for p in pairs) > 0


def test_lost_objects_by_hand() -> None:
    truth = Objects.build([SQUARE, [100, 100, 200, 200], [50, 50, 90, 90]], [0, 1, 0])
    found = make_detections([SQUARE, [100, 100, 200, 200], [300, 0, 310, 10]], [0.7, 0.55, 0.9], [0, 1, 0])
    table = make_table([truth], 3)
    result = false_negatives(table, pair(table, [found]), (0.5, 0.6, 0.7, 0.75))
    assert result["objects"] == 3
    assert result["lost"]["all"] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1])
    assert result["lost"]["small"] == [0, 0, 0, 1]  # a score of 0.7 is not lost at 0.7
    assert result["lost"]["medium"] == [1, 1, 1, 1] and result["lost"]["large"] == [0, 1, 1, 1]
    assert result["objects_by_size"] == {"all": 3, "small": 1, "medium": 1, "large": 1}
    assert result["lost_by_class"]["class 0"] == [0.5, 0.5, 0.5, 1] and result["lost_by_class"]["class 1"][0] == 0
    assert all(math.isnan(v) for v in result["lost_by_class"]["class 2"])
    first, second, third = result["hard"]
    assert [r["threshold"] for r in result["hard"]] == list(HARD)
    assert first["precision"] == pytest.approx(2 / 3) and first["recall"] == pytest.approx(2 / 3)
    assert (first["lost_objects"], first["labels_per_image"]) == (1, 3)
    assert second["precision"] == 0.5 and second["lost_objects"] == 2
    assert third["precision"] == third["recall"] == 0 and third["labels_per_image"] == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_lost_objects_against_loops(seed: int) -> None:
    table, detections = random_case(seed)
    result = false_negatives(table, pair(table, detections))
    _, objects = match(table, detections)
    for n, threshold in enumerate(THRESHOLDS):
        cut = float(np.float32(threshold))
        for size, (low, high) in area_bounds().items():
            own = [t for t in objects if low <= t.area <= high]
            lost = sum(t.score is None or t.score < cut for t in own)
            assert result["lost"][size][n] == pytest.approx(lost / len(own)) and len(own) > 3
        for c, name in enumerate(table.classes):
            own = [t for t in objects if t.label == c]
            lost = sum(t.score is None or t.score < cut for t in own)
            expected = lost / len(own) if own else math.nan
            assert result["lost_by_class"][name][n] == pytest.approx(expected, nan_ok=True)
    for row, known in zip(result["hard"], pseudo_label_quality(table, detections, HARD), strict=True):
        assert (row["precision"], row["recall"]) == pytest.approx((known.precision, known.recall))
        assert row["labels_per_image"] == pytest.approx(known.labels)
        assert row["lost_objects"] == round((1 - known.recall) * result["objects"])


def test_localization_by_hand() -> None:
    truth = Objects.build([SQUARE, [100, 100, 110, 110]], [0, 1], crowd=[False, True])
    boxes = [SQUARE, [0, 0, 10, 8], [5, 0, 15, 10], [0, 0, 10, 0.9], SQUARE, [100, 100, 110, 110]]
    found = make_detections(boxes, [0.95, 0.85, 0.55, 0.5, 0.4, 0.3], [0, 0, 0, 0, 1, 1])
    table = make_table([truth], 2)
    result = localization(pair(table, [found]), cut=0.6)
    assert (result["boxes"], result["share_well"], result["share_poor"]) == (2, 1.0, 0.0)
    assert result["mean_iou"] == pytest.approx(0.9)
    assert sum(result["histogram"]["counts"]) == 2 and result["histogram"]["counts"][-1] == 1
    assert result["histogram"]["edges"][0] == 0.1 and result["histogram"]["edges"][-1] == 1
    rows = {row["from"]: row for row in result["by_score"]}
    # IoU 0.09, the other class and the crowd are not among them
    assert [row["boxes"] for row in result["by_score"]] == [0, 0, 0, 0, 0, 1, 0, 0, 1, 1]
    assert rows[0.5]["mean_iou"] == pytest.approx(1 / 3) and rows[0.5]["share_well"] == 0
    assert rows[0.8]["mean_iou"] == pytest.approx(0.8) and math.isnan(rows[0.0]["mean_iou"])
    assert localization(pair(table, [found]), cut=0.5)["share_poor"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("seed", SEEDS)
def test_localization_against_loops(seed: int) -> None:
    table, detections = random_case(seed, crowd=0.2)
    result = localization(pair(table, detections), cut=0.45)
    found, objects = match(table, detections)
    values = []
    for f in found:
        best = max((iou(f.box, t.box) for t in objects if (t.image, t.label) == (f.image, f.label)), default=0.0)
        if best >= 0.1 and not f.ignored:
            values.append((f.score, best))
    above = [v for s, v in values if s >= float(np.float32(0.45))]
    assert result["boxes"] == len(above) > 5
    assert result["mean_iou"] == pytest.approx(sum(above) / len(above))
    assert result["share_well"] == pytest.approx(sum(v >= 0.75 for v in above) / len(above))
    assert result["share_poor"] == pytest.approx(sum(v < 0.5 for v in above) / len(above))
    assert result["histogram"]["counts"] == np.histogram(above, np.linspace(0.1, 1, 19))[0].tolist()
    for row in result["by_score"]:
        own = [v for s, v in values if row["from"] <= s < row["to"] or (s == 1 == row["to"])]
        assert row["boxes"] == len(own)
        assert row["mean_iou"] == pytest.approx(sum(own) / len(own) if own else math.nan, nan_ok=True)


def test_bins_of_sizes() -> None:
    assert SIZE_EDGES[-1] == 1 and SIZE_EDGES[-3] == 0.5 and len(size_bins()) == len(SIZE_EDGES) == 15
    assert size_bins()[0] == (0.0, 1 / 128)
    sides = np.array([0.0, 1 / 200, 1 / 128, 0.3, 0.5, 0.7, 0.72, 1.0])
    bins = size_bin(sides)
    for side, n in zip(sides, bins, strict=True):
        low, high = size_bins()[n]
        assert low <= side < high or side == high == 1
    assert bins[4] == bins[5] == bins[6] - 1


def test_sizes_by_hand() -> None:
    """Images 400 px long: sides of 100 and 200 px are a quarter and a half."""
    truth = Objects.build([[0, 0, 100, 100], [100, 0, 300, 200], [0, 200, 100, 300]], [0, 0, 0])
    found = make_detections([[0, 0, 100, 100], [100, 0, 300, 125]], [0.9, 0.3], [0, 0])
    rows = by_object_size(make_table([truth], 1), [found], cut=0.5)
    quarter, half = (next(row for row in rows if row["from"] == side) for side in (0.25, 0.5))
    assert [row["objects"] for row in rows if row["objects"]] == [2, 1]
    assert (quarter["ap"], quarter["ap50"]) == pytest.approx((100 * 51 / 101,) * 2)
    assert quarter["recall"] == quarter["recall_cut"] == 0.5
    assert half["ap"] == pytest.approx(100 * 3 / 10) and half["ap50"] == pytest.approx(100)  # IoU 0.625
    assert (half["recall"], half["recall_cut"]) == (1, 0)
    assert all(math.isnan(row["ap"]) and math.isnan(row["recall"]) for row in rows if not row["objects"])


@pytest.mark.parametrize("seed", SEEDS)
def test_sizes_against_loops(seed: int) -> None:
    table, detections = random_case(seed, images=30, crowd=0.1)
    rows = by_object_size(table, detections, cut=0.5)
    assert sum(row["objects"] for row in rows) == sum(int((~o.ignored).sum()) for o in table.objects)
    for row in rows:
        if not row["objects"]:
            continue
        per_class, right, above = [], 0, 0
        for c in range(len(table.classes)):
            found, objects = [], 0
            for o, d in zip(table.objects, detections, strict=True):
                # objects that count first, then the others: of another size, or crowds
                sides = [math.sqrt((b[2] - b[0]) * (b[3] - b[1])) / 400 for b in o.boxes.tolist()]
                truth = [
                    (b, row["from"] <= s < row["to"] and not x, x)
                    for b, s, label, x in zip(o.boxes.tolist(), sides, o.labels, o.ignored, strict=True)
                    if label == c
                ]
                objects += sum(counts for _, counts, _ in truth)
                taken = set()
                own = [r for r in zip(d.boxes.tolist(), d.scores.tolist(), d.labels.tolist(), strict=True) if r[2] == c]
                for box, score, _ in sorted(own, key=lambda r: -r[1]):
                    best, goal = 0.5, None
                    for wanted in (True, False):
                        for n, (b, counts, crowd) in enumerate(truth):
                            if counts == wanted and (n not in taken or crowd) and iou(box, b, crowd) >= best:
                                best, goal = iou(box, b, crowd), n
                        if goal is not None:
                            break
                    side = math.sqrt((box[2] - box[0]) * (box[3] - box[1])) / 400
                    if goal is not None:
                        taken.add(goal)
                        if truth[goal][1]:
                            found.append((score, True))
                    elif row["from"] <= side < row["to"]:
                        found.append((score, False))
            right += sum(r for _, r in found)
            above += sum(r and s >= 0.5 for s, r in found)
            if objects:
                per_class.append(ap(found, objects))
        assert row["recall"] == pytest.approx(right / row["objects"])
        assert row["recall_cut"] == pytest.approx(above / row["objects"])
        assert row["ap50"] == pytest.approx(sum(per_class) / len(per_class), abs=1e-6)


def test_one_bin_for_all_is_coco_s_ap() -> None:
    rng = np.random.default_rng(0)
    objects, detections = [], []
    for _ in range(10):
        corner = rng.uniform(0, 150, (4, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(105, 135, (4, 2))], 1)  # all in one bin of 400 px
        objects.append(Objects.build(boxes.astype(np.float32), [0, 1, 0, 1]))
        detections.append(make_detections(boxes + rng.normal(0, 4, boxes.shape), rng.random(4), [0, 1, 1, 1]))
    table = make_table(objects, 2)
    metrics = coco_metrics(table, detections)
    (row,) = (r for r in by_object_size(table, detections, 0.5) if r["objects"])
    assert row["objects"] == 40
    assert (row["ap"], row["ap50"]) == pytest.approx((metrics.ap, metrics.ap50), abs=1e-6)


def test_class_frequencies() -> None:
    truth = [
        Objects.build([SQUARE] * 4, [0, 0, 0, 1], crowd=[False, False, False, False]),
        Objects.build([SQUARE] * 2, [0, 1], crowd=[False, True]),
        Objects.empty(),
    ]
    result = class_frequencies(make_table(truth, 3))
    assert result["classes"]["class 0"] == {"objects": 4, "share": 0.8, "images": 2}
    assert result["classes"]["class 1"] == {"objects": 1, "share": 0.2, "images": 1}
    assert result["classes"]["class 2"] == {"objects": 0, "share": 0.0, "images": 0}
    assert result["most_to_least"] == 4


def test_calibration_by_hand() -> None:
    truth = Objects.build([SQUARE, [100, 100, 110, 110]], [0, 0], crowd=[False, True])
    boxes = [SQUARE, SQUARE, [50, 50, 60, 60], [100, 100, 110, 110]]
    table = make_table([truth], 1)
    pairs = pair(table, [make_detections(boxes, [1.0, 0.75, 0.71, 0.9], [0, 0, 0, 0])])
    result = calibration(pairs)
    assert result["detections"] == 3 and result["precision"] == pytest.approx(1 / 3)  # the crowd's is left out
    rows = result["bins"]
    assert [row["detections"] for row in rows] == [0, 0, 0, 0, 0, 0, 0, 2, 0, 1]
    assert rows[9]["precision"] == 1 and rows[7]["precision"] == 0 and rows[7]["mean_score"] == pytest.approx(0.73)
    assert result["ece"] == pytest.approx((2 * 0.73 + 1 * 0) / 3)
    assert calibration(pairs, least=0.75)["ece"] == pytest.approx(0.75 / 2)
    assert calibration(pairs, least=0.75)["detections"] == 2
    assert math.isnan(calibration(pairs, least=1.5)["ece"])


@pytest.mark.parametrize("seed", SEEDS)
def test_calibration_against_loops(seed: int) -> None:
    table, detections = random_case(seed)
    result = calibration(pair(table, detections))
    found = [f for f in match(table, detections)[0] if not f.ignored]
    total = 0.0
    for row in result["bins"]:
        own = [f for f in found if min(int(f.score * 10), 9) == round(row["from"] * 10)]
        assert row["detections"] == len(own)
        if own:
            right = sum(f.object is not None for f in own)
            total += abs(sum(f.score for f in own) - right)
            assert row["precision"] == pytest.approx(right / len(own))
    assert result["ece"] == pytest.approx(total / len(found)) and 0 < result["ece"] < 1


@degenerate
def test_degenerate_cases(objects: list[Objects], found: list[Detections]) -> None:
    table = make_table(objects, 1)
    pairs = pair(table, found)
    lost = false_negatives(table, pairs)
    counted = sum(int((~o.ignored).sum()) for o in objects)
    assert lost["objects"] == counted
    assert lost["lost"]["all"] == pytest.approx([1.0 if counted else math.nan] * len(THRESHOLDS), nan_ok=True)
    assert math.isnan(localization(pairs, 0.3)["mean_iou"])
    assert sum(row["objects"] for row in by_object_size(table, found, 0.3)) == counted
    assert class_frequencies(table)["most_to_least"] == pytest.approx(1.0 if counted else math.nan, nan_ok=True)
    scores = calibration(pairs)
    assert math.isnan(scores["ece"]) == (scores["detections"] == 0)
