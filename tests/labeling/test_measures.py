"""What a label would help, by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from sedet.detectors.regions import Detections
from sedet.labeling.listing import write_list
from sedet.labeling.measures import disagreement, greedy_pairs, pairwise_iou, uncertainty
from sedet.labeling.ranking import _offsets, greedy_order, percentiles, priorities, rank_images
from sedet.labeling.shards import Box, Record, write_shard


def found(*rows: tuple[int, float, tuple[float, float, float, float]]) -> Detections:
    return Detections(
        torch.tensor([r[2] for r in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([r[1] for r in rows], dtype=torch.float32),
        torch.tensor([r[0] for r in rows], dtype=torch.int64),
    )


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], 0.0),
        ([0.4], 1.0),
        ([0.2], 0.5),
        ([0.7], 0.5),
        ([1.0, 0.4], 0.5),
        ([0.4] * 10 + [1.0] * 5, 1.0),  # only the ten most uncertain count
    ],
)
def test_uncertainty(scores: list[float], expected: float) -> None:
    assert uncertainty(np.array(scores, dtype=np.float64), 0.4) == pytest.approx(expected)


def test_disagreement() -> None:
    box, right_half = (0.0, 0.0, 10.0, 10.0), (5.0, 0.0, 10.0, 10.0)
    assert disagreement(found(), found()) == 0
    assert disagreement(found((0, 0.8, box)), found((0, 0.8, box))) == pytest.approx(0, abs=1e-6)
    assert disagreement(found((0, 0.8, box)), found()) == 1
    assert disagreement(found((0, 0.8, box)), found((1, 0.8, box))) == 1, "another class"
    # IoU 0.5 and the smaller score 0.4: 1 - 2 * 0.5 * 0.4 / (0.8 + 0.4)
    assert disagreement(found((0, 0.8, box)), found((0, 0.4, right_half))) == pytest.approx(2 / 3, abs=1e-6)
    far = (50.0, 50.0, 60.0, 60.0)
    assert disagreement(found((0, 0.5, box), (0, 0.5, far)), found((0, 0.5, box))) == pytest.approx(1 / 3, abs=1e-6)


def test_each_box_is_matched_once_and_the_best_pair_first() -> None:
    iou = pairwise_iou(np.array([[0, 0, 10, 10], [0, 0, 10, 8]]), np.array([[0, 0, 10, 9], [0, 0, 0, 5]]))
    assert iou == pytest.approx(np.array([[0.9, 0], [8 / 9, 0]]))
    assert greedy_pairs(iou, 0.5) == [(0, 0)]


def test_percentiles() -> None:
    assert percentiles(np.array([3.0, 1.0, 2.0])).tolist() == [1, 0, 0.5]
    assert percentiles(np.array([1.0, 1.0, 5.0])).tolist() == [0.25, 0.25, 1]
    assert percentiles(np.array([7.0, 7.0])).tolist() == [0.5, 0.5]
    assert percentiles(np.array([7.0])).tolist() == [0.5]
    absent = np.array([np.nan, np.nan, np.nan])
    assert priorities([np.array([3.0, 1.0, 2.0]), np.array([0.0, 2.0, 2.0]), absent]).tolist() == [0.5, 0.375, 0.625]


def test_what_is_alike_is_taken_late() -> None:
    # Two equal images of high priority, one far from them of half the priority, one nearer.
    features = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    order, diversity = greedy_order(np.array([1.0, 0.9, 0.5, 0.5]), features, picks=4)
    # After 0: values 0.9 * 0, 0.5 * 2 / 2, 0.5 * sqrt(2) / 2; after 2 the last is still sqrt(2) from its nearest.
    assert order.tolist() == [0, 2, 3, 1]
    assert diversity == pytest.approx([1, 0, 1, np.sqrt(2) / 2])
    order, _ = greedy_order(np.array([0.2, 0.9, 0.5]), np.zeros((3, 0)), picks=2)
    assert order.tolist() == [1, 2, 0]


def test_places_of_names_are_read_one_by_one(tmp_path: Path) -> None:
    write_list(tmp_path / "images.txt", iter(["a", "bc"]))
    places = _offsets(tmp_path / "images.txt")
    assert next(places) == 0 and next(places) == len('"a"\n')


def test_ranking_file(tmp_path: Path) -> None:
    names = ["b.jpg", "gone.jpg", 'odd, "name".jpg']
    write_list(tmp_path / "images.txt", iter(names))
    box = Box((0, 0, 5, 5), 0.5, 0)
    records = [
        Record(names[0], 9, 9, (box,), {"uncertainty": 0.2, "scale": 0.1}),
        Record(names[1], error="no"),
    ]
    write_shard(tmp_path, 0, records, ["cat"], np.array([[1, 0], [0, 0]], np.float16))
    last = [Record(names[2], 9, 9, (), {"uncertainty": 0.9, "scale": 0.4})]
    write_shard(tmp_path, 1, last, ["cat"], np.array([[0, 1]], np.float16))
    assert rank_images(tmp_path, 2, 2, ["cat"], top=1) == [2]
    with (tmp_path / "ranking.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["rank"], r["image"], r["boxes"]) for r in rows] == [("1", names[2], "0"), ("2", "b.jpg", "1")]
    assert [r["value"] for r in rows] == ["1.00000", "0.00000"]
    assert [r["uncertainty"] for r in rows] == ["0.90000", "0.20000"] and rows[0]["teacher_student"] == ""
    assert float(rows[1]["diversity"]) == pytest.approx(np.sqrt(2) / 2, abs=1e-4)
