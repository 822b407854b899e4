"""``report.html`` of a comparison: which method is best on these labels, by how much, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sedet.compare.cells import ALL, Cell, Comparison, Pool
from sedet.compare.table import COLUMNS, caveats, cells_of, load_rows, read_detections, row_file
from sedet.data.formats import read_table
from sedet.data.layout import absolute
from sedet.data.table import AnnotationTable
from sedet.errors import SedetError
from sedet.evaluation.pseudo_labels import best_row, label_sweep
from sedet.predictor import Predictor, load
from sedet.reporting.comparison_charts import (
    ap_charts,
    cost_chart,
    fewest_labels,
    gain_charts,
    part_charts,
    training_charts,
)
from sedet.reporting.gallery import Budget, error_gallery
from sedet.reporting.judged import judge
from sedet.reporting.page import render
from sedet.reporting.pseudo_gallery import unlabeled_gallery
from sedet.reporting.run_charts import data_chart
from sedet.reporting.run_folder import Score, Verdict
from sedet.reporting.sections import (
    data_row,
    data_values,
    judged_values,
    maker_rows,
    pool_row,
    pseudo_values,
    setting_rows,
    trainer_rows,
)

Row = Mapping[str, Any]
SCORE = 0.3
"""Errors are counted from here on where no detection is right."""


def comparison_page(comparison: Comparison, entries: Sequence[Row], pool: Pool) -> bytes:
    """The page of a comparison, UTF-8.

    Args:
        entries: from :func:`sedet.compare.table.summarize`; one at least.
        pool: what labels were drawn from, what every cell was judged by, and the unlabelled images.
    """
    budget = Budget()
    rows, val = load_rows(comparison), pool.val
    best = _best_cell(entries, rows)
    judged = gallery = predictor = pseudo = None
    if best is not None and val.class_counts().sum():
        found = read_detections(row_file(comparison, best), len(val))
        top = best_row(label_sweep(val, found))
        judged = judge(val, found, SCORE if top is None else top.threshold)
        gallery = error_gallery(val, found, judged.cut, budget)
    which = "" if best is None else f"{best.label}, {best.labels} of the labels, fold {best.fold}"
    missing = "No run has an AP, so there is no best method to show pseudo labels of."
    if best is not None:
        predictor, missing = _detector(comparison, best)
    if best is not None and predictor is not None:
        paths = _without_labels(comparison, best, pool)
        pseudo = unlabeled_gallery(predictor, paths, budget, f"the detector of {which},")
        missing = "There are no unlabelled images to show pseudo labels on."
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
        charts=[*ap_charts(entries), *gain_charts(entries), *part_charts(entries, rows), cost_chart(entries)],
        training=training_charts(comparison.out / "runs", entries, rows),
        **judged_values(judged, gallery, what=f"Quality of {which}"),
        **pseudo_values(pseudo, missing),
        **data_values(
            "What was learnt from and judged by",
            _data_rows(comparison, rows, pool),
            data_chart(pool.table, "to draw labels from"),
        ),
        runs=_run_rows(comparison, rows),
        changed=setting_rows(
            comparison.settings, changed=True, methods=list(dict.fromkeys(cell.method for cell in rows))
        ),
        environment=_environment(comparison, list(rows.values()), predictor),
        left_out=budget.left_out,
    )
    return page.encode("utf-8", "backslashreplace")


def comparison_verdict(entries: Sequence[Row]) -> Verdict:
    """What the labels alone gave with the fewest labels, and what the best method added to it."""
    fewest = fewest_labels(entries)
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
        several = "methods and settings" if any(":" in entry["method"] for entry in rivals) else "methods"
        notes.append(f"{best['method']} is the best of {len(rivals)} {several} here, which flatters it a little.")
    if best is not None and (best["paired"] or 0) > 1:
        notes.append(f"It is ahead of supervised in {best['ahead']} of {best['paired']} pairs of runs.")
    notes += caveats(fewest)
    return Verdict(headline, gain, tuple(scores), tuple(notes), "", good)


def _runs(entry: Row) -> str:
    spread = "" if entry["ap_deviation"] is None else f" ± {entry['ap_deviation']:.1f}"
    return f"{entry['runs']} runs{spread}" if entry["runs"] > 1 else "1 run"


def _best_cell(entries: Sequence[Row], rows: Mapping[Cell, Row]) -> Cell | None:
    """The first run of the best method with the fewest labels."""
    known = [entry for entry in fewest_labels(entries) or entries if entry["ap"] is not None]
    if not known:
        return None
    best = max(known, key=lambda entry: entry["ap"])
    same = [c for c in rows if c.label == best["method"] and rows[c]["labels"] == best["labels"]]
    return min(same, default=None)


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


def _detector(comparison: Comparison, cell: Cell) -> tuple[Predictor | None, str]:
    """The detector of a cell; or None, and why there is none, in a sentence."""
    file = Path("runs") / cell.name / "best.safetensors"
    if not (comparison.out / file).is_file():
        return None, f"The best run's detector, {file.as_posix()}, is not here, so its pseudo labels are not shown."
    try:
        return load(comparison.out / file, comparison.settings.device), ""
    except SedetError as error:
        return None, f"The best run's detector cannot be loaded, so its pseudo labels are not shown: {error}"


def _labeled_part(comparison: Comparison, cell: Cell, pool: Pool) -> AnnotationTable | None:
    """The labels that were drawn for a cell; None where they are gone."""
    if cell.percent == ALL:
        return pool.table
    try:
        return read_table(comparison.out / "data" / cell.data / "labeled.json", absolute(pool.table.root))
    except SedetError:
        return None


def _without_labels(comparison: Comparison, cell: Cell, pool: Pool) -> list[Path]:
    """The unlabelled images of a cell, without those whose labels it had."""
    part = _labeled_part(comparison, cell, pool)
    labeled = set() if part is None else {absolute(entry.path) for entry in part.images}
    every = [*(entry.path for entry in pool.table.images), *pool.more]
    return [path for path in every if absolute(path) not in labeled]


def _data_rows(comparison: Comparison, rows: Mapping[Cell, Row], pool: Pool) -> list[tuple[str, ...]]:
    """What labels were drawn from, the first fold of each share of them, what was judged by, and the pool."""
    found = []
    first = {(cell.percent, cell.shots): cell for cell in sorted(rows, reverse=True) if cell.percent != ALL}
    for cell in sorted(first.values()):
        part = _labeled_part(comparison, cell, pool)
        if part is not None:
            found.append(data_row(f"labelled, {cell.labels}, fold {cell.fold}", part))
    found += [data_row("labelled, all", pool.table), data_row("validation", pool.val)]
    return [*found, pool_row("unlabelled, with the labelled images", len(pool.table) + len(pool.more))]


def _environment(comparison: Comparison, rows: Sequence[Row], predictor: Predictor | None) -> list[tuple[str, str]]:
    told = [("labelled data", comparison.data), ("judged by", comparison.val)]
    for key in ("detector", "backbone", "image_size", "steps", "batch", "rate"):
        values = dict.fromkeys(_told(row[key]) for row in rows if row.get(key) is not None)
        told += [(key, ", ".join(values))] if values else []
    return [*told, *trainer_rows(rows), *maker_rows(None if predictor is None else predictor.device)]


def _told(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shown(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"
