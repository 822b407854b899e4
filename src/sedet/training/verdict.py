"""What is said of a training: its data at the start, and what came of it at the end."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from sedet.config import TrainConfig
from sedet.data.split import few_to_judge
from sedet.errors import SedetError
from sedet.settings import load_config
from sedet.text import minutes
from sedet.training import plan, probe
from sedet.training.inputs import SHOWN, TrainingData
from sedet.training.loop import Training
from sedet.training.runlog import RunLog


@dataclass(frozen=True)
class Outcome:
    """What came of a training.

    Attributes:
        run: the run folder.
        detector: the shipped detector file; None if training was stopped before there was one.
        labels_alone: AP on val at the end of the burn-in, or None without val.
        ap: AP on val of the shipped detector, or None.
        student_ap: AP on val of the student at the last evaluation, or None.
        teacher_ap: that of the teacher.
        step: updates done.
        finished: whether there is nothing left to do (all of them done, or stopped early for good).
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


def tell(log: RunLog, notes: list[str], data: TrainingData) -> None:
    """What was done with the data, and its problems: a few on the terminal, all in train.log."""
    for line in notes:
        log.say(line)
    warnings = [p for p in data.problems if p.level == "warning"]
    for problem in warnings[:SHOWN]:
        log.say(str(problem))
    if len(warnings) > SHOWN:
        log.say(f"warning: {len(warnings) - SHOWN} more like these; {log.out / 'train.log'} and sedet check list them")
    for problem in [*warnings[SHOWN:], *(p for p in data.problems if p.level == "note")]:
        log.note(str(problem))


def learns_unlabeled(config: TrainConfig) -> bool:
    """Whether unlabelled images teach anything; else the run is a supervised twin."""
    return config.method != "supervised" and (config.method != "sed" or config.sed.distill or config.sed.scale)


def rival_ap(config: TrainConfig) -> float | None:
    """Last teacher's AP of the run this one started from: one trained by the twin, the other with unlabelled images.

    None where both do the same, that run did not go on to its end or is gone, or it was a longer or shorter one.
    """
    if not config.start:
        return None
    try:
        shared = load_config(Path(config.start) / "config.yaml")
        if learns_unlabeled(shared) == learns_unlabeled(config):
            return None
        with (Path(config.start) / "metrics.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("teacher_ap")]
        complete = rows and int(rows[-1]["step"]) == shared.steps == config.steps
        return float(rows[-1]["teacher_ap"]) if complete else None
    except (SedetError, OSError, ValueError, KeyError):
        return None


def record_cost(log: RunLog, expected: probe.Expectation | None, seconds: float, memory: int | None) -> None:
    """Planned and measured cost, side by side in train.log."""
    used = f"{seconds:.1f} s, {plan.gigabytes(memory)}"
    if expected is None:
        log.note(f"Measured: {used}.")
        return
    log.note(
        f"Measured: {used}. Planned: {expected.seconds:.1f} s ({expected.seconds / max(seconds, 1e-9) - 1:+.0%}), "
        f"{plan.gigabytes(expected.memory)}"
        + (f" ({expected.memory / memory - 1:+.0%})." if expected.memory and memory else ".")
    )


def conclude(
    t: Training, out: Path, seconds: float, rival: float | None = None, unread: tuple[str, ...] = ()
) -> Outcome:
    """Say what the labels alone gave, what the method made of it, and which detector was shipped.

    Args:
        seconds: wall-clock time of the call; rival: from :func:`rival_ap`.
        unread: images that could not be read and were left out before training.
    """
    state, schedule = t.state, t.schedule
    finished = state.ended or state.step >= schedule.steps
    detector = out / "best.safetensors"
    shipped = detector.is_file()
    last: dict[str, Any] = next((row for row in reversed(state.rows) if "teacher_ap" in row), {})
    teacher, student = last.get("teacher_ap"), last.get("student_ap")
    guarded = t.config.guard and t.judge is not None
    ap = (state.best_ap if guarded else teacher) if shipped else None
    say = t.log.say
    say("")
    if finished:
        say(f"Done: {state.step} steps in {minutes(seconds)}.")
    else:
        say(f"Stopped at step {state.step} of {schedule.steps}; go on with --resume {quote(str(out))}")
    rows: list[tuple[str, float | None, str]] = []
    sed, name = t.module.method.uses_unlabeled, t.config.method
    other = "supervised twin" if sed else "with unlabelled"
    rows.append(("--init", state.at_start, "before the first step"))
    if sed and schedule.burn_in:
        rows.append(("labels alone", state.labels_alone, f"end of burn-in, step {schedule.burn_in}"))
    rows.append((other, rival, f"last step of {t.config.start}"))
    trained_on = last.get("step", 0) > schedule.burn_in
    if not sed or trained_on:
        rows.append((f"{name}, teacher", teacher, f"step {last.get('step')}"))
        rows.append((f"{name}, student", student, f"step {last.get('step')}"))
    for row, value, where in rows:
        if value is not None:
            say(f"  {row:<20} AP {value:5.1f}   {where}")
    if shipped and ap is not None:
        which = "the last teacher (no --guard)"
        if guarded:
            which = f"the best teacher on val, of step {state.best_step}"
            if state.at_start is not None and state.best_step == 0:
                which = "the detector of --init: no later teacher was better"
            elif sed and schedule.burn_in and state.best_step <= schedule.burn_in:
                which = f"of the labels alone (step {state.best_step}): no later teacher was better"
        say(f"  {'shipped':<20} AP {ap:5.1f}   {which}")
        if teacher is not None and trained_on:
            for line in gains(t, out, teacher, rival):
                say(line)
    elif shipped:
        say("Warning: without val nothing says how good the last teacher is. It is shipped all the same.")
    if t.judge is not None and (few := few_to_judge(len(t.judge.table) - len(t.judge.unread))) is not None:
        say(f"{few}.")
    skipped = tuple(dict.fromkeys([*unread, *state.skipped]))
    if skipped:
        more = f", {len(skipped) - 5} more" if len(skipped) > 5 else ""
        say(f"{len(skipped)} images could not be read and were skipped: {', '.join(skipped[:5])}{more}")
    if shipped:
        say(f"Detector: {detector}")
        say(f"Try it:   sedet predict {quote(str(detector))} IMAGES --draw")
    say(f"Run:      {out} (curves.png, pictures/, metrics.csv, train.log)")
    return Outcome(
        run=out,
        detector=detector if shipped else None,
        labels_alone=state.labels_alone,
        ap=ap,
        student_ap=student,
        teacher_ap=teacher,
        step=state.step,
        finished=finished,
        skipped=skipped,
        seconds=seconds,
    )


def gains(t: Training, out: Path, teacher: float, rival: float | None) -> list[str]:
    """What training on unlabelled images brought, by the last teacher: the best of several would hide a loss."""
    state, sed = t.state, t.module.method.uses_unlabeled
    judged = next(row["step"] for row in reversed(state.rows) if "teacher_ap" in row)
    if judged != state.step:  # stopped since: there is no last teacher yet
        return []
    if rival is not None and state.step == t.schedule.steps:
        gain = teacher - rival if sed else rival - teacher
        return [f"Unlabelled images: {gain:+.1f} AP, last teacher against last teacher of both runs."]
    if not sed or rival is not None or state.labels_alone is None:
        return []
    config, start, twin = (quote(str(p)) for p in (out / "config.yaml", t.config.start or out, f"{out}-supervised"))
    again = f"sedet train --config {config} --method supervised --start {start} --out {twin}"
    return [
        f"After the burn-in the last teacher changed by {teacher - state.labels_alone:+.1f} AP. How much of it labels "
        f"alone would have brought: {again}"
    ]
