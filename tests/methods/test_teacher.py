"""The moving average: parameters, buffers, decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sedet.methods.teacher import EMATeacher, ema_decay, settling_decay
from tests import tiny


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
    model(torch.randn(2, 3, 8, 8))  # moves the running statistics and the integer counter
    model.register_buffer("flags", torch.tensor([seed, 7]))
    model.register_buffer("fixed", torch.tensor([1.0 + seed], dtype=torch.float64))
    return model


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.9996, 1.0])
def test_average_equals_a_loop_over_every_tensor(decay: float) -> None:
    first, second = network(0), network(1)
    teacher = EMATeacher(first)
    second[1].num_batches_tracked.fill_(42)
    want = {}
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        want[name] = decay * a.double() + (1 - decay) * b.double() if a.is_floating_point() else b.clone()
    teacher.update(second, decay)
    got = teacher.model.state_dict()
    assert got.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(got[name].to(value.dtype), value, rtol=1e-6, atol=1e-7, msg=name)
    assert got["1.num_batches_tracked"].item() == 42 and got["flags"].tolist() == [1, 7]


def test_many_updates_follow_the_closed_form() -> None:
    student = nn.Linear(1, 1, bias=False)
    nn.init.constant_(student.weight, 1.0)
    teacher = EMATeacher(student)
    nn.init.constant_(student.weight, 0.0)
    for _ in range(50):
        teacher.update(student, 0.9)
    assert teacher.model.weight.item() == pytest.approx(0.9**50, rel=1e-5)


def test_the_teacher_is_a_frozen_copy_of_its_own() -> None:
    student = tiny.detector()
    student.train()
    teacher = EMATeacher(student)
    assert not teacher.model.training and not any(m.training for m in teacher.model.modules())
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert student.training and all(p.requires_grad for p in student.parameters())
    before = teacher.model.fpn.extra_blocks["p6"].weight.clone()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    assert torch.equal(teacher.model.fpn.extra_blocks["p6"].weight, before)
    teacher.update(student, 0.5)
    torch.testing.assert_close(teacher.model.fpn.extra_blocks["p6"].weight, before + 0.5)
    assert all(not p.requires_grad and p.grad is None for p in teacher.model.parameters())


def test_copy_from_copies_everything() -> None:
    first, second = network(0), network(1)
    teacher = EMATeacher(first)
    teacher.copy_from(second)
    got, want = teacher.model.state_dict(), second.state_dict()
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_other_networks_are_refused() -> None:
    with pytest.raises(ValueError):
        EMATeacher(network(0)).update(nn.Linear(2, 2), 0.9)


def test_decay() -> None:
    assert ema_decay(10**9, 1000) == pytest.approx(1 - 1 / 300)
    assert ema_decay(10**9, 10) == 0.9  # clipped below
    assert ema_decay(10**9, 0) == 0.9
    assert ema_decay(10**9, 10**7) == 0.9996  # and above
    assert ema_decay(0, 1000) == pytest.approx(0.1)  # warm-up: (1 + t) / (10 + t)
    assert ema_decay(90, 1000) == pytest.approx(0.91)
    assert ema_decay(10**9, 1000, largest=0.5) == 0.5
    assert ema_decay(0, 1000, largest=0.05) == 0.05
    steps = [ema_decay(t, 500) for t in range(0, 3000, 7)]
    assert steps == sorted(steps) and steps[-1] == pytest.approx(1 - 1 / 150)
    assert ema_decay(3, 500, settled=True) == ema_decay(10**9, 500)  # after a burn-in nothing is to be forgotten
    assert ema_decay(3, 500, largest=0.5, settled=True) == 0.5


def test_towards_the_end_the_average_gets_shorter() -> None:
    assert settling_decay(0.99, 1000, 0.5) == 0.99  # 500 updates are longer than the hundred it spans
    assert settling_decay(0.99, 100, 0.5) == pytest.approx(0.98)
    assert settling_decay(0.99, 40, 0.5) == pytest.approx(0.95)
    assert settling_decay(0.99, 3, 0.5) == settling_decay(0.99, 0, 0.5) == 0.9  # ten updates at least
    assert settling_decay(0.5, 0, 0.5) == 0.5  # a shorter one is left alone
    assert all(settling_decay(0.99, left, 0.0) == 0.99 for left in (0, 5, 100))
