"""How sure a gain is: paired bootstrap between cells that were judged on the same images.

    python benchmarks/compare.py

Compares SED with each supervised twin and each other method, these with the twin, and each variant of SED with SED,
wherever both rows and the detections that the runner kept are there; writes benchmarks/results/comparisons.json.
Comparisons made elsewhere are kept. With several seeds or folds the mean difference is drawn: each draw takes one
resample of the images for all of them (for the demo, whose images differ, one each).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from benchmarks.inputs import area_ranges, judged_table
from benchmarks.plan import Cell
from benchmarks.provenance import ROOT
from benchmarks.rows import (
    COMPARISONS,
    RESULTS,
    Row,
    best_variant,
    detections_file,
    load_rows,
    select,
    write_json,
)
from sedet.errors import SedetError
from sedet.evaluation.bootstrap import MetricName, Pair, joint_bootstrap
from sedet.evaluation.stored import load_detections

DRAWS = 1000
METRICS: tuple[MetricName, ...] = ("ap", "ap50", "ap_small", "ap_medium", "ap_large")

ROUNDING = 0.02
"""AP by which a row and its detections may differ: boxes are kept with few digits."""

SED = ("sed", "default")
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
            other = select(here, method=method, variant=variant)
            if (method, variant) != ("sed", "default"):
                first, second = paired(other, select(here, method="sed", variant="default"))
                if first:
                    pairs.append((first, second) if method != "sed" else (second, first))
            if method not in ("sed", "supervised"):
                first, second = paired(select(here, method="supervised", variant=strongest_twin(rows, here)), other)
                if first:
                    pairs.append((first, second))
        pairs += [pair for pair in _beside_rivals(rows, here) if pair not in pairs]
    return pairs


def strongest_twin(rows: Sequence[Row], here: Sequence[Row]) -> str:
    """The twin that gains are counted over: the best on dev among those with a row of the group ``here``."""
    there = {r["variant"] for r in select(here, method="supervised", teacher=True)}
    usable = [r for r in rows if r["variant"] in there]
    dev = {key: here[0][key] for key in ("dataset", "recipe", "percent")}
    return best_variant(usable, **dev, method="supervised") or "default"


def compared_methods(rows: Sequence[Row], here: Sequence[Row]) -> tuple[list[tuple[str, str]], set[tuple[int, int]]]:
    """The (method, variant) of a group's table of methods, and the (fold, seed) that all of them have.

    The strongest twin, SED, and each other method that leaves a run to compare; nothing where there is no other.
    """
    teachers = select(here, teacher=True)
    rivals = sorted({(r["method"], r["variant"]) for r in teachers if r["method"] not in ("sed", "supervised")})
    if not rivals:
        return [], set()
    each = {kind: {*_runs(select(teachers, method=kind[0], variant=kind[1]))} for kind in rivals}
    own = [("supervised", strongest_twin(rows, here)), SED]
    runs = set.intersection(*({*_runs(select(teachers, method=m, variant=v))} for m, v in own))
    kinds = list(own)
    for kind in sorted(rivals, key=lambda kind: -len(each[kind] & runs)):
        if each[kind] & runs:
            runs &= each[kind]
            kinds.append(kind)
    return (kinds, runs) if len(kinds) > len(own) else ([], set())


def _beside_rivals(rows: Sequence[Row], here: Sequence[Row]) -> list[tuple[list[Row], list[Row]]]:
    """What a table of methods compares, over the runs that all of its lines have: some have more."""
    kinds, runs = compared_methods(rows, here)
    own = {
        kind: [r for r in select(here, method=kind[0], variant=kind[1]) if (r["fold"], r["seed"]) in runs]
        for kind in kinds
    }
    pairs = [(kinds[0], SED)] if kinds else []
    for rival in kinds[2:]:
        pairs += [(rival, SED), (kinds[0], rival)]
    return [paired(own[first], own[second]) for first, second in pairs]


def paired(first: Sequence[Row], second: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of the (fold, seed) that both have, in the same order."""
    a, b = _runs(first), _runs(second)
    runs = [run for run in a if run in b]
    return [a[run] for run in runs], [b[run] for run in runs]


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


def still_of(known: Mapping[str, Any], first: Sequence[Row], second: Sequence[Row]) -> bool:
    """Whether a comparison is of these very rows: the same settings give other figures on another machine."""
    now = sum(b["ap"] - a["ap"] for a, b in zip(first, second, strict=True)) / len(first)
    return abs(now - float(known["metrics"]["ap"]["difference"])) < ROUNDING


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
    """All comparisons the rows ask for: kept ones where the rows are the same, new ones where detections are here.

    Each new one is written as soon as it is there: a comparison of many classes takes minutes.
    """
    known = load_comparisons(results)
    asked = [(first, second, identity(first, second)) for first, second in wanted(load_rows(results))]

    def kept(first: Sequence[Row], second: Sequence[Row], what: Mapping[str, Any]) -> dict[str, Any] | None:
        same = (c for c in known if all(c[key] == what[key] for key in what) and still_of(c, first, second))
        return next(same, None)

    found = [kept(*one) for one in asked]
    for place, (first, second, what) in enumerate(asked):
        made = found[place] or compare(first, second, data, work)
        label = f"{' '.join(map(str, [what[k] for k in GROUP]))}: {what['first']} -> {what['second']}"
        if made is None:
            print(f"{label}: detections are not here", file=sys.stderr)
            continue
        ap = made["metrics"]["ap"]
        print(f"{label}: {ap['difference']:+.2f} [{ap['low']:+.2f}, {ap['high']:+.2f}]", flush=True)
        if found[place] is None:
            found[place] = made
            write_json(results / COMPARISONS, [c for c in found if c])
    there = [c for c in found if c]
    if there:
        write_json(results / COMPARISONS, there)  # without those of rows that are no more
    return there


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
