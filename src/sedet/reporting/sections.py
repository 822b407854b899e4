"""What pages share: what they show of a judged detector (the template ``judged.html``), of settings and of versions."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from sedet.catalog import METHODS
from sedet.config import TrainConfig
from sedet.data.split import few_to_judge
from sedet.reporting import run_charts
from sedet.reporting.gallery import ErrorGallery
from sedet.reporting.judged import Judged, most_confused
from sedet.reporting.run_folder import RunFolder
from sedet.settings import field_docs, names

MATRIX_CLASSES = 20
"""Classes of a confusion matrix that have a row of their own."""


def judged_values(
    judged: Judged | None,
    gallery: ErrorGallery | None,
    run: RunFolder | None = None,
    what: str = "Quality of the shipped detector",
) -> dict[str, Any]:
    """Everything that the template shows of a judged detector; without one the template is left out.

    Args:
        run: whose evaluations tell what the labels alone gave.
        what: the heading.
    """
    if judged is None:
        return {"judged": None, "few": None, "sweep": []}
    return {
        "judged": judged,
        "judged_what": what,
        "judged_on": judged.table.source,
        "few": few_to_judge(len(judged.table)),
        "curves": run_charts.curve_charts(judged),
        "parts": run_charts.part_charts(judged, run),
        "errors": run_charts.error_chart(judged),
        "sweep": sweep_rows(judged),
        "matrix": matrix_rows(judged),
        "confused": most_confused(judged.table, judged.confusion),
        "gallery": gallery,
        "gallery_classes": judged.table.classes,
    }


def sweep_rows(judged: Judged) -> list[list[float | None]]:
    """Score, precision, recall and labels an image, at every hundredth: for the page's script."""

    def plain(value: float) -> float | None:
        return None if np.isnan(value) else round(value, 4)

    return [[row.threshold, plain(row.precision), plain(row.recall), plain(row.labels)] for row in judged.sweep]


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix for a page: ``rows`` of a name, the number of objects, and cells of count, share and tone."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[tuple[int, float], ...]], ...]
    left_out: int


def matrix_rows(judged: Judged) -> Matrix:
    """The confusion matrix of the classes with the most objects; the others are left out, and counted."""
    classes, counts = judged.table.classes, judged.confusion
    n = len(classes)
    objects = judged.table.class_counts()
    seen = [c for c in range(n) if objects[c] or counts[:, c].any()]
    kept = sorted(sorted(seen, key=lambda c: -int(objects[c]))[:MATRIX_CLASSES])
    rows = []
    for row in [*kept, n]:
        total = int(counts[row].sum())
        cells = tuple((int(counts[row, c]), counts[row, c] / total if total else 0.0) for c in [*kept, n])
        rows.append((classes[row] if row < n else "left over", total, cells))
    return Matrix((*(classes[c] for c in kept), "missed"), tuple(rows), len(seen) - len(kept))


def setting_rows(config: TrainConfig, changed: bool = False) -> list[tuple[str, str, str]]:
    """Name, value and meaning of each setting; ``changed``: of those that differ from what the code has, which in a
    run are also those that its plan filled in.

    Groups of methods that were not used are left out.
    """
    unused = {entry.group for name, entry in METHODS.items() if entry.group and name != config.method}
    default, rows = TrainConfig(), []
    for name in names(TrainConfig):
        group, _, leaf = name.rpartition(".")
        if group in unused:
            continue
        holder: object = getattr(config, group) if group else config
        base: object = getattr(default, group) if group else default
        value = getattr(holder, leaf)
        if changed and value == getattr(base, leaf):
            continue
        cls: Any = type(holder)
        rows.append((name, _shown(value), field_docs(cls).get(leaf, "")))
    return rows


def maker_rows() -> list[tuple[str, str]]:
    """What made a page."""
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    made = f"sedet {version('sedet')}, {time.strftime('%Y-%m-%d %H:%M')}"
    return [("system of this report", system), ("report made by", made)]


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "–"
    if value is None:
        return "–"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
