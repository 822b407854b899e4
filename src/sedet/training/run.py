"""A training from settings to a run folder: data, plan, detector, loop, verdict."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from sedet.config import TrainConfig
from sedet.data.clean import Problem, clean
from sedet.data.formats import align_classes, read_table
from sedet.data.loading import StepData, labeled_samples, unlabeled_samples
from sedet.data.sources import UnlabeledPool, unlabeled_pool
from sedet.data.split import holdout
from sedet.data.table import AnnotationTable
from sedet.detectors.build import Detector, build_detector, freeze_unused
from sedet.detectors.file import save_detector
from sedet.errors import ConfigError, DataError
from sedet.evaluation.coco import Metrics
from sedet.methods.sed import SED
from sedet.methods.supervised import Supervised
from sedet.methods.teacher import EMATeacher
from sedet.settings import save_config, to_dict
from sedet.training import plan
from sedet.training.loop import BURN_IN_FILE, LAST_FILE, State, Training, restore, train_loop
from sedet.training.optimizer import build_optimizer
from sedet.training.runlog import RunLog
from sedet.training.step import TrainingStep
from sedet.training.validate import Judge

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass(frozen=True)
class Outcome:
    """What came of a training.

    Attributes:
        run: the run folder.
        detector: the shipped detector file; None if training was stopped before there was one.
        labels_alone: AP on val at the end of the burn-in, or None without val.
        ap: AP on val of the shipped detector, or None.
        student_ap, teacher_ap: at the last evaluation, or None.
        step: updates done; finished: whether that is all of them.
        skipped: images that could not be read.
        seconds: wall-clock time of this call.
    """

    run: Path
    detector: Path | None
    labels_alone: float | None
    ap: float | None
    student_ap: float | None
    teacher_ap: float | None
    step: int
    finished: bool
    skipped: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class TrainingData:
    """What a training reads."""

    labeled: AnnotationTable
    val: AnnotationTable | None
    pool: UnlabeledPool | None
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]


def train(config: TrainConfig, resume: Path | None = None) -> Outcome:
    """Train a detector.

    Args:
        config: settings; those left None follow from data and device.
        resume: a run folder to go on with (``config`` is then the one saved in it).

    Raises:
        SedetError: anything a user can mend.
    """
    started = time.perf_counter()
    out = Path(config.out)
    fabric = make_fabric(config)
    if resume is None:
        claim_folder(out, fabric)
    data = read_data(config)
    sides = [max(i.width, i.height) for i in data.labeled.images]
    config = plan.resolve(config, plan.resolve_device(config), len(data.labeled), int(np.median(sides)))
    schedule = plan.make_schedule(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    assert config.batch and config.image_size and config.backbone
    world = fabric.world_size
    unlabeled_batch = max(1, round(config.ratio * config.batch)) if config.method != "supervised" else 0
    for name, size in (("batch", config.batch), ("batch x ratio", unlabeled_batch)):
        if size % (world * config.accumulate):
            raise ConfigError(
                f"{name} ({size}) must be a multiple of processes x accumulate ({world} x {config.accumulate})"
            )
    if fabric.is_global_zero:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        save_config(config, out / "config.yaml")
    log = RunLog(out, schedule.steps, (config.batch, unlabeled_batch), speaks=fabric.is_global_zero)

    torch.manual_seed(config.seed)
    student = build_detector(config.detector, config.backbone, len(data.labeled.classes), config.model, config.weights)
    method = make_method(config)
    freeze_unused(student, config.half_size or (method.uses_unlabeled and config.sed.scale))
    student.to(fabric.device)
    teacher = EMATeacher(student)
    optimizer = build_optimizer(student, config)
    module = TrainingStep(student, teacher, method)
    wrapped, wrapped_optimizer = fabric.setup(module, optimizer)
    judge = None
    if data.val is not None:
        judge = Judge(data.val, config.image_size, batch=2 * config.batch, cache=config.cache / 2)
    pool = data.pool.paths if data.pool is not None and method.uses_unlabeled else ()
    steps_data = StepData(
        labeled_samples(data.labeled),
        unlabeled_samples(pool),
        batch=config.batch // config.accumulate,
        unlabeled_batch=unlabeled_batch // config.accumulate,
        image_size=config.image_size,
        views=config.views,
        seed=config.seed,
        unlabeled_from=schedule.burn_in * config.accumulate,
        cache=config.cache,
        workers=config.workers or 0,
        rank=fabric.global_rank,
        world=world,
    )
    complete = config

    def ship(model: Detector, state: State, metrics: Metrics | None) -> None:
        save_detector(
            out / "best.safetensors",
            model,
            data.labeled.classes,
            complete.image_size or 0,
            facts(complete, state, metrics),
        )

    training = Training(
        config, schedule, fabric, student, teacher, wrapped, wrapped_optimizer, steps_data, judge, log, ship
    )
    if resume is not None:
        restore(training, out / "checkpoints" / LAST_FILE)
        log.say(f"Resuming {out} at step {training.state.step} of {schedule.steps}.")
    elif config.start:
        restore(training, Path(config.start) / "checkpoints" / BURN_IN_FILE)
        if training.state.step != schedule.burn_in:
            raise ConfigError(
                f"{config.start} ended its burn-in at step {training.state.step}, this run's ends at "
                f"{schedule.burn_in}: give the same --steps and --burn-in"
            )
        log.say(f"Starting from the end of the burn-in of {config.start} (step {training.state.step}).")
    for line in [*data.notes, *map(str, data.problems[:20])]:
        log.say(line)
    train_loop(training)
    outcome = conclude(training, out, time.perf_counter() - started)
    return outcome


def make_fabric(config: TrainConfig) -> Fabric:
    """One process, or as many as ``torchrun`` started."""
    device = plan.resolve_device(config)
    world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    precision = plan.resolve(config, device, 1, 640).precision
    fabric = Fabric(
        accelerator={"cpu": "cpu", "cuda": "gpu", "mps": "mps"}[device],
        devices=world,
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        strategy="ddp" if "LOCAL_WORLD_SIZE" in os.environ else "auto",
        precision=PRECISIONS[precision],
    )
    fabric.launch()
    return fabric


def claim_folder(out: Path, fabric: Fabric) -> None:
    """The run folder must be new or empty: nobody's results are overwritten."""
    if fabric.is_global_zero:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(
                f"the output folder {out} is in use: give a new one with --out, or go on with it: --resume {out}"
            )
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the output folder {out} cannot be made ({error.strerror})") from error
    fabric.barrier()


def read_data(config: TrainConfig) -> TrainingData:
    """Labelled data, val and the unlabelled pool, checked and cleaned, with what was done about them."""
    notes: list[str] = []
    labeled = read_table(config.labeled, config.images, "train")
    if config.classes:
        labeled = labeled.with_classes(config.classes)
    labeled, problems = clean(labeled)
    val: AnnotationTable | None = None
    if config.val is not None:
        val = read_table(config.val, config.val_images, "val")
        val = align_classes(val, labeled.classes)
        val, more = clean(val)
        problems += more
    else:
        parts = holdout(labeled, seed=config.seed)
        if parts is None:
            notes.append(
                f"No --val, and {len(labeled)} labelled images are too few to set some aside: nothing is judged, the last "
                "teacher is shipped. Give --val to know whether unlabelled images helped."
            )
        else:
            labeled, val = parts
            notes.append(
                f"No --val: {len(val)} of the labelled images are set aside to judge by, {len(labeled)} train."
            )
    if not len(labeled) or not labeled.class_counts().sum():
        raise DataError("no labelled box to learn from", config.labeled, "Check the file with: sedet check")
    pool = None
    if config.method != "supervised":
        pool = unlabeled_pool(config.unlabeled, labeled, val, config.exclude_labeled)
        notes.append(pool.summary())
    return TrainingData(labeled, val, pool, tuple(notes), tuple(problems))


def make_method(config: TrainConfig) -> SED | Supervised:
    if config.method == "supervised":
        return Supervised(config.half_size)
    return SED(config.sed, config.half_size, config.views.erase_limit)


def facts(config: TrainConfig, state: State, metrics: Metrics | None) -> dict[str, Any]:
    """What a detector file says of its origin."""
    return {
        "config": to_dict(config),
        "step": state.step,
        "labels_alone_ap": state.labels_alone,
        "metrics": metrics.to_dict() if metrics is not None else None,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    names = ("sedet", "torch", "torchvision", "timm", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def conclude(t: Training, out: Path, seconds: float) -> Outcome:
    """Say what the labels alone gave and what the method made of it."""
    state, finished = t.state, t.state.step >= t.schedule.steps
    detector = out / "best.safetensors"
    last = next((row for row in reversed(state.rows) if "teacher_ap" in row), {})
    teacher_ap, student_ap = last.get("teacher_ap"), last.get("student_ap")
    guarded = t.config.guard and t.judge is not None
    ap = state.best_ap if guarded else teacher_ap
    if not finished and state.step < t.schedule.steps:
        t.log.say(f"Stopped at step {state.step} of {t.schedule.steps}; go on with --resume {out}")
    if t.fabric.is_global_zero and detector.is_file():
        if ap is None:
            t.log.say(f"{detector}: the last teacher; without val nothing says how good it is.")
        else:
            which = f"the teacher of step {state.best_step}" if guarded else "the last teacher"
            if guarded and state.best_step == t.schedule.burn_in:
                which = "the detector of the labels alone: no later teacher was better"
            t.log.say(f"{detector}: AP {ap:.1f} on val, {which}.")
        if state.labels_alone is not None and ap is not None:
            t.log.say(
                f"The labels alone gave AP {state.labels_alone:.1f} (end of burn-in); {t.config.method} made it "
                f"{ap:.1f} ({ap - state.labels_alone:+.1f})."
            )
    if state.skipped:
        t.log.say(f"{len(state.skipped)} images could not be read and were skipped: {', '.join(state.skipped[:5])}")
    return Outcome(
        run=out,
        detector=detector if detector.is_file() else None,
        labels_alone=state.labels_alone,
        ap=ap,
        student_ap=student_ap,
        teacher_ap=teacher_ap,
        step=state.step,
        finished=finished,
        skipped=tuple(state.skipped),
        seconds=seconds,
    )
