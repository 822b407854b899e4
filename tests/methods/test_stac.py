"""STAC: labels made once by the detector of the burn-in, and remembered over an interruption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sedet.config import STACConfig
from sedet.data.batch import Batch
from sedet.detectors.regions import Detections
from sedet.errors import ConfigError
from sedet.methods.method import Progress
from sedet.methods.pseudo_labels import as_labels, teacher_detections
from sedet.methods.stac import STAC, confident
from sedet.methods.supervised import Supervised
from sedet.training import plan
from sedet.training.checkpoint import load_checkpoint
from sedet.training.run import train
from tests import tiny
from tests.detectors import test_faster_rcnn, test_retinanet

NETWORKS: dict[str, Any] = {
    "fcos": lambda seed: tiny.detector(seed=seed, confident=True),
    "retinanet": lambda seed: test_retinanet.network(seed=seed),
    "faster_rcnn": lambda seed: test_faster_rcnn.network(seed=seed),
}


def batches() -> tuple[Batch, Batch]:
    rows = [tiny.targets((0, 4, 4, 40, 36)), tiny.targets()]
    return tiny.batch([(64, 48), (40, 64)], seed=1, labels=rows), tiny.batch([(64, 48), (40, 64)], seed=2)


def step(method: STAC, model: Any, teacher: Any, at: int = 100, more: Batch | None = None) -> dict[str, Tensor]:
    given, unlabeled = batches()
    torch.manual_seed(0)
    return method.losses(model, teacher, given, unlabeled if more is None else more, Progress(at, 5, 10))


def detections(*scores: float) -> Detections:
    count = len(scores)
    boxes = torch.tensor([[4.0, 4, 20, 20]]).repeat(count, 1) + torch.arange(count)[:, None]
    return Detections(boxes.reshape(-1, 4), torch.tensor(scores), torch.zeros(count, dtype=torch.int64))


@pytest.mark.parametrize(
    ("scores", "kept"),
    [([0.95, 0.9, 0.89], 2), ([0.5, 0.4], 1), ([0.5, 0.5, 0.1], 2), ([0.05], 1), ([], 0), ([1.0, 0.91, 0.9], 3)],
)
def test_an_image_keeps_its_sure_boxes_or_its_best(scores: list[float], kept: int) -> None:
    found = confident(detections(*scores), 0.9)
    naive = [s for s in scores if s >= min(0.9, max(scores)) - 1e-7]
    assert found.scores.tolist() == pytest.approx(naive) and len(found) == kept == len(found.boxes)


@pytest.mark.parametrize("detector", NETWORKS)
def test_its_loss_is_the_detectors_own_with_these_labels(detector: str) -> None:
    model, teacher = NETWORKS[detector](1), NETWORKS[detector](2).eval()
    given, more = batches()
    got = step(STAC(STACConfig(weight=3.0)), model, teacher)
    labels = as_labels([confident(d, 0.9) for d in teacher_detections(teacher, more, 0.001)], more, 0.7)
    assert any(len(label.boxes) for label in labels)
    names = [name.removeprefix("stac_") for name in got if name.startswith("stac_")]
    assert {f"sup_{name}" for name in names} | {f"stac_{name}" for name in names} == set(got)
    torch.manual_seed(0)
    alone = Supervised().losses(model, teacher, given, None, Progress(100, 5, 10))
    with torch.no_grad():
        want = model.loss(model(more.strong.float() / 255, more.content), labels)
    for name in names:
        torch.testing.assert_close(got[f"sup_{name}"], alone[f"sup_{name}"], rtol=1e-4, atol=1e-5)
        if detector != "faster_rcnn":  # which draws other regions here
            torch.testing.assert_close(got[f"stac_{name}"].detach(), 3 * want[name], rtol=1e-4, atol=1e-5)
    sum(got.values(), torch.zeros(())).backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_the_threshold_decides_what_is_a_label() -> None:
    model, teacher = NETWORKS["fcos"](1), NETWORKS["fcos"](2).eval()
    _, more = batches()
    found = teacher_detections(teacher, more, 0.001)
    least = min(float(d.scores.max()) for d in found) * 0.8
    labels = as_labels([confident(d, least) for d in found], more, 0.7)
    assert sum(len(t.boxes) for t in labels) > len(labels), "more than the best of each image"
    got = step(STAC(STACConfig(threshold=least, weight=1.0)), model, teacher)
    want = model.loss(model(more.strong.float() / 255, more.content), labels)
    torch.testing.assert_close(got["stac_class"], want["class"], rtol=1e-4, atol=1e-6)
    usual = step(STAC(STACConfig(weight=1.0)), model, teacher)["stac_class"]
    assert float((usual - want["class"]).detach().abs()) > 1e-3


def test_the_burn_in_is_supervised() -> None:
    method, model, teacher = STAC(STACConfig()), NETWORKS["fcos"](1), NETWORKS["fcos"](2).eval()
    given, _ = batches()
    alone = Supervised().losses(model, teacher, given, None, Progress(0, 5, 10))
    got = step(method, model, teacher, at=0)
    assert set(got) == set(step(method, model, teacher))
    for name, value in got.items():
        assert torch.equal(value, alone[name]) if name in alone else float(value) == 0
    fresh = STAC(STACConfig())
    step(fresh, model, teacher, at=4)
    assert fresh.state() == {}


def test_without_a_burn_in_there_is_nobody_to_label(tmp_path: Path) -> None:
    data = tiny.dataset(tmp_path / "data")
    config = tiny.config(data, tmp_path / "run", method="stac", burn_in=0.0)
    with pytest.raises(ConfigError, match="give --burn-in or --init"):
        train(config)
    assert not (tmp_path / "run").exists()
    config = plan.resolve(replace(config, init="my.safetensors"), "cpu", 6, 64)
    assert plan.make_schedule(config).burn_in == 0  # whose detector labels from the start


def test_the_labeler_never_changes_and_outlives_an_interruption() -> None:
    method, model, teacher = STAC(STACConfig()), NETWORKS["fcos"](1), NETWORKS["fcos"](2).eval()
    first = step(method, model, teacher)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(1.0)
    again = step(method, model, teacher)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = step(STAC(STACConfig()), model, teacher)
    assert any(not torch.equal(first[name], other[name]) for name in first)

    resumed = STAC(STACConfig())
    resumed.restore(method.state())
    assert set(resumed.state()) == set(method.state()) != set()
    later = step(resumed, model, teacher)
    assert all(torch.equal(first[name], later[name]) for name in first)


@pytest.mark.parametrize("erased", [[[[0, 0, 64, 64]], [[0, 0, 64, 64]]], None])
def test_odd_batches_give_finite_losses(erased: Any) -> None:
    for name in NETWORKS:
        model, teacher = NETWORKS[name](1), NETWORKS[name](2).eval()
        more = tiny.batch([(64, 48), (8, 8)], seed=2, erased=erased)
        losses = step(STAC(STACConfig()), model, teacher, more=more)
        assert all(value.isfinite() for value in losses.values())


def test_a_training_in_two_parts_equals_one_in_a_piece(tmp_path: Path) -> None:
    data = tiny.dataset(tmp_path / "data")
    config = tiny.config(data, tmp_path / "a", method="stac", guard=False)
    train(config)
    part = replace(config, out=str(tmp_path / "b"))
    train(replace(part, stop=5))  # three steps after the burn-in
    train(part, resume=tmp_path / "b")
    one, two = (load_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in "ab")
    assert one["method"] and set(one["method"]) == set(two["method"])
    for key in ("method", "student", "teacher"):
        assert all(torch.equal(one[key][name], two[key][name]) for name in one[key])
