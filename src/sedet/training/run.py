"""A training from settings to a run folder: data, plan, detector, loop, verdict."""

from __future__ import annotations

import errno
import logging
import os
import platform
import shutil
import time
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import timm
import torch
from lightning_fabric import Fabric
from rich.console import Console

from sedet.catalog import METHODS
from sedet.config import TrainConfig
from sedet.data.loading import StepData, labeled_samples, unlabeled_samples
from sedet.detectors.backbones import Backbone, read_state
from sedet.detectors.build import Detector, build_detector, freeze_unused, rebuild_detector
from sedet.detectors.file import save_detector
from sedet.detectors.warm_start import WarmStart, read_warm_start, warm_detector
from sedet.errors import ConfigError, SedetError, TrainingError
from sedet.evaluation.coco import Metrics
from sedet.files import unwritable
from sedet.methods.build import make_method
from sedet.methods.teacher import EMATeacher
from sedet.origin import commit, device_name
from sedet.settings import PLACES, flat, load_config, save_config, to_dict
from sedet.training import plan, probe
from sedet.training.checkpoint import read_saved
from sedet.training.inputs import absolute_paths, read_data, same_data
from sedet.training.lock import sole_trainer
from sedet.training.loggers import check_loggers, open_loggers
from sedet.training.loop import BURN_IN_FILE, LAST_FILE, State, Training, ap_of, restore, train_loop
from sedet.training.memory import cache_limit, is_lost_worker
from sedet.training.optimizer import build_optimizer
from sedet.training.pictures import Album
from sedet.training.run_report import write_run_report
from sedet.training.runlog import RunLog
from sedet.training.step import TrainingStep
from sedet.training.validate import Judge
from sedet.training.verdict import Outcome, conclude, record_cost, rival_ap, tell

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def train(config: TrainConfig, resume: Path | None = None) -> Outcome:
    """Train a detector. Nothing is written before data, settings and memory are known to do.

    Args:
        config: settings; those left None follow from data and device.
        resume: a run folder to go on with (``config`` is then the one saved in it).

    Raises:
        SedetError: anything a user can mend.
    """
    out = Path(config.out)
    if resume is None:
        check_folder(out)
    try:
        with ExitStack() as held:
            return _train(config, resume, held)
    except RuntimeError as error:
        if not is_lost_worker(error):
            raise
        again = f", then go on with --resume {quote(str(out))}" if (out / "checkpoints" / LAST_FILE).is_file() else ""
        raise TrainingError(
            "a process that loads images was killed: most often memory or shared memory (/dev/shm) is too small. Use "
            f"--workers 0 or, in a container, a larger --shm-size{again}"
        ) from error
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        where = f" (writing {error.filename})" if error.filename else ""
        if (out / "checkpoints" / LAST_FILE).is_file():
            raise TrainingError(
                f"the disk is full{where}. Free some space, then go on with --resume {quote(str(out))}"
            ) from error
        if resume is None:  # nothing was in it before
            shutil.rmtree(out, ignore_errors=True)
        raise TrainingError(
            f"the disk is full{where} before there was a checkpoint; {out} is removed. Free some space and start again"
        ) from error


def _train(config: TrainConfig, resume: Path | None, held: ExitStack) -> Outcome:
    started = time.perf_counter()
    out = Path(config.out)
    fabric = make_fabric(config)
    speaks = fabric.is_global_zero
    if config.threads:
        torch.set_num_threads(config.threads)
    if resume is not None and speaks:  # before its checkpoint is read, which another process may yet replace
        held.enter_context(sole_trainer(resume))
    saved_at = saved_checkpoint(config, resume)
    saved = read_saved(saved_at) if saved_at is not None else None
    check_loggers(config.loggers)
    if saved is None:
        check_weights(config)
    warm = read_warm_start(config.init) if config.init and resume is None else None

    Console(stderr=True, quiet=not speaks).print("Reading the data ...", highlight=False)
    data = read_data(config)
    sides = [max(i.width, i.height) for i in data.labeled.images]
    pool = 0 if data.pool is None else len(data.pool)
    # our own choice of a batch may be parted to fit into memory; a resumed run, or one that shares a burn-in, may not
    free = config.batch is None and config.accumulate == 1 and saved is None and fabric.world_size == 1
    if config.start and resume is None:
        config = plan.as_long_as(config, Path(config.start))
    config = plan.resolve(config, plan.resolve_device(config), len(data.labeled), int(np.median(sides)), warm, pool)
    schedule = plan.make_schedule(config)
    notes = list(data.notes)
    shared_run = plan.check_start(config, Path(config.start)) if config.start and resume is None else None
    if saved is not None and saved.get("facts"):
        before = saved["facts"]["data"]
        if resume is None:  # a burn-in has no need of unlabelled images
            before = {**before, "unlabeled": data.facts()["unlabeled"]}
        notes += same_data(before, data.facts(), config)
    assert config.batch and config.image_size and config.backbone
    batch = config.batch
    world = fabric.world_size
    unlabeled_batch = plan.check_batch(config, world)

    torch.manual_seed(config.seed)
    student = make_detector(config, data.labeled.classes, warm, saved, saved_at)
    method = make_method(config)
    freeze_unused(student, method.uses_half)
    student.to(fabric.device)
    judge, cache = None, cache_limit(config.cache)
    if data.val is not None:
        judge = Judge(data.val, config.image_size, batch=2 * config.batch, cache=cache / 2)
    steps_data = StepData(
        labeled_samples(data.labeled),
        unlabeled_samples(data.pool.paths if data.pool is not None and method.uses_unlabeled else ()),
        batch=config.batch // config.accumulate,
        unlabeled_batch=unlabeled_batch // config.accumulate,
        image_size=config.image_size,
        views=config.views,
        seed=config.seed,
        unlabeled_from=schedule.burn_in * config.accumulate,
        largest_zoom=method.largest_zoom,
        labeled_weak=method.labeled_weak,
        cache=cache,
        workers=config.workers or 0,
        rank=fabric.global_rank,
        world=world,
    )
    first = int(saved["state"]["step"]) if saved is not None else 0
    if shared_run is not None and first != schedule.burn_in:
        raise ConfigError(f"start: {config.start} has not ended its burn-in (step {first} of {schedule.burn_in})")
    if shared_run is not None and config.stop is not None and config.stop <= first:
        raise ConfigError(f"stop: with --start the run begins at step {first}, its burn-in's end; give a later one")
    last = min(schedule.steps, config.stop or schedule.steps)
    work = probe.Work(config, schedule, fabric, student, method, steps_data, judge)
    over = saved is not None and (first >= last or bool(saved["state"].get("ended")))
    expected = None
    if not over:
        work, expected = probe.afford(work, first, last) if free else (work, probe.measure(work, first, last))
        if work.config.accumulate != config.accumulate:
            notes.append(
                f"A whole batch does not fit into memory: each is taken in {work.config.accumulate} parts, and each "
                "part's losses are averaged by themselves (--accumulate)."
            )
        config, schedule, steps_data = work.config, work.schedule, work.data
        if expected is None:  # nothing was loaded yet
            probe.try_data(work, first)
    if judge is not None:
        judge.batch = max(1, judge.batch // config.accumulate)

    teacher = EMATeacher(student)
    optimizer = build_optimizer(student, config)
    wrapped, wrapped_optimizer = fabric.setup(TrainingStep(student, teacher, method), optimizer)
    claim_folder(out, fabric, held, new=resume is None)
    if speaks and resume is None:
        save_config(replace(absolute_paths(config), stop=None), out / "config.yaml")  # it is no part of a whole run
    elif speaks:
        note_moved_data(absolute_paths(config), out / "config.yaml")
    loggers = open_loggers(config.loggers, out, dict(flat(config)), first) if speaks and not over else ()
    log = RunLog(out, schedule.steps, (batch, unlabeled_batch), speaks, loggers)
    album = Album(out, data.labeled.classes, data.val, log.say, speaks)
    complete = config

    def ship(model: Detector, state: State, metrics: Metrics | None) -> None:
        save_detector(
            out / "best.safetensors",
            model,
            data.labeled.classes,
            complete.image_size or 0,
            {"category_ids": list(data.labeled.category_ids), **facts(complete, state, metrics, fabric.device)},
        )

    training = Training(
        config,
        schedule,
        fabric,
        student,
        teacher,
        wrapped,
        wrapped_optimizer,
        steps_data,
        judge,
        log,
        ship,
        facts={"data": data.facts(), "spec": student.spec.to_dict()},
        watch=album.watch,
    )
    try:
        if saved is not None and saved_at is not None:
            restore(training, saved, saved_at)
            if resume is None and config.guard and judge is not None:
                ship_burn_in(training, judge, warm_detector(warm, data.labeled.classes, config.model) if warm else None)
        if over:
            log.say(f"{out} ended at step {first}: nothing is left to train.")
        else:
            tell(log, notes, data)
            for line in plan.describe(config, schedule, data, student, warm, expected, world):
                log.say(line)
        if saved is not None and not over:
            where = f"Resuming {out}" if resume is not None else f"Starting from the burn-in of {config.start}"
            log.say(f"{where}: step {first} of {schedule.steps}.")
        began = time.perf_counter()
        if not over:
            album.watch(training)
            train_loop(training)
        spent = time.perf_counter() - began
        outcome = conclude(training, out, time.perf_counter() - started, rival_ap(config), data.unread)
        if not over:
            album.finish(training, out / "best.safetensors")
            record_cost(log, expected, spent, probe.peak_memory(fabric.device))
        if speaks and outcome.finished and method.uses_unlabeled:  # sedet label measures how far the two are apart
            size = complete.image_size or 0
            save_detector(out / "student.safetensors", student, data.labeled.classes, size, {})
        if speaks and config.report and outcome.finished and not over:
            write_run_report(out, data, judge.batch if judge is not None else batch, str(fabric.device), log.say)
    except KeyboardInterrupt:
        # No checkpoint here: the interruption may have come in the middle of an update.
        if speaks and (last_saved := step_of(out / "checkpoints" / LAST_FILE)) is not None:
            log.say(
                f"Interrupted at step {training.state.step}; go on with --resume {quote(str(out))} "
                f"(from step {last_saved}, of the last checkpoint)"
            )
        raise
    finally:
        log.close()
    return outcome


def ship_burn_in(t: Training, judge: Judge, start: Detector | None) -> None:
    """Of a burn-in taken from another run, and of what ``--init`` brought it: what later teachers must beat.

    Every process judges.

    Args:
        start: the detector of ``--init``.
    """
    state, best = t.state, t.teacher.model
    found, step = judge.judge(best), t.state.step
    if start is not None:
        start.to(t.fabric.device).eval()
        before = judge.judge(start)
        state.at_start = ap_of(before)
        if ap_of(before) >= ap_of(found):
            best, found, step = start, before, 0
    state.best_ap, state.best_step = ap_of(found), step
    if t.fabric.is_global_zero:
        t.ship(best, replace(state, step=step), found)


def make_fabric(config: TrainConfig) -> Fabric:
    """One process, or as many as ``torchrun`` started."""
    # The plan tells device and precision; Fabric's own advice on them is no matter of the user's.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    device = plan.resolve_device(config)
    world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # Nothing uses P2 in the burn-in where only unlabelled images are seen at half size. The detector may yet change
    # with --init: any that the method is defined for will do here.
    any_detector = METHODS[config.method].detectors[0]
    late = not config.half_size and make_method(replace(config, detector=any_detector)).uses_half  # type: ignore[arg-type]
    strategy = "ddp_find_unused_parameters_true" if late else "ddp"
    fabric = Fabric(
        accelerator={"cpu": "cpu", "cuda": "gpu", "mps": "mps"}[device],
        devices=world,
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        strategy=strategy if "LOCAL_WORLD_SIZE" in os.environ else "auto",
        precision=PRECISIONS[plan.resolve_precision(config, device)],
    )
    fabric.launch()
    return fabric


def check_weights(config: TrainConfig) -> None:
    """What is said of the backbone and can be wrong, looked at before the data are."""
    if config.backbone is not None and not timm.is_model(config.backbone.split(".")[0]):
        Backbone(config.backbone, "none")  # says what is wrong, and which names are near
    if config.weights not in ("auto", "none"):
        read_state(Path(config.weights))


def check_folder(out: Path) -> None:
    """The run folder must be new or empty: nobody's results are overwritten."""
    if (reason := unwritable(out)) is not None:
        raise ConfigError(f"the output folder {out} cannot be made: {reason}. Give another with --out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        again = f", or go on with it: --resume {quote(str(out))}" if (out / "checkpoints" / LAST_FILE).is_file() else ""
        raise ConfigError(f"the output folder {out} is in use: give a new one with --out{again}")


def claim_folder(out: Path, fabric: Fabric, held: ExitStack, new: bool) -> None:
    """Make the run folder; ``new`` ones must still be empty, and are locked from now on."""
    if fabric.is_global_zero:
        if new:
            check_folder(out)
        try:
            (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the output folder {out} cannot be made ({error.strerror})") from error
        if new:
            held.enter_context(sole_trainer(out))
    fabric.barrier()


def note_moved_data(config: TrainConfig, file: Path) -> None:
    """Where a resumed run's data lie now goes into its settings, so that reports find them and so does the next."""
    saved = load_config(file)
    moved = replace(saved, **{name: getattr(config, name) for name in PLACES})
    if moved != saved:
        save_config(moved, file)


def saved_checkpoint(config: TrainConfig, resume: Path | None) -> Path | None:
    """The checkpoint to begin with, if any."""
    if resume is not None:
        return resume / "checkpoints" / LAST_FILE
    return Path(config.start) / "checkpoints" / BURN_IN_FILE if config.start else None


def step_of(checkpoint: Path) -> int | None:
    """The step a checkpoint is of; None where there is none that can be read."""
    try:
        return int(read_saved(checkpoint)["state"]["step"])
    except SedetError:
        return None


def make_detector(
    config: TrainConfig,
    classes: tuple[str, ...],
    warm: WarmStart | None,
    saved: dict[str, Any] | None,
    saved_at: Path | None = None,
) -> Detector:
    """A new detector, one with the weights of ``warm``, or the one a checkpoint describes (its weights come later)."""
    assert config.backbone
    if warm is not None and saved is None:
        return warm_detector(warm, classes, config.model)
    if saved is not None and saved_at is not None and saved.get("facts"):
        # needs neither the file of --init nor pretrained weights again
        detector = rebuild_detector(saved["facts"]["spec"], saved_at, config.model.freeze_stages)
        detector.backbone.source = "the checkpoint"
        return detector
    return build_detector(config.detector, config.backbone, len(classes), config.model, config.weights)


def facts(config: TrainConfig, state: State, metrics: Metrics | None, device: torch.device) -> dict[str, Any]:
    """What a detector file says of its origin."""
    return {
        "config": to_dict(config),
        "step": state.step,
        "labels_alone_ap": state.labels_alone,
        "metrics": metrics.to_dict() if metrics is not None else None,
        "versions": versions(),
        "commit": commit(),
        "device": device_name(device),
    }


def versions() -> dict[str, str]:
    names = ("sedet", "torch", "torchvision", "timm", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
