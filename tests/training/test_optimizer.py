"""Parameter groups and the learning rate."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from sedet.config import ModelConfig, TrainConfig
from sedet.detectors.build import LOWEST_LEVEL, build_detector, freeze_unused
from sedet.training.optimizer import FINAL_RATE, build_optimizer, rate_at, set_rate
from tests import tiny

CONFIG = TrainConfig(rate=0.01, backbone_rate=0.3, weight_decay=0.05, warmup=0.1)


def test_groups_of_a_pretrained_detector(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save(timm.create_model(tiny.BACKBONE, features_only=True, pretrained=False).state_dict(), file)
    model = build_detector("fcos", tiny.BACKBONE, 2, replace(tiny.MODEL, freeze_stages=1), str(file))
    optimizer = build_optimizer(model, CONFIG)
    set_rate(optimizer, 0.01)
    names = {id(p): name for name, p in model.named_parameters()}
    seen = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.append(name)
            assert parameter.requires_grad
            assert group["lr"] == pytest.approx(0.003 if name.startswith("backbone.") else 0.01), name
            assert group["weight_decay"] == (0.05 if parameter.ndim > 1 else 0.0), name
    assert sorted(seen) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    assert len(seen) == len(set(seen)) < len(names)  # the frozen stage is in no group
    assert {g["lr"] for g in optimizer.param_groups} == {0.003, 0.01}


def test_a_method_that_trains_p2_takes_over_an_optimizer_that_did_not() -> None:
    frozen, whole = tiny.detector(seed=1), tiny.detector(seed=1)
    freeze_unused(frozen, half_size=False)
    first = build_optimizer(frozen, CONFIG)
    loss = sum((p.sum() for p in frozen.parameters() if p.requires_grad), torch.zeros(()))
    loss.backward()
    first.step()
    second = build_optimizer(whole, CONFIG)
    second.load_state_dict(first.state_dict())
    names = {id(p): name for name, p in whole.named_parameters()}
    fresh = [names[id(p)] for g in second.param_groups for p in g["params"] if p not in second.state]
    assert sorted(fresh) == sorted(n for n in names.values() if n.startswith(LOWEST_LEVEL)) != []
    before, after = whole.state_dict(), frozen.state_dict()
    changed = [n for n in names.values() if not torch.equal(before[n], after[n])]
    assert sorted(changed + fresh) == sorted(names.values())  # what is frozen does not decay either


def test_from_scratch_the_backbone_has_the_full_rate() -> None:
    model = build_detector("fcos", tiny.BACKBONE, 2, ModelConfig(neck_channels=8, head_convs=1), "none")
    optimizer = build_optimizer(model, CONFIG)
    set_rate(optimizer, 0.5)
    assert all(group["lr"] == 0.5 for group in optimizer.param_groups)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


def test_rates_by_hand() -> None:
    rates = [rate_at(s, 100, 0, CONFIG) for s in range(100)]
    assert rates[:10] == pytest.approx([0.001 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.01)
    assert rates[55] == pytest.approx(0.01 * (FINAL_RATE + (1 - FINAL_RATE) * 0.5))  # halfway down
    assert rates[99] == pytest.approx(0.01 * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * 89 / 90))))
    assert rates[10:] == sorted(rates[10:], reverse=True) and min(rates[10:]) >= 0.01 * FINAL_RATE
    constant = [rate_at(s, 100, 0, replace(CONFIG, schedule="constant")) for s in range(100)]
    assert constant[:10] == rates[:10] and set(constant[10:]) == {0.01}
    assert rate_at(0, 1, 0, CONFIG) == 0.01  # a run of one step
    assert rate_at(0, 10, 0, replace(CONFIG, warmup=0.0)) > 0


def test_the_rate_is_held_for_a_share_of_what_follows_the_burn_in() -> None:
    held = [rate_at(s, 100, 40, replace(CONFIG, hold=0.5)) for s in range(100)]
    assert held[:40] == [rate_at(s, 100, 40, CONFIG) for s in range(40)] and set(held[40:70]) == {0.01}
    assert held[70] == pytest.approx(0.01) and held[71] < 0.01
    assert held[85] == pytest.approx(0.01 * (FINAL_RATE + (1 - FINAL_RATE) * 0.5))  # halfway down
    assert held[70:] == sorted(held[70:], reverse=True) and held[99] == min(held[10:])
    assert {rate_at(s, 100, 40, replace(CONFIG, hold=1.0)) for s in range(40, 100)} == {0.01}
    assert rate_at(99, 100, 100, replace(CONFIG, hold=1.0)) == 0.01  # a burn-in alone


def test_the_burn_in_does_not_depend_on_what_follows() -> None:
    short = [rate_at(s, 100, 40, CONFIG) for s in range(100)]
    long = [rate_at(s, 200, 40, replace(CONFIG, warmup=0.05)) for s in range(200)]
    assert short[:40] == long[:40] == pytest.approx([0.001 * (i + 1) for i in range(10)] + [0.01] * 30)
    assert short[40] == long[40] == pytest.approx(0.01)
    assert short[70] == long[120] == pytest.approx(0.01 * (FINAL_RATE + (1 - FINAL_RATE) * 0.5))
