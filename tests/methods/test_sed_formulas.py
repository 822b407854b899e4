"""Each formula of SED against values worked out by hand, and against a looped float64 reference."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sedet.config import SEDConfig
from sedet.data.batch import Batch
from sedet.data.views import erased_share
from sedet.detectors.regions import Detections, Regions
from sedet.methods.pseudo_labels import pseudo_labels
from sedet.methods.sed import TeacherTarget, binary_kl, box_weights, class_weights, distillation, teacher_target
from tests import tiny
from tests.methods import reference

LOG3 = math.log(3.0)  # the logit of 0.75


def target_of(
    logits: Any, boxes: Any = None, quality: Any = None, mask: Any = None, dtype: torch.dtype = torch.float64
) -> TeacherTarget:
    logits = torch.as_tensor(logits, dtype=dtype)
    shape = logits.shape[:2]
    boxes = torch.zeros(*shape, 4, dtype=dtype) if boxes is None else torch.as_tensor(boxes, dtype=dtype)
    return TeacherTarget(
        logits,
        boxes,
        None if quality is None else torch.as_tensor(quality, dtype=dtype),
        torch.ones(shape, dtype=torch.bool) if mask is None else torch.as_tensor(mask),
        logits.sigmoid().amax(dim=-1) ** 2 if logits.shape[-1] else torch.zeros(shape, dtype=dtype),
    )


def student_of(logits: Any, boxes: Any = None, quality: Any = None, dtype: torch.dtype = torch.float64) -> Regions:
    logits = torch.as_tensor(logits, dtype=dtype)
    boxes = torch.zeros(*logits.shape[:2], 4, dtype=dtype) if boxes is None else torch.as_tensor(boxes, dtype=dtype)
    return tiny.regions(logits, boxes, None if quality is None else torch.as_tensor(quality, dtype=dtype))


# --- by hand -------------------------------------------------------------------------------------------------


def test_kl_by_hand() -> None:
    # p = 3/4, q = 1/2: 3/4 ln(3/2) + 1/4 ln(1/2)
    got = binary_kl(
        torch.tensor([LOG3, 0.0, -LOG3], dtype=torch.float64), torch.tensor([0.0, LOG3, -LOG3], dtype=torch.float64)
    )
    first = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    second = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    torch.testing.assert_close(got, torch.tensor([first, second, 0.0], dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_kl_is_never_negative_and_zero_only_where_both_agree() -> None:
    grid = torch.linspace(-12, 12, 49, dtype=torch.float64)
    value = binary_kl(grid[:, None].expand(49, 49), grid[None].expand(49, 49))
    assert value.min() > -1e-12
    off_diagonal = value[~torch.eye(49, dtype=torch.bool)]
    assert value.diagonal().abs().max() < 1e-12 < off_diagonal.min()


@pytest.mark.parametrize("logit", [-200.0, -40.0, 40.0, 200.0])
def test_kl_of_extreme_logits_is_finite(logit: float) -> None:
    t = torch.tensor([logit, -logit], requires_grad=False)
    s = torch.tensor([-logit, -logit], requires_grad=True)
    value = binary_kl(t, s)
    value.sum().backward()
    assert value.isfinite().all() and s.grad is not None and s.grad.isfinite().all()
    assert value[0].item() == pytest.approx(abs(logit), rel=1e-5)  # all of the belief is on the other side


def test_class_weights_by_hand() -> None:
    teacher, student = (
        torch.tensor([[[LOG3, -LOG3]]], dtype=torch.float64),
        torch.tensor([[[0.0, 0.0]]], dtype=torch.float64),
    )
    config = SEDConfig()
    two = class_weights(teacher, student, replace(config, reweight="discrepancy", gamma=2.0))
    one = class_weights(teacher, student, replace(config, reweight="discrepancy", gamma=1.0))
    foreground = class_weights(teacher, student, replace(config, reweight="foreground"))
    none = class_weights(teacher, student, replace(config, reweight="none"))
    torch.testing.assert_close(two, torch.full((1, 1, 2), 0.0625).double())
    torch.testing.assert_close(one, torch.full((1, 1, 2), 0.25).double())
    torch.testing.assert_close(foreground, torch.full((1, 1, 2), 0.75).double())
    torch.testing.assert_close(none, torch.ones(1, 1, 2).double())


def test_distillation_by_hand() -> None:
    """Two regions of one class: the teacher is at 3/4 in both, the student at 1/2 and at 3/4."""
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    boxes_t = [[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 4.0, 4.0]]]
    boxes_s = [[[5.0, 0.0, 15.0, 10.0], [0.0, 0.0, 4.0, 4.0]]]
    # first pair: overlap 50 of a union of 150, which is the hull too, so GIoU = 1/3
    target = target_of([[[LOG3], [LOG3]]], boxes_t, [[LOG3, 0.0]])
    student = student_of([[[0.0], [LOG3]]], boxes_s, [[0.0, 0.0]])
    v = 0.75**2  # of each region; their sum 1.125 is above the floor of 1
    config = replace(SEDConfig(), reweight="discrepancy", gamma=2.0, normalizer="foreground", box_loss="giou")
    losses = distillation(target, student, 1.0, config)
    assert losses["class"].item() == pytest.approx(0.0625 * kl / (2 * v), rel=1e-9)
    assert losses["quality"].item() == pytest.approx(v * kl / (2 * v), rel=1e-9)
    assert losses["box"].item() == pytest.approx(v * (2 / 3) / (2 * v), rel=1e-6)

    none = replace(config, reweight="none")
    assert distillation(target, student, 1.0, none)["class"].item() == pytest.approx(kl / (2 * v), rel=1e-9)
    count = replace(none, normalizer="count")
    assert distillation(target, student, 1.0, count)["class"].item() == pytest.approx(kl / 2, rel=1e-9)
    weights = replace(config, reweight="foreground", normalizer="weights")
    assert distillation(target, student, 1.0, weights)["class"].item() == pytest.approx(0.75 * kl / 1.5, rel=1e-9)

    # smooth L1 in strides of 8: two coordinates are 5/8 off, 0.5 d^2 each
    smooth = distillation(target, student, 1.0, replace(config, box_loss="smooth_l1"))["box"].item()
    assert smooth == pytest.approx(v * 2 * 0.5 * (5 / 8) ** 2 / (2 * v), rel=1e-9)
    # of the half view the boxes are doubled, and so is the stride
    halved = student_of([[[0.0], [LOG3]]], (np.array(boxes_s) / 2).tolist(), [[0.0, 0.0]])
    same = distillation(target, halved, 2.0, config)
    assert same["box"].item() == pytest.approx(losses["box"].item(), rel=1e-9)
    smooth_half = distillation(target, halved, 2.0, replace(config, box_loss="smooth_l1"))["box"].item()
    assert smooth_half == pytest.approx(2 * 0.5 * (5 / 16) ** 2 / 2, rel=1e-9)


def test_the_normaliser_has_a_floor_of_one() -> None:
    """A teacher that sees nothing must not blow its noise up."""
    target = target_of([[[-6.0]]], [[[0.0, 0.0, 8.0, 8.0]]])
    student = student_of([[[0.0]]], [[[0.0, 0.0, 4.0, 8.0]]])
    p = reference.sigmoid(-6.0)
    for normalizer in ("foreground", "weights"):
        config = replace(SEDConfig(), reweight="discrepancy", gamma=2.0, normalizer=normalizer)
        got = distillation(target, student, 1.0, config)
        assert got["class"].item() == pytest.approx((0.5 - p) ** 2 * reference.kl(p, 0.5), rel=1e-9)
        assert got["box"].item() == pytest.approx(p**2 * 0.5, rel=1e-4)


def test_boxes_without_sides_teach_no_box() -> None:
    flat, full = [3.0, 3.0, 3.0005, 9.0], [0.0, 0.0, 8.0, 8.0]
    for box_loss in ("giou", "smooth_l1"):
        config = replace(SEDConfig(), box_loss=box_loss)
        for pair in ((flat, full), (full, flat)):
            boxes = torch.tensor([[pair[1]]], dtype=torch.float64, requires_grad=True)
            student = tiny.regions(torch.zeros(1, 1, 1, dtype=torch.float64), boxes, None)
            losses = distillation(target_of([[[3.0]]], [[pair[0]]]), student, 1.0, config)
            assert losses["box"].item() == 0.0 and losses["class"].item() > 0


# --- against the reference -----------------------------------------------------------------------------------

SHAPES = [(2, 7, 3), (1, 1, 1), (3, 40, 2), (0, 5, 2), (2, 0, 3), (1, 6, 1)]


def draw(shape: tuple[int, int, int], seed: int, mask_share: float = 0.7) -> dict[str, Any]:
    """Random answers of teacher and student; some boxes are degenerate, some agree."""
    rng = np.random.default_rng(seed)
    images, count, _ = shape

    def boxes() -> np.ndarray:
        low = rng.uniform(0, 40, (images, count, 2))
        size = rng.uniform(0.5, 30, (images, count, 2)) * (rng.random((images, count, 2)) > 0.05)
        return np.concatenate([low, low + size], axis=-1)

    return {
        "teacher_logits": rng.normal(0, 3, shape),
        "teacher_boxes": boxes(),
        "teacher_quality": rng.normal(0, 2, shape[:2]),
        "mask": rng.random(shape[:2]) < mask_share,
        "student_logits": rng.normal(0, 3, shape),
        "student_boxes": boxes(),
        "student_quality": rng.normal(0, 2, shape[:2]),
        "strides": rng.choice([4.0, 8.0, 16.0], count),
    }


def tensors(data: dict[str, Any], quality: bool = True) -> tuple[TeacherTarget, Regions]:
    target = target_of(
        data["teacher_logits"], data["teacher_boxes"], data["teacher_quality"] if quality else None, data["mask"]
    )
    student = tiny.regions(
        torch.tensor(data["student_logits"]),
        torch.tensor(data["student_boxes"]),
        torch.tensor(data["student_quality"]) if quality else None,
        strides=torch.tensor(data["strides"]),
    )
    return target, student


def lists(data: dict[str, Any], quality: bool = True) -> dict[str, Any]:
    plain = {key: value.tolist() for key, value in data.items()}
    if not quality:
        plain["teacher_quality"] = plain["student_quality"] = None
    return plain


@pytest.mark.parametrize("box_loss", ["giou", "smooth_l1"])
@pytest.mark.parametrize("normalizer", ["foreground", "weights", "count"])
@pytest.mark.parametrize(
    ("reweight", "gamma"), [("discrepancy", 2.0), ("discrepancy", 0.5), ("foreground", 2.0), ("none", 2.0)]
)
def test_distillation_equals_the_reference(box_loss: Any, normalizer: Any, reweight: Any, gamma: float) -> None:
    base = replace(SEDConfig(), reweight=reweight, gamma=gamma, normalizer=normalizer, box_loss=box_loss)
    for seed, shape in enumerate(SHAPES):
        config = replace(base, box_gamma=(0.0, 1.0, 0.5)[seed % 3])
        for mask_share in (0.7, 0.0):
            for box_scale in (1.0, 2.0):
                quality = seed % 2 == 0
                data = draw(shape, seed, mask_share)
                got = distillation(*tensors(data, quality), box_scale, config)
                want = reference.distillation(
                    **lists(data, quality),
                    box_scale=box_scale,
                    reweight=reweight,
                    gamma=gamma,
                    normalizer=normalizer,
                    box_loss=box_loss,
                    box_gamma=config.box_gamma,
                )
                assert set(got) == set(want)
                for key in want:
                    assert got[key].item() == pytest.approx(want[key], rel=1e-6, abs=1e-9), (key, shape)


@pytest.mark.parametrize("box_loss", ["giou", "smooth_l1"])
@pytest.mark.parametrize("normalizer", ["foreground", "weights", "count"])
@pytest.mark.parametrize("reweight", ["discrepancy", "foreground", "none"])
def test_gradients_are_those_with_fixed_weights_and_teacher(box_loss: Any, normalizer: Any, reweight: Any) -> None:
    """Central differences of the reference, with w_rc held where they are: a missing detach shows."""
    config = replace(SEDConfig(), reweight=reweight, gamma=2.0, normalizer=normalizer, box_loss=box_loss)
    data = draw((2, 4, 2), seed=11)
    data["teacher_boxes"][..., 2:] += 1.0  # no degenerate boxes: differences need a smooth place
    data["student_boxes"][..., 2:] += 1.0
    target, student = tensors(data)
    leaves = {"student_logits": student.logits, "student_boxes": student.boxes, "student_quality": student.quality}
    teachers = [target.logits, target.boxes, target.quality, target.foreground]
    for leaf in [*leaves.values(), target.logits, target.quality]:
        assert leaf is not None
        leaf.requires_grad_()
    sum(distillation(target, student, 2.0, config).values()).backward()  # type: ignore[union-attr]
    assert all(t is None or t.grad is None for t in teachers)

    frozen = reference.weights(lists(data)["teacher_logits"], lists(data)["student_logits"], reweight, 2.0)

    def total(changed: dict[str, Any]) -> float:
        losses = reference.distillation(
            **lists(changed),
            box_scale=2.0,
            reweight=reweight,
            gamma=2.0,
            normalizer=normalizer,
            box_loss=box_loss,
            frozen_weights=frozen,
        )
        return sum(losses.values())

    for name, leaf in leaves.items():
        assert leaf is not None and leaf.grad is not None
        for where in np.ndindex(data[name].shape):
            values = []
            for step in (1e-5, -1e-5):
                changed = {**data, name: data[name].copy()}
                changed[name][where] += step
                values.append(total(changed))
            assert leaf.grad[where].item() == pytest.approx((values[0] - values[1]) / 2e-5, abs=2e-6), (name, where)


def test_box_weights_by_hand() -> None:
    """Halves of a box: IoU a half; the same box: nothing to learn; and the weight is no way for the gradient."""
    teacher = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    student = torch.tensor([[0.0, 0, 10, 5], [0, 0, 10, 10], [20, 20, 30, 30]], requires_grad=True)
    torch.testing.assert_close(box_weights(teacher, student, 2.0), torch.tensor([0.25, 0.0, 1.0]))
    assert torch.equal(box_weights(teacher, student, 0.0), torch.ones(3))
    assert not box_weights(teacher, student, 1.0).requires_grad
    target = target_of(torch.zeros(1, 3, 1), teacher[None], dtype=torch.float32)
    grads = []
    for gamma in (0.0, 1.0):
        loss = distillation(
            target, tiny.regions(torch.zeros(1, 3, 1), student[None], None), 1.0, SEDConfig(box_gamma=gamma)
        )
        grads.append(torch.autograd.grad(loss["box"], student)[0])
    torch.testing.assert_close(grads[1], grads[0] * torch.tensor([[0.5], [0.0], [1.0]]))


def test_masked_regions_count_for_nothing() -> None:
    """Whatever stands there, infinities too, changes neither losses nor gradients."""
    for normalizer in ("foreground", "weights", "count"):
        for box_loss in ("giou", "smooth_l1"):
            config = replace(SEDConfig(), normalizer=normalizer, box_loss=box_loss)
            results = []
            for noise in (None, 50.0, math.inf):
                data = draw((2, 9, 2), seed=3, mask_share=0.5)
                hidden = ~data["mask"]
                assert hidden.any() and not hidden.all()
                if noise is not None:
                    for name in ("student_logits", "student_boxes", "student_quality"):
                        data[name][hidden] = noise
                target, student = tensors(data)
                leaves = [student.logits.requires_grad_(), student.boxes.requires_grad_()]
                losses = distillation(target, student, 1.0, config)
                sum(losses.values()).backward()  # type: ignore[union-attr]
                shown = [leaf.grad[torch.tensor(~hidden)] for leaf in leaves if leaf.grad is not None]
                below = [leaf.grad[torch.tensor(hidden)] for leaf in leaves if leaf.grad is not None]
                assert all((g == 0).all() for g in below)
                results.append([*losses.values(), *shown])
            for other in results[1:]:
                assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_identical_answers_lose_nothing() -> None:
    data = draw((2, 30, 3), seed=5, mask_share=1.0)
    for part in ("logits", "boxes", "quality"):
        data[f"student_{part}"] = data[f"teacher_{part}"]
    for config in (SEDConfig(), SEDConfig(box_loss="smooth_l1", reweight="none", normalizer="count")):
        target, student = tensors(data)
        assert all(value.abs() < 1e-6 for value in distillation(target, student, 1.0, config).values())
        student = replace(student, boxes=student.boxes / 2)
        assert all(value.abs() < 1e-6 for value in distillation(target, student, 2.0, config).values())
        # and an answer that differs in any part loses something
        for part in ("logits", "boxes", "quality"):
            moved = replace(student, **{part: getattr(student, part) + 1.0})
            assert max(v.item() for v in distillation(target, moved, 2.0, config).values()) > 1e-3


# --- the teacher's side ----------------------------------------------------------------------------------------


def unlabeled(erased: list[list[list[float]]]) -> Batch:
    return tiny.batch([(64, 64)] * len(erased), erased=erased)


def test_teacher_target_by_hand() -> None:
    logits = torch.tensor([[[LOG3, 0.0], [-LOG3, -9.0]]])
    answer = tiny.regions(logits, torch.ones(1, 2, 4), torch.tensor([[1.0, 2.0]]))
    target = teacher_target(answer, unlabeled([[]]), erase_limit=0.7)
    torch.testing.assert_close(target.foreground, torch.tensor([[0.75**2, 0.25**2]]))
    assert target.mask.all() and torch.equal(target.logits, logits)
    sharper = teacher_target(answer, unlabeled([[]]), erase_limit=0.7, temperature=0.5)
    # 0.75 stays, 0.5 becomes 0.75 * (2 / 3)^2; of the other region 0.25 stays
    torch.testing.assert_close(sharper.logits[0, 0].sigmoid(), torch.tensor([0.75, 1 / 3]))
    torch.testing.assert_close(sharper.logits[0, 1, 0].sigmoid(), torch.tensor(0.25))
    torch.testing.assert_close(sharper.foreground, target.foreground)
    sharp = teacher_target(answer, unlabeled([[]]), erase_limit=0.7, sharpness=2.0)
    # odds of 3 to 1 become 9 to 1, even ones stay even
    torch.testing.assert_close(sharp.logits[0, :, 0].sigmoid(), torch.tensor([0.9, 0.1]))
    torch.testing.assert_close(sharp.logits[0, 0, 1].sigmoid(), torch.tensor(0.5))
    torch.testing.assert_close(sharp.foreground, target.foreground)
    both = teacher_target(answer, unlabeled([[]]), erase_limit=0.7, temperature=0.5, sharpness=2.0)
    torch.testing.assert_close(both.logits[0, 0].sigmoid(), torch.tensor([0.9, 0.2]))  # 1 to 2 becomes 1 to 4
    alone = tiny.regions(logits[..., :1], torch.ones(1, 2, 4), None)
    got = teacher_target(alone, unlabeled([[]]), erase_limit=0.7, temperature=0.5).logits
    torch.testing.assert_close(got, logits[..., :1])  # one class: nothing to sharpen


def test_mask_rules() -> None:
    """Out: padding, an erased centre, a box erased beyond the limit. In: all else, at the limit too."""
    points = torch.tensor([[10.0, 10.0], [30.0, 10.0], [50.0, 10.0], [10.0, 40.0], [40.0, 40.0]])
    boxes = torch.tensor(
        [
            [5.0, 5.0, 15.0, 15.0],  # the rectangle 0..10 ends at its centre: 25 % erased
            [29.0, 9.0, 31.0, 11.0],  # wholly erased
            [45.0, 5.0, 55.0, 15.0],  # 70 % erased, centre free
            [0.0, 30.0, 20.0, 50.0],  # free, but in padding
            [30.0, 30.0, 50.0, 50.0],  # only its centre is erased
        ]
    )[None]
    valid = torch.tensor([[True, True, True, False, True]])
    answer = tiny.regions(torch.zeros(1, 5, 1), boxes, None, points=points, valid=valid)
    erased = [[[0.0, 0.0, 10.0, 10.0], [28.0, 8.0, 32.0, 12.0], [39.0, 39.0, 41.0, 41.0]]]
    got = teacher_target(answer, unlabeled(erased), erase_limit=0.7).mask[0].tolist()
    assert got == [True, False, True, False, False]

    erased = [[[45.0, 8.0, 55.0, 15.0]]]  # 70 % of the third box and its centre
    assert teacher_target(answer, unlabeled(erased), 0.7).mask[0].tolist() == [True, True, False, False, True]
    moved = replace(answer, points=points + torch.tensor([0.0, -3.0]))  # its centre is free: at the limit it stays
    assert teacher_target(moved, unlabeled(erased), 0.7).mask[0, 2]
    assert not teacher_target(moved, unlabeled(erased), 0.69).mask[0, 2]


def test_erasing_one_image_masks_no_other() -> None:
    answer = tiny.regions(torch.zeros(2, 1, 1), torch.tensor([[[0.0, 0.0, 8.0, 8.0]]] * 2), None)
    target = teacher_target(answer, unlabeled([[], [[0.0, 0.0, 30.0, 30.0]]]), 0.7)
    assert target.mask.tolist() == [[True], [False]]


def test_the_teachers_answers_are_cut_off() -> None:
    logits, boxes, quality = (torch.rand(1, 2, n, requires_grad=True) for n in (3, 4, 1))
    answer = tiny.regions(logits, boxes, quality.squeeze(-1))
    target = teacher_target(answer, unlabeled([[]]), 0.7, 0.5)
    assert not any(
        t is not None and t.requires_grad for t in (target.logits, target.boxes, target.quality, target.foreground)
    )
    assert answer.valid.all()


class Answers:
    """A detector whose detections are given."""

    def __init__(self, found: list[Detections]) -> None:
        self.found = found
        self.thresholds: list[float] = []

    def detect(self, regions: Regions, content: Tensor, score_threshold: float) -> list[Detections]:
        self.thresholds.append(score_threshold)
        return self.found


def test_pseudo_labels() -> None:
    """Boxes erased beyond the limit are neither objects nor background."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [40.0, 0.0, 50.0, 10.0]])
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.75]), torch.tensor([2, 1, 0]))
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    teacher = Answers([found, none])
    answer = tiny.regions(torch.zeros(2, 1, 1), torch.zeros(2, 1, 4), None)
    erased = [[[20.0, 0.0, 28.0, 10.0], [40.0, 0.0, 45.0, 10.0]], []]
    first, second = pseudo_labels(teacher, answer, unlabeled(erased), 0.6, 0.7)  # type: ignore[arg-type]
    assert teacher.thresholds == [0.6]
    assert first.boxes.tolist() == [[0, 0, 10, 10], [40, 0, 50, 10]] and first.labels.tolist() == [2, 0]
    assert first.ignore.tolist() == [[20, 0, 30, 10]]
    assert len(second.labels) == len(second.ignore) == 0 and second.boxes.shape == (0, 4)


@pytest.mark.parametrize("seed", range(6))
def test_erased_share_equals_counting(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 40, (12, 2, 2))
    rows = np.concatenate([rows.min(axis=1), rows.min(axis=1) + rng.integers(4, 30, (12, 2))], axis=1).astype(float)
    boxes, erased = rows[: 12 - seed % 4], rows[12 - seed % 4 :]
    got = erased_share(torch.tensor(boxes), torch.tensor(erased).reshape(-1, 4))
    for box, share in zip(boxes.tolist(), got.tolist(), strict=True):
        assert share == pytest.approx(reference.erased_share(box, erased.tolist(), cells=60), abs=0.03)


def test_erased_share_by_hand() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])

    def share(*erased: list[float]) -> float:
        return erased_share(box, torch.tensor(erased).reshape(-1, 4)).item()

    assert share() == 0.0
    assert share([0, 0, 5, 10]) == pytest.approx(0.5)
    assert share([0, 0, 5, 10], [0, 0, 5, 10]) == pytest.approx(0.5)  # twice is once
    assert share([0, 0, 6, 10], [4, 0, 10, 10]) == pytest.approx(1.0)
    assert share([0, 0, 5, 5], [5, 5, 10, 10], [4, 4, 6, 6]) == pytest.approx(0.25 + 0.25 + 0.02)
    assert share([20, 0, 30, 10]) == 0.0
    assert erased_share(torch.zeros(1, 4), torch.ones(1, 4)).item() == 0.0  # no area
