"""Many images: sources, every output, and what goes wrong with them."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sedet.detectors.regions import Detections
from sedet.errors import ConfigError, DataError
from sedet.predict import PredictSummary, predict_sources
from sedet.predictor import Predictor
from sedet.reporting.draw import class_colour

from .scenes import BOX, find_red, save, scene


def test_all_formats(red: Predictor, tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "sub" / "b.png", scene(100, 50, (0, 0, 10, 5)))
    save(tmp_path / "in" / "none.png", scene(box=None))
    out = tmp_path / "out"
    summary = predict_sources(
        "d", [str(tmp_path / "in")], out, format=("jsonl", "csv", "coco", "yolo"), draw=True, batch=2, device="cpu"
    )
    assert (summary.images, summary.detections, summary.skipped) == (3, 2, ())
    assert "2 detections in 3 images" in str(summary)

    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == ["a.png", "none.png", "sub/b.png"]
    assert [len(line["detections"]) for line in lines] == [1, 0, 1]
    assert lines[0]["path"] == str(tmp_path / "in" / "a.png")

    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["a.png", "sub/b.png"]
    assert [float(rows[0][k]) for k in ("x1", "y1", "x2", "y2")] == list(BOX)
    assert (rows[0]["name"], float(rows[0]["score"])) == ("red box", 0.75)

    images = json.loads((out / "images.coco.json").read_text())
    results = json.loads((out / "predictions.coco.json").read_text())
    assert [i["file_name"] for i in images["images"]] == ["a.png", "none.png", "sub/b.png"]
    assert results[0] == {
        "image_id": images["images"][0]["id"],
        "category_id": 2,
        "bbox": [20.0, 10.0, 30.0, 20.0],
        "score": 0.75,
    }
    assert images["categories"][1] == {"id": 2, "name": "red box"}

    assert (out / "labels" / "sub" / "b.txt").read_text().split() == [
        "1",
        "0.050000",
        "0.050000",
        "0.100000",
        "0.100000",
    ]
    assert (out / "labels" / "none.txt").read_text() == ""
    assert (out / "classes.txt").read_text() == "cat\nred box\n"
    assert Image.open(out / "pictures" / "sub" / "b.jpg").size[0] >= 600
    assert not list(out.rglob("*.part"))


def test_coco_results_can_be_loaded_by_pycocotools(red: Predictor, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    save(tmp_path / "in" / "a.png")
    predict_sources("d", [str(tmp_path / "in")], tmp_path / "out", format="coco", device="cpu")
    truth = COCO(str(tmp_path / "out" / "images.coco.json"))
    assert len(truth.loadRes(str(tmp_path / "out" / "predictions.coco.json")).anns) == 1


def test_same_names_do_not_collide(red: Predictor, tmp_path: Path) -> None:
    boxes = {"one/a.png": (0, 0, 8, 8), "two/a.png": (8, 8, 16, 16), "two/a.bmp": (16, 16, 24, 24)}
    for name, box in boxes.items():
        save(tmp_path / "in" / name, scene(80, 80, box))
    sources = [str(tmp_path / "in" / "one"), str(tmp_path / "in" / "two")]
    predict_sources("d", sources, tmp_path / "out", format="yolo", draw=True, device="cpu")
    labels = {
        p.relative_to(tmp_path / "out" / "labels").as_posix(): p.read_text()
        for p in (tmp_path / "out" / "labels").rglob("*.txt")
    }
    assert {name: line.split()[1] for name, line in labels.items()} == {
        "one/a.txt": "0.050000",
        "two/a.png.txt": "0.150000",
        "two/a.bmp.txt": "0.250000",
    }
    assert len(list((tmp_path / "out" / "pictures").rglob("*.jpg"))) == 3


def test_broken_images_are_reported_skipped_and_counted(
    red: Predictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "empty.jpg").touch()
    (tmp_path / "in" / "text.png").write_text("no image")
    with caplog.at_level(logging.WARNING):
        summary = predict_sources("d", [str(tmp_path / "in")], tmp_path / "out", device="cpu")
    assert summary.images == 1 and len(summary.skipped) == 2
    assert "2 unreadable and skipped" in str(summary)
    assert "empty.jpg" in caplog.text and "text.png" in caplog.text
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 1
    assert len((tmp_path / "out" / "skipped.txt").read_text().splitlines()) == 2


def test_nothing_is_written_when_nothing_can_be_read(red: Predictor, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "empty.jpg").touch()
    with pytest.raises(DataError, match=r"^\S*empty\.jpg: "):
        predict_sources("d", [str(tmp_path / "in")], tmp_path / "out", format="yolo", device="cpu")
    assert not (tmp_path / "out").exists()


def test_large_files_are_shrunk_but_boxes_are_in_original_pixels(
    red: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sedet.predict.LARGEST_SIDE", 100)
    save(tmp_path / "a.png", scene(400, 200, (100, 40, 200, 120)))
    predict_sources("d", [str(tmp_path / "a.png")], tmp_path / "out", device="cpu", draw=True)
    line = json.loads((tmp_path / "out" / "predictions.jsonl").read_text())
    assert (line["width"], line["height"]) == (400, 200)
    assert line["detections"][0]["box"] == pytest.approx([100, 40, 200, 120], abs=4)
    picture = np.asarray(Image.open(tmp_path / "out" / "pictures" / "a.jpg")).astype(int)
    columns = np.nonzero((abs(picture - class_colour(1)) < 40).all(-1))[1] / picture.shape[1]
    assert (columns.min(), columns.max()) == pytest.approx((0.25, 0.5), abs=0.03)


def test_a_folder_in_use_is_not_touched(red: Predictor, tmp_path: Path) -> None:
    source = str(save(tmp_path / "a.png"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="is in use"):
        predict_sources("d", [source], tmp_path / "out", device="cpu")
    with pytest.raises(ConfigError, match="is a file"):
        predict_sources("d", [source], source, device="cpu")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_paths_are_sources_too(red: Predictor, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png")
    for i, sources in enumerate((path, str(path), [path])):
        assert predict_sources("d", sources, tmp_path / str(i), device="cpu").images == 1


def test_numbers_are_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    for most in (0, -1):
        with pytest.raises(ConfigError, match=f"max_detections must be 1 or more, not {most}"):
            predict_sources("absent", ["x"], tmp_path / "out", max_detections=most)
    with pytest.raises(ConfigError, match=r"score must be a number from 0 to 1, not the text '0\.3'"):
        predict_sources("absent", ["x"], tmp_path / "out", score="0.3")  # type: ignore[arg-type]


def test_wrong_format_and_source(red: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no format 'xml'; there are: jsonl, csv, coco, yolo"):
        predict_sources("d", ["x"], tmp_path / "out", format="xml")
    with pytest.raises(DataError, match="nowhere"):
        predict_sources("d", [str(tmp_path / "nowhere")], tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_failure_midway_leaves_no_half_file(red: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(4):
        save(tmp_path / "in" / f"{i}.png")
    calls: list[int] = []

    def fail_later(*args: Any) -> list[Detections]:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return find_red(*args)

    monkeypatch.setattr("sedet.predictor.detect", fail_later)
    with pytest.raises(OSError, match="No space"):
        predict_sources(
            "d", [str(tmp_path / "in")], tmp_path / "out", format=["jsonl", "csv", "coco"], batch=1, device="cpu"
        )
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_names_the_picture_and_leaves_the_folder_as_it_was(
    red: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        save(tmp_path / "in" / f"{i}.png")
    honest = Path.replace
    out = tmp_path / "out"

    def full(path: Path, target: Path) -> Path:
        if target.parent.name == "pictures" and any(target.parent.glob("*.jpg")):
            raise OSError(28, "No space left on device")
        return honest(path, target)

    def predict() -> None:
        formats = ("jsonl", "csv", "coco", "yolo")
        predict_sources("d", [str(tmp_path / "in")], out, format=formats, draw=True, batch=1, device="cpu")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space") as caught:
            predict()
    assert caught.value.filename == str(out / "pictures" / "1.jpg")
    assert list(out.iterdir()) == []
    predict()
    pictures = sorted((out / "pictures").iterdir())
    assert [p.name for p in pictures] == ["0.jpg", "1.jpg", "2.jpg"]
    for path in pictures:
        Image.open(path).load()  # whole


def test_at_most_two_batches_are_in_memory(red: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sedet import stream

    for i in range(20):
        save(tmp_path / "in" / f"{i:02}.png")
    read: list[str] = []
    original = stream.read_image
    monkeypatch.setattr("sedet.stream.read_image", lambda p, **k: (read.append(p.name), original(p, **k))[1])
    waiting: list[int] = []

    def counted(*args: Any) -> list[Detections]:
        waiting.append(len(read) - 2 * len(waiting))
        return find_red(*args)

    monkeypatch.setattr("sedet.predictor.detect", counted)
    predict_sources("d", [str(tmp_path / "in")], tmp_path / "out", batch=2, device="cpu")
    assert len(waiting) == 10 and max(waiting) <= 6
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["image"] for line in lines] == [f"{i:02}.png" for i in range(20)]


def test_odd_file_names(red: Predictor, tmp_path: Path) -> None:
    name = 'odd "name", <b>\n\u00fc %s.png'
    save(tmp_path / "in" / name)
    predict_sources("d", [str(tmp_path / "in")], tmp_path / "out", format=("jsonl", "csv"), draw=True, device="cpu")
    assert json.loads((tmp_path / "out" / "predictions.jsonl").read_text())["image"] == name
    with (tmp_path / "out" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        assert next(iter(csv.DictReader(file)))["image"] == name


@pytest.mark.parametrize(
    ("images", "seconds", "said"),
    [(2, 50.0, "(50.0 s, 25000 ms an image)"), (100, 20.0, "200 ms an image, 5.0 images/s"), (1000, 4.0, "4.0 ms an")],
)
def test_the_speed_of_slow_and_quick_detectors(images: int, seconds: float, said: str) -> None:
    assert said in str(PredictSummary(images, 0, 0.3, (), seconds, ()))
