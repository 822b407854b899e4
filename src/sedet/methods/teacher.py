"""The teacher: an exponential moving average of the student, never trained itself."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from sedet.detectors.folding import NORMS

M = TypeVar("M", bound=nn.Module)


class EMATeacher(Generic[M]):
    """A copy of the student whose parameters and buffers follow it slowly.

    Float tensors are averaged (also buffers: an average of parameters alone is wrong where statistics are live),
    integer ones copied, the constants of frozen norms left alone. Always in evaluation mode, never with gradients.

    Args:
        student: the module to copy; not kept.
    """

    def __init__(self, student: M) -> None:
        self.model: M = copy.deepcopy(student).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, student: nn.Module, decay: float) -> None:
        """teacher = decay * teacher + (1 - decay) * student, in fused operations."""
        averaged: list[Tensor] = []
        towards: list[Tensor] = []
        for mine, theirs in zip(_moving(self.model), _moving(student), strict=True):
            if mine.is_floating_point():
                averaged.append(mine)
                towards.append(theirs.detach())
            else:
                mine.copy_(theirs)
        torch._foreach_lerp_(averaged, towards, 1.0 - decay)

    @torch.no_grad()
    def copy_from(self, student: nn.Module) -> None:
        """Become the student."""
        for mine, theirs in zip(_tensors(self.model), _tensors(student), strict=True):
            mine.copy_(theirs)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _moving(module: nn.Module) -> list[Tensor]:
    constant = {id(b) for m in module.modules() if isinstance(m, NORMS) for b in m.buffers(recurse=False)}
    return [tensor for tensor in _tensors(module) if id(tensor) not in constant]


SPAN = 0.3
"""Share of the steps after the burn-in that the average spans: a teacher that follows its student in a few steps
learns its own mistakes from it (our design; docs/decisions.md)."""


def ema_decay(step: int, steps_after_burn_in: int, largest: float | None = None, settled: bool = False) -> float:
    """Decay at a step: clip(1 - 1 / (SPAN x steps after burn-in), 0.9, 0.9996), warmed up at first (our design).

    Args:
        step: updates made so far.
        steps_after_burn_in: length of the semi-supervised part.
        largest: overrides the computed decay.
        settled: the average goes on from a trained detector (after a burn-in): no warm-up, (1 + t) / (10 + t).
    """
    if largest is None:
        largest = min(max(1.0 - 1.0 / max(SPAN * steps_after_burn_in, 1e-6), 0.9), 0.9996)
    return largest if settled else min(largest, (1.0 + step) / (10.0 + step))


def settling_decay(decay: float, left: int, share: float) -> float:
    """A decay that spans no more than a share of the updates left, and at least 10 (our design).

    While the rate falls the student settles, and an average of what it was before lags behind it.

    Args:
        decay: that of :func:`ema_decay`; left: updates to come; share: 0 leaves the decay as it is.
    """
    return decay if share <= 0 else min(decay, max(1.0 - 1.0 / max(share * left, 1.0), 0.9))
