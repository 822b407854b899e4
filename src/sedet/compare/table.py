"""The table of a comparison: mean and deviation, gain over supervised, share of the gap, how sure it is, and cost."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sedet.compare.cells import Cell, Comparison
from sedet.compare.terms import check_rows
from sedet.data.table import AnnotationTable
from sedet.data.write import write_json, write_text
from sedet.detectors.regions import Detections
from sedet.errors import ConfigError
from sedet.evaluation.bootstrap import Pair, joint_bootstrap
from sedet.evaluation.stored import load_detections

Row = dict[str, Any]
COLUMNS = (
    "labels",
    "method",
    "AP",
    "AP50",
    "AP75",
    "gain [95 %]",
    "ahead",
    "of gap",
    "runs",
    "tried",
    "time",
    "memory",
)
NARROW = ("AP50", "AP75", "tried", "time", "memory")
"""Left out on a terminal, so that a row fits a line of 80."""
DRAWS = 1000
FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "burn_in_ap", "seconds", "memory")
"""What every row tells as a number, or null."""


def load_rows(comparison: Comparison) -> dict[Cell, Row]:
    """The rows that are there: of the cells that were asked for, then of others that were measured before.

    Raises:
        ConfigError: one is damaged.
    """
    asked = {cell.name: cell for cell in comparison.cells}
    others: dict[str, Cell] = {}
    for path in (comparison.out / "rows").glob("*.json"):
        cell = None if path.stem in asked else Cell.from_name(path.stem)
        if cell is not None:
            others[cell.name] = replace(cell, ceiling=bool(read_record(path).get("ceiling")))
    found = {}
    for cell in (*asked.values(), *sorted(others.values())):
        path = row_file(comparison, cell)
        if path.is_file():
            # what the row is of is said by its cell: whether it is the ceiling depends on what else was asked for
            found[cell] = read_row(path) | {"method": cell.label, "labels": cell.labels, "ceiling": cell.ceiling}
    return found


def read_row(path: Path) -> Row:
    """A row that is whole, and has its detections beside it.

    Raises:
        ConfigError: it is damaged, or its detections are.
    """
    row = read_record(path)
    for key in FIGURES:
        if key not in row or not (row[key] is None or type(row[key]) in (int, float)):
            raise _damaged(path, f"it has no {key}")
    for key in ("per_class", "settings", "data", "versions"):
        if not isinstance(row.get(key, None if key == "per_class" else {}), dict):  # the others are younger
            raise _damaged(path, f"it has no {key}")
    if not zipfile.is_zipfile(path.with_suffix(".npz")):  # a file that ends early is none; not all of it is read
        raise _damaged(path, f"its detections ({path.stem}.npz) are missing or cut off")
    return row


def read_detections(path: Path, images: int) -> list[Detections]:
    """The detections beside a row.

    Raises:
        ConfigError: they are damaged, or of another number of images.
    """
    file = path.with_suffix(".npz")
    try:
        found = load_detections(file)
    except Exception as error:  # on damaged files the readers of zip and of arrays raise nearly anything
        raise _damaged(path, f"its detections ({file.name}) cannot be read") from error
    if len(found) != images:
        raise _damaged(path, f"its detections ({file.name}) are of {len(found)} images, not of {images}")
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
        raise _damaged(path, "it is no JSON object")
    return found


def _damaged(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path} is damaged ({why}): remove it, and the same command measures it again")


def row_file(comparison: Comparison, cell: Cell) -> Path:
    return comparison.out / "rows" / f"{cell.name}.json"


def summarize(comparison: Comparison, val: AnnotationTable, draws: int = DRAWS) -> list[Row]:
    """One entry for each percent and method, over all folds and seeds that have a row.

    ``gain`` is over supervised of the same folds and seeds, with ``low`` and ``high``, the 95 % interval of a paired
    bootstrap over val's images; ``paired``: of how many runs; ``ahead``: in how many of them the method is better;
    ``gain_deviation``: between them, None for one. ``gap_share``: of the way from supervised to all labels. None where
    there is nothing to compare with. ``tried``: how many settings of the method val has judged in this folder.

    Args:
        val: what every cell was judged by.
        draws: resamples of its images.

    Raises:
        ConfigError: a row is damaged, or was trained on other terms than the rest.
    """
    rows = load_rows(comparison)
    check_rows(rows, comparison.out)
    ceiling = _mean([row["ap"] for cell, row in rows.items() if cell.ceiling])
    twins = {(c.percent, c.shots, c.fold, c.seed): c for c in rows if c.method == "supervised"}
    tried = Counter(method for method, _ in {(cell.method, cell.variant) for cell in rows})
    entries: list[Row] = []
    for share in sorted({_share(cell) for cell in rows}):
        for method in dict.fromkeys(cell.label for cell in rows if _share(cell) == share):
            cells = sorted(c for c in rows if _share(c) == share and c.label == method)
            here = [rows[cell] for cell in cells]
            entry: Row = {
                "labels": cells[0].labels,
                "percent": cells[0].percent,
                "shots": cells[0].shots,
                "method": method,
                "variant": cells[0].variant,
                "ceiling": cells[0].ceiling,
                "runs": len(here),
                "tried": tried[cells[0].method],
                **{key: _mean([row[key] for row in here]) for key in ("ap", "ap50", "ap75")},
                "ap_deviation": _deviation([row["ap"] for row in here]),
                **dict.fromkeys(("gain", "low", "high", "gain_deviation", "paired", "ahead", "gap_share")),
                "seconds": _mean([row["seconds"] for row in here]),
                "memory": max((row["memory"] for row in here if row["memory"]), default=None),
            }
            entries.append(entry)
            keys = [(c.percent, c.shots, c.fold, c.seed) for c in cells]
            paired = [(twins[key], c) for key, c in zip(keys, cells, strict=True) if key in twins]
            if method == "supervised" or not paired:
                continue
            pairs: list[Pair] = [
                (val, *(read_detections(row_file(comparison, c), len(val)) for c in pair))  # type: ignore[misc]
                for pair in paired
            ]
            sure = joint_bootstrap(pairs, draws)
            if sure is None:
                continue
            entry |= {"gain": sure["difference"], "low": sure["low"], "high": sure["high"], "paired": len(paired)}
            entry |= {"gain_deviation": _deviation(sure["each"]), "ahead": sum(gain > 0 for gain in sure["each"])}
            base = _mean([rows[twin]["ap"] for twin, _ in paired])
            if ceiling is not None and base is not None and ceiling > base:
                entry["gap_share"] = sure["difference"] / (ceiling - base)
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

    def spread(value: float | None) -> str:
        return "" if value is None else f" ± {value:.1f}"

    gain = ahead = "-"
    if entry["gain"] is not None:
        gain = f"{entry['gain']:+.1f}{spread(entry['gain_deviation'])} [{entry['low']:+.1f}, {entry['high']:+.1f}]"
        ahead = f"{entry['ahead']} of {entry['paired']}"
    return [
        entry["labels"],
        entry["method"],
        number(entry["ap"], ".1f") + spread(entry["ap_deviation"]),
        number(entry["ap50"], ".1f"),
        number(entry["ap75"], ".1f"),
        gain,
        ahead,
        "-" if entry["gap_share"] is None else f"{100 * entry['gap_share']:.0f} %",
        str(entry["runs"]),
        str(entry["tried"]),
        "-" if entry["seconds"] is None else f"{entry['seconds'] / 60:.0f} min",
        "-" if entry["memory"] is None else f"{entry['memory'] / 2**30:.1f} GiB",
    ]


def markdown(entries: Sequence[Row]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"| {' | '.join('---' for _ in COLUMNS)} |"]
    lines += [f"| {' | '.join(cells_of(entry))} |" for entry in entries]
    return "\n".join(lines) + "\n"


def caveats(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the gains and their intervals do not say, one line each."""
    found = sorted({entry["paired"] for entry in entries if entry["paired"]})
    if not found:
        return effort(entries)
    several = [str(count) for count in found if count > 1]
    told = "one run does not tell, and is not conclusive."
    if several:
        many = several[0] if len(several) == 1 else f"{several[0]} to {several[-1]}"
        told = f"{many} pairs of runs tell of that{', and one is not conclusive' if 1 in found else ''}."
    lines = [f"The interval is over val's images alone; how trainings differ by seed and fold is not in it: {told}"]
    if any(entry["paired"] and entry["paired"] < entry["runs"] for entry in entries):
        lines.append("Where a method has more runs than pairs, its AP is over all runs and its gain over the pairs.")
    return [*lines, *effort(entries)]


def effort(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line on how many settings were tried, where any method has several."""
    tried = {entry["method"].partition(":")[0]: entry["tried"] for entry in entries}
    if max(tried.values(), default=1) < 2:
        return []
    counts = ", ".join(f"{method} {count}" for method, count in tried.items())
    even = len({count for method, count in tried.items() if method != "supervised"}) == 1
    return [
        f"Settings tried on val: {counts}. The best of several owes some of its place to chance: "
        + ("" if even else "give each method as many, and ")
        + "judge the ones chosen on other images."
    ]


def write_tables(comparison: Comparison, entries: Sequence[Row]) -> list[Path]:
    """table.md, table.csv, table.json and rows.json in the comparison's folder."""
    out = comparison.out
    note = (
        "\nAP of the last teacher on val, mean and standard deviation over folds and seeds; gain over supervised of\n"
        "the same folds and seeds, its standard deviation over these pairs, and in how many it is above zero (ahead);\n"
        "of gap: share of the way from supervised to all labels; tried: settings of the method judged here.\n"
    )
    note += "".join(f"{line}\n" for line in caveats(entries))
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
