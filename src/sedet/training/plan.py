"""From the data, the device and what the user set to a complete configuration: nothing is left to guess."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from sedet.config import TrainConfig
from sedet.detectors.backbones import DEFAULT_CPU, DEFAULT_GPU
from sedet.errors import ConfigError
from sedet.training.loop import Schedule

# Our choices, measured on small data (docs/experiments.md); every one can be set by hand.
BASE_RATE = 1e-3
"""AdamW's peak rate for a batch of BASE_BATCH labelled images; goes with the square root of the batch."""
BASE_BATCH = 8
EVALUATIONS = 12


def resolve_device(config: TrainConfig) -> str:
    """cpu, cuda or mps.

    Raises:
        ConfigError: a device that is not there.
    """
    device = config.device
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device must be auto, cpu, cuda or mps, not '{device}'")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: PyTorch finds no CUDA GPU here. Use --device cpu, or auto")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device mps: PyTorch finds no Apple GPU here. Use --device cpu, or auto")
    return device


def resolve(config: TrainConfig, device: str, labeled: int, median_side: int) -> TrainConfig:
    """Fill in every setting that was left to the program.

    Args:
        config: as the user gave it.
        device: from :func:`resolve_device`.
        labeled: labelled training images.
        median_side: median long side of the labelled images, pixels.
    """
    gpu = device != "cpu"
    backbone = config.backbone or (DEFAULT_GPU if gpu else DEFAULT_CPU)
    image_size = config.image_size or _image_size(gpu, median_side)
    model = replace(
        config.model,
        neck_channels=config.model.neck_channels or (256 if gpu else 96),
        head_convs=(4 if gpu else 2) if config.model.head_convs is None else config.model.head_convs,
        level_range=config.model.level_range or (8.0 if image_size >= 400 else 4.0),
    )
    batch = config.batch or (16 if gpu else 8)
    burn_in = (0.05 if config.init else 0.25) if config.burn_in is None else config.burn_in
    return replace(
        config,
        device=device,
        backbone=backbone,
        model=model,
        image_size=image_size,
        batch=batch,
        steps=config.steps or _steps(gpu, labeled, batch),
        rate=config.rate or BASE_RATE * (batch / BASE_BATCH) ** 0.5 * (0.3 if gpu else 1.0),
        burn_in=burn_in,
        precision=_precision(config, device),
        workers=_workers(gpu) if config.workers is None else config.workers,
        eval_every=config.eval_every or 0,
    )


def _image_size(gpu: bool, median_side: int) -> int:
    """The data's own size, at most 640 on a GPU and 192 on a CPU, in steps of the canvas."""
    limit, step = (640, 64) if gpu else (192, 64)
    return max(128, min(limit, step * round(median_side / step)))


def _steps(gpu: bool, labeled: int, batch: int) -> int:
    """80 passes over the labels: they are learnt out by the end of the burn-in; more gives the pool its time."""
    low, high = (6000, 90000) if gpu else (1200, 8000)
    return min(high, max(low, round(80 * labeled / batch)))


def _precision(config: TrainConfig, device: str) -> str:
    if config.precision != "auto":
        return config.precision
    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "32"


def _workers(gpu: bool) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores - 1)) if gpu else 0


def make_schedule(config: TrainConfig) -> Schedule:
    """The run in updates, from a complete configuration.

    Raises:
        ConfigError: too few steps for a burn-in and anything after it.
    """
    assert config.steps is not None and config.burn_in is not None and config.batch is not None
    burn_in = round(config.burn_in * config.steps)
    if config.method != "supervised" and not 0 <= burn_in < config.steps:
        raise ConfigError(f"steps {config.steps} leave none after a burn-in of {burn_in}: give more --steps")
    if config.batch % config.accumulate:
        raise ConfigError(f"accumulate ({config.accumulate}) must divide batch ({config.batch})")
    evaluate = config.eval_every or max(1, round(config.steps / EVALUATIONS))
    return Schedule(
        steps=config.steps,
        burn_in=burn_in,
        ramp=max(1, round(config.ramp * config.steps)),
        evaluate=evaluate,
        save=config.save_every or evaluate,
        accumulate=config.accumulate,
    )
