"""Exported files: what they hold, what they say of real bytes, and what stops an export."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sedet import cli
from sedet.data.formats import read_table
from sedet.detectors.file import save_detector
from sedet.detectors.regions import Detections
from sedet.errors import ConfigError, SedetError
from sedet.exporting import export as module
from sedet.exporting.agreement import Agreement, Tolerance, agreement
from sedet.exporting.export import export, noise, own_images, run_data
from sedet.exporting.session import OnnxSession
from sedet.predictor import load
from sedet.reporting.report import ReportData
from sedet.settings import save_config
from tests import tiny
from tests.exporting.test_graph import network, picture
from tests.training import runs

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

CLASSES = ("cat", "dog", "<b>")


def saved(folder: Path, kind: str = "fcos") -> Path:
    path = folder / f"{kind}.safetensors"
    save_detector(path, network(kind), CLASSES, 64, {"metrics": {"best_score": 0.25}})
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector, labelled data, a folder of photos, and the ONNX file made with both."""
    folder = tmp_path_factory.mktemp("export")
    tiny.dataset(folder / "data")
    return folder


@pytest.fixture(scope="module")
def photos(place: Path) -> Path:
    folder = place / "photos"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(picture(50 + 10 * i, 80, seed=i)).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def made(place: Path, photos: Path) -> module.Exported:
    return export(saved(place), place / "detector.onnx", images=str(photos))


def test_an_onnx_file_says_what_it_is(made: module.Exported) -> None:
    session = OnnxSession(made.path.read_bytes()).session
    facts = json.loads(session.get_modelmeta().custom_metadata_map["sedet"])
    assert facts == made.facts and facts["classes"] == list(CLASSES) and facts["score"] == 0.25
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(CLASSES)
    assert [i.name for i in session.get_inputs()] == ["images"]
    assert [i.name for i in session.get_overridable_initializers()] == ["score"]
    assert [o.name for o in session.get_outputs()] == ["boxes", "scores", "labels", "count"]
    assert str(Path(__file__).resolve().parents[2]).encode() not in made.path.read_bytes(), "no path of this machine"


def test_an_onnx_file_detects_what_the_detector_does(made: module.Exported, place: Path) -> None:
    assert made.agreement is not None and made.agreement.images == 3 and made.agreement.detections > 30
    assert made.agreement.missing == 0 and made.agreement.score < 0.002
    assert made.resized is not None and made.resized.missing == 0
    session, predictor = OnnxSession(made.path.read_bytes()), load(place / "fcos.safetensors", "cpu")
    batch = np.stack([picture(48, 64, seed) for seed in range(3)])  # no resizing: the same pixels
    boxes, scores, labels, count = session(batch)
    for i, wanted in enumerate(predictor.predict(list(batch))):
        number = int(count[i])
        assert number == len(wanted) > 0
        np.testing.assert_allclose(scores[i, :number], wanted.scores, atol=1e-3)
        found = agreement(
            [Detections(wanted.boxes, wanted.scores, wanted.labels)],
            [Detections(*(torch.from_numpy(x[i, :number]) for x in (boxes, scores, labels)))],
            0.25,
        )
        assert found.missing == 0 and found.pixels < 0.5
    alone = session(batch[1:2])
    assert int(alone[3][0]) == int(count[1])
    np.testing.assert_allclose(alone[1][0], scores[1], atol=1e-4)


def test_the_lowest_score_is_an_input_that_need_not_be_given(made: module.Exported) -> None:
    session, images = OnnxSession(made.path.read_bytes()), picture(48, 64)[None]
    usual, same, few, none = (int(session(images, score)[3][0]) for score in (None, 0.25, 0.6, 1.0))
    assert usual == same > few and none == 0
    assert (session(images, 0.6)[1][0, :few] > 0.6).all()


def test_what_is_printed(made: module.Exported, photos: Path) -> None:
    text = str(made)
    assert "ONNX, opset 18, fp32" in text and "lowest score 0.25" in text and "2 <b>" in text
    assert f"3 images of {photos}, detections from score 0.05 on\n" in text and "on the same pixels 0 of" in text
    assert "ms an image" in text and "AP" not in text


def test_two_stages_in_onnx(tmp_path: Path, photos: Path) -> None:
    done = export(saved(tmp_path, "faster_rcnn"), images=str(photos))
    assert done.path == tmp_path / "best.onnx" and done.agreement is not None
    assert done.agreement.detections > 30 and done.agreement.missing <= 1 and done.agreement.score < 0.01


def test_int8_is_calibrated_and_judged(place: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = place / "data" / "val.json"
    path = place / "scenes.safetensors"
    save_detector(path, tiny.detector(classes=2, confident=True), ("red", "blue"), 64, {})
    words = ["--precision", "int8", "--images", str(photos), "--data", str(data), "--out", str(place / "int8.onnx")]
    assert cli.main(["export", str(path), *words]) == 0
    text = capsys.readouterr().out
    assert "int8" in text and "AP " in text and "in PyTorch" in text
    names = {node.op_type for node in _graph(place / "int8.onnx").node}
    assert {"QuantizeLinear", "DequantizeLinear", "NonMaxSuppression"} <= names


def test_what_a_smaller_precision_costs_is_told_or_said_to_be_unknown(
    place: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the run's own val, also where the images to compare on are others."""
    path = place / "scenes.safetensors"
    save_detector(path, tiny.detector(classes=2, confident=True), ("red", "blue"), 64, {})
    words = ["export", str(path), "--precision", "fp16", "--images", str(photos), "--overwrite"]
    assert cli.main([*words, "--out", str(place / "half.onnx")]) == 0
    assert "AP     what it costs was not measured: give --data" in capsys.readouterr().out
    val = read_table(str(place / "data" / "val.json"))
    monkeypatch.setattr(module, "run_data", lambda *_: ReportData(None, val))
    assert cli.main([*words, "--out", str(place / "half.onnx")]) == 0
    text = capsys.readouterr().out
    assert "in PyTorch (" in text and f"images of {photos}" in text and "not measured" not in text


def test_data_without_a_comparison_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="--no-check"):
        export(place / "scenes.safetensors", data=place / "data" / "val.json", check=False)


def _graph(path: Path) -> Any:
    import onnx

    return onnx.load(path).graph


def test_torch_export_runs_without_sedet(tmp_path: Path, photos: Path) -> None:
    done = export(saved(tmp_path, "retinanet"), format="torch-export", images=[str(photos)])
    assert done.path == tmp_path / "best.pt2" and done.agreement is not None and done.agreement.detections > 30
    np.save(tmp_path / "images.npy", picture(48, 64)[None])
    code = (
        "import sys, json, numpy, torch, torchvision\n"
        "extra = {'sedet.json': ''}\n"
        f"detector = torch.export.load({str(done.path)!r}, extra_files=extra).module()\n"
        f"answers = detector(torch.from_numpy(numpy.load({str(tmp_path / 'images.npy')!r})))\n"
        "assert 'sedet' not in sys.modules\n"
        "print(json.dumps([int(answers[3]), json.loads(extra['sedet.json'])['classes']]))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    number, classes = json.loads(out.stdout.splitlines()[-1])
    wanted = load(tmp_path / "retinanet.safetensors", "cpu").predict(picture(48, 64))
    assert abs(number - len(wanted)) <= 1 and len(wanted) > 3 and classes == list(CLASSES)


# --- what stops an export ---------------------------------------------------------------------------------------


def test_an_export_that_says_something_else_is_not_written(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shifted(OnnxSession):
        def __init__(self, data: bytes, threads: int = 0) -> None: ...

        def __call__(self, images: Any, score: float | None = None) -> Any:
            boxes, scores = np.zeros((1, 1, 4), np.float32), np.ones((1, 1), np.float32)
            return boxes, scores, np.zeros((1, 1), np.int64), np.ones(1, np.int64)

    monkeypatch.setattr(module, "to_onnx", lambda _: None)
    monkeypatch.setattr(module, "finished", lambda *_: b"")
    monkeypatch.setattr(module, "OnnxSession", Shifted)
    with pytest.raises(SedetError, match=r"does not say what the original says.*Nothing was written"):
        export(saved(tmp_path), tmp_path / "a.onnx", images=str(photos))
    assert not (tmp_path / "a.onnx").exists()
    done = export(saved(tmp_path), tmp_path / "a.onnx", check=False)
    assert done.path.exists() and "not compared" in str(done)


class Stub(OnnxSession):
    """Says what the original says, but for boxes moved by ``shift`` where an image is resized."""

    original: Any = None
    shift = 0.0

    def __init__(self, data: bytes, threads: int = 0) -> None: ...

    def __call__(self, images: Any, score: float | None = None) -> Any:
        (found,) = self.original.detect([images[0]], score, 100)
        resized = max(images.shape[1:3]) > 64
        boxes = found.boxes + (self.shift if resized else 0.0)
        count = np.array([len(found.scores)])
        return boxes.numpy()[None], found.scores.numpy()[None], found.labels.numpy()[None], count


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Stub]:
    monkeypatch.setattr(Stub, "original", load(saved(tmp_path), "cpu"))
    monkeypatch.setattr(module, "to_onnx", lambda _: None)
    monkeypatch.setattr(module, "finished", lambda *_: b"file")
    monkeypatch.setattr(module, "OnnxSession", Stub)
    return Stub


def test_a_high_cut_does_not_empty_the_comparison(tmp_path: Path, photos: Path, stub: type[Stub]) -> None:
    done = export(tmp_path / "fcos.safetensors", tmp_path / "a.onnx", score=0.999, images=str(photos))
    assert done.agreement is not None and done.agreement.detections > 30
    assert "lowest score 0.999" in str(done)


def test_nothing_compared_is_not_written(
    tmp_path: Path, photos: Path, stub: type[Stub], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "CHECK_SCORE", 0.999)
    words = ["export", str(tmp_path / "fcos.safetensors"), "--out", str(tmp_path / "a.onnx"), "--images", str(photos)]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert "nothing was compared" in error and "--no-check" in error and not (tmp_path / "a.onnx").exists()


def test_what_the_file_resizes_itself_is_judged_too(
    tmp_path: Path, photos: Path, stub: type[Stub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stub, "shift", 50.0)
    with pytest.raises(SedetError, match=r"does not say what the original says on images as they are"):
        export(tmp_path / "fcos.safetensors", tmp_path / "a.onnx", images=str(photos))
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--format", "torch-export", "--precision", "int8"], "int8 is made by ONNX Runtime"),
        (["--score", "1.5"], "score"),
        (["--max-detections", "0"], "max_detections must be 1 or more"),
        (["--out", "."], "is a folder"),
        (["--out", "taken.onnx"], "is there already; give --overwrite"),
        (["--out", "taken.onnx/new.onnx"], "cannot be written"),
        (["--precision", "int4"], "int4"),
        (["--formt", "onnx"], "--format"),
        (["--data", "nothing.json"], "nothing.json"),
    ],
)
def test_mistakes(
    flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.onnx").write_bytes(b"mine")
    assert cli.main(["export", str(saved(tmp_path)), *flags]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and len(error.splitlines()) < 4
    assert (tmp_path / "taken.onnx").read_bytes() == b"mine"


def test_a_detector_is_not_replaced_by_its_export(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()
    (tmp_path / "run").mkdir()
    shipped = path.replace(tmp_path / "run" / "best.safetensors")
    for detector in (shipped, shipped.parent):
        with pytest.raises(ConfigError, match=r"it is what is read\. Give --out another place"):
            export(detector, shipped, overwrite=True)
    assert shipped.read_bytes() == before


def test_int8_is_calibrated_on_the_runs_own_images(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the data to compare on are others; and nothing is traced where there are none."""
    asked: list[int] = []

    def calibrated(model: Any, samples: Any) -> Any:
        asked.append(sum(1 for _ in samples))
        raise ConfigError("far enough")

    pool = tuple(sorted(photos.iterdir()))
    monkeypatch.setattr(module, "run_data", lambda *_: ReportData(None, None, pool))
    monkeypatch.setattr(module, "read_table", lambda *_, **__: None)
    monkeypatch.setattr(module, "to_onnx", lambda _: None)
    monkeypatch.setattr(module, "quantized", calibrated)
    with pytest.raises(ConfigError, match="far enough"):
        export(saved(tmp_path), precision="int8", data="labels.json")
    assert asked == [3]  # one of the four is no picture


def test_int8_needs_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "to_onnx", lambda _: None)
    with pytest.raises(ConfigError, match="give --images FOLDER"):
        export(saved(tmp_path), precision="int8")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "onnxscript" else there(n, *a))
    with pytest.raises(SedetError, match="onnxscript is not installed: pip install onnx onnxscript onnxruntime"):
        export(saved(tmp_path))


# --- the comparison ---------------------------------------------------------------------------------------------


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = torch.tensor([row[:5] for row in rows], dtype=torch.float32).reshape(-1, 5)
    return Detections(table[:, :4], table[:, 4], torch.tensor([row[5] for row in rows], dtype=torch.int64))


def test_agreement_by_hand() -> None:
    first = found((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.5, 1), (50, 50, 60, 60, 0.31, 0))
    second = found((0, 0, 10, 10.5, 0.88, 0), (20, 20, 30, 30, 0.5, 0))
    result = agreement([first], [second], score=0.3)
    # Looked for: two of the first (0.31 is too near to the lowest score) and two of the second; the boxes at 20 are
    # of different classes.
    assert (result.images, result.detections, result.missing) == (1, 4, 2)
    assert result.score == pytest.approx(0.02) and result.pixels == pytest.approx(0.5)
    assert not result.within(Tolerance(score=0.1, missing=0.4)) and result.within(Tolerance(score=0.1, missing=0.5))
    assert not result.within(Tolerance(score=0.01, missing=0.5))


def test_what_the_other_has_no_room_for_is_not_looked_for() -> None:
    first = found((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.5, 0))
    second = found((0, 0, 10, 10, 0.9, 0))
    assert agreement([first], [second], 0.1).missing == 1
    assert agreement([first], [second], 0.1, most=1).missing == 0


def test_agreement_with_nothing() -> None:
    nothing, one = found(), found((0, 0, 10, 10, 0.9, 0))
    assert not agreement([nothing], [nothing], 0.3).within(Tolerance(1, 1)), "nothing compared is nothing passed"
    assert agreement([one], [nothing], 0.3) == Agreement(1, 1, 1, 0.0, 0.0)
    assert agreement([nothing], [one], 0.3).missing == 1


def test_a_runs_own_data_are_found(tmp_path: Path) -> None:
    config = replace(tiny.config(tmp_path / "data", tmp_path / "run"))
    tiny.dataset(tmp_path / "data")
    (tmp_path / "run").mkdir()
    save_config(config, tmp_path / "run" / "config.yaml")
    own = run_data(tmp_path / "run", ("red", "blue"))
    assert own.val is not None and len(own.val) and own.pool
    assert run_data(tmp_path / "run" / "best.safetensors", ("red", "blue")).pool == own.pool
    assert run_data(tmp_path, ()) == ReportData(None, None)


@pytest.mark.parametrize("left", ["val", "held out", "unlabelled", "labelled", "nothing"])
def test_without_images_the_runs_own_are_compared_best_first(
    left: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = runs.data(tmp_path, labeled=30 if left == "held out" else 6)
    if left != "val":
        config = replace(config, val=None)
    if left in ("labelled", "nothing"):
        config = replace(config, unlabeled=(), method="supervised")
    if left == "nothing":
        shutil.rmtree(tmp_path / "labeled")
    (tmp_path / "run").mkdir()
    save_config(config, tmp_path / "run" / "config.yaml")
    own = run_data(tmp_path / "run", runs.CLASSES)
    on, seen, table = own_images(own, 64)
    said = {"unlabelled": "unlabelled", "labelled": "labelled ones", "nothing": "noise"}.get(left, "val")
    number = {"val": 3, "held out": 6, "unlabelled": 5, "labelled": 6, "nothing": 4}[left]
    assert said in on and len(seen) == number
    assert (table is not None) == (left in ("val", "held out"))
    assert ("compared on noise" in caplog.text) == (left == "nothing")


def test_noise_is_the_same_each_time() -> None:
    assert all(np.array_equal(a, b) for a, b in zip(noise(64), noise(64), strict=True))
