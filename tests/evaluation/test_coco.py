"""Metrics against pycocotools, the field's reference."""

from __future__ import annotations

import contextlib
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sedet.data.table import AnnotationTable, Objects
from sedet.detectors.regions import Detections
from sedet.errors import SedetError
from sedet.evaluation.coco import SUMMARY, Metrics, coco_metrics

from .cases import NOTHING, make_detections, make_table, random_case

COCO_PEOPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco-people"


def reference(
    table: AnnotationTable, detections: list[Detections], sides: tuple[float, float] = (32, 96)
) -> dict[str, float]:
    """pycocotools on the same boxes; -1 becomes nan."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    gt, dt = [], []
    for i, (o, d) in enumerate(zip(table.objects, detections, strict=True)):
        for n, (box, label, ignored) in enumerate(zip(o.boxes.astype(float), o.labels, o.ignored, strict=True)):
            w, h = box[2] - box[0], box[3] - box[1]
            stated = float(o.outlines[n])
            gt.append(
                {
                    "id": len(gt) + 1,
                    "image_id": i,
                    "category_id": int(label),
                    "bbox": [box[0], box[1], w, h],
                    "area": w * h if math.isnan(stated) else stated,
                    "iscrowd": int(ignored),
                }
            )
        for box, score, label in zip(d.boxes.double().numpy(), d.scores.numpy(), d.labels.numpy(), strict=True):
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            dt.append({"image_id": i, "category_id": int(label), "bbox": bbox, "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(table))],
            "categories": [{"id": c} for c in range(len(table.classes))],
            "annotations": gt,
        }
        coco.createIndex()
        e = COCOeval(coco, coco.loadRes(dt), "bbox")
        small, large = sides[0] ** 2, sides[1] ** 2
        e.params.areaRng = [[0, 1e10], [0, small], [small, large], [large, 1e10]]
        e.evaluate()
        e.accumulate()
        e.summarize()
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    values = {name: float(e.stats[i]) for i, name in enumerate(names)} | {"ar100": float(e.stats[8])}
    for c, name in enumerate(table.classes):
        p = e.eval["precision"][:, :, c, 0, -1]
        values[name] = float(p.mean())
    return {k: math.nan if v < 0 else v * 100 for k, v in values.items()}


def assert_equal(metrics: Metrics, expected: dict[str, float]) -> None:
    for name in SUMMARY:
        assert getattr(metrics, name) == pytest.approx(expected[name], abs=1e-6, nan_ok=True), name
    for name, row in metrics.per_class.items():
        assert row["ap"] == pytest.approx(expected[name], abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools_on_random_data(seed: int) -> None:
    table, detections = random_case(seed, crowd=0.0 if seed == 0 else 0.15)
    metrics = coco_metrics(table, detections)
    assert 1 < metrics.ap < 99
    assert_equal(metrics, reference(table, detections))


def test_own_area_ranges_equal_pycocotools_and_are_stated() -> None:
    table, detections = random_case(11)
    metrics = coco_metrics(table, detections, area_ranges=(16, 48))
    assert_equal(metrics, reference(table, detections, (16, 48)))
    assert metrics.ap_small != pytest.approx(coco_metrics(table, detections).ap_small, abs=1e-3)
    assert metrics.to_dict()["area_ranges"] == [16, 48]


def test_counts_at_most_100_of_a_class_in_an_image() -> None:
    truth = [[0, 0, 50, 50]]
    wrong = [[200, 200, 210, 210]] * 100
    table = make_table([Objects.build(truth, [0])])
    scores = np.concatenate([np.linspace(0.9, 0.5, 100), [0.1]])
    assert coco_metrics(table, [make_detections(wrong + truth, scores, [0] * 101)]).ap == 0
    assert coco_metrics(table, [make_detections(wrong[1:] + truth, scores[1:], [0] * 100)]).ap > 0


@pytest.mark.skipif(not COCO_PEOPLE.is_dir(), reason="shared/data/coco-people is not there")
def test_equals_pycocotools_on_real_boxes() -> None:
    data = json.loads((COCO_PEOPLE / "instances_dev.json").read_text())
    index = {c["id"]: n for n, c in enumerate(data["categories"])}
    rng = np.random.default_rng(3)
    objects, detections = [], []
    for image in data["images"]:
        own = [a for a in data["annotations"] if a["image_id"] == image["id"]]
        xywh = np.array([a["bbox"] for a in own], np.float64).reshape(-1, 4)
        boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
        labels = np.array([index[a["category_id"]] for a in own], int)
        objects.append(Objects.build(boxes, labels, [bool(a.get("iscrowd", 0)) for a in own]))
        jitter = boxes + rng.normal(0, 0.1, boxes.shape) * np.tile(xywh[:, 2:], 2)
        jitter[:, 2:] = np.maximum(jitter[:, 2:], jitter[:, :2] + 1)
        labels = np.where(rng.random(len(labels)) < 0.1, rng.integers(0, len(index), len(labels)), labels)
        detections.append(make_detections(jitter, rng.random(len(boxes)), labels))
    table = make_table(objects, len(index))
    metrics = coco_metrics(table, detections)
    assert metrics.images == 300 and 5 < metrics.ap < 95
    assert_equal(metrics, reference(table, detections))


def test_perfect_answers_score_100_and_ignored_objects_count_for_nothing() -> None:
    boxes = [[10, 10, 60, 60], [100, 100, 250, 250], [5, 200, 20, 215]]
    table = make_table([Objects.build(boxes, [0, 1, 1], crowd=[False, True, False], difficult=[False, False, True])])
    metrics = coco_metrics(table, [make_detections(boxes, [0.9, 0.8, 0.7], [0, 1, 1])])
    assert metrics.ap == pytest.approx(100) and metrics.boxes == 1
    assert math.isnan(metrics.per_class["class 1"]["ap"]) and metrics.per_class["class 1"]["boxes"] == 0
    # a detection inside a crowd region is no false positive
    inside = [boxes[0], [120, 120, 150, 150]]
    table = make_table([Objects.build(boxes[:2], [0, 0], crowd=[False, True])])
    assert coco_metrics(table, [make_detections(inside, [0.5, 0.9], [0, 0])]).ap == pytest.approx(100)


def test_no_detections_give_zeros_and_absent_classes_nan() -> None:
    table = make_table([Objects.build([[0, 0, 50, 50]], [1]), Objects.empty()])
    metrics = coco_metrics(table, [NOTHING, NOTHING])
    assert (metrics.ap, metrics.ap50, metrics.ar100, metrics.ap_medium) == (0, 0, 0, 0)
    assert math.isnan(metrics.ap_small) and math.isnan(metrics.per_class["class 0"]["ap"])
    text = json.dumps(metrics.to_dict(), allow_nan=False)
    assert json.loads(text)["per_class"]["class 0"] == {"ap": None, "ap50": None, "boxes": 0}


def test_nothing_to_judge_by_is_nan_not_an_error() -> None:
    for table in (make_table([]), make_table([Objects.empty()])):
        metrics = coco_metrics(table, [NOTHING] * len(table))
        assert all(math.isnan(getattr(metrics, name)) for name in SUMMARY)
    noise = make_detections([[0, 0, 9, 9]], [0.5], [0])
    assert math.isnan(coco_metrics(make_table([Objects.empty()]), [noise]).ap)


def test_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    coco_metrics(*random_case(1, images=4))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("detections", "message"),
    [
        ([], "0 images with detections for 1"),
        ([make_detections([[0, 0, 1, 1]], [0.5], [3])], "class 3"),
        ([make_detections([[0, 0, 1, 1]], [0.5], [-1])], "class -1"),
        ([make_detections([[0, 0, math.nan, 1]], [0.5], [0])], "0.jpg: a detection is not finite"),
    ],
)
def test_wrong_detections_are_named(detections: list[Detections], message: str) -> None:
    with pytest.raises(SedetError, match=message):
        coco_metrics(make_table([Objects.build([[0, 0, 5, 5]], [0])]), detections)


def test_area_ranges_out_of_order_are_refused() -> None:
    with pytest.raises(SedetError, match="smaller one first"):
        coco_metrics(make_table([Objects.empty()]), [NOTHING], area_ranges=(96, 32))


def test_table_shows_each_class_literally() -> None:
    from rich.console import Console

    table = make_table([Objects.build([[0, 0, 50, 50]], [0])], classes=1)
    table = AnnotationTable(("[red]cat",), table.images, table.objects, "s", (1,), Path("/"))
    stream = io.StringIO()
    Console(file=stream, width=100).print(coco_metrics(table, [NOTHING]).table("[x] run"))
    assert "[red]cat" in stream.getvalue() and "[x] run" in stream.getvalue()
    assert "under 32²" in stream.getvalue()


def test_a_class_name_cannot_steer_the_terminal() -> None:
    from rich.console import Console

    table, detections = random_case(0)
    named = replace(table, classes=("cat\x1b[31m\n", *table.classes[1:]))
    out = io.StringIO()
    Console(file=out, width=100).print(coco_metrics(named, detections).table())
    assert "cat\\x1b[31m\\n" in out.getvalue() and "\x1b" not in out.getvalue()
