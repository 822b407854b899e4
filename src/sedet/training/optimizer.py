"""The optimizer's parameter groups and the learning rate at a step."""

from __future__ import annotations

import math

import torch
from torch import nn

from sedet.config import TrainConfig
from sedet.detectors.build import LOWEST_LEVEL, Detector

FINAL_RATE = 0.02
"""The cosine schedule ends at this share of the peak rate."""


def build_optimizer(model: Detector, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with a lower rate for a pretrained backbone and no decay on norms and biases.

    Each group carries ``share``, its part of the schedule's rate. P2 is in them even where it is frozen, and then has
    no state: a method that trains it can take over the optimizer of a burn-in that did not.
    """
    assert config.rate is not None
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or name.startswith(LOWEST_LEVEL):
            backbone = name.startswith("backbone.") and model.backbone.pretrained
            groups.setdefault((backbone, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if decay else 0.0,
                "share": config.backbone_rate if backbone else 1.0,
            }
            for (backbone, decay), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=config.rate,
    )


def rate_at(step: int, total: int, burn_in: int, config: TrainConfig) -> float:
    """Learning rate of an update: linear warm-up, the peak to the end of the burn-in and for the share ``hold`` of what
    follows it, then a cosine to FINAL_RATE of it.

    The burn-in does not depend on what comes after it: runs of any length can share one (our design).
    """
    assert config.rate is not None
    warmup = warmup_updates(config, total)
    if step < warmup:
        return config.rate * (step + 1) / warmup
    held = max(warmup, burn_in)
    held += round(config.hold * (total - held))
    if config.schedule == "constant" or step < held:
        return config.rate
    share = (step - held) / max(1, total - held)
    return config.rate * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * share)))


def warmup_updates(config: TrainConfig, total: int) -> int:
    return max(1, round(config.warmup * total))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
