"""Pictures of a run: they show what they should, and never stop a training."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sedet.config import ModelConfig, SEDConfig, ViewConfig
from sedet.data.batch import Batch
from sedet.data.formats import read_table
from sedet.data.loading import StepData, labeled_samples, unlabeled_samples
from sedet.detectors.build import build_detector
from sedet.detectors.fcos import FCOS
from sedet.detectors.file import save_detector
from sedet.detectors.regions import Detections
from sedet.methods.sed import SED
from sedet.training import pictures
from sedet.training.pictures import Album, curves, labeled_picture, prediction_picture, unlabeled_picture
from tests.training.runs import data

NAMES = {0: "cat", 1: "dog", 2: "(ignored)"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    data(path)
    return path


def steps(root: Path) -> StepData:
    pool = sorted((root / "unlabeled").glob("*.png"))
    table = read_table(root / "labeled" / "labels.json")
    views = ViewConfig(scale_min=0.5, scale_max=0.5, jitter=0, grey=0, blur=0, erase=False)
    return StepData(
        labeled_samples(table),
        unlabeled_samples(pool),
        batch=6,
        unlabeled_batch=5,
        image_size=64,
        views=views,
        seed=0,
        unlabeled_from=0,
    )


def detector() -> FCOS:
    torch.manual_seed(0)
    return build_detector("fcos", "lcnet_035", 2, ModelConfig(neck_channels=8, head_convs=1), "none").eval()


def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is given to be drawn, picture by picture."""
    calls: list[dict[str, Any]] = []
    draw = pictures.draw_boxes

    def record(image: Any, boxes: Any, labels: Any, names: Any, scores: Any = None) -> Image.Image:
        calls.append(
            {"size": image.shape[:2], "boxes": np.asarray(boxes), "labels": np.asarray(labels), "scores": scores}
        )
        return draw(image, boxes, labels, names, scores)

    monkeypatch.setattr(pictures, "draw_boxes", record)
    return calls


def test_labelled_views_stand_with_their_boxes_at_both_sizes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = shown(monkeypatch)
    batch, _ = steps(root)[0]
    picture = labeled_picture(batch, NAMES)
    assert picture.width > 400 and np.asarray(picture).std() > 10
    assert len(calls) == 2 * pictures.IMAGES
    for i, (full, half) in enumerate(zip(calls[::2], calls[1::2], strict=True)):
        width, height = batch.content[i].tolist()
        assert full["size"] == (height, width) and half["size"] == (height // 2, width // 2)  # without padding
        target = batch.targets[i] if batch.targets else None
        assert target is not None and len(full["boxes"]) == len(target.boxes) + len(target.ignore)
        assert np.allclose(half["boxes"] * 2, full["boxes"])
        assert full["labels"][: len(target.labels)].tolist() == target.labels.tolist()


def test_ignored_regions_are_named_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = shown(monkeypatch)
    batch, _ = steps(root)[0]
    assert batch.targets is not None
    target = batch.targets[0]
    ignored = type(target)(target.boxes[:0], target.labels[:0], torch.tensor([[1.0, 1.0, 9.0, 9.0]]))
    labeled_picture(
        Batch(batch.strong, batch.half, None, batch.content, batch.erased, (ignored, *batch.targets[1:]), batch.names),
        NAMES,
    )
    assert calls[0]["labels"].tolist() == [2]


def test_unlabelled_views_stand_with_the_teachers_boxes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = shown(monkeypatch)
    found = [Detections(torch.tensor([[4.0, 4.0, 20.0, 16.0]]), torch.tensor([0.9]), torch.tensor([1]))] * 4
    teacher = detector()
    monkeypatch.setattr(teacher, "detect", lambda *_, **__: found)
    _, batch = steps(root)[0]
    assert batch is not None
    unlabeled_picture(batch.first(4), teacher, NAMES, SED(SEDConfig()))
    assert len(calls) == 3 * 4
    weak, strong, half = calls[:3]
    assert weak["boxes"].tolist() == strong["boxes"].tolist() == [[4, 4, 20, 16]]
    assert half["boxes"].tolist() == [[2, 2, 10, 8]] and weak["labels"].tolist() == [1]
    assert weak["size"] == strong["size"] == tuple(2 * side for side in half["size"])


@pytest.mark.parametrize("pairs", [False, True])
def test_the_student_is_drawn_as_it_sees(root: Path, monkeypatch: pytest.MonkeyPatch, pairs: bool) -> None:
    """The weak view, and at choice with the next image over it and the boxes of both."""
    calls = shown(monkeypatch)
    found = [
        Detections(torch.tensor([[4.0 + i, 4, 20, 16]]), torch.tensor([0.9]), torch.tensor([i % 2])) for i in range(4)
    ]
    teacher = detector()
    monkeypatch.setattr(teacher, "detect", lambda *_, **__: found)
    _, batch = steps(root)[0]
    assert batch is not None and batch.weak is not None and batch.weak_half is not None
    four = batch.first(4)
    images: list[np.ndarray[Any, Any]] = []
    content = pictures._content
    monkeypatch.setattr(pictures, "_content", lambda *a: images.append(content(*a)) or images[-1])
    unlabeled_picture(four, teacher, NAMES, SED(SEDConfig(overlay=float(pairs), student_view="weak")))
    last, wrapped = calls[-2], images[-2].astype(int)
    assert last["boxes"][:, 0].tolist() == ([7, 4] if pairs else [7])
    assert last["labels"].tolist() == ([1, 0] if pairs else [1])
    assert calls[-1]["boxes"][:, 0].tolist() == ([3.5, 2] if pairs else [3.5])
    calls.clear()
    unlabeled_picture(batch.first(1), teacher, NAMES, SED(SEDConfig(overlay=float(pairs), student_view="weak")))
    assert [len(call["boxes"]) for call in calls] == [1, 1, 1], "one image is no pair"
    weak = batch.weak.permute(0, 2, 3, 1).numpy().astype(int)
    width, height = torch.minimum(four.content[3], four.content[0]).tolist()
    expected = (weak[3] + weak[0]) // 2 if pairs else weak[3]
    assert (wrapped[:height, :width] == expected[:height, :width]).all()


def test_predictions_stand_beside_the_truth(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = shown(monkeypatch)
    file = tmp_path / "best.safetensors"
    save_detector(file, detector(), ("cat", "dog"), 64, {})
    val = read_table(root / "val" / "labels.json")
    prediction_picture(val, file, NAMES, torch.device("cpu"))
    assert len(calls) == 2 * len(val)
    assert np.allclose(calls[0]["boxes"], val.objects[0].boxes) and calls[0]["scores"] is None
    assert calls[1]["scores"] is not None


def test_an_unreadable_val_image_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data(tmp_path)
    val = read_table(tmp_path / "val" / "labels.json")
    val.images[0].path.write_bytes(b"")
    save_detector(tmp_path / "best.safetensors", detector(), ("cat", "dog"), 64, {})
    calls = shown(monkeypatch)
    prediction_picture(val, tmp_path / "best.safetensors", NAMES, torch.device("cpu"))
    assert len(calls) == 2 * (len(val) - 1)


ROWS: list[dict[str, Any]] = [
    {"step": 10, "sup_class": 1.0, "sup_box": 0.5, "distill_class": 0.0, "scale_class": 0.0},
    {"step": 20, "sup_class": 0.9, "sup_box": 0.4, "teacher_ap": 5.0, "student_ap": 6.0},
    {"step": 40, "sup_class": 0.8, "distill_class": 0.2, "scale_class": 0.1, "teacher_ap": 9.0, "student_ap": 7.0},
]


@pytest.mark.parametrize(
    ("rows", "burn_in", "alone"),
    [(ROWS, 20, 6.0), (ROWS[:1], 20, None), (ROWS[:1], 0, None)],
    ids=["all", "no val", "one"],
)
def test_curves(rows: list[dict[str, Any]], burn_in: int, alone: float | None) -> None:
    picture = curves(rows, burn_in, alone)
    assert picture.mode == "RGB" and picture.width == 1100
    assert np.asarray(picture).std() > 5


def test_curves_leave_matplotlib_alone() -> None:
    """No window system is touched, and a notebook's own figures stay what they are."""
    import matplotlib

    before = matplotlib.rcParams["backend"]
    curves(ROWS, 20, 6.0)
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == [] and matplotlib.rcParams["backend"] == before


def training(root: Path, step: int, rows: list[dict[str, Any]]) -> Any:
    return SimpleNamespace(
        state=SimpleNamespace(step=step, rows=rows, labels_alone=None, ended=False, cut=None),
        schedule=SimpleNamespace(burn_in=2, steps=4, accumulate=1),
        data=steps(root),
        teacher=SimpleNamespace(model=detector()),
        fabric=SimpleNamespace(device=torch.device("cpu")),
        module=SimpleNamespace(method=SED(SEDConfig())),
    )


def test_an_album_draws_what_is_due(root: Path, tmp_path: Path) -> None:
    warnings: list[str] = []
    album = Album(tmp_path, ("cat", "dog"), None, warnings.append, speaks=True)
    for step in (0, 1, 2, 3, 4):
        album.watch(training(root, step, []))
    names = sorted(p.name for p in (tmp_path / "pictures").iterdir())
    steps_drawn = ["labeled_000000", "labeled_000002", "labeled_000004", "unlabeled_000002", "unlabeled_000004"]
    assert names == [f"{name}.png" for name in steps_drawn] and warnings == []
    album.finish(training(root, 4, ROWS), tmp_path / "none.safetensors")
    assert (tmp_path / "curves.png").is_file()


def test_a_picture_never_stops_a_training(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(pictures, "write_atomically", full)
    warnings: list[str] = []
    album = Album(tmp_path, ("cat", "dog"), None, warnings.append, speaks=True)
    album.watch(training(root, 0, []))
    album.finish(training(root, 4, ROWS), tmp_path / "none.safetensors")
    assert len(warnings) == 2 and all("could not be drawn (OSError: No space left" in line for line in warnings)
    assert list(tmp_path.iterdir()) == []


def test_only_one_process_draws(root: Path, tmp_path: Path) -> None:
    album = Album(tmp_path, ("cat", "dog"), None, print, speaks=False)
    album.watch(training(root, 0, ROWS))
    album.finish(training(root, 4, ROWS), tmp_path / "none.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_drawing_does_not_touch_chance(root: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    album = Album(tmp_path, ("cat", "dog"), None, print, speaks=True)
    album.watch(training(root, 2, ROWS))
    assert torch.equal(torch.get_rng_state(), state)
