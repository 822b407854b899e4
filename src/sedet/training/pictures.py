"""Pictures of a run: what it trains on, what its teacher teaches, what it ships, and its curves.

Drawn beside the training, never inside a loss, and never able to stop it.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sedet.data.batch import Batch, pixels
from sedet.data.images import read_image
from sedet.data.table import AnnotationTable
from sedet.detectors.build import Detector
from sedet.detectors.file import DEFAULT_SCORE, load_detector
from sedet.detectors.inference import detect
from sedet.detectors.regions import Detections
from sedet.errors import ImageError
from sedet.files import write_atomically
from sedet.methods.method import Method
from sedet.reporting.draw import draw_boxes, grid
from sedet.training.runlog import losses_by_part

if TYPE_CHECKING:
    from sedet.training.loop import Training

IMAGES = 4
"""Images of a batch that are drawn."""
PREDICTIONS = 6
"""Val images in the picture of predictions."""
EVERY = 30.0
"""Seconds between two drawings of the curves, at least: short runs draw them once, at their end."""


class Album:
    """Draws a run's pictures into its folder; only the process that ``speaks`` does.

    Args:
        out: run folder.
        classes: class names.
        val: images that the shipped detector is shown on, or None.
        warn: is given a line when a picture could not be drawn.
    """

    def __init__(
        self, out: Path, classes: Sequence[str], val: AnnotationTable | None, warn: Callable[[str], None], speaks: bool
    ) -> None:
        self.out, self.val, self.warn, self.speaks = out, val, warn, speaks
        self._drawn = time.monotonic()  # when the curves were drawn last
        self.names = {**dict(enumerate(classes)), len(classes): "(ignored)"}

    def watch(self, t: Training) -> None:
        """At the start, after every evaluation and at the end: what is worth a picture now."""
        step, schedule = t.state.step, t.schedule
        if not self.speaks:
            return
        if step == 0:
            self._draw(f"labeled_{step:06d}.png", lambda: labeled_picture(t.data[0][0], self.names))
        if t.data.unlabeled and (step in (schedule.burn_in, schedule.steps) or t.state.ended):
            item = min(step, schedule.steps - 1) * schedule.accumulate
            if step:
                self._draw(f"labeled_{step:06d}.png", lambda: labeled_picture(t.data[item][0], self.names))
            self._draw(f"unlabeled_{step:06d}.png", lambda: self._unlabeled(t, item))
        if t.state.rows and time.monotonic() - self._drawn > EVERY:
            self._curves(t)

    def finish(self, t: Training, detector: Path) -> None:
        """The curves to their end, and the shipped detector's answers beside the truth."""
        if not self.speaks:
            return
        if t.state.rows:
            self._curves(t)
        if self.val is not None and len(self.val) and detector.is_file():
            val = self.val
            self._draw("predictions.png", lambda: prediction_picture(val, detector, self.names, t.fabric.device))

    def _curves(self, t: Training) -> None:
        self._draw("../curves.png", lambda: curves(t.state.rows, t.schedule.burn_in, t.state.labels_alone))
        self._drawn = time.monotonic()

    def _unlabeled(self, t: Training, item: int) -> Image.Image:
        batch = t.data[item][1]
        assert batch is not None
        score = DEFAULT_SCORE if t.state.cut is None else t.state.cut
        given = batch.first(IMAGES + 1).to(t.fabric.device)  # the last is laid over the next
        return unlabeled_picture(given, t.teacher.model, self.names, t.module.method, score)

    def _draw(self, name: str, make: Callable[[], Image.Image]) -> None:
        try:
            data = io.BytesIO()
            make().save(data, format="PNG")
            write_atomically((self.out / "pictures" / name).resolve(), data.getvalue())
        except Exception as error:  # a full disk, a font: no picture is worth a training
            reason = getattr(error, "strerror", None) or str(error)
            self.warn(f"Warning: the picture {Path(name).name} could not be drawn ({type(error).__name__}: {reason}).")


def labeled_picture(batch: Batch, names: Mapping[int, str]) -> Image.Image:
    """Labelled strong views with the boxes that are learnt from, at both sizes; ignored regions are named so."""
    assert batch.targets is not None
    ignored = max(names)
    pictures, titles = [], []
    for i in range(min(IMAGES, len(batch))):
        target = batch.targets[i]
        boxes = torch.cat([target.boxes, target.ignore]).numpy()
        labels = torch.cat([target.labels, torch.full((len(target.ignore),), ignored)]).numpy()
        for part, images, scale in (("strong", batch.strong, 1), ("half", batch.half, 2)):
            image = _content(images[i], batch.content[i] // scale)
            pictures.append(draw_boxes(image, boxes / scale, labels, names))
            titles.append(f"{Path(batch.names[i]).name}: {part}")
    return grid(pictures, titles, columns=4, cell=480)


@torch.no_grad()
def unlabeled_picture(
    batch: Batch,
    teacher: Detector,
    names: Mapping[int, str],
    method: Method,
    score: float = DEFAULT_SCORE,
) -> Image.Image:
    """Unlabelled images as the teacher and the student see them, with what the teacher finds (and is asked to teach).

    Args:
        batch: on the teacher's device; the first images are drawn.
        method: whose student looks on (see Method.seen).
        score: lowest score of a box that is drawn.
    """
    assert batch.weak is not None
    answer = teacher(pixels(batch.weak), batch.content)
    found = teacher.detect(answer, batch.content, score_threshold=score)
    pairs = method.pairs and len(batch) > 1
    seen = method.seen(batch, pairs)
    view = "strong" if seen.strong is batch.strong else "student, in pairs" if pairs else "student"
    pictures, titles = [], []
    for i in range(min(IMAGES, len(batch))):
        own = _arrays([found[i]])
        shown = _arrays([found[i], found[(i + 1) % len(batch)]]) if pairs else own
        for part, image, content, scale, (boxes, labels, scores) in (
            ("weak", batch.weak[i], batch.content[i], 1, own),
            (view, seen.strong[i], seen.content[i], 1, shown),
            ("half", seen.half[i], seen.content[i] // 2, 2, shown),
        ):
            pictures.append(draw_boxes(_content(image, content), boxes / scale, labels, names, scores))
            titles.append(f"{Path(batch.names[i]).name}: {part}")
    return grid(pictures, titles, columns=3, cell=480)


def _arrays(found: Sequence[Detections]) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Boxes, labels and scores of all."""
    boxes, labels, scores = (
        torch.cat([getattr(d, name) for d in found]).cpu() for name in ("boxes", "labels", "scores")
    )
    return boxes.float().numpy(), labels.numpy().astype(np.int64), scores.float().numpy()


def prediction_picture(
    val: AnnotationTable, detector: Path, names: Mapping[int, str], device: torch.device
) -> Image.Image:
    """Val images with the truth, and with what the detector in a file finds."""
    loaded = load_detector(detector, device)
    filled = [i for i in range(len(val)) if len(val.objects[i])] or list(range(len(val)))
    chosen = [filled[round(k)] for k in np.linspace(0, len(filled) - 1, min(PREDICTIONS, len(filled)))]
    pictures, titles = [], []
    for index in chosen:
        entry, truth = val.images[index], val.objects[index]
        try:
            image = read_image(entry.path, use_exif=entry.use_exif)
        except ImageError:
            continue
        found = detect(loaded.model, [image], loaded.image_size, score_threshold=loaded.score)[0]
        labels = np.where(truth.ignored, max(names), truth.labels)
        pictures.append(draw_boxes(image, truth.boxes, labels, names))
        titles.append(f"{Path(entry.name).name}: truth")
        pictures.append(draw_boxes(image, found.boxes.numpy(), found.labels.numpy(), names, found.scores.numpy()))
        titles.append(f"detected, score {loaded.score:g} and more")
    return grid(pictures, titles, columns=4, cell=480)


def curves(rows: Sequence[Mapping[str, Any]], burn_in: int, labels_alone: float | None) -> Image.Image:
    """Losses, and AP of teacher and student, over the steps; the end of the burn-in is marked.

    Args:
        rows: of metrics.csv: ``step``, weighted losses by name, and ``teacher_ap``, ``student_ap`` at evaluations.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.margins(y=0.12)  # room for the mark
    steps = [row["step"] for row in rows]
    for label, values in losses_by_part(rows).items():
        left.plot(steps, values, label=label, linewidth=1.2)
    left.set(title="Losses (weighted)", xlabel="step", ylim=(0, None))
    judged = [row for row in rows if row.get("teacher_ap") is not None]
    for name, style in (("teacher", "-o"), ("student", "--s")):
        values = [float(row[f"{name}_ap"]) for row in judged]
        if judged:
            right.plot([row["step"] for row in judged], values, style, label=name, markersize=4)
    if labels_alone is not None:
        right.axhline(labels_alone, color="grey", linestyle=":", label="labels alone (end of burn-in)")
    right.set(title="AP on val" if judged else "AP: no val", xlabel="step", ylim=(0, None))
    for axes in (left, right):
        if 0 < burn_in <= max(steps):
            axes.axvline(burn_in, color="grey", linewidth=0.8)
            axes.annotate(
                " end of burn-in",
                (burn_in, 0.98),
                xycoords=("data", "axes fraction"),
                va="top",
                fontsize=8,
                color="grey",
            )
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    canvas.draw()  # type: ignore[no-untyped-call]
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())  # type: ignore[no-untyped-call]


def _content(image: Tensor, content: Tensor) -> NDArray[np.uint8]:
    """A view without its padding, uint8 [height, width, 3]."""
    width, height = (int(side) for side in content)
    array: NDArray[np.uint8] = image[:, :height, :width].permute(1, 2, 0).cpu().numpy()
    return array
