"""``report.html`` of a comparison: which method is best on these labels, by how much, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedet.compare.cells import Cell, Comparison
from sedet.compare.table import COLUMNS, caveats, cells_of, load_rows, read_detections, row_file
from sedet.data.table import AnnotationTable
from sedet.evaluation.pseudo_labels import best_row, label_sweep
from sedet.reporting.charts import Chart, Series, bars, lines
from sedet.reporting.gallery import Budget, error_gallery
from sedet.reporting.judged import judge
from sedet.reporting.page import render
from sedet.reporting.run_folder import Score, Verdict
from sedet.reporting.sections import judged_values, maker_rows, setting_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
MOST_METHODS = 8
"""Methods with a line of their own: those that the colours tell apart."""
SCORE = 0.3
"""Errors are counted from here on where no detection is right."""


def comparison_page(comparison: Comparison, entries: Sequence[Row], val: AnnotationTable) -> bytes:
    """The page of a comparison, UTF-8.

    Args:
        entries: from :func:`sedet.compare.table.summarize`; one at least.
        val: what every cell was judged by.
    """
    budget = Budget()
    rows = load_rows(comparison)
    best = _best_cell(entries, rows)
    judged = gallery = None
    if best is not None and val.class_counts().sum():
        found = read_detections(row_file(comparison, best), len(val))
        top = best_row(label_sweep(val, found))
        judged = judge(val, found, SCORE if top is None else top.threshold)
        gallery = error_gallery(val, found, judged.cut, budget)
    what = "" if best is None else f"Quality of {best.method}, {best.labels} of the labels, fold {best.fold}"
    methods = list(dict.fromkeys(entry["method"] for entry in entries))
    labels = list(dict.fromkeys(entry["labels"] for entry in entries))
    page = render(
        "comparison.html",
        kind="Comparison of methods",
        title=comparison.out.absolute().name,
        subtitle=f"{', '.join(methods)}; labels: {', '.join(labels)}; judged on {len(val)} images of {val.source}",
        verdict=comparison_verdict(entries),
        missing=[cell.name for cell in comparison.cells if cell not in rows],
        columns=COLUMNS,
        table_rows=[cells_of(dict(entry)) for entry in entries],
        caveats=caveats(entries),
        charts=[*_ap_charts(entries), *_gain_charts(entries), *_part_charts(entries, rows), _cost_chart(entries)],
        **judged_values(judged, gallery, what=what),
        runs=_run_rows(comparison, rows),
        changed=setting_rows(comparison.settings, changed=True),
        environment=_environment(comparison, list(rows.values())),
        left_out=budget.left_out,
    )
    return page.encode("utf-8", "backslashreplace")


def comparison_verdict(entries: Sequence[Row]) -> Verdict:
    """What the labels alone gave with the fewest labels, and what the best method added to it."""
    fewest = _fewest(entries)
    scores: list[Score] = []
    labels = fewest[0]["labels"] if fewest else "all"
    alone = next((e for e in fewest if e["method"] == "supervised"), None)
    rivals = [e for e in fewest if e["method"] != "supervised" and e["ap"] is not None]
    best = max(rivals, key=lambda e: e["ap"], default=None)
    if alone is not None and alone["ap"] is not None:
        scores.append(Score("Labels alone", alone["ap"], f"supervised, {labels} of the labels, {_runs(alone)}"))
    if best is not None:
        scores.append(Score("With unlabelled images", best["ap"], f"{best['method']}, {_runs(best)}"))
    top = next((e for e in entries if e["ceiling"] and e["ap"] is not None), None)
    if top is not None:
        scores.append(Score("All labels", top["ap"], f"supervised, {_runs(top)}"))
    notes: list[str] = []
    gain, good = None, None
    if best is None:
        headline = "No method that uses unlabelled images was judged."
    elif best["gain"] is None:
        headline = f"{best['method']} reaches {best['ap']:.1f} AP with {labels} of the labels."
        notes.append("What unlabelled images added is not known: supervised is missing with the same folds and seeds.")
    else:
        gain, low, high = best["gain"], best["low"], best["high"]
        word = "added" if gain > 0 else "cost"
        headline = f"With {labels} of the labels, unlabelled images {word} {abs(gain):.1f} AP ({best['method']})."
        if abs(gain) < 0.05:
            headline = f"With {labels} of the labels, unlabelled images made no difference ({best['method']})."
        elif low > 0 or high < 0:
            good = gain > 0
        notes.append(
            f"The gain's 95 % interval is {low:+.1f} to {high:+.1f} AP"
            + ("." if low > 0 or high < 0 else ": it may as well be nothing.")
        )
        if best["gap_share"] is not None:
            notes.append(f"That is {100 * best['gap_share']:.0f} % of the way to all labels.")
    if best is not None and len(rivals) > 1:
        notes.append(f"{best['method']} is the best of {len(rivals)} methods here, which flatters it a little.")
    if best is not None and (best["paired"] or 0) > 1:
        notes.append(f"It is ahead of supervised in {best['ahead']} of {best['paired']} pairs of runs.")
    notes += caveats(fewest)
    return Verdict(headline, gain, tuple(scores), tuple(notes), "", good)


def _fewest(entries: Sequence[Row]) -> list[Row]:
    """The entries with the fewest labels, the ceiling aside."""
    shares = [entry for entry in entries if not entry["ceiling"]]
    return [entry for entry in shares if entry["labels"] == shares[0]["labels"]]


def _runs(entry: Row) -> str:
    spread = "" if entry["ap_deviation"] is None else f" ± {entry['ap_deviation']:.1f}"
    return f"{entry['runs']} runs{spread}" if entry["runs"] > 1 else "1 run"


def _best_cell(entries: Sequence[Row], rows: Mapping[Cell, Row]) -> Cell | None:
    """The first run of the best method with the fewest labels."""
    known = [entry for entry in _fewest(entries) or entries if entry["ap"] is not None]
    if not known:
        return None
    best = max(known, key=lambda entry: entry["ap"])
    same = [c for c in rows if c.method == best["method"] and rows[c]["labels"] == best["labels"]]
    return min(same, default=None)


def _ap_charts(entries: Sequence[Row]) -> list[Chart]:
    """AP over the number of labels, where there are several."""
    shares = list(dict.fromkeys(e["labels"] for e in entries if not e["ceiling"]))
    methods = list(dict.fromkeys(e["method"] for e in entries if not e["ceiling"]))[:MOST_METHODS]
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
        description="Mean over folds and seeds." + ("" if top is None else f" All labels give {top:.1f} AP."),
        x_range=(-0.3, len(shares) - 0.7),
        marker=True,
        level=None if top is None else ("all labels", top),
        table=False,
        more=ticks,
        x_names=shares,
    )
    return [chart]


def _gain_charts(entries: Sequence[Row]) -> list[Chart]:
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


def _part_charts(entries: Sequence[Row], rows: Mapping[Cell, Row]) -> list[Chart]:
    """AP by method, by size and by class, with the fewest labels."""
    fewest = _fewest(entries) or list(entries)
    methods = [entry["method"] for entry in fewest][:MOST_METHODS]
    of = {
        method: [r for c, r in rows.items() if c.method == method and r["labels"] == fewest[0]["labels"]]
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
            description="Mean over folds and seeds.",
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


def _cost_chart(entries: Sequence[Row]) -> Chart:
    return bars(
        "Time of a run",
        [f"{entry['method']}, {entry['labels']}" for entry in entries],
        [("minutes", [_number(entry["seconds"]) / 60 for entry in entries])],
        x_label="minutes, the shared burn-in included",
        description="On the machine that ran it.",
    )


def _run_rows(comparison: Comparison, rows: Mapping[Cell, Row]) -> list[dict[str, Any]]:
    """Every run that is there, with its own report where that is beside this one."""
    found = []
    for cell, row in rows.items():
        own = Path("runs") / cell.name / "report.html"
        found.append(
            {
                "name": cell.name,
                "report": own.as_posix() if (comparison.out / own).is_file() else "",
                "cells": (
                    row["labels"],
                    row["method"],
                    str(cell.fold),
                    str(cell.seed),
                    _shown(row["ap"]),
                    _shown(row["ap50"]),
                    _shown(row["burn_in_ap"]),
                    "–" if row["seconds"] is None else f"{row['seconds'] / 60:.0f} min",
                ),
            }
        )
    return found


def _environment(comparison: Comparison, rows: Sequence[Row]) -> list[tuple[str, str]]:
    told = [("labelled data", comparison.data), ("judged by", comparison.val)]
    for key in ("device", "detector", "backbone", "image_size", "steps", "batch", "rate"):
        values = dict.fromkeys(str(row[key]) for row in rows if row.get(key) is not None)
        told += [(key, ", ".join(values))] if values else []
    versions: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in (row.get("versions") or {}).items():
            versions.setdefault(name, {})[str(value)] = None
    return [*told, *((f"trained with {name}", ", ".join(values)) for name, values in versions.items()), *maker_rows()]


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _shown(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"
