"""Result files: one a cell, with a row for the teacher and one for the student. Written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.plan import Cell
from sedet.data.write import write_json as write_json
from sedet.errors import ConfigError

RESULTS = Path(__file__).resolve().parent / "results"
OPENINGS = "val_openings.json"
COMPARISONS = "comparisons.json"
SUITE, DEMO_RUN = "suite.json", "demo-run.json"
"""What README's two commands took: no cells."""
COST = "cost.json"
"""What an update of each method takes (benchmarks/cost.py)."""

Row = dict[str, Any]


def read_result(path: Path) -> dict[str, Any] | None:
    """The result in a file, or None if there is no such file."""
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(result["rows"], list)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise ConfigError(f"{path} is no result of a cell ({type(error).__name__}): remove it") from error
    return dict(result)


def load_results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """All results of clean trees, sorted by file name."""
    results = []
    for path in sorted(folder.glob("*.json")):
        if path.name in (OPENINGS, COMPARISONS, SUITE, DEMO_RUN, COST):
            continue
        result = read_result(path)
        if result is not None and not result["rows"][0]["commit"].endswith("-dirty"):
            results.append(result)
    return results


def load_rows(folder: Path = RESULTS) -> list[Row]:
    return [row for result in load_results(folder) for row in result["rows"]]


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows whose fields have these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def best_variant(rows: Sequence[Row], **cell: Any) -> str | None:
    """The variant of a method with the highest AP of the teacher on dev, on average over what the default has too.

    This is how the strongest twin is chosen: on dev, never on what is reported. Trials (variants with settings
    of their own) do not count, nor do variants without a (fold, seed) that the default has too.
    """
    found = [row for row in select(rows, **cell, split="dev", teacher=True) if not row["trial"]]
    aps: dict[str, dict[Any, float]] = {}
    for row in found:
        aps.setdefault(row["variant"], {})[row["percent"], row["fold"], row["seed"]] = row["ap"]
    usual = aps.get("default")
    if usual is None:
        return max(sorted(aps), key=lambda v: float(np.mean([*aps[v].values()])), default=None)
    ahead = {
        variant: float(np.mean([own[run] - usual[run] for run in shared]))
        for variant, own in sorted(aps.items())
        if (shared := own.keys() & usual.keys())
    }
    return max(ahead, key=lambda v: (ahead[v], v == "default"))


def load_command(name: str, folder: Path = RESULTS) -> dict[str, Any] | None:
    """What commands.py or cost.py measured; None if it was not run, or on a tree that was not as committed."""
    path = folder / name
    found = dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
    return None if found is None or str(found["commit"]).endswith("-dirty") else found


# --- openings of val ----------------------------------------------------------------------------------------


def log_opening(folder: Path, entry: dict[str, Any]) -> None:
    """Note that a cell's configuration is judged on val, before it is."""
    openings = read_openings(folder)
    write_json(folder / OPENINGS, [*openings, entry])


def read_openings(folder: Path = RESULTS) -> list[dict[str, Any]]:
    path = folder / OPENINGS
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


# --- detections, kept for paired comparisons ----------------------------------------------------------------


def detections_file(work: Path, cell: Cell, config_id: str, teacher: bool) -> Path:
    return work / "detections" / f"{cell.name}-{config_id}-{'teacher' if teacher else 'student'}.npz"
