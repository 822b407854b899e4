"""The charts of a comparison's report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedet.compare.cells import Cell
from sedet.compare.table import read_record
from sedet.errors import ConfigError
from sedet.reporting.charts import Chart, Series, bars, lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
MOST_METHODS = 8
"""Methods with a line of their own: those that the colours tell apart."""


def shown_methods(entries: Sequence[Row]) -> tuple[list[str], str]:
    """The methods that have a line of their own, in the order of the table, and a word on the others.

    Where there are too many: supervised, and those with the highest AP.
    """
    methods = list(dict.fromkeys(entry["method"] for entry in entries if not entry["ceiling"]))
    if len(methods) <= MOST_METHODS:
        return methods, ""
    best = {method: max(_low(e["ap"]) for e in entries if e["method"] == method) for method in methods}
    ranked = sorted(methods, key=lambda method: (method != "supervised", -best[method]))[:MOST_METHODS]
    aside = ", and supervised" if "supervised" in ranked else ""
    return [m for m in methods if m in ranked], f" Of {len(methods)} those with the highest AP{aside}."


def _low(value: float | None) -> float:
    return -1.0 if value is None or math.isnan(value) else value


def fewest_labels(entries: Sequence[Row]) -> list[Row]:
    """The entries with the fewest labels, the ceiling aside."""
    shares = [entry for entry in entries if not entry["ceiling"]]
    return [entry for entry in shares if entry["labels"] == shares[0]["labels"]]


def training_charts(runs: Path, entries: Sequence[Row], rows: Mapping[Cell, Row]) -> list[Chart]:
    """The teacher's AP over the steps of each method, with the fewest labels.

    Args:
        runs: folder of the run folders, each with the record of its metrics beside it.
    """
    fewest = fewest_labels(entries)
    methods, others = shown_methods(fewest)
    series, ends, joins = [], [], []
    for method in methods:
        cells = [c for c, r in rows.items() if c.label == method and r["labels"] == fewest[0]["labels"]]
        known = [aps for cell in cells if (aps := _judged(runs / f"{cell.name}.json"))]
        steps = sorted(set.intersection(*(set(aps) for aps in known))) if known else []
        if not steps:
            continue
        series.append(Series(method, steps, [_mean([aps[step] for aps in known]) for step in steps]))
        ends.append(f"{method} {series[-1].y[-1]:.1f}")
        share = (rows[cells[0]].get("settings") or {}).get("burn_in")
        joins += [round(share * rows[cells[0]]["steps"])] if share else []
    if not series:
        return []
    top = next((entry["ap"] for entry in entries if entry["ceiling"] and entry["ap"] is not None), None)
    return [
        lines(
            f"AP on the validation images, {fewest[0]['labels']} of the labels",
            series,
            x_label="step",
            y_label="AP",
            description=f"The teacher's, mean over folds and seeds; at the end: {', '.join(ends)}. Runs on the same "
            f"labels share their burn-in.{others}",
            x_range=(0, max(one.x[-1] for one in series)),
            marker=True,
            level=None if top is None else ("all labels", top),
            at=("unlabelled images join", joins[0]) if joins else None,
        )
    ]


def _judged(record: Path) -> dict[float, float]:
    """The teacher's AP by step that a run kept; {} where its record is gone."""
    try:
        rows = read_record(record).get("rows")
    except (OSError, ConfigError):
        return {}
    told = [(row.get("step"), row.get("teacher_ap")) for row in rows or () if isinstance(row, dict)]
    return {step: ap for step, ap in told if isinstance(step, int) and isinstance(ap, (int, float))}


def ap_charts(entries: Sequence[Row]) -> list[Chart]:
    """AP over the number of labels, where there are several."""
    shares = list(dict.fromkeys(e["labels"] for e in entries if not e["ceiling"]))
    methods, others = shown_methods(entries)
    top = next((e["ap"] for e in entries if e["ceiling"] and e["ap"] is not None), None)
    if len(shares) < 2:
        return []

    def ap(method: str, labels: str) -> float:
        found = (e["ap"] for e in entries if e["method"] == method and e["labels"] == labels and not e["ceiling"])
        return _number(next(found, None))

    def ticks(axes: Axes) -> None:
        axes.set_xticks(range(len(shares)), shares)

    series = [
        Series(method, list(map(float, range(len(shares)))), [ap(method, label) for label in shares])
        for method in methods
    ]
    chart = lines(
        "AP by labels",
        series,
        x_label="labels",
        y_label="AP",
        description="Mean over folds and seeds." + ("" if top is None else f" All labels give {top:.1f} AP.") + others,
        x_range=(-0.3, len(shares) - 0.7),
        marker=True,
        level=None if top is None else ("all labels", top),
        table=False,
        more=ticks,
        x_names=shares,
    )
    return [chart]


def gain_charts(entries: Sequence[Row]) -> list[Chart]:
    """The gain over supervised with its interval."""
    gains = [entry for entry in entries if entry["gain"] is not None]
    if not gains:
        return []
    return [
        bars(
            "Gain over the labels alone",
            [f"{entry['method']}, {entry['labels']}" for entry in gains],
            [("gain", [entry["gain"] for entry in gains])],
            x_label="AP",
            description="The line through a bar is the 95 % interval over the images: where it crosses zero, the gain "
            "may be chance.",
            ends=[(entry["low"], entry["high"]) for entry in gains],
        )
    ]


def part_charts(entries: Sequence[Row], rows: Mapping[Cell, Row]) -> list[Chart]:
    """AP by method, by size and by class, with the fewest labels."""
    fewest = fewest_labels(entries) or list(entries)
    methods, others = shown_methods(fewest)
    methods = methods or [entry["method"] for entry in fewest]  # the ceiling alone
    of = {
        method: [r for c, r in rows.items() if c.label == method and r["labels"] == fewest[0]["labels"]]
        for method in methods
    }
    charts = [
        bars(
            f"AP, {fewest[0]['labels']} of the labels",
            methods,
            [
                (name, [_mean([row[key] for row in of[method]]) for method in methods])
                for name, key in (("AP", "ap"), ("AP50", "ap50"))
            ],
            x_label="percent points",
            description=f"Mean over folds and seeds.{others}",
        ),
        bars(
            "AP by size of objects",
            ["small", "medium", "large"],
            [
                (method, [_mean([row[f"ap_{size}"] for row in of[method]]) for size in ("small", "medium", "large")])
                for method in methods
            ],
            x_label="AP",
            description="Small is under 32², large over 96² pixels of the original image.",
        ),
    ]
    counts: dict[str, int] = {}
    for row in (row for group in of.values() for row in group):
        counts |= {name: int(figures["boxes"] or 0) for name, figures in row["per_class"].items()}
    names = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])[:15]
    if len(names) > 1:
        charts.append(
            bars(
                "AP by class",
                [f"{name} ({counts[name]})" for name in names],
                [
                    (
                        method,
                        [_mean([row["per_class"].get(name, {}).get("ap") for row in of[method]]) for name in names],
                    )
                    for method in methods
                ],
                x_label="AP (objects in brackets)",
                description="" if len(names) == len(counts) else "The classes with the most objects.",
            )
        )
    return charts


def cost_chart(entries: Sequence[Row]) -> Chart:
    return bars(
        "Time of a run",
        [f"{entry['method']}, {entry['labels']}" for entry in entries],
        [("minutes", [_number(entry["seconds"]) / 60 for entry in entries])],
        x_label="minutes, the shared burn-in included",
        description="On the machine that ran it.",
    )


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _number(value: float | None) -> float:
    return math.nan if value is None else value
