"""SED on Faster R-CNN: distilled at both stages, RoIs of the teacher's, softmax scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sedet.config import SEDConfig
from sedet.data.batch import Batch, pixels
from sedet.detectors.build import freeze_unused
from sedet.detectors.faster_rcnn import FasterRCNN
from sedet.detectors.regions import HALF_LEVELS, Regions
from sedet.methods.join import join_rois
from sedet.methods.method import Progress
from sedet.methods.sed import (
    SED,
    TeacherTarget,
    class_weights,
    distillation,
    softmax_kl,
    teacher_answers,
    teacher_target,
)
from sedet.methods.supervised import Supervised
from tests import tiny
from tests.detectors.test_faster_rcnn import network
from tests.methods import reference
from tests.methods.test_sed_formulas import SHAPES, draw

EVERY = SEDConfig(class_weight=1.0, box_weight=1.0, quality_weight=1.0)
PARTS = ("class", "box", "quality", "rpn_class", "rpn_box")


def rois(logits: Tensor, boxes: Tensor, **changes: Any) -> Regions:
    batch, count = logits.shape[:2]
    centers = (boxes[..., :2] + boxes[..., 2:]) / 2
    found = tiny.regions(logits, boxes, None, points=centers, strides=torch.full((batch, count), 8.0))
    return replace(found, softmax=True, **changes)


# --- formulas -------------------------------------------------------------------------------------------------


def test_by_hand() -> None:
    """p_T = (0.5, 0.25 | 0.25), p_S = (0.25, 0.25 | 0.5): half of the differences 0.25, KL 0.25 log 2."""
    teacher, student = torch.tensor([[[0.5, 0.25, 0.25]]]).log(), torch.tensor([[[0.25, 0.25, 0.5]]]).log()
    torch.testing.assert_close(softmax_kl(teacher, student).item(), 0.25 * np.log(2), rtol=1e-6, atol=0)
    for gamma, wanted in ((1.0, 0.25), (2.0, 0.0625)):
        weights = class_weights(teacher, student, SEDConfig(gamma=gamma), softmax=True)
        torch.testing.assert_close(weights, torch.full((1, 1, 1), wanted))
    weights = class_weights(teacher, student, SEDConfig(reweight="foreground"), softmax=True)
    torch.testing.assert_close(weights, torch.full((1, 1, 1), 0.75))
    assert class_weights(teacher, student, SEDConfig(reweight="none"), softmax=True).item() == 1.0

    box = torch.tensor([[[0.0, 0, 10, 10]]])
    answer = rois(teacher, box)
    target = teacher_target(answer, tiny.batch([(64, 64)]), 0.7)
    torch.testing.assert_close(target.foreground, torch.tensor([[0.75**2]]))
    sharper = teacher_target(answer, tiny.batch([(64, 64)]), 0.7, temperature=0.5).logits.softmax(dim=-1)
    torch.testing.assert_close(sharper, torch.tensor([[[0.6, 0.15, 0.25]]]))
    sharp = teacher_target(answer, tiny.batch([(64, 64)]), 0.7, sharpness=2.0)
    torch.testing.assert_close(sharp.logits.softmax(dim=-1), torch.tensor([[[4, 1, 1]]]) / 6)
    torch.testing.assert_close(sharp.foreground, target.foreground)
    sure = rois(torch.tensor([[[0.0, -1.0, 60.0]]]), box)  # of the background: sharpened, nothing is left of the others
    sharper = teacher_target(sure, tiny.batch([(64, 64)]), 0.7, temperature=0.1).logits.softmax(dim=-1)
    torch.testing.assert_close(sharper, torch.tensor([[[0.0, 0.0, 1.0]]]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalizer", ["foreground", "weights", "count"])
@pytest.mark.parametrize(
    ("reweight", "gamma"), [("discrepancy", 2.0), ("discrepancy", 1.0), ("foreground", 1.0), ("none", 1.0)]
)
def test_distillation_equals_the_reference(normalizer: Any, reweight: Any, gamma: float) -> None:
    config = replace(EVERY, reweight=reweight, gamma=gamma, normalizer=normalizer)
    for seed, shape in enumerate(SHAPES):
        if shape[2] == 1:
            continue  # a class and the background at least
        for mask_share, box_scale in ((0.7, 1.0), (0.7, 2.0), (0.0, 1.0)):
            data = draw(shape, seed, mask_share)
            given = {key: torch.tensor(value) for key, value in data.items()}
            foreground = given["teacher_logits"].softmax(dim=-1)[..., :-1].sum(dim=-1) ** 2
            target = TeacherTarget(
                given["teacher_logits"], given["teacher_boxes"], None, given["mask"], foreground, softmax=True
            )
            got = distillation(target, rois(given["student_logits"], given["student_boxes"]), box_scale, config)
            plain = {k: v.tolist() for k, v in data.items() if k != "strides" and not k.endswith("quality")}
            settings: dict[str, Any] = {"reweight": reweight, "gamma": gamma, "normalizer": normalizer}
            want = reference.softmax_distillation(**plain, box_scale=box_scale, **settings)
            for key, value in want.items():
                assert got[key].item() == pytest.approx(value, rel=1e-6, abs=1e-9), (key, shape)


def test_gradients_pass_through_the_student_alone() -> None:
    teacher = torch.randn(1, 4, 3, requires_grad=True)
    student = torch.randn(1, 4, 3, requires_grad=True)
    softmax_kl(teacher, student).sum().backward()
    assert teacher.grad is None and student.grad is not None
    torch.testing.assert_close(student.grad, (student.softmax(dim=-1) - teacher.softmax(dim=-1)).detach())


# --- steps ----------------------------------------------------------------------------------------------------


def batches() -> tuple[Batch, Batch]:
    rows = [tiny.targets((0, 4, 4, 40, 36), (2, 20, 8, 60, 40)), tiny.targets()]
    return tiny.batch([(64, 48), (40, 64)], seed=1, labels=rows), tiny.batch([(64, 48), (40, 64)], seed=2)


def pair(seed: int = 2) -> tuple[FasterRCNN, FasterRCNN]:
    return network(seed=1), network(seed=seed).eval().requires_grad_(False)


def step(
    model: FasterRCNN, teacher: FasterRCNN, config: SEDConfig, three: bool = True, at: int = 100
) -> dict[str, Tensor]:
    given, more = batches()
    torch.manual_seed(0)
    more = more if three else tiny.one_size(more)
    return SED(config).losses(model, teacher, given, more, Progress(at, 5, 10))


@pytest.mark.parametrize("three", [True, False])
@pytest.mark.parametrize("targets", ["soft", "hard"])
def test_a_step_teaches_both_stages_at_both_sizes(targets: Any, three: bool) -> None:
    model, teacher = pair()
    losses = step(model, teacher, replace(EVERY, targets=targets, threshold=0.3), three)
    names = {f"{view}_{part}" for view in ("distill", "scale") for part in PARTS}
    assert set(losses) == names | {f"sup_{part}" for part in PARTS if part != "quality"}
    for name, value in losses.items():
        assert (float(value.detach()) > 0) == (not name.endswith("quality")), name
    assert set(step(model, teacher, EVERY, three, at=0)) == set(losses)
    sum(losses.values(), torch.zeros(())).backward()
    freeze_unused(model, half_size=True)
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad is None for p in teacher.parameters())


def test_all_parts_off_equals_supervised() -> None:
    model, teacher = pair()
    off = step(model, teacher, SEDConfig(distill=False, scale=False))
    given, _ = batches()
    torch.manual_seed(0)
    alone = Supervised().losses(model, teacher, given, None, Progress(100, 5, 10))
    for name, value in alone.items():
        assert torch.equal(value, off[name]), name


def test_a_student_that_answers_as_the_teacher_loses_nothing() -> None:
    model = network(seed=1).eval()
    config = replace(EVERY, student_view="weak", scale=False)
    losses = step(model, model, config, three=False)
    assert all(float(losses[f"distill_{part}"].detach().abs()) < 1e-6 for part in PARTS)
    other = step(model, network(seed=2).eval(), config, three=False)
    assert all(float(other[f"distill_{part}"].detach()) > 1e-4 for part in PARTS if part != "quality")


def test_the_teachers_rois_are_looked_at_by_all() -> None:
    _, teacher = pair()
    _, more = batches()
    answer, second = teacher_answers(teacher, more)
    assert second is not None and second.anchors is not None
    where, valid = teacher.propose(answer)
    assert torch.equal(second.anchors, where) and torch.equal(second.valid, valid)
    assert (second.boxes[..., 2] <= 64 + 64).all() and not second.boxes.requires_grad
    plain = teacher_answers(teacher, tiny.one_size(more))[1]
    assert plain is not None and plain.logits.shape[-1] == second.logits.shape[-1] == 4


def test_equal_answers_at_all_sizes_are_left_as_they_are() -> None:
    """Given the same maps one level apart, the sizes agree, and joining them changes nothing."""
    _, teacher = pair()
    _, more = batches()
    assert more.weak is not None
    with torch.no_grad():
        full = teacher(pixels(more.weak), more.content)
        levels = {s: teacher(pixels(more.weak), more.content, HALF_LEVELS) for s in (0.5, 2.0)}
        half = replace(levels[0.5], maps=full.maps)  # strides of P2..P6
        double = replace(full, strides=full.strides * 2, maps=full.maps)  # as a view twice as large, P4..P8
        where, valid = teacher.propose(full)
        alone = teacher.look(full, where, valid)
        joined = join_rois(teacher, full, double, half, where, valid)
    torch.testing.assert_close(joined.scores(), alone.scores(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(joined.boxes, alone.boxes, rtol=1e-4, atol=1e-3)


def test_some_images_are_looked_at_in_double_size() -> None:
    """Their RoIs as if all were, of any place in the batch; in the other image the small ones are judged once."""
    _, teacher = pair()
    _, more = batches()
    assert more.weak is not None and more.weak_half is not None and more.weak_double is not None
    with torch.no_grad():
        full = teacher(pixels(more.weak), more.content)
        half = teacher(pixels(more.weak_half), more.content // 2, HALF_LEVELS)
        double = teacher(pixels(more.weak_double), 2 * more.content)
        second = teacher(pixels(more.weak_double[1:]), 2 * more.content[1:])
        where, valid = teacher.propose(full)
        where[:, ::2] = torch.tensor([0.0, 0.0, 250.0, 250.0])  # those of such small views are all of the lowest level
        alone = teacher.look(full, where, valid)
        whole = join_rois(teacher, full, double, half, where, valid)
        part = join_rois(teacher, full, second, half, where, valid, doubled=torch.tensor([1]))
        none = join_rois(teacher, full, None, half, where, valid)
    small = alone.strides == full.strides.min()
    assert small.any() and not small.all()
    for joined, last in ((part, whole), (none, none)):
        torch.testing.assert_close(joined.scores()[1], last.scores()[1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(joined.boxes[1], last.boxes[1], rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(joined.scores()[~small], whole.scores()[~small], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(part.scores()[0][small[0]], alone.scores()[0][small[0]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(none.scores()[small], alone.scores()[small], rtol=1e-4, atol=1e-5)


def test_padding_and_erased_places_change_no_loss() -> None:
    _, teacher = pair()
    more = tiny.batch([(64, 48), (40, 64)], seed=2, erased=[[[8, 8, 40, 30]], [[0, 0, 40, 64]]])
    _, second = teacher_answers(teacher, more)
    assert second is not None
    target = teacher_target(second, more, 0.7)
    assert target.mask[0].any() and not target.mask[1].any()  # the second image is erased as a whole
    with torch.no_grad():
        seen = rois(torch.randn_like(second.logits), second.boxes)
        for value in (50.0, float("inf")):
            wild = replace(seen, logits=torch.where(target.mask[..., None], seen.logits, value))
            for key, loss in distillation(target, seen, 1.0, EVERY).items():
                assert torch.equal(distillation(target, wild, 1.0, EVERY)[key], loss)


@pytest.mark.parametrize("classes", [1, 3])
def test_odd_batches_give_finite_losses(classes: int) -> None:
    model, teacher = network(classes, seed=1), network(classes, seed=2).eval()
    with torch.no_grad():
        teacher.rpn_head.cls_logits.bias.fill_(-100.0)  # nothing is an object
    given = tiny.batch([(64, 64)], seed=1, labels=[tiny.targets()])
    for more in (tiny.batch([(64, 64)], seed=2), tiny.batch([(8, 8)], seed=2)):
        losses = SED(EVERY).losses(model, teacher, given, more, Progress(100, 5, 10))
        assert all(value.isfinite() for value in losses.values())
        sum(losses.values(), torch.zeros(())).backward()
