"""Using a detector: every kind of image, every output, and what goes wrong with them.

Most tests look for red rectangles instead of running a network: then the right answer is known.
"""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import sedet
from sedet.config import ModelConfig
from sedet.data.formats import read_table
from sedet.data.table import AnnotationTable, ImageEntry, Objects
from sedet.detectors.build import build_detector
from sedet.detectors.file import LoadedDetector, load_detector, save_detector
from sedet.detectors.inference import detect
from sedet.detectors.regions import Detections
from sedet.errors import CheckpointError, ConfigError, DataError, ImageError, SedetError
from sedet.predict import agreed_classes, evaluate, predict_sources
from sedet.predictor import Predictor, Result, choose_device, load
from sedet.reporting.draw import class_colour

CLASSES = ("cat", "red box")
BOX = (20, 10, 50, 30)


def find_red(
    model: Any, images: Sequence[NDArray[np.uint8]], size: int, score_threshold: float, most: int
) -> list[Detections]:
    """One detection of class 1, score .75, around all red pixels of an image; one of class 0 at .2 in its corner."""
    found = []
    for image in images:
        rows, columns = np.nonzero((image[..., 0] > 180) & (image[..., 1] < 80) & (image[..., 2] < 80))
        boxes, scores, labels = [[0.0, 0.0, 5.0, 5.0]], [0.2], [0]
        if len(rows):
            red = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            boxes, scores, labels = [red, *boxes], [0.75, 0.2], [1, 0]
        keep = [i for i, s in enumerate(scores) if s > score_threshold][:most]
        found.append(
            Detections(
                torch.tensor([boxes[i] for i in keep], dtype=torch.float32).reshape(-1, 4),
                torch.tensor([scores[i] for i in keep], dtype=torch.float32),
                torch.tensor([labels[i] for i in keep], dtype=torch.int64),
            )
        )
    return found


@pytest.fixture
def red(monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """A predictor that finds red rectangles; ``load`` of any path gives it too."""
    loaded = LoadedDetector(None, CLASSES, 64, {})  # type: ignore[arg-type]
    monkeypatch.setattr("sedet.predictor.detect", find_red)
    monkeypatch.setattr("sedet.predictor.load_detector", lambda path, device: loaded)
    return Predictor(loaded, torch.device("cpu"))


def scene(width: int = 80, height: int = 60, box: tuple[int, int, int, int] | None = BOX) -> NDArray[np.uint8]:
    image = np.full((height, width, 3), 120, np.uint8)
    if box is not None:
        image[box[1] : box[3], box[0] : box[2]] = (255, 0, 0)
    return image


def save(path: Path, image: NDArray[np.uint8] | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene() if image is None else image).save(path, **options)
    return path


# One image


def test_every_kind_of_image_gives_the_same_result(red: Predictor, tmp_path: Path) -> None:
    image = scene()
    path = save(tmp_path / "a.png")
    kinds = [path, str(path), Image.fromarray(image), image, torch.from_numpy(image).permute(2, 0, 1)]
    results = red.predict(kinds, batch=2)
    assert len(results) == len(kinds)
    for result in [*results, *(red.predict(kind) for kind in kinds)]:
        assert result.boxes.tolist() == [list(BOX)] and result.boxes.dtype == torch.float32
        assert result.names == ("red box",) and result.labels.tolist() == [1]
        assert (result.width, result.height) == (80, 60)
    assert [r.path for r in results] == [path, path, None, None, None]


def test_scores_below_the_threshold_are_left_out(red: Predictor) -> None:
    assert red.predict(scene(), score=0.1).names == ("red box", "cat")
    assert len(red.predict(scene(), score=0.8)) == 0
    assert red.predict(scene(), score=0.1, max_detections=1).names == ("red box",)
    with pytest.raises(ConfigError, match="score must be from 0 to 1, not 30"):
        red.predict(scene(), score=30)
    with pytest.raises(ConfigError, match="batch must be 1 or more"):
        red.predict([scene()], batch=0)


def test_files_are_turned_by_exif_and_boxes_are_in_the_turned_image(red: Predictor, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned clockwise when shown
    path = save(tmp_path / "a.png", exif=exif)
    result = red.predict(path)
    assert (result.width, result.height) == (60, 80)
    assert result.boxes.tolist() == [[60 - 30, 20, 60 - 10, 50]]
    assert result.draw().size == (480, 640)


def test_grey_alpha_and_palette_pixels(red: Predictor) -> None:
    grey = np.full((20, 30), 9, np.uint8)
    for kind in (grey, grey[..., None], torch.from_numpy(grey)[None], Image.fromarray(grey)):
        assert red.predict(kind).width == 30
    seen = red.predict(Image.fromarray(scene()).convert("RGBA"))
    assert seen.boxes.tolist() == [list(BOX)]
    assert red.predict(Image.fromarray(scene()).convert("P")).boxes.tolist() == [list(BOX)]
    clear = Image.fromarray(np.dstack([scene(), np.zeros((60, 80), np.uint8)]))
    assert len(red.predict(clear)) == 0  # fully transparent: white


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 20, 30), np.uint8), "turn the channels last"),
        (np.zeros((20, 30, 3), np.float32), "array of float32"),
        (np.zeros((20, 30, 4), np.uint8), r"an array \[20, 30, 4\]"),
        (np.zeros((0, 30, 3), np.uint8), "30 x 0 pixels is empty"),
        (torch.zeros(20, 30, 3, dtype=torch.uint8), r"tensor of torch.uint8 \[20, 30, 3\]"),
        (torch.zeros(3, 20, 30), "tensor of torch.float32"),
        (Image.new("I;16", (5, 5)), "more than 8 bits"),
        ([None], "NoneType is no image"),
    ],
)
def test_wrong_pixels_are_refused(red: Predictor, image: Any, message: str) -> None:
    with pytest.raises(SedetError, match=message):
        red.predict(image)


def test_a_missing_file_is_named(red: Predictor) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.jpg: there is no such image"):
        red.predict("nowhere.jpg")


def test_no_images_no_results(red: Predictor) -> None:
    assert red.predict([]) == []


def test_boxes_stay_within_the_image(red: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = Detections(torch.tensor([[-5.0, -1, 900, 900]]), torch.tensor([0.9]), torch.tensor([0]))
    monkeypatch.setattr("sedet.predictor.detect", lambda *_: [outside])
    assert red.predict(scene()).boxes.tolist() == [[0, 0, 80, 60]]


def test_a_batch_that_does_not_fit_is_parted_and_remembered(red: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def small_memory(model: Any, images: Sequence[Any], *rest: Any) -> list[Detections]:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return find_red(model, images, *rest)

    monkeypatch.setattr("sedet.predictor.detect", small_memory)
    boxes = [(i, 0, i + 10, 10) for i in range(9)]
    results = red.predict([scene(box=b) for b in boxes], batch=6)
    assert [tuple(r.boxes[0].tolist()) for r in results] == boxes
    assert sizes == [6, 3, 2, 2, 2, 2, 1]

    def no_memory(*_: Any) -> list[Detections]:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("sedet.predictor.detect", no_memory)
    with pytest.raises(SedetError, match="not enough memory on cpu for one image at 64 px"):
        red.predict([scene(), scene()])

    def bug(*_: Any) -> list[Detections]:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("sedet.predictor.detect", bug)
    with pytest.raises(RuntimeError, match="shapes differ"):
        red.predict(scene())


def test_result_converts(red: Predictor) -> None:
    result = red.predict(scene(), score=0.1)
    arrays = result.numpy()
    assert arrays["boxes"].shape == (2, 4) and arrays["boxes"].dtype == np.float32
    assert arrays["labels"].tolist() == [1, 0]
    content = json.loads(json.dumps(result.to_dict()))
    assert content["path"] is None and (content["width"], content["height"]) == (80, 60)
    assert content["detections"][0] == {
        "box": [20.0, 10.0, 50.0, 30.0],
        "score": 0.75,
        "label": 1,
        "name": "red box",
    }


def test_result_as_supervision(red: Predictor) -> None:
    sv = pytest.importorskip("supervision")
    found = red.predict(scene(), score=0.1).to_supervision()
    assert isinstance(found, sv.Detections) and len(found) == 2
    assert found.data["class_name"].tolist() == ["red box", "cat"]
    assert found[found.confidence > 0.5].xyxy.tolist() == [list(BOX)]
    assert len(red.predict(scene(), score=0.9).to_supervision()) == 0


def test_without_supervision_the_error_says_what_to_install(red: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(SedetError, match=r"sedet\[supervision\]"):
        red.predict(scene()).to_supervision()


def test_result_draws_on_the_image_it_is_of(red: Predictor, tmp_path: Path) -> None:
    result = red.predict(scene())
    assert result.draw(scene()).size == (640, 480)
    assert red.predict(save(tmp_path / "a.png")).draw().size == (640, 480)
    with pytest.raises(SedetError, match="draw needs the image"):
        result.draw()
    with pytest.raises(SedetError, match="81 x 60, the detections are of 80 x 60"):
        result.draw(scene(81))


# Loading


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda")
    for name in ("gpu", "xpu", "cuda:77"):
        with pytest.raises(ConfigError, match=name):
            choose_device(name)


def test_a_missing_detector_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"best\.safetensors: there is no such detector"):
        load(tmp_path / "best.safetensors")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a real, untrained detector."""
    torch.manual_seed(0)
    model = build_detector("fcos", "tf_efficientnet_lite0", 2, ModelConfig(neck_channels=16, head_convs=1), "none")
    path = tmp_path_factory.mktemp("detector") / "best.safetensors"
    save_detector(path, model, CLASSES, 96, {})
    return path


def test_a_real_detector_predicts_what_detect_gives(real: Path) -> None:
    predictor = sedet.load(real, device="cpu")
    assert predictor.classes == CLASSES and predictor.image_size == 96
    images = [scene(), scene(200, 90)]
    results = predictor.predict(images, score=0.0, max_detections=7)
    expected = detect(load_detector(real).model, images, 96, 0.0, 7)
    for result, found, image in zip(results, expected, images, strict=True):
        height, width = image.shape[:2]
        assert 0 < len(result) <= 7 and isinstance(result, Result)
        torch.testing.assert_close(result.scores, found.scores)
        assert (result.boxes >= 0).all()
        assert (result.boxes <= torch.tensor([width, height, width, height])).all()


# Many images


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
    with pytest.raises(DataError, match=r"none of the 1 images can be read.*empty\.jpg"):
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
    from sedet import predict

    for i in range(20):
        save(tmp_path / "in" / f"{i:02}.png")
    read: list[str] = []
    original = predict.read_image
    monkeypatch.setattr("sedet.predict.read_image", lambda p, **k: (read.append(p.name), original(p, **k))[1])
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


# Judging


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
    with pytest.raises(ConfigError, match="is a folder"):  # before anything is read
        evaluate("absent", tmp_path / "absent.json", json=tmp_path)


@pytest.mark.parametrize("order", [("cat", "red box"), ("red box", "cat")])
def test_evaluate_matches_classes_by_name(red: Predictor, tmp_path: Path, order: tuple[str, ...]) -> None:
    path = write_coco(tmp_path, order, ["red box"] * 2)
    metrics = evaluate("d", path, device="cpu", batch=1, json=tmp_path / "m" / "metrics.json")
    assert metrics.ap == pytest.approx(100) and metrics.images == 2
    assert metrics.per_class["red box"]["boxes"] == 2
    assert json.loads((tmp_path / "m" / "metrics.json").read_text())["ap"] == pytest.approx(100)
    assert evaluate(red, read_table(path)).ap == metrics.ap


def test_evaluate_names_classes_that_do_not_agree(red: Predictor, tmp_path: Path) -> None:
    path = write_coco(tmp_path, ("red box", "dog"), ["red box", "dog"])
    with pytest.raises(DataError, match=r"does not know: dog \(and lacks cat\).*--classes 'red box'"):
        evaluate("d", path, device="cpu")
    assert evaluate("d", path, classes=["red box"], device="cpu").boxes == 1
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
