"""The charts of a run's report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sedet.data.table import AnnotationTable
from sedet.reporting.charts import Chart, Series, bars, lines
from sedet.reporting.judged import Judged
from sedet.reporting.run_folder import RunFolder
from sedet.training.runlog import losses_by_part

MOST_CLASSES = 7
"""Classes with a line or a bar of their own: those with the most objects."""

QUALITY = {"0.5": "from score 0.5", "0.7": "from score 0.7", "0.9": "from score 0.9", "best": "at the best F1"}


def training_charts(run: RunFolder) -> list[Chart]:
    """Losses, AP of teacher and student, and what the teacher's answers are worth as labels, over the steps."""
    if not run.rows:
        return []
    mark = ("unlabelled images join", float(run.burn_in)) if 0 < run.burn_in <= run.step else None
    end = (0.0, float(max(run.config.steps or 0, run.step)))
    charts = []
    steps = [row["step"] for row in run.rows]
    groups = [
        Series(label, steps, [y if y or label == "labelled" else math.nan for y in values])
        for label, values in losses_by_part(run.rows).items()
    ]
    if groups:
        ends = ", ".join(f"{one.name} {_last(one):.2f}" for one in groups)
        charts.append(
            lines(
                "Losses",
                groups,
                x_label="step",
                description=f"Weighted losses over the steps; at the end: {ends}.",
                x_range=end,
                digits=3,
                at=mark,
                table=False,
            )
        )
    judged = run.judged
    if judged:
        at = [row["step"] for row in judged]
        series = [
            Series(who, at, [row.get(f"{who}_ap", math.nan) for row in judged])
            for who in ("teacher", "student")
            if any(f"{who}_ap" in row for row in judged)
        ]
        best = max(judged, key=lambda row: _or_zero(row["teacher_ap"]))
        charts.append(
            lines(
                "AP on validation images",
                series,
                x_label="step",
                y_label="AP",
                description=f"The teacher's AP ends at {judged[-1]['teacher_ap']:.1f}; its best is "
                f"{best['teacher_ap']:.1f}, at step {best['step']:g}.",
                x_range=end,
                marker=True,
                at=mark,
            )
        )
        charts += _label_charts(judged, end, mark)
    return charts


def _label_charts(
    judged: Sequence[Mapping[str, float]], end: tuple[float, float], mark: tuple[str, float] | None
) -> list[Chart]:
    """Precision and recall of pseudo labels."""
    at = [row["step"] for row in judged]
    charts = []
    words = {"precision": "right, of what the teacher labels", "recall": "labelled, of all objects"}
    for what, text in words.items():
        keys = [key for key in QUALITY if any(f"labels_{what}_{key}" in row for row in judged)]
        if not keys:
            continue
        series = [
            Series(QUALITY[key], at, [row.get(f"labels_{what}_{key}", math.nan) for row in judged]) for key in keys
        ]
        charts.append(
            lines(
                f"Pseudo labels: {what}",
                series,
                x_label="step",
                y_label=text,
                description=f"{what.capitalize()} of the teacher's answers as labels, on validation images, by the "
                "score they are cut at.",
                x_range=end,
                y_range=(0, 1.02),
                percent=True,
                marker=True,
                at=mark,
            )
        )
    return charts


def curve_charts(judged: Judged) -> list[Chart]:
    """Precision over recall by class, and F1, precision and recall over the score, with the best threshold."""
    shown = sorted((c for c in judged.classes if c.objects and c.recalls), key=lambda c: -c.objects)[:MOST_CLASSES]
    best = judged.best
    together = [row for row in judged.sweep if not math.isnan(row.precision)]
    curve = Series("all classes", [row.recall for row in together], [row.precision for row in together])
    series = [curve, *(Series(c.name, c.recalls, c.precisions) for c in shown if len(judged.classes) > 1)]
    dots = [] if best is None else [("best F1", best.recall, best.precision)]
    more = len([c for c in judged.classes if c.objects]) - len(shown)
    which = ", by class."
    if more > 0:
        which = f"; {len(shown)} of {more + len(shown)} classes: those with the most objects and any detection."
    charts = [
        lines(
            "Precision over recall",
            series,
            x_label="recall",
            y_label="precision",
            description="At IoU 0.5"
            + which
            + ("" if best is None else f" The circle is the best F1 of all classes, at score {best.threshold:g}."),
            x_range=(0, 1.02),
            y_range=(0, 1.03),
            digits=2,
            dots=dots,
            table=False,
        )
    ]
    scores = [row.threshold for row in judged.sweep]
    f1 = [_f1(row.precision, row.recall) for row in judged.sweep]
    said = (
        "" if best is None else f"The best F1, {_f1(best.precision, best.recall):.2f}, is at score {best.threshold:g}."
    )
    charts.append(
        lines(
            "F1 over the score threshold",
            [
                Series("F1", scores, f1),
                Series("precision", scores, [row.precision for row in judged.sweep]),
                Series("recall", scores, [row.recall for row in judged.sweep]),
            ],
            x_label="score threshold",
            description=f"All classes together, IoU 0.5. {said}",
            x_range=(0, 1),
            y_range=(0, 1.03),
            digits=2,
            dots=[] if best is None else [("best", best.threshold, _f1(best.precision, best.recall))],
            cursor=True,
            table=False,
        )
    )
    return charts


def part_charts(judged: Judged, run: RunFolder | None) -> list[Chart]:
    """AP by class and by size of objects; by size also of the labels alone, where metrics.csv has it."""
    shown = sorted((c for c in judged.classes if c.objects), key=lambda c: -c.objects)[:20]
    charts = []
    if shown:
        low = min(shown, key=lambda c: _or_zero(c.ap))
        charts.append(
            bars(
                "AP by class",
                [f"{c.name} ({c.objects})" for c in shown],
                [("AP50", [c.ap50 for c in shown]), ("AP", [c.ap for c in shown])],
                x_label="percent points",
                description=f"The weakest class is {low.name} with AP {low.ap:.1f}. In brackets: objects.",
            )
        )
    sizes = ("small", "medium", "large")
    groups = [("shipped", [getattr(judged.metrics, f"ap_{size}") for size in sizes])]
    start = _burn_in_row(run)
    if start is not None:
        groups.insert(0, ("end of burn-in", [start.get(f"teacher_ap_{size}", math.nan) for size in sizes]))
    small, large = judged.metrics.area_ranges
    charts.append(
        bars(
            "AP by size of objects",
            list(sizes),
            groups,
            x_label="AP",
            description=f"Small is under {small:g}², large over {large:g}² pixels of the original image.",
        )
    )
    return charts


def _burn_in_row(run: RunFolder | None) -> dict[str, float] | None:
    """The evaluation at the end of the burn-in, if the teacher was the better one: students' sizes are not shown."""
    if run is None or not run.burn_in:
        return None
    row = next((row for row in run.judged if row["step"] == run.burn_in), None)
    if row is None or run.step <= run.burn_in or row["teacher_ap"] < row.get("student_ap", -math.inf):
        return None
    return row


def error_chart(judged: Judged) -> Chart:
    """Errors by TIDE's kinds: what mending each would gain."""
    kinds = list(judged.errors["dap"])
    counts, gains = judged.errors["counts_from_cut"], judged.errors["dap"]
    worst = max(kinds, key=lambda kind: _or_zero(gains[kind]))
    return bars(
        "What errors cost",
        [f"{kind} ({counts[kind]})" for kind in kinds],
        [("AP50 to gain", [gains[kind] for kind in kinds])],
        x_label="AP50 points if mended",
        description=f"Mending {worst} errors would gain most, {gains[worst]:.1f} AP50. In brackets: how many "
        f"there are from score {judged.cut:g} on.",
    )


def data_chart(table: AnnotationTable, use: str = "to learn from") -> Chart | None:
    """Labelled boxes by class.

    Args:
        use: what the boxes are for.
    """
    counts = table.class_counts()
    order = sorted(range(len(counts)), key=lambda c: -int(counts[c]))[:20]
    if not order:
        return None
    return bars(
        "Labelled boxes by class",
        [table.classes[c] for c in order],
        [("boxes", [float(counts[c]) for c in order])],
        x_label=f"boxes {use}",
        description=f"{int(counts.sum())} boxes in {len(table)} images.{_ratio(counts)}",
        digits=0,
    )


def _ratio(counts: NDArray[np.int64]) -> str:
    """How unequal the classes that have boxes are, in a sentence."""
    there = counts[counts > 0]
    if len(there) < 2:
        return ""
    return f" The most frequent class has {there.max() / there.min():.1f} times the boxes of the rarest."


def _f1(precision: float, recall: float) -> float:
    both = precision + recall
    return 2 * precision * recall / both if both > 0 else (math.nan if math.isnan(both) else 0.0)


def _last(one: Series) -> float:
    return next((y for y in reversed(one.y) if not math.isnan(y)), math.nan)


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
