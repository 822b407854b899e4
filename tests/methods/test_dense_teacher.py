"""Dense Teacher: its losses by hand and against a loop, and a whole step and training with it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou

from sedet.config import DenseTeacherConfig
from sedet.detectors.regions import Regions
from sedet.errors import ConfigError
from sedet.methods.dense_teacher import DenseTeacher, dense_losses
from sedet.methods.method import Progress
from sedet.methods.sed import TeacherTarget
from sedet.methods.supervised import Supervised
from sedet.training.run import train
from tests import tiny

BURN_IN, AFTER = Progress(3, 5, 10), Progress(100, 5, 10)


def random_answers(
    batch: int, regions: int, classes: int, seed: int, quality: bool = True
) -> tuple[TeacherTarget, Regions]:
    generator = torch.Generator().manual_seed(seed)

    def boxes() -> Tensor:
        corner = torch.rand(batch, regions, 2, generator=generator, dtype=torch.float64) * 50
        side = 1 + torch.rand(batch, regions, 2, generator=generator, dtype=torch.float64) * 40
        return torch.cat([corner, corner + side], dim=-1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * 2

    target = TeacherTarget(
        normal(batch, regions, classes),
        boxes(),
        normal(batch, regions) if quality else None,
        torch.rand(batch, regions, generator=generator) > 0.3,
        torch.ones(batch, regions),
    )
    student = tiny.regions(normal(batch, regions, classes), boxes(), normal(batch, regions) if quality else None)
    return target, student


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def bce(p: float, y: float) -> float:
    return -(y * math.log(p) + (1 - y) * math.log(1 - p))


def naive(target: TeacherTarget, student: Regions, share: float) -> dict[str, float]:
    batch, regions, classes = student.logits.shape
    places = [(i, r) for i in range(batch) for r in range(regions) if bool(target.mask[i, r])]
    best = {place: max(sigmoid(float(z)) for z in target.logits[place]) for place in places}
    count = max(1, int(share * batch * regions))
    chosen = sorted(places, key=lambda place: -best[place])[:count]
    total = 0.0
    for i, r in places:
        for c in range(classes):
            p = sigmoid(float(student.logits[i, r, c]))
            wanted = sigmoid(float(target.logits[i, r, c])) if (i, r) in chosen else 0.0
            total += (wanted - p) ** 2 * bce(p, wanted)
    box = [1 - float(generalized_box_iou(target.boxes[p][None], student.boxes[p][None])) for p in chosen]
    quality = 0.0
    if target.quality is not None and student.quality is not None:
        quality = sum(bce(sigmoid(float(student.quality[p])), sigmoid(float(target.quality[p]))) for p in chosen)
    number = max(1, len(chosen))
    return {"class": total / sum(best[p] for p in chosen), "box": sum(box) / number, "quality": quality / number}


@pytest.mark.parametrize("seed", range(6))
def test_against_a_loop(seed: int) -> None:
    batch, regions, classes = 1 + seed % 3, 20 + 7 * seed, 1 + seed % 4
    target, student = random_answers(batch, regions, classes, seed, quality=seed != 2)
    found = dense_losses(target, student, 0.1)
    for key, value in naive(target, student, 0.1).items():
        assert float(found[key]) == pytest.approx(value, rel=1e-6), key


def test_by_hand() -> None:
    """Two regions of one class: the teacher is sure of the first (0.8); the student says 0.5 everywhere."""
    target = TeacherTarget(
        torch.tensor([[[math.log(4.0)], [-2.0]]]),
        torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 5.0, 5.0]]]),
        torch.zeros(1, 2),
        torch.ones(1, 2, dtype=torch.bool),
        torch.ones(1, 2),
    )
    student = tiny.regions(torch.zeros(1, 2, 1), torch.tensor([[[0.0, 0.0, 10.0, 5.0]] * 2]), torch.zeros(1, 2))
    found = dense_losses(target, student, 0.5)
    # (0.8 - 0.5)^2 ln 2 for the positive, 0.5^2 ln 2 for the other; over 0.8
    assert float(found["class"]) == pytest.approx((0.09 + 0.25) * math.log(2) / 0.8, rel=1e-5)
    assert float(found["box"]) == pytest.approx(0.5)  # half of the box is shared, and nothing lies around both
    assert float(found["quality"]) == pytest.approx(math.log(2))


@pytest.mark.parametrize(("p", "wanted"), [(0.3, 0.0), (0.3, 0.4), (0.5, 0.7)])
def test_the_gradient_goes_through_the_focusing_factor(p: float, wanted: float) -> None:
    """d/dz of (y - p)^2 BCE(p, y) is (y - p)^2 (p - y) - 2 (y - p) p (1 - p) BCE(p, y); for p = 0.3, y = 0: 0.0719."""
    sure = wanted or 0.5  # a region that is not chosen is background, whatever the teacher says
    target = TeacherTarget(
        torch.logit(torch.tensor([[[0.9], [sure]]], dtype=torch.float64)),
        torch.zeros(1, 2, 4, dtype=torch.float64),
        None,
        torch.ones(1, 2, dtype=torch.bool),
        torch.ones(1, 2),
    )
    logits = torch.logit(torch.tensor([[[0.9], [p]]], dtype=torch.float64)).requires_grad_()
    student = tiny.regions(logits, torch.zeros(1, 2, 4, dtype=torch.float64), None)
    (gradient,) = torch.autograd.grad(dense_losses(target, student, 1.0 if wanted else 0.5)["class"], logits)
    by_hand = (wanted - p) ** 2 * (p - wanted)
    by_hand -= 2 * (wanted - p) * p * (1 - p) * (-wanted * math.log(p) - (1 - wanted) * math.log(1 - p))
    if not wanted:
        assert by_hand == pytest.approx(0.07194, abs=1e-5)
    assert float(gradient[0, 1, 0]) == pytest.approx(by_hand / (0.9 + sure if wanted else 0.9), rel=1e-6)


def test_nothing_to_learn_from_gives_no_nan() -> None:
    target, student = random_answers(2, 30, 2, 0)
    for mask in (torch.zeros_like(target.mask), target.mask):
        blind = replace(target, mask=mask, logits=torch.full_like(target.logits, -100.0))
        answers = replace(student, logits=student.logits.clone().requires_grad_())
        losses = dense_losses(blind, answers, 0.01)
        sum(losses.values(), torch.zeros(())).backward()
        assert all(bool(v.isfinite()) for v in losses.values())
        assert answers.logits.grad is not None and bool(answers.logits.grad.isfinite().all())


def test_what_lies_under_the_mask_has_no_say() -> None:
    target, student = random_answers(2, 40, 2, 3)
    before = dense_losses(target, student, 0.05)
    hidden = ~target.mask
    other = replace(student, logits=torch.where(hidden[..., None], 30.0, student.logits))
    louder = replace(target, logits=torch.where(hidden[..., None], 30.0, target.logits))
    after = dense_losses(louder, other, 0.05)
    assert all(float(before[k]) == float(after[k]) for k in before)


def test_a_step_and_its_twin() -> None:
    student, teacher = tiny.detector(seed=1, confident=True), tiny.detector(seed=2, confident=True).eval()
    labeled = tiny.batch([(64, 48)], seed=1, labels=[tiny.targets((0, 4, 4, 40, 36))])
    more = tiny.one_size(tiny.batch([(64, 48), (40, 64)], seed=2))
    method = DenseTeacher(DenseTeacherConfig())
    early = method.losses(student, teacher, labeled, more, BURN_IN)
    twin = Supervised().losses(student, teacher, labeled, None, BURN_IN)
    assert all(torch.equal(early[key], value) for key, value in twin.items())
    late = method.losses(student, teacher, labeled, more, AFTER)
    assert list(late) == list(early)
    assert all(
        float(early[f"dense_{p}"]) == 0 < float(late[f"dense_{p}"].detach()) for p in ("class", "box", "quality")
    )
    torch.stack(list(late.values())).sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert [n for n, p in student.named_parameters() if p.grad is None] == []
    # weights: those of the publication
    plain = DenseTeacher(DenseTeacherConfig(class_weight=1.0)).losses(student, teacher, labeled, more, AFTER)
    assert float(late["dense_class"].detach()) == pytest.approx(4 * float(plain["dense_class"].detach()), rel=1e-5)


def test_a_training_with_it(tmp_path: Path) -> None:
    data = tiny.dataset(tmp_path / "data")
    config = tiny.config(data, tmp_path / "run", method="dense-teacher")
    outcome = train(config)
    assert outcome.finished and outcome.teacher_ap is not None
    assert "dense-teacher, teacher AP" in (tmp_path / "run" / "train.log").read_text()
    with pytest.raises(ConfigError, match="defined for the detector fcos, not for retinanet"):
        train(replace(config, detector="retinanet", out=str(tmp_path / "other")))
