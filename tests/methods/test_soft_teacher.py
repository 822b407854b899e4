"""Soft Teacher: who teaches what, its losses by hand and against loops, and whole steps and trainings with it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sedet.config import ModelConfig, SoftTeacherConfig
from sedet.data.batch import Batch, Targets, pixels
from sedet.detectors.build import freeze_unused
from sedet.detectors.faster_rcnn import FasterRCNN
from sedet.detectors.file import load_detector
from sedet.detectors.regions import Detections, Regions
from sedet.detectors.rpn import rpn_loss
from sedet.errors import ConfigError
from sedet.methods.method import Progress
from sedet.methods.soft_teacher import PARTS, SoftTeacher, class_loss, soft_losses, teaching
from sedet.methods.supervised import Supervised
from sedet.training.run import train
from tests import tiny
from tests.detectors.test_faster_rcnn import network

BURN_IN, AFTER = Progress(3, 5, 10), Progress(100, 5, 10)
EASY = SoftTeacherConfig(candidate_threshold=0.3, threshold=0.4, uncertainty=0.2)
"""What a network that has learnt nothing can pass."""


# --- who teaches ----------------------------------------------------------------------------------------------


def test_who_teaches_by_hand() -> None:
    """Scores at and around 0.9, uncertainties at and around 0.02; the last candidate is erased."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [0, 40, 10, 50], [40, 40, 60, 60]])
    scores, labels = torch.tensor([0.95, 0.9, 0.89, 0.51, 0.99]), torch.tensor([0, 1, 2, 0, 1])
    spread = torch.tensor([0.02, 0.019, 0.001, 0.5, 0.0])
    batch = tiny.batch([(64, 64)], erased=[[[40, 40, 60, 58]]])
    sure, steady = teaching([Detections(boxes, scores, labels)], [spread], batch, SoftTeacherConfig(), 0.7)
    assert torch.equal(sure[0].boxes, boxes[:2]) and sure[0].labels.tolist() == [0, 1]
    assert torch.equal(steady[0].boxes, boxes[1:3]) and steady[0].labels.tolist() == [1, 2]
    for labels_ in (sure, steady):
        assert torch.equal(labels_[0].ignore, boxes[4:])
    whole, _ = teaching([Detections(boxes, scores, labels)], [spread], batch, SoftTeacherConfig(), 0.95)
    assert whole[0].labels.tolist() == [0, 1, 1] and not len(whole[0].ignore)  # 0.9 erased is within 0.95


@pytest.mark.parametrize("seed", range(4))
def test_who_teaches_against_a_loop(seed: int) -> None:
    torch.manual_seed(seed)
    counts = ([5, 0], [1, 12], [0, 0], [7, 3])[seed]
    found, spread = [], []
    for count in counts:
        corner = torch.rand(count, 2) * 40
        boxes = torch.cat([corner, corner + 2 + torch.rand(count, 2) * 20], dim=1)
        found.append(Detections(boxes, torch.rand(count), torch.randint(0, 3, (count,))))
        spread.append(torch.rand(count) * 0.04)
    patch = [10.0, 0.0, 40.0, 64.0]
    batch = tiny.batch([(64, 64), (64, 48)], erased=[[patch], [patch]])
    config = SoftTeacherConfig(threshold=0.4)
    got = teaching(found, spread, batch, config, 0.7)
    for i, one in enumerate(found):
        wanted: tuple[list[int], list[int], list[int]] = ([], [], [])
        for k in range(len(one)):
            x1, _, x2, y2 = one.boxes[k].tolist()
            if max(0.0, min(x2, 40.0) - max(x1, 10.0)) / (x2 - x1) > 0.7 and y2 <= 64:
                wanted[2].append(k)
                continue
            if float(one.scores[k]) >= 0.4:
                wanted[0].append(k)
            if float(spread[i][k]) < 0.02:
                wanted[1].append(k)
        for labels, rows in zip(got, wanted[:2], strict=True):
            assert torch.equal(labels[i].boxes, one.boxes[rows]) and torch.equal(labels[i].labels, one.labels[rows])
            assert torch.equal(labels[i].ignore, one.boxes[wanted[2]])


# --- losses ---------------------------------------------------------------------------------------------------


def test_class_loss_by_hand() -> None:
    """p = (0.5 | 0.5) for an object, (0.25 | 0.75) for background of which the teacher is 0.6 sure."""
    logits = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log().requires_grad_()
    background = torch.tensor([0.1, 0.6], requires_grad=True)  # the object's own is not asked
    loss = class_loss(logits, torch.tensor([0, 1]), background)
    assert float(loss.detach()) == pytest.approx((math.log(2) + 0.6 * math.log(4 / 3)) / 1.6, rel=1e-6)
    loss.backward()
    assert background.grad is None and logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.5, 0.5], [0.25 * 0.6, -0.25 * 0.6]]) / 1.6)
    assert float(class_loss(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))) == 0
    nothing = class_loss(torch.zeros(3, 2), torch.ones(3, dtype=torch.int64), torch.zeros(3))
    assert float(nothing) == 0  # background that the teacher takes for objects teaches nothing


@pytest.mark.parametrize("seed", range(5))
def test_class_loss_against_a_loop(seed: int) -> None:
    torch.manual_seed(seed)
    count, classes = (0, 1, 9, 40, 17)[seed], 1 + seed % 4
    logits = torch.randn(count, classes + 1, dtype=torch.float64) * 3
    label = torch.randint(0, classes + 1, (count,))
    background = torch.rand(count, dtype=torch.float64)
    total = weights = 0.0
    for row, wanted, share in zip(logits.tolist(), label.tolist(), background.tolist(), strict=True):
        weight = share if wanted == classes else 1.0
        total += weight * (math.log(sum(math.exp(z) for z in row)) - row[wanted])
        weights += weight
    assert float(class_loss(logits, label, background)) == pytest.approx(total / max(1.0, weights), rel=1e-9)


def pair(classes: int = 3) -> tuple[FasterRCNN, FasterRCNN]:
    return network(classes, seed=1), network(classes, seed=2).eval()


def views(more: Batch, student: FasterRCNN, teacher: FasterRCNN) -> tuple[Regions, Regions]:
    assert more.weak is not None
    with torch.no_grad():
        return student(pixels(more.strong), more.content), teacher(pixels(more.weak), more.content)


def encoded(box: list[float], roi: list[float]) -> list[float]:
    w, h = roi[2] - roi[0], roi[3] - roi[1]
    bw, bh = box[2] - box[0], box[3] - box[1]
    x = 10 * ((box[0] + bw / 2) - (roi[0] + w / 2)) / w
    y = 10 * ((box[1] + bh / 2) - (roi[1] + h / 2)) / h
    return [x, y, 5 * math.log(bw / w), 5 * math.log(bh / h)]


def smooth_l1(x: float) -> float:
    beta = 1 / 9
    return x * x / (2 * beta) if abs(x) < beta else abs(x) - beta / 2


def overlap(a: list[float], b: list[float]) -> float:
    both = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def naive(
    student: FasterRCNN, teacher: FasterRCNN, seen: Regions, answer: Regions, sure: list[Targets], steady: list[Targets]
) -> dict[str, float]:
    """The second stage's losses a RoI at a time; only what is drawn, and the network's answers, are taken over."""
    rpn_loss(seen, sure)  # draws first
    proposals = student.candidates(seen)
    every = torch.ones(1, 1, dtype=torch.bool)
    total = weights = 0.0
    rois, _ = student.draw(proposals, sure)
    for i, boxes in enumerate(rois):
        for box in boxes:
            ious = [overlap(box.tolist(), other) for other in sure[i].boxes.tolist()]
            best = max(range(len(ious)), key=lambda k: ious[k], default=-1)
            logits = student.look(seen.images(slice(i, i + 1)), box.view(1, 1, 4), every).logits[0, 0].tolist()
            theirs = teacher.look(answer.images(slice(i, i + 1)), box.view(1, 1, 4), every).logits[0, 0]
            wanted, weight = student.spec.classes, float(theirs.softmax(dim=0)[-1])
            if best >= 0 and ious[best] >= 0.5:
                wanted, weight = int(sure[i].labels[best]), 1.0
            total += weight * (math.log(sum(math.exp(z) for z in logits)) - logits[wanted])
            weights += weight
    losses = {"class": total / max(1.0, weights)}
    total = number = 0.0
    rois, _ = student.draw(proposals, steady)
    for i, boxes in enumerate(rois):
        for box in boxes:
            number += 1
            ious = [overlap(box.tolist(), other) for other in steady[i].boxes.tolist()]
            best = max(range(len(ious)), key=lambda k: ious[k], default=-1)
            if best < 0 or ious[best] < 0.5:
                continue
            deltas = student.look(seen.images(slice(i, i + 1)), box.view(1, 1, 4), every).deltas
            assert deltas is not None
            given = deltas[0, 0, int(steady[i].labels[best])].tolist()
            goal = encoded(steady[i].boxes[best].tolist(), box.tolist())
            total += sum(smooth_l1(a - b) for a, b in zip(given, goal, strict=True))
    return losses | {"box": total / max(1.0, number)}


SURE = [tiny.targets((0, 4, 4, 40, 36), (2, 20, 8, 60, 40)), tiny.targets(ignore=[[0.0, 0, 40, 30]])]
STEADY = [tiny.targets((1, 10, 4, 40, 46)), tiny.targets((2, 2, 2, 30, 60), (2, 5, 30, 40, 64))]
NONE = [tiny.targets(), tiny.targets()]


@pytest.mark.parametrize(
    ("sure", "steady"), [(SURE, STEADY), (STEADY, SURE), (SURE, NONE), (NONE, STEADY), (NONE, NONE)]
)
def test_losses_against_a_loop(sure: list[Targets], steady: list[Targets]) -> None:
    student, teacher = pair()
    seen, answer = views(tiny.batch([(64, 48), (40, 64)], seed=2), student, teacher)
    with torch.no_grad():
        torch.manual_seed(4)
        got = soft_losses(student, teacher, seen, answer, sure, steady)
        torch.manual_seed(4)
        wanted = naive(student, teacher, seen, answer, sure, steady)
        torch.manual_seed(4)
        first = rpn_loss(seen, sure)
    for key, value in wanted.items():
        assert float(got[key]) == pytest.approx(value, rel=1e-4, abs=1e-7), key
    assert (float(got["box"]) > 0) == (steady is not NONE)
    assert all(torch.equal(got[key], first[key]) for key in ("rpn_class", "rpn_box"))


def test_the_teacher_weighs_what_it_sees_on_the_weak_view() -> None:
    """Sure of the background, it weighs every RoI 1: the detector's own loss. Sure of objects, none has a say."""
    student, teacher = pair()
    seen, answer = views(tiny.batch([(64, 48), (40, 64)], seed=2), student, teacher)
    with torch.no_grad():
        teacher.box_predictor.cls_score.weight.zero_()
        teacher.box_predictor.cls_score.bias.zero_()
        teacher.box_predictor.cls_score.bias[0] = 50.0  # the background's row
        torch.manual_seed(0)
        got = soft_losses(student, teacher, seen, answer, SURE, SURE)["class"]
        torch.manual_seed(0)
        torch.testing.assert_close(got, student.loss(seen, SURE)["class"])
        teacher.box_predictor.cls_score.bias[0] = -50.0
        assert float(soft_losses(student, teacher, seen, answer, NONE, NONE)["class"]) < 1e-12


# --- steps ----------------------------------------------------------------------------------------------------


def step(
    student: FasterRCNN,
    teacher: FasterRCNN,
    config: SoftTeacherConfig = EASY,
    at: Progress = AFTER,
    more: Batch | None = None,
    half_size: bool = True,
) -> dict[str, Tensor]:
    labeled = tiny.batch([(64, 48)], seed=1, labels=[tiny.targets((0, 4, 4, 40, 36))])
    more = tiny.one_size(tiny.batch([(64, 48), (40, 64)], seed=2)) if more is None else more
    torch.manual_seed(0)
    return SoftTeacher(config, half_size).losses(student, teacher, labeled, more, at)


@pytest.mark.parametrize("half_size", [True, False])
def test_a_step_and_its_twin(half_size: bool) -> None:
    student, teacher = pair()
    labeled = tiny.batch([(64, 48)], seed=1, labels=[tiny.targets((0, 4, 4, 40, 36))])
    freeze_unused(student, SoftTeacher(EASY, half_size).uses_half)
    early = step(student, teacher, at=BURN_IN, half_size=half_size)
    torch.manual_seed(0)
    twin = Supervised(half_size).losses(student, teacher, labeled, None, BURN_IN)
    assert all(torch.equal(early[key], value) for key, value in twin.items())
    late = step(student, teacher, half_size=half_size)
    assert list(late) == list(early) == [*twin, *(f"soft_{part}" for part in PARTS)]
    for part in PARTS:
        assert float(early[f"soft_{part}"]) == 0 < float(late[f"soft_{part}"].detach()), part
    torch.stack([late[f"soft_{part}"] for part in PARTS]).sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
    unused = [n for n, p in student.named_parameters() if p.requires_grad and p.grad is None]
    assert all(n.startswith(("fpn.inner_blocks.0", "fpn.layer_blocks.0")) for n in unused)
    torch.stack(list(step(student, teacher, half_size=half_size).values())).sum().backward()
    assert [n for n, p in student.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_weight_and_its_ramp() -> None:
    student, teacher = pair()
    full = step(student, teacher)
    for config, at, share in ((replace(EASY, weight=1.0), AFTER, 0.25), (EASY, Progress(9, 5, 10), 0.5)):
        part = step(student, teacher, config, at)
        for key, value in full.items():
            wanted = float(value.detach()) * (share if key.startswith("soft_") else 1.0)
            assert float(part[key].detach()) == pytest.approx(wanted, rel=1e-5), key


def test_thresholds_choose_what_is_taught() -> None:
    student, teacher = pair()
    usual = step(student, teacher)
    no_box = step(student, teacher, replace(EASY, uncertainty=0.0))
    assert float(no_box["soft_box"].detach()) == 0 < float(no_box["soft_rpn_box"].detach())
    assert torch.equal(no_box["soft_class"], usual["soft_class"])
    no_class = step(student, teacher, replace(EASY, threshold=1.0))
    assert float(no_class["soft_rpn_box"].detach()) == 0 < float(no_class["soft_box"].detach())
    nothing = step(student, teacher, replace(EASY, candidate_threshold=1.0))
    assert float(nothing["soft_box"].detach()) == float(nothing["soft_rpn_box"].detach()) == 0
    assert float(nothing["soft_class"].detach()) > 0  # background, as far as the teacher sees it too


def test_erased_candidates_teach_nothing() -> None:
    student, teacher = pair()
    seen = tiny.one_size(tiny.batch([(64, 48)], seed=2))
    gone = tiny.one_size(tiny.batch([(64, 48)], seed=2, erased=[[[0, 0, 64, 48]]]))
    assert float(step(student, teacher, more=seen)["soft_box"].detach()) > 0
    losses = step(student, teacher, more=gone)
    assert float(losses["soft_box"].detach()) == float(losses["soft_rpn_box"].detach()) == 0
    assert all(bool(value.isfinite()) for value in losses.values())


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("objects", [True, False])
def test_odd_batches_give_finite_losses(classes: int, objects: bool) -> None:
    student, teacher = pair(classes)
    with torch.no_grad():
        if not objects:
            teacher.rpn_head.cls_logits.bias.fill_(-100.0)
    for size in ((64, 64), (8, 8)):
        for config in (EASY, SoftTeacherConfig(), replace(EASY, jitters=1), replace(EASY, candidate_threshold=0.0)):
            student.zero_grad()
            losses = step(student, teacher, config, more=tiny.one_size(tiny.batch([size], seed=2)))
            assert all(bool(value.isfinite()) for value in losses.values())
            torch.stack(list(losses.values())).sum().backward()
            assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in student.parameters())


def test_it_remembers_nothing() -> None:
    method = SoftTeacher(EASY)
    assert method.state() == {}
    method.restore({})


def test_a_training_with_it_whole_and_in_two_parts(tmp_path: Path) -> None:
    data = tiny.dataset(tmp_path / "data")
    config = tiny.config(
        data,
        tmp_path / "a",
        method="soft-teacher",
        detector="faster_rcnn",
        model=ModelConfig(8, roi_samples=16),
        soft_teacher=SoftTeacherConfig(candidate_threshold=0.1, threshold=0.2, uncertainty=1.0),
    )
    whole = train(config)
    assert whole.finished and whole.teacher_ap is not None
    assert "soft-teacher, teacher AP" in (tmp_path / "a" / "train.log").read_text()
    part = replace(config, out=str(tmp_path / "b"))
    train(replace(part, stop=5))
    torch.manual_seed(77)
    parts = train(part, resume=tmp_path / "b")
    assert whole.detector is not None and parts.detector is not None
    mine, other = (load_detector(o.detector).model.state_dict() for o in (whole, parts))
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    with pytest.raises(ConfigError, match="defined for the detector faster_rcnn, not for fcos"):
        train(replace(config, detector="fcos", out=str(tmp_path / "other")))
