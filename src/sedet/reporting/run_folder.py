"""What a run folder says of its training, read from its files alone: settings, metrics, the shipped detector, the log.

A run that was interrupted, or whose data have moved, has a report too: what is not there is left out.
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sedet.config import TrainConfig
from sedet.errors import ConfigError, SedetError
from sedet.settings import load_config
from sedet.text import printable
from sedet.training.verdict import learns_unlabeled

LOG_LINES = 200
"""Lines of train.log that a report shows, at most."""
MAX_LOG_BYTES = 20_000_000
MAX_DETECTOR_HEADER = 50_000_000


@dataclass(frozen=True)
class RunFolder:
    """The files of a run.

    Attributes:
        path: the folder.
        config: its settings.
        rows: of metrics.csv, numbers by column, without empty cells.
        shipped: what the shipped detector's file says of itself; None without one.
        log: lines of train.log without times, losses and scores.
    """

    path: Path
    config: TrainConfig
    rows: tuple[dict[str, float], ...]
    shipped: dict[str, Any] | None
    log: tuple[str, ...] = ()

    @property
    def detector(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def judged(self) -> list[dict[str, float]]:
        """The rows with an evaluation that told an AP: without objects to find there is none."""
        return [row for row in self.rows if not math.isnan(row.get("teacher_ap", math.nan))]

    @property
    def burn_in(self) -> int:
        """Updates on the labels alone; 0 in a run that learns from nothing else."""
        if not learns_unlabeled(self.config):
            return 0
        return round((self.config.burn_in or 0.0) * (self.config.steps or 0))

    @property
    def step(self) -> int:
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def finished(self) -> bool:
        """All steps are done, or patience ended the run."""
        stopped_early = any(line.startswith("No better teacher in ") for line in self.log)
        return bool(self.rows) and (self.step >= (self.config.steps or 0) or stopped_early)


@dataclass(frozen=True)
class Score:
    """An AP with what it is of."""

    name: str
    ap: float
    where: str


@dataclass(frozen=True)
class Verdict:
    """What a run says of unlabelled images.

    Attributes:
        headline: in a sentence; gain: AP that unlabelled images added, where it can be said, else None.
        scores: labels alone, with unlabelled images, shipped: those that are known.
        notes: what to bear in mind.
        command: what would measure what is not known, or "".
    """

    headline: str
    gain: float | None
    scores: tuple[Score, ...]
    notes: tuple[str, ...] = ()
    command: str = ""
    good: bool | None = field(default=None)


def read_run(folder: Path | str) -> RunFolder:
    """Read a run folder.

    Raises:
        ConfigError: it is not one; its settings cannot be read, or its metrics are damaged.
    """
    path = Path(folder)
    if not (path / "config.yaml").is_file():
        state = "it has no config.yaml" if path.is_dir() else "there is no such folder"
        raise ConfigError(f"{path} is not a run folder: {state}. Give a folder that 'sedet train' wrote")
    return RunFolder(
        path, load_config(path / "config.yaml"), _rows(path / "metrics.csv"), _shipped(path), _log(path / "train.log")
    )


def twin_of(run: RunFolder, twin: Path | str | None = None) -> RunFolder | None:
    """The run to compare with: of a run with unlabelled images the one on labels alone, and the other way round.

    Args:
        twin: its folder; default: the run that this one started from, if that went on to its end.

    Raises:
        ConfigError: the folder that was given is no such run.
    """
    given = twin if twin is not None else run.config.start
    if not given:
        return None
    try:
        other = read_run(given)
        wrong = None
        if learns_unlabeled(other.config) == learns_unlabeled(run.config):
            what = (
                "both learn from unlabelled images" if learns_unlabeled(run.config) else "both learn from labels alone"
            )
            wrong = f"{what}, so there is nothing to tell apart"
        elif not other.judged:
            wrong = "it was never judged"
        elif int(other.judged[-1]["step"]) != other.config.steps or other.config.steps != run.config.steps:
            wrong = f"it ended at step {other.step}, this run is one of {run.config.steps}"
    except SedetError:
        if twin is not None:
            raise
        return None
    if wrong is not None and twin is not None:
        raise ConfigError(f"{other.path} is no twin of {run.path}: {wrong}")
    return None if wrong is not None else other


def verdict(run: RunFolder, twin: RunFolder | None = None) -> Verdict:
    """What the labels alone gave, what unlabelled images added, and what was shipped."""
    config, judged, steps = run.config, run.judged, run.config.steps or 0
    learns = learns_unlabeled(config)
    if not judged:
        why = "there are no validation labels" if config.val is None else "no evaluation was reached"
        if any("teacher_ap" in row for row in run.rows):
            why = "the validation images show no object to find"
        headline = f"Nothing is known of this detector's quality: {why}."
        return Verdict(headline, None, (), tuple(_state(run)))
    last = judged[-1]
    step, teacher = int(last["step"]), last["teacher_ap"]
    start = next((row for row in judged if row["step"] == run.burn_in), None) if run.burn_in else None
    alone = None if start is None else max(start["teacher_ap"], start.get("student_ap", -math.inf))
    scores: list[Score] = []
    notes = _state(run)
    command, gain, good = "", None, None
    if twin is not None and step == steps:
        other = twin.judged[-1]["teacher_ap"]
        gain = teacher - other if learns else other - teacher
        first, second = (other, teacher) if learns else (teacher, other)
        scores.append(Score("Labels alone", first, f"supervised twin, last teacher, step {steps}"))
        name = config.method if learns else twin.config.method
        scores.append(Score("With unlabelled images", second, f"{name}, last teacher, step {steps}"))
        headline, good = _gain(round(second, 1) - round(first, 1))  # as the scores beside it are shown
        notes.append("Last teacher against last teacher: the best of several evaluations would flatter either.")
    elif not learns:
        headline = f"The labels alone gave {teacher:.1f} AP."
        scores.append(Score("Labels alone", teacher, f"last teacher, step {step}"))
    else:
        if alone is not None:
            scores.append(Score("Labels alone", alone, f"end of the burn-in, step {run.burn_in}"))
        if step > run.burn_in:
            scores.append(Score("With unlabelled images", teacher, f"{config.method}, last teacher, step {step}"))
        if alone is None or step <= run.burn_in:
            headline = "Training on unlabelled images has not been judged yet."
        else:
            change = round(teacher, 1) - round(alone, 1)  # as the scores beside it are shown
            good = False if change < 0 else None
            headline = f"After the burn-in on labels alone the detector changed by {change:+.1f} AP."
            notes.append(
                "Part of this may come from training longer, not from the unlabelled images. Train the supervised twin "
                "from the same burn-in to know, then make the report with --twin."
            )
            start_at = config.start or str(run.path)
            command = (
                f"sedet train --config {_word(run.path / 'config.yaml')} --method supervised "
                f"--start {_word(start_at)} --out {_word(f'{run.path}-supervised')}"
            )
    if (shipped := _shipped_score(run, last)) is not None:
        scores.append(shipped)
    if shipped is not None and "labels alone" in shipped.where and learns:
        notes.insert(0, "The guard ships the detector of the labels alone: no later teacher was better on val.")
    return Verdict(headline, gain, tuple(scores), tuple(notes), command, good)


def _gain(gain: float) -> tuple[str, bool | None]:
    if abs(gain) < 0.05:
        return "Unlabelled images made no difference.", None
    if gain > 0:
        return f"Unlabelled images added {gain:.1f} AP.", True
    return f"Unlabelled images cost {-gain:.1f} AP.", False


def _state(run: RunFolder) -> list[str]:
    if run.finished:
        return []
    return [
        f"This run is not finished: step {run.step} of {run.config.steps}. Go on with: sedet train --resume {run.path}"
    ]


def _shipped_score(run: RunFolder, last: dict[str, float]) -> Score | None:
    if run.shipped is None:
        return None
    metrics, step = run.shipped.get("metrics"), run.shipped.get("step")
    ap = metrics.get("ap") if isinstance(metrics, dict) else None
    if not isinstance(ap, (int, float)) or math.isnan(ap):
        return None
    if not run.config.guard:
        which = f"the last teacher (no guard), step {step}"
    elif step == 0 and run.config.init:
        which = "the detector of --init: no later teacher was better"
    elif run.burn_in and isinstance(step, int) and step <= run.burn_in:
        which = f"labels alone, step {step}: no later teacher was better"
    else:
        which = f"the guard's choice: the best teacher on val, step {step}"
    return Score("Shipped", float(ap), which)


def _word(path: Path | str) -> str:
    from shlex import quote

    return quote(str(path))


def _rows(path: Path) -> tuple[dict[str, float], ...]:
    if not path.is_file():
        return ()
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                {key: float(value) for key, value in row.items() if value and key is not None}
                for row in csv.DictReader(file)
            ]
    except (ValueError, TypeError, OSError, csv.Error) as error:
        raise ConfigError(
            f"{path}: damaged metrics ({error}). Remove the file to make a report without curves"
        ) from None
    if any("step" not in row for row in rows):
        raise ConfigError(
            f"{path}: damaged metrics (a row has no step). Remove the file to make a report without curves"
        )
    return tuple(rows)


def _shipped(path: Path) -> dict[str, Any] | None:
    """What the detector's file says of itself: the header alone is read."""
    file = path / "best.safetensors"
    try:
        with file.open("rb") as data:
            length = int.from_bytes(data.read(8), "little")
            if not 2 <= length <= MAX_DETECTOR_HEADER:
                return None
            header = json.loads(data.read(length))
            facts = json.loads(header["__metadata__"]["sedet"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None


def _log(path: Path) -> tuple[str, ...]:
    """What the training said, without times and without the lines of single steps."""
    try:
        if path.stat().st_size > MAX_LOG_BYTES:
            return ()
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    found = []
    for line in text.splitlines():
        said = line[24:] if line[:4].isdigit() and line[4:5] == "-" else line
        if said.strip() and not said.startswith(("step ", "labels of the teacher")):
            found.append(printable(said))
    return tuple(found[-LOG_LINES:])
