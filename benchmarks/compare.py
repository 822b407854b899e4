"""How sure a gain is: paired bootstrap between cells that were judged on the same images.

    python benchmarks/compare.py

Compares SED with each supervised twin, and each variant of SED with SED, wherever both rows and the detections that
the runner kept are there; writes benchmarks/results/comparisons.json. Comparisons made elsewhere are kept. With several
seeds or folds the mean difference is drawn: each draw takes one resample of the images for all of them (for the demo,
whose images differ, one each).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import area_ranges, judged_table
from benchmarks.plan import Cell
from benchmarks.provenance import ROOT
from benchmarks.rows import (
    COMPARISONS,
    RESULTS,
    Row,
    detections_file,
    load_detections,
    load_rows,
    select,
    write_json,
)
from sedet.data.chance import generator
from sedet.data.table import AnnotationTable
from sedet.detectors.regions import Detections
from sedet.errors import SedetError
from sedet.evaluation.bootstrap import mean_ap
from sedet.evaluation.coco import IOU_THRESHOLDS, area_bounds
from sedet.evaluation.matching import per_image_records

DRAWS = 1000
METRICS = ("ap", "ap50", "ap_small", "ap_medium", "ap_large")

Pair = tuple[AnnotationTable, Sequence[Detections], Sequence[Detections]]


def joint_bootstrap(
    pairs: Sequence[Pair],
    draws: int = DRAWS,
    metric: str = "ap",
    sizes: tuple[float, float] = (32.0, 96.0),
    same_images: bool = True,
) -> dict[str, Any] | None:
    """Mean difference over pairs (second minus first), with its 95 % percentile interval over resampled images.

    None where there are no objects to measure by.

    With one pair this is sedet.evaluation.bootstrap.paired_bootstrap, draw for draw.
    """
    thresholds = IOU_THRESHOLDS[:1] if metric == "ap50" else IOU_THRESHOLDS
    area = area_bounds(sizes)[metric.removeprefix("ap_") if "_" in metric else "all"]
    plain: list[float] = []
    drawn: list[NDArray[np.float64]] = []
    for number, (table, a, b) in enumerate(pairs):
        images = len(table)
        name = ("bootstrap",) if same_images or number == 0 else ("bootstrap", number)
        weights = generator(0, *name).multinomial(images, np.full(images, 1 / images), draws).astype(np.float64)
        first, second = (per_image_records(table, d, thresholds, area) for d in (a, b))
        plain.append(float((mean_ap(second, np.ones((1, images))) - mean_ap(first, np.ones((1, images))))[0]))
        drawn.append(mean_ap(second, weights) - mean_ap(first, weights))
    if np.isnan(plain).any():
        return None
    low, high = np.nanpercentile(np.mean(drawn, axis=0), [2.5, 97.5])
    return {
        "difference": round(float(np.mean(plain)), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
        "each": [round(v, 3) for v in plain],
    }


GROUP = ("dataset", "percent", "recipe", "split")
RUN = ("fold", "seed")


def wanted(rows: Sequence[Row]) -> list[tuple[list[Row], list[Row]]]:
    """Pairs of lists of teacher rows, one row a (fold, seed) that both have, in the same order."""
    teachers = select(rows, teacher=True)
    pairs = []
    for group in dict.fromkeys(tuple(r[k] for k in GROUP) for r in teachers):
        here = select(teachers, **dict(zip(GROUP, group, strict=True)))
        kinds = list(dict.fromkeys((r["method"], r["variant"]) for r in here))
        for method, variant in kinds:
            if (method, variant) == ("sed", "default"):
                continue
            other = select(here, method=method, variant=variant)
            sed = select(here, method="sed", variant="default")
            runs = [r for r in _runs(sed) if r in _runs(other)]
            if runs:
                sed, other = ([_runs(side)[run] for run in runs] for side in (sed, other))
                pairs.append((other, sed) if method != "sed" else (sed, other))
    return pairs


def _runs(rows: Sequence[Row]) -> dict[tuple[int, int], Row]:
    return {(row["fold"], row["seed"]): row for row in sorted(rows, key=lambda r: (r["fold"], r["seed"]))}


def identity(first: Sequence[Row], second: Sequence[Row]) -> dict[str, Any]:
    """What a comparison is of; ``config_ids`` change when a row is measured anew."""
    a, b = first[0], second[0]
    return {
        **{key: a[key] for key in GROUP},
        "first": [a["method"], a["variant"]],
        "second": [b["method"], b["variant"]],
        "runs": [[row["fold"], row["seed"]] for row in first],
        "config_ids": [[row["config_id"] for row in side] for side in (first, second)],
    }


def compare(first: Sequence[Row], second: Sequence[Row], data: Path, work: Path) -> dict[str, Any] | None:
    """The comparison, or None where detections are not here."""
    pairs: list[Pair] = []
    for a, b in zip(first, second, strict=True):
        files = [detections_file(work, cell_of(row), row["config_id"], True) for row in (a, b)]
        if not all(file.is_file() for file in files):
            return None
        pairs.append((judged_table(cell_of(a), data, work), *map(load_detections, files)))  # type: ignore[arg-type]
    dataset = first[0]["dataset"]
    same = dataset != "demo"
    metrics = {m: joint_bootstrap(pairs, DRAWS, m, area_ranges(dataset), same) for m in METRICS}
    return {**identity(first, second), "draws": DRAWS, "metrics": metrics}


def cell_of(row: Row) -> Cell:
    keys = ("dataset", "percent", "fold", "method", "variant", "seed", "recipe", "split")
    return Cell(**{key: row[key] for key in keys})


def load_comparisons(folder: Path = RESULTS) -> list[dict[str, Any]]:
    path = folder / COMPARISONS
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


def update(data: Path, work: Path, results: Path) -> list[dict[str, Any]]:
    """All comparisons the rows ask for: kept ones where the rows are the same, new ones where detections are here."""
    known = load_comparisons(results)
    found = []
    for first, second in wanted(load_rows(results)):
        what = identity(first, second)
        same = next((c for c in known if all(c[key] == what[key] for key in what)), None)
        made = same or compare(first, second, data, work)
        label = f"{' '.join(map(str, [what[k] for k in GROUP]))}: {what['first']} -> {what['second']}"
        if made is None:
            print(f"{label}: detections are not here", file=sys.stderr)
            continue
        ap = made["metrics"]["ap"]
        print(f"{label}: {ap['difference']:+.2f} [{ap['low']:+.2f}, {ap['high']:+.2f}]", flush=True)
        found.append(made)
    if found:
        write_json(results / COMPARISONS, found)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "benchmarks")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    try:
        update(options.data.resolve(), options.work.resolve(), options.results)
    except SedetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
