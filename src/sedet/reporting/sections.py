"""What pages share: what they show of a judged detector (the template ``judged.html``), of pseudo labels, of data, of
settings, and of what made them."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from sedet.catalog import METHODS
from sedet.config import TrainConfig
from sedet.data.split import few_to_judge
from sedet.data.table import AnnotationTable
from sedet.origin import commit, device_name, processor_name
from sedet.reporting import run_charts
from sedet.reporting.charts import Chart
from sedet.reporting.gallery import ErrorGallery
from sedet.reporting.judged import Judged, most_confused
from sedet.reporting.pseudo_gallery import PseudoGallery
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


def pseudo_values(gallery: PseudoGallery | None, missing: str = "") -> dict[str, Any]:
    """What the template ``pseudo.html`` shows.

    Args:
        missing: why there is no gallery, a sentence; "" leaves the section out.
    """
    return {"pseudo": gallery if gallery is not None and gallery.pictures else None, "pseudo_missing": missing}


def data_values(
    caption: str, rows: Sequence[tuple[str, ...]], chart: Chart | None, log: Sequence[str] = ()
) -> dict[str, Any]:
    """What the template ``data.html`` shows: a table of the parts of the data, and boxes by class.

    Args:
        rows: from :func:`data_row` and :func:`pool_row`.
        log: what the training said.
    """
    return {"data_caption": caption, "data_rows": rows, "data_chart": chart, "log": log}


def data_row(name: str, table: AnnotationTable) -> tuple[str, ...]:
    """Name, images, boxes, boxes an image, and the median side of a box in pixels of the original image."""
    boxes = int(table.class_counts().sum())
    areas = np.concatenate([o.areas[~o.ignored] for o in table.objects]) if len(table) else np.zeros(0)
    side = f"{float(np.sqrt(np.median(areas))):.0f} px" if len(areas) else "–"
    return name, f"{len(table):,}", f"{boxes:,}", f"{boxes / max(1, len(table)):.1f}", side


def pool_row(name: str, images: int) -> tuple[str, ...]:
    """The same of images without labels."""
    return name, f"{images:,}", "–", "–", "–"


def setting_rows(config: TrainConfig, changed: bool = False, methods: Sequence[str] = ()) -> list[tuple[str, str, str]]:
    """Name, value and meaning of each setting; ``changed``: of those that differ from what the code has, which in a
    run are also those that its plan filled in.

    Groups of methods that were not used are left out.

    Args:
        methods: that were used. Default: the one of the settings.
    """
    used = methods or (config.method,)
    unused = {entry.group for name, entry in METHODS.items() if entry.group and name not in used}
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


def trainer_rows(told: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What trainings ran on and with, as far as their detectors' files or rows tell; of several trainings every value.

    Args:
        told: ``device``, a name, ``commit`` and ``versions`` by package, of each training; files from before may lack
            them.
    """
    found: dict[str, dict[str, None]] = {}
    for facts in told:
        versions = facts.get("versions")
        values = {"trained on": facts.get("device")}
        values |= {f"trained with {name}": v for name, v in versions.items()} if isinstance(versions, Mapping) else {}
        values |= {"trained at commit": facts.get("commit")}
        for name, value in values.items():
            if isinstance(value, str):
                found.setdefault(name, {})[value] = None
    return [(name, ", ".join(values)) for name, values in found.items()]


def maker_rows(device: torch.device | None = None) -> list[tuple[str, str]]:
    """What made a page.

    Args:
        device: where it ran a detector; None where it ran none.
    """
    rows = [("processor of this report", processor_name())]
    if device is not None and device.type == "cuda":
        rows.append(("GPU of this report", device_name(device)))
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    made = f"sedet {version('sedet')}, {time.strftime('%Y-%m-%d %H:%M')}"
    rows += [("system of this report", system), ("report made by", made)]
    known = commit()
    return rows if known is None else [*rows, ("report made at commit", known)]


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "–"
    if value is None:
        return "–"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
