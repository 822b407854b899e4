"""The table of a comparison: mean and deviation, gain over supervised, share of the gap, how sure it is, and cost."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sedet.compare.cells import Cell, Comparison
from sedet.data.table import AnnotationTable
from sedet.data.write import write_json, write_text
from sedet.errors import ConfigError
from sedet.evaluation.bootstrap import Pair, joint_bootstrap
from sedet.evaluation.stored import load_detections

Row = dict[str, Any]
COLUMNS = ("labels", "method", "AP", "AP50", "AP75", "gain [95 %]", "of gap", "runs", "time", "memory")
NARROW = ("AP75", "memory")
"""Left out on a terminal, so that a row fits a line of 80."""
DRAWS = 1000


def load_rows(comparison: Comparison) -> dict[Cell, Row]:
    """The rows that are there, of the cells that were asked for."""
    found = {}
    for cell in comparison.cells:
        path = row_file(comparison, cell)
        if path.is_file():
            found[cell] = read_record(path)
    return found


def read_record(path: Path) -> dict[str, Any]:
    """
    Raises:
        ConfigError: the file is no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is damaged: remove it, and the same command measures it again")
    return found


def row_file(comparison: Comparison, cell: Cell) -> Path:
    return comparison.out / "rows" / f"{cell.name}.json"


def summarize(comparison: Comparison, val: AnnotationTable, draws: int = DRAWS) -> list[Row]:
    """One entry for each percent and method, over all folds and seeds that have a row.

    ``gain`` is over supervised of the same folds and seeds, with ``low`` and ``high``, the 95 % interval of a paired
    bootstrap over val's images; ``gap_share`` of the way from supervised to all labels. None where there is nothing
    to say.

    Args:
        val: what every cell was judged by.
        draws: resamples of its images.
    """
    rows = load_rows(comparison)
    ceiling = [row["ap"] for cell, row in rows.items() if row["ceiling"] and row["ap"] is not None]
    entries: list[Row] = []
    for share in sorted({_share(cell) for cell in rows}):
        methods = list(dict.fromkeys(cell.method for cell in comparison.cells if _share(cell) == share))
        twins = {(c.fold, c.seed): c for c in rows if _share(c) == share and c.method == "supervised"}
        for method in methods:
            cells = sorted(c for c in rows if _share(c) == share and c.method == method)
            if not cells:
                continue
            here = [rows[cell] for cell in cells]
            entry: Row = {
                "labels": here[0]["labels"],
                "percent": cells[0].percent,
                "shots": cells[0].shots,
                "method": method,
                "ceiling": here[0]["ceiling"],
                "runs": len(here),
                **{key: _mean([row[key] for row in here]) for key in ("ap", "ap50", "ap75")},
                "ap_deviation": _deviation([row["ap"] for row in here]),
                "gain": None,
                "low": None,
                "high": None,
                "gap_share": None,
                "seconds": _mean([row["seconds"] for row in here]),
                "memory": max((row["memory"] for row in here if row["memory"]), default=None),
            }
            paired = [(twins[c.fold, c.seed], c) for c in cells if (c.fold, c.seed) in twins]
            if method != "supervised" and paired:
                pairs: list[Pair] = [
                    (val, *(load_detections(row_file(comparison, c).with_suffix(".npz")) for c in pair))  # type: ignore[misc]
                    for pair in paired
                ]
                sure = joint_bootstrap(pairs, draws)
                if sure is not None:
                    entry |= {"gain": sure["difference"], "low": sure["low"], "high": sure["high"]}
                    base = _mean([rows[twin]["ap"] for twin, _ in paired])
                    gap = None if not ceiling or base is None else _mean(ceiling) - base  # type: ignore[operator]
                    if gap is not None and gap > 0:
                        entry["gap_share"] = sure["difference"] / gap
            entries.append(entry)
    return entries


def _share(cell: Cell) -> tuple[bool, float, int]:
    """What sorts cells by their labels: the fewest first, the ceiling last."""
    return (cell.ceiling, cell.percent, cell.shots)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None and not math.isnan(v)]
    return statistics.fmean(known) if known else None


def _deviation(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None and not math.isnan(v)]
    return statistics.stdev(known) if len(known) > 1 else None


def cells_of(entry: Row) -> list[str]:
    """One entry as the texts of the table."""

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    deviation = "" if entry["ap_deviation"] is None else f" ± {entry['ap_deviation']:.1f}"
    gain = "-" if entry["gain"] is None else f"{entry['gain']:+.1f} [{entry['low']:+.1f}, {entry['high']:+.1f}]"
    return [
        entry["labels"],
        entry["method"],
        number(entry["ap"], ".1f") + deviation,
        number(entry["ap50"], ".1f"),
        number(entry["ap75"], ".1f"),
        gain,
        "-" if entry["gap_share"] is None else f"{100 * entry['gap_share']:.0f} %",
        str(entry["runs"]),
        "-" if entry["seconds"] is None else f"{entry['seconds'] / 60:.0f} min",
        "-" if entry["memory"] is None else f"{entry['memory'] / 2**30:.1f} GiB",
    ]


def markdown(entries: Sequence[Row]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"| {' | '.join('---' for _ in COLUMNS)} |"]
    lines += [f"| {' | '.join(cells_of(entry))} |" for entry in entries]
    return "\n".join(lines) + "\n"


def write_tables(comparison: Comparison, entries: Sequence[Row]) -> list[Path]:
    """table.md, table.csv, table.json and rows.json in the comparison's folder."""
    out = comparison.out
    note = (
        "\nAP of the last teacher on val, mean and standard deviation over folds and seeds; gain over supervised, with "
        "the\n95 % interval of a paired bootstrap over the images; of gap: share of the way from supervised to all "
        "labels.\n"
    )
    if any(entry["runs"] == 1 for entry in entries):
        note += "One run is not conclusive: the interval is over images, not over seeds or folds.\n"
    write_text(out / "table.md", markdown(entries) + note)
    text = io.StringIO()
    keys = list(entries[0]) if entries else []
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(entries)
    write_text(out / "table.csv", text.getvalue())
    write_json(out / "table.json", list(entries))
    write_json(out / "rows.json", list(load_rows(comparison).values()))
    return [out / name for name in ("table.md", "table.csv", "table.json", "rows.json")]
