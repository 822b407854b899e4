"""What a run says and writes while it trains: metrics.csv, train.log, and a progress bar."""

from __future__ import annotations

import csv
import io
import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from sedet.evaluation.pseudo_labels import HARD
from sedet.files import write_atomically
from sedet.text import minutes, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sedet.methods.method import Progress
    from sedet.training.loggers import Logger
    from sedet.training.loop import State

ROWS = 200
"""About this many rows of metrics in a run, besides the evaluations."""
QUIET_SECONDS = 60.0
"""Without a terminal for a progress bar a line is printed after this time."""

PARTS = {"sup_": "labelled", "distill_": "distillation", "scale_": "half-size distillation"}
NO_LOSS = ("step", "teacher_", "student_", "labels_")
"""How the columns of metrics.csv begin that are no loss."""


def losses_by_part(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Weighted losses of each part of a training, one value a row; parts that are 0 throughout are left out.

    All that a method learns from unlabelled images, but SED's two parts, is one: "unlabelled".

    Args:
        rows: of metrics.csv; an empty or missing cell is 0.
    """
    parts: dict[str, dict[str, None]] = {label: {} for label in (*PARTS.values(), "unlabelled")}
    for key in (key for row in rows for key in row if not key.startswith(NO_LOSS)):
        label = next((label for prefix, label in PARTS.items() if key.startswith(prefix)), "unlabelled")
        parts[label][key] = None
    sums = {label: [sum(float(row.get(key) or 0.0) for key in keys) for row in rows] for label, keys in parts.items()}
    return {label: values for label, values in sums.items() if any(values)}


class _File(logging.FileHandler):
    """A log file that does not hide a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise


class RunLog:
    """Writes beside the run; only the process that ``speaks`` writes or prints.

    metrics.csv holds nothing that depends on the clock, so that equal runs have equal files; timing goes to
    train.log.
    """

    def __init__(
        self,
        out: Path,
        total: int,
        images_per_step: tuple[int, int],
        speaks: bool = True,
        loggers: Sequence[Logger] = (),
    ) -> None:
        self.out, self.total, self.speaks, self.loggers = out, total, speaks, loggers
        self.images_per_step = images_per_step
        self.every = max(1, total // ROWS)
        self.console = Console(stderr=True, quiet=not speaks)
        self.seconds = 0.0  # of training steps since the last row
        self.images = 0
        self._bar: Bar | None = None
        self._task: Any = None
        self._told: tuple[int, float] | None = None  # step and time of the last line that was printed
        self._log = logging.getLogger("sedet.run")
        self._log.setLevel(logging.INFO)
        self._log.propagate = False
        for handler in list(self._log.handlers):
            self._log.removeHandler(handler)
            handler.close()
        if speaks:
            file = _File(out / "train.log", encoding="utf-8", errors="backslashreplace")
            file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            self._log.addHandler(file)

    def say(self, text: str) -> None:
        """A line to the terminal and to train.log."""
        self.note(text)
        if self.speaks:
            self.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """A line to train.log alone."""
        if self.speaks:
            self._log.info("%s", printable(text))

    def due(self, step: int) -> bool:
        return step % self.every == 0 or step == self.total

    def tick(self, state: State, losses: dict[str, float], seconds: float, progress: Progress) -> None:
        """After each update."""
        self.seconds += seconds
        self.images += self.images_per_step[0] + (self.images_per_step[1] if progress.unlabeled_weight else 0)
        if not self.speaks:
            return
        if not self.console.is_terminal:
            self.tell_progress(state.step, sum(losses.values()))
            return
        if self._bar is None:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[speed]:.1f} images/s, loss {task.fields[loss]:.3f}"),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total, completed=state.step, speed=0.0, loss=0.0)
        stage = "burn-in" if progress.unlabeled_weight == 0 else "training"
        self._bar.update(
            self._task,
            completed=state.step,
            description=stage,
            speed=self.images / max(self.seconds, 1e-9),
            loss=sum(losses.values()),
        )

    def tell_progress(self, step: int, loss: float) -> None:
        """Now and then a line, where there is no bar (in files, notebooks and job queues)."""
        now = time.monotonic()
        if self._told is None:
            self._told = (step, now)
        steps, seconds = step - self._told[0], now - self._told[1]
        if seconds < QUIET_SECONDS or step == self.total:
            return
        left = minutes(seconds / steps * (self.total - step))
        self.say(
            f"step {step:>{len(str(self.total))}}/{self.total}  loss {loss:.3f}  {steps / seconds:.2f} steps/s  "
            f"{left} left at this speed"
        )
        self._told = (step, now)

    def row(self, state: State, scores: dict[str, Any]) -> None:
        """A row of metrics: mean losses since the last one, and scores if there was an evaluation."""
        means = {key: value / max(1, state.summed) for key, value in state.sums.items()}
        state.rows.append({"step": state.step, **means, **scores})
        state.sums, state.summed = {}, 0
        self.write(state.rows)
        for logger in self.loggers:
            logger.log(state.step, {**means, **scores})
        total = sum(means.values())
        parts = ", ".join(f"{key} {value:.4f}" for key, value in means.items())
        speed = self.images / max(self.seconds, 1e-9)
        self.note(f"step {state.step}/{self.total}: loss {total:.4f} ({parts}), {speed:.1f} images/s")
        self.seconds, self.images = 0.0, 0
        if scores:
            self.say(
                f"step {state.step:>{len(str(self.total))}}/{self.total}  loss {total:.3f}  "
                f"AP {scores['teacher_ap']:.1f} teacher, {scores['student_ap']:.1f} student  "
                f"AP50 {scores['teacher_ap50']:.1f}, {scores['student_ap50']:.1f}"
            )
            self._told = (state.step, time.monotonic())
            if "labels_score_best" in scores:
                self.note(label_line(scores))

    def write(self, rows: list[dict[str, Any]]) -> None:
        """metrics.csv, anew: a resumed run leaves no row of the part that is trained again."""
        if not self.speaks:
            return
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.out / "metrics.csv", text.getvalue().encode())

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        for logger in self.loggers:
            logger.close()
        self.loggers = ()


def label_line(scores: dict[str, Any]) -> str:
    """What the teacher's answers on val are worth as labels, in a line."""

    def percent(value: float) -> str:
        return "–" if math.isnan(value) else f"{100 * value:.0f} %"

    best = scores["labels_score_best"]
    cuts = {**({} if math.isnan(best) else {f"{best:g} (best F1)": "best"}), **{f"{t:g}": f"{t:g}" for t in HARD}}
    parts = [
        f"{percent(scores[f'labels_precision_{key}'])} right, {percent(scores[f'labels_recall_{key}'])} found at {name}"
        for name, key in cuts.items()
    ]
    return "labels of the teacher: " + "; ".join(parts)
