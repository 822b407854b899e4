"""Normalisers over all processes, so that two processes train exactly as one with the joint batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def process_mean(value: Tensor, least: float = 0.0) -> Tensor:
    """The mean of ``value`` over all processes (the value itself when there is one).

    A loss summed locally and divided by this mean, then averaged over processes (as distributed data-parallel
    does with gradients), is the joint sum over the joint normaliser.

    Args:
        least: floor of the joint sum over all processes, not of the mean.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        value = value.detach().clone()
        dist.all_reduce(value)
        return value.clamp(min=least) / dist.get_world_size()
    return value.clamp(min=least)
