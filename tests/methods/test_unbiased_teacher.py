"""Unbiased Teacher: confident detections teach classes alone; labelled images in strong and weak form."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sedet.config import UnbiasedTeacherConfig, ViewConfig
from sedet.data.batch import Batch
from sedet.data.formats import read_table
from sedet.data.loading import StepData, labeled_samples
from sedet.detectors.faster_rcnn import roi_class_terms
from sedet.methods.method import Progress
from sedet.methods.pseudo_labels import as_labels, teacher_detections
from sedet.methods.supervised import Supervised
from sedet.methods.unbiased_teacher import UnbiasedTeacher
from sedet.training.run import train
from tests import tiny
from tests.methods.test_stac import NETWORKS

EASY = UnbiasedTeacherConfig(threshold=0.3)


def batches() -> tuple[Batch, Batch]:
    rows = [tiny.targets((0, 4, 4, 40, 36)), tiny.targets((2, 8, 8, 30, 60))]
    given = tiny.batch([(64, 48), (40, 64)], seed=1, labels=rows)
    weak = tiny.batch([(64, 48), (40, 64)], seed=7).strong
    return replace(given, weak=weak), tiny.batch([(64, 48), (40, 64)], seed=2)


def step(
    method: UnbiasedTeacher, model: Any, teacher: Any, at: int = 100, more: Batch | None = None
) -> dict[str, Tensor]:
    given, unlabeled = batches()
    torch.manual_seed(0)
    return method.losses(model, teacher, given, unlabeled if more is None else more, Progress(at, 5, 10))


def test_focal_terms_by_hand_and_against_a_loop() -> None:
    logits, label = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([0])
    want = 0.25**1.5 * math.log(4 / 3)  # p = 3 / 4
    assert roi_class_terms(logits, label, 1.5).item() == pytest.approx(want, rel=1e-5)
    assert roi_class_terms(logits, label).item() == pytest.approx(math.log(4 / 3), rel=1e-5)
    torch.manual_seed(0)
    for count in (0, 1, 9):
        logits, label = torch.randn(count, 4, dtype=torch.float64), torch.randint(0, 4, (count,))
        got = roi_class_terms(logits, label, 1.5).tolist()
        for row, index, value in zip(logits.tolist(), label.tolist(), got, strict=True):
            p = math.exp(row[index]) / sum(math.exp(x) for x in row)
            assert value == pytest.approx(-((1 - p) ** 1.5) * math.log(p), rel=1e-9)


def test_a_small_focal_gamma_has_a_slope_where_the_class_is_certain() -> None:
    logits = torch.tensor([[60.0, -60.0], [1.0, 0.0]], requires_grad=True)
    terms = roi_class_terms(logits, torch.tensor([0, 0]), 0.5)
    terms.sum().backward()
    assert float(terms[0].detach()) == 0.0 and logits.grad is not None and bool(logits.grad.isfinite().all())
    p = 1 / (1 + math.exp(-1.0))
    slope = math.sqrt(1 - p) * (-(1 - p) + 0.5 * p * math.log(p))  # of -sqrt(1 - p) log p by its logit
    assert logits.grad[1].tolist() == pytest.approx([slope, -slope], rel=1e-5)


@pytest.mark.parametrize("detector", NETWORKS)
def test_pseudo_labels_teach_classes_alone(detector: str) -> None:
    model, teacher = NETWORKS[detector](1), NETWORKS[detector](2).eval()
    got = step(UnbiasedTeacher(EASY), model, teacher)
    parts = {"unbiased_class", "unbiased_rpn_class"} if detector == "faster_rcnn" else {"unbiased_class"}
    assert {name for name in got if not name.startswith("sup_")} == parts
    assert all(float(got[name].detach()) > 0 for name in parts)
    sum((got[name] for name in parts), torch.zeros(())).backward()
    boxes = [n for n, p in model.named_parameters() if "bbox" in n and p.grad is not None and p.grad.abs().sum() > 0]
    assert boxes == []
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("detector", ["fcos", "retinanet"])
@pytest.mark.parametrize("half_size", [True, False])
def test_labelled_images_in_both_forms(detector: str, half_size: bool) -> None:
    model, teacher = NETWORKS[detector](1), NETWORKS[detector](2).eval()
    given, more = batches()
    assert given.weak is not None and given.targets is not None
    got = step(UnbiasedTeacher(replace(EASY, weight=3.0), half_size), model, teacher)
    strong = Supervised(False).losses(model, teacher, given, None, Progress(100, 5, 10))
    weak = Supervised(False).losses(model, teacher, replace(given, strong=given.weak), None, Progress(100, 5, 10))
    both = Supervised(True).losses(model, teacher, given, None, Progress(100, 5, 10))
    for name in strong:
        want = (strong[name] + weak[name]) / 2
        if half_size:
            want = (want + 2 * both[name] - strong[name]) / 2  # twice the mean less the strong view: the half view
        torch.testing.assert_close(got[name], want, rtol=1e-4, atol=1e-5)
    labels = as_labels(teacher_detections(teacher, more, 0.3), more, 0.7)
    own = model.loss(model(more.strong.float() / 255, more.content), labels)
    torch.testing.assert_close(got["unbiased_class"], 3 * own["class"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("half_size", [True, False])
def test_every_view_has_the_focal_loss_of_the_second_stage(half_size: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faster R-CNN: strong, weak and half view of labelled images, and the strong one of unlabelled ones."""
    model, teacher = NETWORKS["faster_rcnn"](1), NETWORKS["faster_rcnn"](2).eval()
    asked: list[tuple[float, int, tuple[int, ...]]] = []
    heights: list[float] = []

    def loss(regions: Any, targets: Any, gamma: float = 0.0) -> dict[str, Tensor]:
        asked.append((gamma, len(targets), tuple(len(t.boxes) for t in targets)))
        heights.append(float(targets[0].boxes[:, 3].max()) if len(targets[0].boxes) else 0.0)
        value = torch.tensor(2.0 ** len(asked))
        return dict.fromkeys(("class", "box", "rpn_class", "rpn_box"), value)

    monkeypatch.setattr(model, "loss", loss)
    got = step(UnbiasedTeacher(replace(EASY, weight=3.0), half_size), model, teacher)
    assert [gamma for gamma, _, _ in asked] == [1.5] * (4 if half_size else 3)
    assert all(count == 2 for _, count, _ in asked) and asked[0] == asked[1]
    half = [heights[0] / 2] if half_size else []
    assert heights[: 2 + len(half)] == [heights[0], heights[0], *half]
    both = (2 + 4) / 2
    want = (both + 8) / 2 if half_size else both
    assert {name: float(v) for name, v in got.items() if name.startswith("sup_")} == dict.fromkeys(
        ("sup_class", "sup_box", "sup_rpn_class", "sup_rpn_box"), want
    )
    last = 2.0 ** len(asked)
    assert (float(got["unbiased_class"]), float(got["unbiased_rpn_class"])) == (3 * last, 3 * last)


@pytest.mark.parametrize("detector", NETWORKS)
def test_the_burn_in_is_supervised(detector: str) -> None:
    model, teacher = NETWORKS[detector](1), NETWORKS[detector](2).eval()
    given, _ = batches()
    got = step(UnbiasedTeacher(EASY), model, teacher, at=0)
    torch.manual_seed(0)
    alone = Supervised().losses(model, teacher, given, None, Progress(0, 5, 10))
    assert set(got) == set(step(UnbiasedTeacher(EASY), model, teacher))
    for name, value in got.items():
        assert torch.equal(value, alone[name]) if name in alone else float(value) == 0


def test_the_threshold_decides_what_is_a_label() -> None:
    """With one above every score nothing is an object: the loss is that of empty labels."""
    model, teacher = NETWORKS["fcos"](1), NETWORKS["fcos"](2).eval()
    _, more = batches()
    got = step(UnbiasedTeacher(replace(EASY, threshold=1.0, weight=1.0)), model, teacher)
    empty = model.loss(model(more.strong.float() / 255, more.content), [tiny.targets(), tiny.targets()])
    torch.testing.assert_close(got["unbiased_class"], empty["class"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("detector", NETWORKS)
def test_odd_batches_give_finite_losses(detector: str) -> None:
    model, teacher = NETWORKS[detector](1), NETWORKS[detector](2).eval()
    for more in (tiny.batch([(8, 8)], seed=2), tiny.batch([(64, 64)], seed=2, erased=[[[0, 0, 64, 64]]])):
        assert all(v.isfinite() for v in step(UnbiasedTeacher(EASY), model, teacher, more=more).values())


def test_the_loader_brings_weak_views_of_labelled_images_and_nothing_else_changes(tmp_path: Path) -> None:
    samples = labeled_samples(read_table(tiny.dataset(tmp_path) / "labeled.json"))
    settings: dict[str, Any] = {"batch": 2, "unlabeled_batch": 2, "image_size": 64, "views": ViewConfig(), "seed": 0}
    plain, both = (StepData(samples, [], unlabeled_from=0, labeled_weak=on, **settings)[3][0] for on in (False, True))
    assert plain.weak is None and both.weak is not None and both.weak.shape == both.strong.shape
    assert torch.equal(plain.strong, both.strong) and torch.equal(plain.half, both.half)
    assert torch.equal(plain.content, both.content) and not torch.equal(both.weak, both.strong)


@pytest.mark.parametrize("detector", ["fcos", "faster_rcnn"])
def test_a_training(detector: Any, tmp_path: Path) -> None:
    data = tiny.dataset(tmp_path / "data")
    outcome = train(tiny.config(data, tmp_path / "run", method="unbiased-teacher", detector=detector))
    assert outcome.finished and outcome.detector is not None
