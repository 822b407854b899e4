"""From the data, the device and what the user set to a complete configuration: nothing is left to guess."""

from __future__ import annotations

import os
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from sedet.config import SEDConfig, TrainConfig
from sedet.detectors.backbones import DEFAULT_CPU, DEFAULT_GPU
from sedet.detectors.build import Detector
from sedet.detectors.warm_start import WarmStart, complete_settings, shared_classes
from sedet.errors import ConfigError
from sedet.settings import flat, load_config
from sedet.text import minutes
from sedet.training.inputs import TrainingData, absolute_paths
from sedet.training.loop import Schedule
from sedet.training.optimizer import warmup_updates
from sedet.training.probe import Expectation

# Our choices, measured on small data (docs/experiments.md); every one can be set by hand.
BASE_RATE = 1e-3
"""AdamW's peak rate for a batch of BASE_BATCH labelled images; goes with the square root of the batch."""
BASE_BATCH = 8
EVALUATIONS = 12
SMALLEST_BF16 = 65
"""Pixels of the image size: up to 64 the half view's P5 and the full view's P6 are maps of one cell."""

BURN_IN_SETTINGS = """labeled images classes val val_images seed detector backbone weights init image_size batch
    rate backbone_rate weight_decay clip accumulate half_size precision model views"""
"""What shapes a burn-in, besides its updates: runs that share one must agree in these."""

CLASSES_SHOWN = 20


def resolve_device(config: TrainConfig) -> str:
    """cpu, cuda or mps.

    Raises:
        ConfigError: a device that is not there.
    """
    device = config.device
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda", "mps"):
        number = device.removeprefix("cuda:")
        hint = f": set CUDA_VISIBLE_DEVICES={number} and give cuda" if number != device and number.isdigit() else ""
        raise ConfigError(f"device must be auto, cpu, cuda or mps, not '{device}'{hint}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: PyTorch finds no CUDA GPU here. Use --device cpu, or auto")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device mps: PyTorch finds no Apple GPU here. Use --device cpu, or auto")
    return device


def resolve(
    config: TrainConfig,
    device: str,
    labeled: int,
    median_side: int,
    start: WarmStart | None = None,
    unlabeled: int = 0,
) -> TrainConfig:
    """Fill in every setting that was left to the program.

    Args:
        config: as the user gave it.
        device: from :func:`resolve_device`.
        labeled: labelled training images.
        median_side: median long side of the labelled images, pixels.
        start: weights to begin with, whose sizes are taken.
        unlabeled: images of the pool.

    Raises:
        ConfigError: a size was asked for that ``start`` does not have.
    """
    if start is not None:
        config = complete_settings(config, start)
    gpu = device != "cpu"
    backbone = config.backbone or (DEFAULT_GPU if gpu else DEFAULT_CPU)
    image_size = config.image_size or _image_size(gpu, median_side)
    model = replace(
        config.model,
        neck_channels=config.model.neck_channels or (256 if gpu else 96),
        head_convs=_head_convs(config.detector, gpu) if config.model.head_convs is None else config.model.head_convs,
        level_range=config.model.level_range or (8.0 if image_size >= 400 else 4.0),
    )
    if config.detector == "faster_rcnn":
        proposals, samples = (1000, 512) if gpu else (256, 128)
        model = replace(model, proposals=model.proposals or proposals, roi_samples=model.roi_samples or samples)
    batch = config.batch or (16 if gpu else 8)
    burn_in = (0.05 if config.init else 0.5) if config.burn_in is None else config.burn_in
    steps = config.steps or _steps(gpu, labeled / batch, unlabeled / max(1.0, config.ratio * batch))
    evaluate = config.eval_every or max(1, round(steps / EVALUATIONS))
    return replace(
        config,
        device=device,
        backbone=backbone,
        model=model,
        image_size=image_size,
        batch=batch,
        steps=steps,
        rate=config.rate or BASE_RATE * (batch / BASE_BATCH) ** 0.5 * (0.3 if gpu else 1.0),
        burn_in=burn_in,
        precision=resolve_precision(config, device),
        workers=_workers(gpu) if config.workers is None else config.workers,
        eval_every=evaluate,
        save_every=config.save_every or evaluate,
        sed=sed_defaults(config.sed),
    )


def sed_defaults(config: SEDConfig) -> SEDConfig:
    """SED's settings with those filled in that follow from others (our design).

    Pairs keep the student learning, so that it needs no strong view besides; centerness belongs to the boxes.
    """
    return replace(
        config,
        student_view=config.student_view or ("weak" if config.overlay == 1 else "strong"),
        quality_weight=config.box_weight if config.quality_weight is None else config.quality_weight,
    )


def _head_convs(detector: str, gpu: bool) -> int:
    return 1 if detector == "faster_rcnn" else 4 if gpu else 2


def _image_size(gpu: bool, median_side: int) -> int:
    """The data's own size, at most 640 on a GPU and 192 on a CPU, in steps of the canvas."""
    limit, step = (640, 64) if gpu else (192, 64)
    return max(128, min(limit, step * round(median_side / step)))


def _steps(gpu: bool, labeled: float, unlabeled: float) -> int:
    """80 passes over the labels, half of them before the pool joins: it helps only once the labels are learnt out.

    More for a large pool: each of its images should come once at least in that second half (of the default burn-in).

    Args:
        labeled, unlabeled: steps that one pass over the labels, over the pool takes.
    """
    low, high = (6000, 90000) if gpu else (1200, 8000)
    return min(high, max(low, round(80 * labeled), round(2 * unlabeled)))


def resolve_precision(config: TrainConfig, device: str) -> Literal["32", "bf16", "16"]:
    """bf16 on GPUs that have it, 32 elsewhere, unless the user chose.

    Raises:
        ConfigError: bf16 on a CPU with images so small that a level's map has one cell: PyTorch's gradients of strided
            bf16 convolutions are not to be trusted there (some are NaN, some are huge).
    """
    if config.precision == "bf16" and device == "cpu" and (config.image_size or SMALLEST_BF16) < SMALLEST_BF16:
        raise ConfigError(
            f"precision bf16 on a CPU needs an image_size of {SMALLEST_BF16} or more, not {config.image_size}; "
            "use precision 32"
        )
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
    assert config.steps and config.burn_in is not None and config.batch and config.eval_every and config.save_every
    burn_in = _burn_in_updates(config)
    if config.method != "supervised" and not 0 <= burn_in < config.steps:
        raise ConfigError(f"steps {config.steps} leave none after a burn-in of {burn_in}: give more --steps")
    if config.method != "supervised" and config.burn_in + config.ramp > 1:
        raise ConfigError(
            f"the burn-in ({config.burn_in:g} of the steps) and the ramp ({config.ramp:g}) together exceed 1: "
            "make one shorter"
        )
    if config.method == "stac" and burn_in == 0 and not config.init:
        raise ConfigError("stac labels with the detector of the burn-in, and there is none: give --burn-in or --init")
    if config.batch % config.accumulate:
        raise ConfigError(f"accumulate ({config.accumulate}) must divide batch ({config.batch})")
    return Schedule(
        steps=config.steps,
        burn_in=burn_in,
        ramp=max(1, round(config.ramp * config.steps)),
        evaluate=config.eval_every,
        save=config.save_every,
        accumulate=config.accumulate,
    )


def check_batch(config: TrainConfig, world: int) -> int:
    """Unlabelled images of a batch, from complete settings.

    Raises:
        ConfigError: a batch cannot be shared by the processes, or taken in the parts that were asked for.
    """
    batch, unlabeled = config.batch or 0, unlabeled_batch(config)
    for name, size in (("batch", batch), ("batch x ratio", unlabeled)):
        if size % (world * config.accumulate):
            raise ConfigError(
                f"{name} ({size}) must be a multiple of processes x accumulate ({world} x {config.accumulate})"
            )
    return unlabeled


def unlabeled_batch(config: TrainConfig) -> int:
    """Unlabelled images of a batch, over all its parts and processes."""
    return max(1, round(config.ratio * (config.batch or 0))) if config.method != "supervised" else 0


def as_long_as(config: TrainConfig, run: Path) -> TrainConfig:
    """The settings with the length of a run whose burn-in is to be shared, where they leave it open."""
    saved = run / "config.yaml"
    if not saved.is_file():  # told by check_start
        return config
    theirs = load_config(saved)
    burn_in = theirs.burn_in if config.burn_in is None else config.burn_in
    return replace(config, steps=config.steps or theirs.steps, burn_in=burn_in)


def check_start(config: TrainConfig, run: Path) -> TrainConfig:
    """The saved settings of a run whose burn-in is to be shared.

    Args:
        config: complete settings of the run that starts from it.

    Raises:
        ConfigError: not a run folder, or a setting that shapes the burn-in differs (names the first).
    """
    saved = run / "config.yaml"
    if not saved.is_file():
        raise ConfigError(f"start: {run} is not a run folder: it has no config.yaml")
    theirs = load_config(saved)
    mine, other = dict(flat(absolute_paths(config))), dict(flat(absolute_paths(theirs)))
    for name in mine:
        if name.split(".")[0] in BURN_IN_SETTINGS.split() and mine[name] != other[name]:
            raise ConfigError(
                f"start: the burn-in of {run} was trained with {name} {_shown(other[name])}, this run has "
                f"{_shown(mine[name])}: give the same, or leave --start out"
            )
    for name, count in (("burn_in", _burn_in_updates), ("warmup", _warmup_updates)):
        if count(config) != count(theirs):
            raise ConfigError(
                f"start: the burn-in of {run} was trained with a {name} of {count(theirs)} steps, this run has "
                f"{count(config)}: give the same, or leave --start out"
            )
    return theirs


def _burn_in_updates(config: TrainConfig) -> int:
    return round((config.burn_in or 0.0) * (config.steps or 0))


def _warmup_updates(config: TrainConfig) -> int:
    return warmup_updates(config, config.steps or 0)


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def describe(
    config: TrainConfig,
    schedule: Schedule,
    data: TrainingData,
    detector: Detector,
    warm: WarmStart | None,
    expected: Expectation | None,
    world: int = 1,
) -> list[str]:
    """The plan, as lines of at most 80 columns.

    Args:
        config: complete settings; warm: where the weights come from, if not from the backbone's own.
        expected: measured cost, None for a run too short to be measured.
        world: processes.
    """
    unlabeled = 0 if data.pool is None else len(data.pool)
    judged = f"{len(data.val)} to judge by (val)" if data.val is not None else "none to judge by"
    counts = data.labeled.class_counts()
    order = [int(i) for i in np.argsort(-counts, kind="stable")]
    names = ", ".join(f"{data.labeled.classes[i]} {counts[i]}" for i in order[:CLASSES_SHOWN])
    more = f", {len(order) - CLASSES_SHOWN} more" if len(order) > CLASSES_SHOWN else ""
    batch = config.batch or 0
    each = f"{batch} labelled"
    other = unlabeled_batch(config)
    at_once = other // (config.accumulate * world)
    each += f" and {other} unlabelled images" if other else " images"
    parts = [f"in {config.accumulate} parts"] if config.accumulate > 1 else []
    parts += [f"over {world} processes"] if world > 1 else []
    stages = f"{schedule.steps}"
    if config.method != "supervised":
        stages += f": {schedule.burn_in} on the labels alone (burn-in), then a ramp of {schedule.ramp}"
    weights = {"none": "from scratch", "timm": "pretrained (timm)", "package": "pretrained (package)"}
    source = weights.get(detector.backbone.source, f"weights from {detector.backbone.source}")
    if warm is not None:
        taken = len(shared_classes(warm, data.labeled.classes))
        source += f"; {taken} of {len(data.labeled.classes)} class rows taken over"
    held = config.hold if config.schedule == "cosine" else 0.0
    fall = f" after {100 * held:.0f} % of the steps after the burn-in" if held else ""
    rate = f"{config.rate:.2g} (AdamW, {config.schedule}{fall})"
    if detector.backbone.pretrained:  # as the optimizer has it
        rate += f"; backbone {config.backbone_rate:g} of it"
    spec = detector.spec
    count = torch.get_num_threads()
    threads = f", {count} thread{'' if count == 1 else 's'}" if config.device == "cpu" else ""
    rows = [
        ("method", f"{config.method}, seed {config.seed}"),
        ("images", f"{len(data.labeled)} labelled, {unlabeled} unlabelled, {judged}"),
        ("classes", f"{len(counts)}, with boxes: {names}{more}"),
        ("detector", f"{config.detector}, neck {spec.neck_channels}, head {spec.head_convs}"),
        ("backbone", f"{spec.backbone}, {source}"),
        ("size", f"{config.image_size} px" + (", and half of it" if config.half_size else "")),
        ("steps", stages + (f"; judged every {schedule.evaluate}" if data.val is not None else "")),
        ("batch", ", ".join([each, *parts])),
        ("rate", rate),
        *([("sed", sed_line(config.sed, at_once))] if config.method == "sed" else []),
        ("device", f"{config.device}{threads}, precision {config.precision}"),
        ("expect", _cost(expected)),
    ]
    lines = ["Plan"]
    for name, text in rows:
        lines += textwrap.wrap(text, 80, initial_indent=f"  {name:<9} ", subsequent_indent=" " * 12)
    return lines


def sed_line(config: SEDConfig, at_once: int) -> str:
    """What the student sees of unlabelled images, and what it learns of them, from complete settings.

    Args:
        at_once: unlabelled images of one part of a batch on one process.
    """
    pairs = "in pairs, " if config.overlay == 1 else f"{100 * config.overlay:.2g}% in pairs, " if config.overlay else ""
    weights = {"classes": config.class_weight, "boxes": config.box_weight, "quality": config.quality_weight or 0.0}
    parts = [name + ("" if weight == 1 else f" (weight {weight:g})") for name, weight in weights.items() if weight > 0]
    line = f"unlabelled images {pairs}{config.student_view} view; learnt: "
    if not parts or not (config.distill or config.scale):
        return line + "nothing"
    line += ", ".join(parts)
    if config.targets == "soft" and config.sharpness != 1 and config.class_weight > 0:
        line += f"; logits of the scores times {config.sharpness:g}"
    if config.targets == "hard":
        line += f", from hard labels over {config.threshold:g}"
    if config.overlay and at_once < 2:
        line += ". One unlabelled image at a time makes no pairs: raise --batch or lower --accumulate"
    return line


def _cost(expected: Expectation | None) -> str:
    if expected is None:
        return "a short run, not measured beforehand"
    return f"{minutes(expected.seconds)}, {gigabytes(expected.memory)} (measured on {expected.probed} steps)"


def gigabytes(memory: int | None) -> str:
    return "memory unknown" if memory is None else f"{memory / 2**30:.1f} GiB of memory"
