"""The training loop, whole: batch, losses, backward, step, teacher update, log, evaluate, save."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from sedet.config import TrainConfig
from sedet.data.chance import derive
from sedet.data.loading import StepData, step_loader
from sedet.detectors.build import Detector
from sedet.errors import CheckpointError, TrainingError
from sedet.evaluation.coco import Metrics
from sedet.methods.method import Progress
from sedet.methods.teacher import EMATeacher, ema_decay, settling_decay
from sedet.training.checkpoint import save_checkpoint
from sedet.training.memory import is_out_of_memory, out_of_memory_error, update_memory_error
from sedet.training.optimizer import rate_at, set_rate
from sedet.training.runlog import RunLog
from sedet.training.step import Given, TrainingStep
from sedet.training.validate import Judge

BURN_IN_FILE = "burn_in.pt"
LAST_FILE = "last.pt"
SAVE_SECONDS = 300.0
"""At the latest after this time a checkpoint is written, whatever the period."""
SCORES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""What of each evaluation goes into metrics.csv, of teacher and student; and what the teacher's labels are worth."""


@dataclass(frozen=True)
class Schedule:
    """The run in updates. ``evaluate`` and ``save`` are periods; micro-steps are ``accumulate`` an update."""

    steps: int
    burn_in: int
    ramp: int
    evaluate: int
    save: int
    accumulate: int

    def evaluates_after(self, step: int) -> bool:
        return step in (self.burn_in, self.steps) or (step % self.evaluate == 0 and step > 0)


@dataclass
class State:
    """What changes while training, besides weights: all of it is in the checkpoint.

    Attributes:
        step: updates done.
        sums, summed: losses added up since the last row of metrics, and over how many updates.
        rows: the metrics so far, one dict a row.
        at_start: AP of the detector that ``--init`` brought, before the first step, if known.
        labels_alone: AP at the end of the burn-in (the better of student and teacher), if known.
        best_ap, best_step: the best teacher on val so far, the one of ``--init`` included.
        trained_ap: the best since the end of the burn-in; since_best: evaluations since then.
        cut: the teacher's best score to cut at, at the last evaluation.
        skipped: names of images that could not be read.
        ended: stopped early, for good (``patience``).
    """

    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    summed: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    at_start: float | None = None
    labels_alone: float | None = None
    best_ap: float | None = None
    best_step: int = 0
    trained_ap: float | None = None
    since_best: int = 0
    cut: float | None = None
    skipped: list[str] = field(default_factory=list)
    ended: bool = False


@dataclass
class Training:
    """Everything a loop works on.

    Attributes:
        ship: writes the detector file.
        facts: kept in every checkpoint: the detector's description and the data it learns from.
        watch: called after each evaluation (pictures); changes nothing.
    """

    config: TrainConfig
    schedule: Schedule
    fabric: Fabric
    student: Detector
    teacher: EMATeacher[Detector]
    module: TrainingStep
    optimizer: torch.optim.Optimizer
    data: StepData
    judge: Judge | None
    log: RunLog
    ship: Callable[[Detector, State, Metrics | None], None]
    state: State = field(default_factory=State)
    facts: dict[str, Any] = field(default_factory=dict)
    watch: Callable[[Training], None] = lambda _: None


def train_loop(t: Training) -> None:
    """Train from ``t.state.step`` to the end, or to ``config.stop``.

    Raises:
        TrainingError: a loss that is not finite, no memory, a full disk. The last checkpoint stays.
    """
    schedule, state, config = t.schedule, t.state, t.config
    stop = min(schedule.steps, config.stop or schedule.steps)
    workers = config.workers or 0
    micro = schedule.accumulate
    loader = step_loader(t.data, state.step * micro, stop * micro, workers, pin=t.fabric.device.type == "cuda")
    batches = iter(loader)
    t.module.train()
    t.teacher.model.eval()
    if not (Path(config.out) / "checkpoints" / LAST_FILE).exists():
        save(t, LAST_FILE)  # killed at any time, a run can be resumed
    if config.init and state.step == 0 and t.judge is not None:
        judge_start(t, t.judge)
    saved = time.monotonic()
    while state.step < stop and not state.ended:
        started = time.perf_counter()
        progress = Progress(state.step, schedule.burn_in, schedule.ramp, schedule.steps)
        set_rate(t.optimizer, rate_at(state.step, schedule.steps, schedule.burn_in, config))
        names: tuple[str, ...] = ()
        for part in range(micro):
            labeled, unlabeled = next(batches)
            # What a step draws (Faster R-CNN's samples) follows from the step alone: resumed runs go on alike.
            torch.manual_seed(derive(config.seed, "step", state.step, part, t.fabric.global_rank))
            note_skipped(t, [*labeled.skipped, *(unlabeled.skipped if unlabeled else ())])
            read = labeled.names + (unlabeled.names if unlabeled else ())
            names += read
            try:
                with t.fabric.no_backward_sync(t.module, enabled=part < micro - 1):
                    device = t.fabric.device
                    other = unlabeled.to(device) if unlabeled else None
                    losses = t.module(Given(labeled.to(device), other, progress))
                    stacked = torch.stack(list(losses.values()))
                    values = dict(zip(losses, stacked.detach().tolist(), strict=True))
                    check_finite(values, read, state.step)
                    t.fabric.backward(stacked.sum() / micro)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                losses = stacked = None  # else the failed step would stay in memory
                raise out_of_memory_error(t.module, labeled, unlabeled, progress, config, device, error) from error
            for key, value in values.items():
                state.sums[key] = state.sums.get(key, 0.0) + value / micro
        largest = config.clip or math.inf
        try:
            norm = t.fabric.clip_gradients(t.module, t.optimizer, max_norm=largest, error_if_nonfinite=False)
            if scaler_of(t.fabric) is None and norm is not None:  # a scaler skips such steps by itself
                check_finite({**values, "gradient norm": float(norm)}, names, state.step)
            t.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise update_memory_error(error) from error
        t.optimizer.zero_grad()
        state.step += 1
        state.summed += 1
        after = schedule.steps - schedule.burn_in  # the twin too: its average is as long as SED's
        past = state.step > schedule.burn_in
        decay = ema_decay(state.step, after, config.ema_decay, settled=past and schedule.burn_in > 0)
        if past:
            decay = settling_decay(decay, schedule.steps - state.step, config.ema_end)
        t.teacher.update(t.student, decay)
        t.log.tick(state, values, time.perf_counter() - started, progress)
        if schedule.evaluates_after(state.step):
            evaluate(t)
        elif t.log.due(state.step):
            t.log.row(state, {})
        if state.step == schedule.burn_in:
            save(t, BURN_IN_FILE)  # before the last one: a kill between the two must not lose it
        due = state.step % schedule.save == 0 or time.monotonic() - saved > SAVE_SECONDS
        if due or state.step == stop or schedule.evaluates_after(state.step):
            save(t, LAST_FILE)
            saved = time.monotonic()
    t.log.close()


def check_finite(losses: dict[str, float], names: tuple[str, ...], step: int) -> None:
    """Stop before a NaN reaches the weights, and say where it came from."""
    if math.isfinite(sum(losses.values())):
        return
    values = ", ".join(f"{key} {value:.4g}" for key, value in losses.items())
    raise TrainingError(
        f"the loss is not finite at step {step + 1}: {values}. Images of this batch: {', '.join(names)}. "
        "The last checkpoint is from before it. Start anew with a lower --rate or with --precision 32"
    )


def note_skipped(t: Training, names: list[str], then: str = "another image takes its place") -> None:
    for name in names:
        if name not in t.state.skipped:
            t.state.skipped.append(name)
            t.log.say(f"Skipped: {name} cannot be read; {then}.")


def evaluate(t: Training) -> None:
    """Judge teacher and student; at the end of the burn-in both go on from the better one (our design)."""
    state = t.state
    ends_burn_in = state.step == t.schedule.burn_in
    scores: dict[str, Any] = {}
    teacher = student = None
    if t.judge is not None:
        # Every process judges: the same numbers everywhere, so that all take the same turn.
        teacher, student = t.judge.judge(t.teacher.model), t.judge.judge(t.student, find_score=ends_burn_in)
        note_skipped(t, t.judge.unread, "it is not judged")
        for name, metrics in (("teacher", teacher), ("student", student)):
            scores |= {f"{name}_{key}": getattr(metrics, key) for key in SCORES}
        scores |= {f"labels_{key}": value for key, value in teacher.labels.items()}
    if ends_burn_in:
        if teacher is not None and student is not None and ap_of(student) > ap_of(teacher):
            t.teacher.copy_from(t.student)
            teacher = student
        else:
            with torch.no_grad():
                for mine, best in zip(t.student.parameters(), t.teacher.model.parameters(), strict=True):
                    mine.copy_(best)
        state.labels_alone = None if teacher is None else ap_of(teacher)
    t.log.row(state, scores)
    state.cut = None if teacher is None else teacher.best_score
    if teacher is not None:
        if state.best_ap is None or ap_of(teacher) > state.best_ap:
            state.best_ap, state.best_step = ap_of(teacher), state.step
            if t.config.guard and t.fabric.is_global_zero:
                t.ship(t.teacher.model, state, teacher)
        if state.step < t.schedule.burn_in:
            pass
        elif state.trained_ap is None or ap_of(teacher) > state.trained_ap:
            state.trained_ap, state.since_best = ap_of(teacher), 0
        else:
            state.since_best += 1
            if state.since_best == t.config.patience and state.step < t.schedule.steps:
                state.ended = True
                t.log.say(f"No better teacher in {t.config.patience} evaluations: stopped at step {state.step}.")
    last = state.ended or state.step == t.schedule.steps
    if last and (not t.config.guard or t.judge is None) and t.fabric.is_global_zero:
        t.ship(t.teacher.model, state, teacher)
    t.watch(t)
    t.module.train()
    t.teacher.model.eval()


def judge_start(t: Training, judge: Judge) -> None:
    """Judge what ``--init`` brought: nothing worse is shipped by ``--guard``."""
    state, found = t.state, judge.judge(t.teacher.model)
    note_skipped(t, judge.unread, "it is not judged")
    state.at_start = state.best_ap = ap_of(found)
    t.log.say(f"Before the first step: AP {state.at_start:.1f} (the detector of --init).")
    if t.config.guard and t.fabric.is_global_zero:
        t.ship(t.teacher.model, state, found)


def ap_of(metrics: Metrics) -> float:
    """AP, 0 where there is none."""
    return 0.0 if math.isnan(metrics.ap) else metrics.ap


def scaler_of(fabric: Fabric) -> Any:
    """The gradient scaler of 16-bit precision, or None."""
    return getattr(fabric.strategy.precision, "scaler", None)


def save(t: Training, name: str) -> None:
    """Write a checkpoint of everything; one process writes."""
    if not t.fabric.is_global_zero:
        return
    scaler = scaler_of(t.fabric)
    save_checkpoint(
        Path(t.config.out) / "checkpoints" / name,
        {
            "student": t.student.state_dict(),
            "teacher": t.teacher.model.state_dict(),
            "optimizer": t.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
            "method": t.module.method.state(),
            "state": dict(vars(t.state)),
            "schedule": dict(vars(t.schedule)),
            "facts": t.facts,
        },
    )


def restore(t: Training, saved: dict[str, Any], path: Path) -> None:
    """Take over weights, optimizer and state of a checkpoint that was read from ``path``.

    Raises:
        CheckpointError: it belongs to another network.
    """
    scaler = scaler_of(t.fabric)
    try:
        t.student.load_state_dict(saved["student"])
        t.teacher.model.load_state_dict(saved["teacher"])
        t.optimizer.load_state_dict(saved["optimizer"])
        if saved.get("method"):  # empty at the end of a burn-in, which any method may take over
            t.module.method.restore(saved["method"])
        if scaler is not None and saved["scaler"]:
            scaler.load_state_dict(saved["scaler"])
        t.state = State(**saved["state"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{path}: does not fit this training ({type(error).__name__}: {reason})") from error
