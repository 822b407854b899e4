"""Judging a detector on labelled images: classes by name, and images that cannot be read."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from sedet.data.formats import read_table
from sedet.data.table import AnnotationTable, ImageEntry, Objects
from sedet.errors import ConfigError, DataError, SedetError
from sedet.judge import agreed_classes, evaluate
from sedet.predictor import Predictor

from .scenes import BOX, CLASSES, save


def write_coco(folder: Path, names: Sequence[str], labels: Sequence[str] | None = None) -> Path:
    """Two scenes with the red box labelled right, its class the last of ``names``."""
    labels = labels or [names[-1]] * 2
    for i in range(2):
        save(folder / f"{i}.png")
    x1, y1, x2, y2 = BOX
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 60} for i in range(2)],
        "categories": [{"id": 10 * c + 1, "name": name} for c, name in enumerate(names)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": i,
                "category_id": 10 * names.index(label) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
            for i, label in enumerate(labels)
        ],
    }
    path = folder / "val.json"
    path.write_text(json.dumps(content))
    return path


def test_metrics_need_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --json"):  # before anything is read
        evaluate("absent", tmp_path / "absent.json", json=tmp_path)
    with pytest.raises(ConfigError, match="give --detections"):
        evaluate("absent", tmp_path / "absent.json", detections=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file is no folder\. Give --json another place"):
        evaluate("absent", tmp_path / "absent.json", json=tmp_path / "file" / "m.json")


def test_the_two_results_need_two_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for other in (tmp_path / "m.json", tmp_path / "sub" / ".." / "m.json"):
        with pytest.raises(ConfigError, match="--json and --detections name the same file"):
            evaluate("absent", tmp_path / "absent.json", json=tmp_path / "m.json", detections=other)


def test_settings_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    for score in (-1, 2, float("nan")):
        with pytest.raises(ConfigError, match="score_threshold must be from 0 to 1"):
            evaluate("absent", tmp_path / "absent.json", score_threshold=score)
    with pytest.raises(SedetError, match="area ranges"):
        evaluate("absent", tmp_path / "absent.json", area_ranges=(96, 32))


@pytest.mark.parametrize("order", [("cat", "red box"), ("red box", "cat")])
def test_evaluate_matches_classes_by_name(red: Predictor, tmp_path: Path, order: tuple[str, ...]) -> None:
    path = write_coco(tmp_path, order, ["red box"] * 2)
    metrics = evaluate("d", path, device="cpu", batch=1, json=tmp_path / "m" / "metrics.json")
    assert metrics.ap == pytest.approx(100) and metrics.images == 2
    assert metrics.per_class["red box"]["boxes"] == 2
    assert json.loads((tmp_path / "m" / "metrics.json").read_text())["ap"] == pytest.approx(100)
    assert evaluate(red, read_table(path)).ap == metrics.ap


def test_detections_are_written_with_the_ids_of_the_data(red: Predictor, tmp_path: Path) -> None:
    path = write_coco(tmp_path, ("cat", "red box"))
    metrics = evaluate("d", path, device="cpu", detections=tmp_path / "found" / "results.json")
    results = json.loads((tmp_path / "found" / "results.json").read_text())
    assert {r["image_id"] for r in results} == {0, 1} and {r["category_id"] for r in results} <= {1, 11}
    best = max(results, key=lambda r: r["score"])
    assert best["category_id"] == 11
    assert best["bbox"] == pytest.approx([BOX[0], BOX[1], BOX[2] - BOX[0], BOX[3] - BOX[1]], abs=0.01)
    assert metrics.ap == pytest.approx(100)


@pytest.mark.parametrize("flag", ["json", "detections"])
def test_results_are_not_written_over_what_they_are_of(red: Predictor, tmp_path: Path, flag: str) -> None:
    path = write_coco(tmp_path, ("cat", "red box"))
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "best.safetensors"
    file.write_bytes(b"weights")
    labels = path.read_bytes()
    for detector, data, out in ((file, path, file), (file.parent, path, file), (file, path.parent, path)):
        with pytest.raises(ConfigError, match=f"it is what is read. Give --{flag} another place"):
            evaluate(detector, data, device="cpu", **{flag: out})  # type: ignore[arg-type]
    assert file.read_bytes() == b"weights" and path.read_bytes() == labels


def test_evaluate_names_classes_that_do_not_agree(red: Predictor, tmp_path: Path) -> None:
    path = write_coco(tmp_path, ("red box", "dog"), ["red box", "dog"])
    with pytest.raises(DataError, match=r"does not know: dog \(and lacks cat\).*--classes 'red box'"):
        evaluate("d", path, device="cpu")
    assert evaluate("d", path, classes=["red box"], device="cpu").boxes == 1
    assert evaluate("d", path, classes="red box", device="cpu").boxes == 1  # not its letters
    with pytest.raises(DataError, match="does not know the class 'dog'"):
        evaluate("d", path, classes=["dog"], device="cpu")
    with pytest.raises(DataError, match="there is no class 'cat'"):
        evaluate("d", path, classes=["cat"], device="cpu")
    with pytest.raises(DataError, match="The detector knows: cat, red box"):
        evaluate("d", write_coco(tmp_path / "b", ["Cat"]), device="cpu")


def test_classes_without_objects_need_not_be_known_and_absent_ones_are_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entry = ImageEntry(Path("/a.png"), "a.png", 80, 60, 0)
    objects = Objects.build([BOX], [1])
    table = AnnotationTable(("zebra", "red box"), (entry,), (objects,), "val.json", (1, 2), Path("/"))
    with caplog.at_level(logging.WARNING):
        agreed = agreed_classes(table, CLASSES)
    assert agreed.classes == ("red box",) and agreed.objects[0].labels.tolist() == [0]
    assert "val.json has no class cat" in caplog.text


def test_no_boxes_to_judge_by_is_an_error(red: Predictor, tmp_path: Path) -> None:
    path = write_coco(tmp_path, CLASSES)
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    with pytest.raises(DataError, match="there are no boxes to judge by"):
        evaluate("d", path, device="cpu", json=tmp_path / "m.json")
    path = write_coco(tmp_path, CLASSES, ["red box", "red box"])
    with pytest.raises(DataError, match=r"no boxes to judge by.*--classes"):
        evaluate("d", path, classes=["cat"], device="cpu")
    assert not (tmp_path / "m.json").exists()


def test_evaluate_leaves_out_images_that_cannot_be_read(
    red: Predictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_coco(tmp_path, CLASSES)
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        metrics = evaluate("d", path, device="cpu")
    assert metrics.images == 1 and metrics.ap == pytest.approx(100)
    assert "1.png" in caplog.text
