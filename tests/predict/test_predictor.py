"""The predictor: every kind of image, results, and loading."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sedet
from sedet.config import ModelConfig
from sedet.detectors.build import build_detector
from sedet.detectors.file import LoadedDetector, load_detector, save_detector
from sedet.detectors.inference import detect
from sedet.detectors.regions import Detections
from sedet.errors import CheckpointError, ConfigError, ImageError, SedetError
from sedet.predictor import Predictor, Result, choose_device, load

from .scenes import BOX, CLASSES, find_red, save, scene

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


def test_the_detectors_own_score_is_the_default(red: Predictor) -> None:
    assert red.score == 0.3 and red.predict(scene()).names == ("red box",)
    red.score = 0.15
    assert red.predict(scene()).names == ("red box", "cat")
    assert red.predict(scene(), score=0.5).names == ("red box",)


@pytest.mark.parametrize(
    ("metrics", "score"),
    [({"best_score": 0.17}, 0.17), ({"best_score": None}, 0.3), ({"best_score": "x"}, 0.3), ({"best_score": 7}, 0.3)]
    + [(None, 0.3), ([], 0.3)],
)
def test_a_file_says_the_score_to_cut_at(metrics: Any, score: float) -> None:
    assert LoadedDetector(None, (), 64, {"metrics": metrics}).score == score  # type: ignore[arg-type]


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
    premultiplied = Image.new("LA", (80, 60), (0, 255)).convert("La")
    assert red.predict(premultiplied).width == 80
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
        (None, "NoneType is no image: give a path"),  # of cv2.imread and a wrong path
        (7, "int is no image"),
    ],
)
def test_wrong_pixels_are_refused(red: Predictor, image: Any, message: str) -> None:
    with pytest.raises(SedetError, match=message):
        red.predict(image)


@pytest.mark.parametrize("most", [0, -1, "5"])
def test_no_detections_cannot_be_asked_for(red: Predictor, most: Any) -> None:
    with pytest.raises(ConfigError, match="max_detections must be 1 or more, not "):
        red.predict(scene(), max_detections=most)


@pytest.mark.parametrize("score", ["0.3", -0.1, float("nan")])
def test_a_score_is_a_number_from_0_to_1(red: Predictor, score: Any) -> None:
    with pytest.raises(ConfigError, match=r"score must be .*from 0 to 1, not "):
        red.predict(scene(), score=score)


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
    with pytest.raises(SedetError, match="pip install supervision"):
        red.predict(scene()).to_supervision()


def test_result_as_fiftyone(red: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its documented format: [top-left x, top-left y, width, height], each a share of the image, of 80 x 60."""
    stand_in = SimpleNamespace(Detection=dict, Detections=lambda detections: detections)
    monkeypatch.setitem(sys.modules, "fiftyone", stand_in)
    (found,) = red.predict(scene()).to_fiftyone()
    x1, y1, x2, y2 = BOX
    wanted = [x1 / 80, y1 / 60, (x2 - x1) / 80, (y2 - y1) / 60]
    assert found == {"label": "red box", "bounding_box": pytest.approx(wanted), "confidence": 0.75}
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(SedetError, match="pip install fiftyone"):
        red.predict(scene()).to_fiftyone()


def test_result_as_the_real_fiftyones(red: Predictor) -> None:
    fo = pytest.importorskip("fiftyone", reason="FiftyOne is not installed")
    found = red.predict(scene()).to_fiftyone()
    assert isinstance(found, fo.Detections) and found.detections[0].label == "red box"
    assert found.detections[0].confidence == 0.75
    assert found.detections[0].bounding_box == pytest.approx([20 / 80, 10 / 60, 30 / 80, 20 / 60])


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
    assert choose_device(None) == choose_device("auto")
    for name in ("gpu", "xpu", "cuda:77"):
        with pytest.raises(ConfigError, match=name):
            choose_device(name)


def test_a_missing_detector_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"best\.safetensors: there is no such detector"):
        load(tmp_path / "best.safetensors")
    with pytest.raises(ConfigError, match="from the path of its file, not from NoneType"):
        load(None)  # type: ignore[arg-type]


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
