"""Labelling a folder: shards, going on, shares, refusals; and a real detector with everything it measures."""

from __future__ import annotations

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sedet
from sedet.cli import main
from sedet.data.formats import read_table
from sedet.detectors.file import save_detector
from sedet.errors import ConfigError, DataError
from sedet.labeling import label as module
from sedet.labeling.label import label
from sedet.labeling.look import half_size
from sedet.labeling.progress import duration, progress_line
from sedet.labeling.shards import read_records
from sedet.predictor import Predictor, load
from sedet.training.run import train
from tests import tiny
from tests.predict.scenes import save, scene
from tests.training import runs

ALL = ("coco", "yolo", "voc", "label-studio", "cvat")


def plain(detector: Path, photos: Path, out: Path, **changes: Any) -> Any:
    settings: dict[str, Any] = {"rank": False, "shard_size": 2, "device": "cpu", "format": "coco", "score": 0.5}
    return label(detector, str(photos), out, **(settings | changes))


def test_labels_images_and_reports_broken_ones(
    red: Predictor, detector: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "sedet"):
        done = plain(detector, photos, tmp_path / "out")
    assert (done.images, done.fresh, done.boxes, done.skipped, done.shards) == (5, 5, 3, 1, 3)
    assert "torn.jpg" in caplog.text
    records = {r.name: r for r in read_records(tmp_path / "out", 3, 2)}
    assert list(records) == ["a.png", "b.png", "torn.jpg", "turned.png", "images/c d.png"]
    (box,) = records["a.png"].boxes
    assert (box.corners, box.score, box.label) == ((20, 10, 50, 30), 0.75, 1)
    assert (records["turned.png"].width, records["turned.png"].height) == (60, 80)
    assert records["turned.png"].boxes[0].corners == (30, 20, 50, 50), "as turned by EXIF"
    assert records["torn.jpg"].error is not None and not records["b.png"].boxes


def test_pictures_of_runs_are_not_labelled(red: Predictor, detector: Path, photos: Path, tmp_path: Path) -> None:
    for folder in ("images/run", ".hidden"):
        save(photos / folder / "pictures" / "000010.png")
    (photos / "images" / "run" / "config.yaml").write_text("")
    (photos / "images" / "run" / "metrics.csv").write_text("")
    plain(detector, photos, tmp_path / "out")
    names = [r.name for r in read_records(tmp_path / "out", 3, 2)]
    assert names == ["a.png", "b.png", "torn.jpg", "turned.png", "images/c d.png"]
    given = plain(detector, photos / "images" / "run", tmp_path / "asked for")
    assert given.images == 1, "as predict does, it takes the folder that was named"


def test_goes_on_where_it_was_interrupted(
    red: Predictor, detector: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = plain(detector, photos, tmp_path / "whole")
    real, calls = module.write_shard, []

    def stop(folder: Path, number: int, *rest: Any) -> None:
        if calls:
            raise KeyboardInterrupt
        calls.append(number)
        real(folder, number, *rest)

    monkeypatch.setattr(module, "write_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        plain(detector, photos, tmp_path / "out")
    monkeypatch.setattr(module, "write_shard", real)
    done = plain(detector, photos, tmp_path / "out")
    assert (done.fresh, done.labeled, done.boxes) == (3, 5, whole.boxes)
    for file in (tmp_path / "whole" / "shards").iterdir():
        assert (tmp_path / "out" / "shards" / file.name).read_bytes() == file.read_bytes()
    again = plain(detector, photos, tmp_path / "out")
    assert again.fresh == 0 and again.boxes == whole.boxes


def test_shares_add_up(red: Predictor, detector: Path, photos: Path, tmp_path: Path) -> None:
    one = plain(detector, photos, tmp_path / "out", shard="1/2")
    assert (one.fresh, one.finished, one.shards, one.exports) == (3, 2, 3, ())
    assert "without --shard" in str(one)
    two = plain(detector, photos, tmp_path / "out", shard="2/2")
    assert (two.fresh, two.finished) == (2, 3)
    last = plain(detector, photos, tmp_path / "out")
    assert last.fresh == 0 and last.boxes == 3 and last.exports


def test_refuses_what_does_not_go_on(red: Predictor, detector: Path, photos: Path, tmp_path: Path) -> None:
    plain(detector, photos, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"another --score \(0.5, now 0.4\).*new folder"):
        plain(detector, photos, tmp_path / "out", score=0.4)
    with pytest.raises(ConfigError, match="other sources"):
        plain(detector, photos / "images", tmp_path / "out")
    detector.write_bytes(b"other weights")
    with pytest.raises(ConfigError, match="another detector"):
        plain(detector, photos, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"holds files already, but no label.json"):
        plain(detector, photos, photos)
    for changes, match in (
        ({"shard": "3/2"}, "--shard must be as 2/8"),
        ({"format": "csv"}, "there is no export 'csv'"),
        ({"top": 3}, "--top needs the ranking"),
        ({"shard_size": 0}, "--shard-size must be 1"),
    ):
        with pytest.raises(ConfigError, match=match):
            plain(detector, photos, tmp_path / "new", **changes)
    assert not (tmp_path / "new").exists()


def test_corrected_exports_are_not_written_over(red: Predictor, detector: Path, photos: Path, tmp_path: Path) -> None:
    plain(detector, photos, tmp_path / "out", format=["yolo"])
    file = tmp_path / "out" / "yolo" / "labels" / "a.txt"
    file.write_text("corrected")
    done = plain(detector, photos, tmp_path / "out", format=["yolo", "coco"])
    assert file.read_text() == "corrected" and len(done.exports) == 2
    with pytest.raises(ConfigError, match="move it away"):
        plain(detector, photos, tmp_path / "out", format=["label-studio"], image_url="x")
        plain(detector, photos, tmp_path / "out", format=["label-studio"], image_url="y")


@pytest.mark.parametrize("name", ["coco", "yolo", "voc"])
def test_exports_read_as_labelled_data(red: Predictor, detector: Path, photos: Path, tmp_path: Path, name: str) -> None:
    plain(detector, photos, tmp_path / "out", format=ALL)
    table = read_table(tmp_path / "out" / name)
    boxes = {e.path.resolve().name: o.boxes.round(2).tolist() for e, o in zip(table.images, table.objects, strict=True)}
    assert boxes == {
        "a.png": [[20, 10, 50, 30]],
        "b.png": [],
        "c d.png": [[60, 10, 90, 35]],
        "turned.png": [[30, 20, 50, 50]],
    }
    assert table.classes[-1] == "red box"


@pytest.mark.parametrize("name", ["coco", "yolo", "voc"])
def test_copies_do_without_the_folder(red: Predictor, detector: Path, photos: Path, tmp_path: Path, name: str) -> None:
    save(photos / "gone.png")
    plain(detector, photos, tmp_path / "out", format="cvat")
    (photos / "gone.png").unlink()
    kept = {path.name: path.read_bytes() for path in photos.rglob("*.png")}
    done = plain(detector, photos, tmp_path / "out", format=[name], copy=True)
    assert (
        len(done.notes) == 1
        and "1 images could not be copied and are left out" in done.notes[0]
        and "'gone.png'" in done.notes[0]
    )
    photos.rename(tmp_path / "elsewhere")
    (tmp_path / "out" / name).rename(tmp_path / "taken along")
    assert not any(path.is_symlink() for path in (tmp_path / "taken along").rglob("*"))
    table = read_table(tmp_path / "taken along")
    found = {e.path.read_bytes(): len(o) for e, o in zip(table.images, table.objects, strict=True)}
    expected = {"a.png": 1, "b.png": 0, "c d.png": 1, "turned.png": 1}
    assert found == {kept[name]: boxes for name, boxes in expected.items()}


def test_links_and_copies_are_two_exports(red: Predictor, detector: Path, photos: Path, tmp_path: Path) -> None:
    done = plain(detector, photos, tmp_path / "out", format=["yolo", "cvat"])
    assert (done.exports[0] / "images" / "a.png").is_symlink()
    with pytest.raises(ConfigError, match=r"yolo is an export with other settings \(--top, --copy\)"):
        plain(detector, photos, tmp_path / "out", format=["yolo", "cvat"], copy=True)
    with pytest.raises(ConfigError, match="--copy needs an export that holds images, of coco, yolo, voc"):
        plain(detector, photos, tmp_path / "out", format=["cvat"], copy=True)
    again = plain(detector, photos, tmp_path / "out", format=["coco", "cvat"], copy=True)
    assert sorted(p.name for p in (again.exports[0] / "images").iterdir()) == ["a.png", "b.png", "images", "turned.png"]


def test_without_links_it_says_what_to_do(
    red: Predictor, detector: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", none)
    done = plain(detector, photos, tmp_path / "out", format=["coco", "yolo", "voc"])
    assert [note.partition(":")[0] for note in done.notes] == ["coco", "yolo", "voc"]
    assert all("--copy" in note for note in done.notes)


def test_scores_are_exported(red: Predictor, detector: Path, photos: Path, tmp_path: Path) -> None:
    plain(detector, photos, tmp_path / "out", format=ALL)
    out = tmp_path / "out"
    assert json.loads((out / "coco" / "instances.json").read_text())["annotations"][0]["score"] == 0.75
    assert (out / "yolo" / "scores" / "a.txt").read_text() == "1 0.4375000 0.3333333 0.3750000 0.3333333 0.75000\n"
    assert "<score>0.75000</score>" in (out / "voc" / "Annotations" / "a.xml").read_text()
    assert '<attribute name="score">0.75000</attribute>' in (out / "cvat" / "annotations.xml").read_text()
    task = json.loads((out / "label-studio" / "tasks-00001.json").read_text())[0]
    (result,) = task["predictions"][0]["result"]
    assert task["data"]["image"] == "/data/local-files/?d=photos/a.png", "below the parent of the folder"
    assert result["score"] == 0.75 and result["value"]["rectanglelabels"] == ["red box"]
    assert [result["value"][k] for k in ("x", "y", "width", "height")] == pytest.approx([25, 50 / 3, 37.5, 100 / 3])


def test_a_real_detector_measures_ranks_and_picks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name, seed in (("best", 0), ("student", 1)):
        save_detector(run / f"{name}.safetensors", tiny.detector(2, seed, confident=True), ("red", "blue"), 64, {})
    for i in range(5):
        save(tmp_path / "photos" / f"{i}.png", tiny.scene(i)[0])
    save(tmp_path / "photos" / "copy.png", tiny.scene(0)[0])
    words = ["label", str(run), str(tmp_path / "photos"), "--out", str(tmp_path / "out"), "--top", "2"]
    assert main([*words, "--device", "cpu", "--score", "0.2"]) == 0
    assert "ranking" in capsys.readouterr().out
    with (tmp_path / "out" / "ranking.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and all(0 <= float(r[k]) <= 1 for r in rows for k in list(rows[0])[2:-1])
    assert all(float(r["teacher_student"]) > 0 and float(r["scale"]) > 0 for r in rows)
    by_name = {r["image"]: r for r in rows}
    twins = sorted(int(by_name[name]["rank"]) for name in ("0.png", "copy.png"))
    assert twins[1] >= 5 and min(float(by_name[n]["diversity"]) for n in ("0.png", "copy.png")) < 0.01
    chosen = json.loads((tmp_path / "out" / "coco" / "instances.json").read_text())["images"]
    assert [i["file_name"] for i in chosen] == [r["image"] for r in rows[:2]]
    predictor = load(run, "cpu")
    (half,) = half_size(predictor, [np.asarray(scene(128, 96))], 0.1, 100)
    assert len(half) and float(half.boxes[:, 2].max()) > 64, "in pixels of the image, not of the half view"


def test_training_leaves_the_student_that_ranking_compares_with(tmp_path: Path) -> None:
    config = runs.data(tmp_path)
    train(config)
    label(tmp_path / "run", config.unlabeled, tmp_path / "out", score=0.001, device="cpu")
    with (tmp_path / "out" / "ranking.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 and all(row["teacher_student"] for row in rows)
    train(replace(runs.supervised(config), out=str(tmp_path / "twin")))
    assert not (tmp_path / "twin" / "student.safetensors").exists(), "nothing was taught but by labels"


def test_nothing_to_label(red: Predictor, detector: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images were found"):
        plain(detector, tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "x.png").write_bytes(b"x")
    with pytest.raises(DataError, match="none of the 1 images can be read"):
        plain(detector, tmp_path / "empty", tmp_path / "out")
    assert callable(sedet.label) and callable(sedet.merge)


def test_progress() -> None:
    assert progress_line(1500, 4000, 100.0, 500) == "1,500 of 4,000 images, 5.0 images/s, 8 min 20 s left"
    assert progress_line(0, 10, 0.0, 0) == "0 of 10 images, 0.0 images/s"
    assert [duration(s) for s in (5, 95, 3725)] == ["5 s", "1 min 35 s", "1 h 02 min"]
