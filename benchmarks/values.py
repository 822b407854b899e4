"""What tables are made of: rows picked and grouped, means, gains, shares of the gap, intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.compare import identity, strongest_twin, wanted
from benchmarks.rows import Row, best_variant, select

GROUP = ("dataset", "recipe", "split", "percent")
METRICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
HEADINGS = ("AP", "AP50", "AP75", "small", "medium", "large")


def groups(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The (data set, recipe, split, percent) below 100 percent, val first."""
    found = {tuple(r[k] for k in GROUP) for r in rows if r["percent"] < 100}
    ordered = sorted(found, key=lambda g: (g[0], g[2] != "val", g[1], g[3]))
    return [dict(zip(GROUP, group, strict=True)) for group in ordered]


def by_run(rows: Iterable[Row]) -> dict[tuple[int, int], Row]:
    return {(r["fold"], r["seed"]): r for r in sorted(rows, key=lambda r: (r["fold"], r["seed"]))}


def cell_rows(rows: Sequence[Row], group: dict[str, Any], **what: Any) -> list[Row]:
    return list(by_run(select(rows, **group, **{"teacher": True, **what})).values())


def narrowed(rows: Sequence[Row], group: Mapping[str, Any], keep: Callable[[Row], bool]) -> list[Row]:
    """All rows, but of a group only those to ``keep``."""
    return [row for row in rows if keep(row) or not _holds(row, group)]


def spread(values: Sequence[float | None], digits: int = 1) -> str:
    """Mean, with the standard deviation if there are several."""
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    text = f"{np.mean(known):.{digits}f}"
    return text + (f" ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else "")


OWN_START = ("no-half", "no-half-labeled")
"""Variants that must have a burn-in of their own."""


def other_starts(rows: Sequence[Row], group: dict[str, Any]) -> str:
    """Which rows began elsewhere than SED did: the same burn-in, on a processor that rounds otherwise."""
    here = select(rows, **group, teacher=True)
    runs = by_run(select(here, method="sed", variant="default"))
    found: dict[tuple[int, int], list[str]] = {}
    for row in here:
        run = (row["fold"], row["seed"])
        if run not in runs or row["variant"] in OWN_START:
            continue
        if abs(row["burn_in_ap"] - runs[run]["burn_in_ap"]) >= 0.005:
            found.setdefault(run, []).append(f"{row['method']} {row['variant']} {row['burn_in_ap']:.2f}")
    if not found:
        return ""
    parts = [
        f"fold {fold}, seed {seed}: SED {runs[fold, seed]['burn_in_ap']:.2f}, {', '.join(sorted(names))}"
        for (fold, seed), names in sorted(found.items())
    ]
    return (
        "**Not all began alike.** The same burn-in ends elsewhere on another processor, which rounds otherwise. "
        f"AP at its end: {'; '.join(parts)}. Differences to these rows hold that one too.\n"
    )


def ceiling_rows(rows: Sequence[Row], group: dict[str, Any]) -> list[Row]:
    """The rows with all labels, at their best length."""
    top = {**group, "percent": 100.0}
    best = best_variant(rows, dataset=group["dataset"], recipe=group["recipe"], percent=100.0, method="supervised")
    found = cell_rows(rows, top, method="supervised", variant=best or "default")
    return found or cell_rows(rows, top, method="supervised", variant="default")


def best_twin(rows: Sequence[Row], group: dict[str, Any]) -> str:
    """The twin that gains are counted over: the best on dev among those with a row here."""
    here = select(rows, **group)
    return strongest_twin(rows, here) if here else "default"


def bounds(
    rows: Sequence[Row], comparisons: Sequence[Any], group: dict[str, Any], first: Any, second: Any, metric: str = "ap"
) -> tuple[float, float] | None:
    """The bootstrap interval of a comparison, if it is of just these rows: none beats one of older rows."""
    asked = {**{k: group[k] for k in GROUP}, "first": list(first), "second": list(second)}
    pairs = (identity(a, b) for a, b in wanted(rows))
    what = next((w for w in pairs if _holds(w, asked)), None)  # the first is over all runs
    found = None if what is None else next((c["metrics"][metric] for c in comparisons if _holds(c, what)), None)
    return None if found is None else (found["low"], found["high"])


def _holds(one: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    return all(one[key] == value for key, value in values.items())


def interval(
    rows: Sequence[Row], comparisons: Sequence[Any], group: dict[str, Any], first: Any, second: Any, metric: str = "ap"
) -> str:
    """The same in a table's brackets, empty where there is none."""
    found = bounds(rows, comparisons, group, first, second, metric)
    return "" if found is None else f"[{found[0]:+.1f}, {found[1]:+.1f}]"


def gain_of(first: Sequence[Row], second: Sequence[Row], key: str = "ap") -> list[float]:
    """Second minus first for each (fold, seed) that both have."""
    a, b = by_run(first), by_run(second)
    return [b[run][key] - a[run][key] for run in a if run in b and None not in (a[run][key], b[run][key])]


def signed(gains: Sequence[float], digits: int = 1) -> str:
    if not gains:
        return ""
    text = f"{np.mean(gains):+.{digits}f}"
    return text + (f" ± {np.std(gains, ddof=1):.{digits}f}" if len(gains) > 1 else "")


def gap_share(twin: Sequence[Row], sed: Sequence[Row], top: Sequence[Row]) -> str:
    """How much of the way from the twin to the ceiling SED goes, over the runs that all have."""
    share = gap(twin, sed, top)
    return "" if share is None else f"{100 * share:.0f} %"


def gap(twin: Sequence[Row], sed: Sequence[Row], top: Sequence[Row]) -> float | None:
    gains = gain_of(twin, sed)
    if not gains or not top:
        return None
    runs = [run for run in by_run(twin) if run in by_run(sed)]
    low = float(np.mean([by_run(twin)[run]["ap"] for run in runs]))
    # the ceiling has no folds: its mean over seeds stands for all
    distance = float(np.mean([r["ap"] for r in top])) - low
    return float(np.mean(gains)) / distance if distance > 0 else None


def table(headings: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    rule = ["---"] * left + ["---:"] * (len(headings) - left)
    body = [headings, rule, *lines]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in body) + "\n"


def heading(group: dict[str, Any]) -> str:
    where = "its own val images" if group["dataset"] == "demo" else group["split"]
    return f"{group['percent']:g} % labelled, recipe {group['recipe']}, judged on {where}"


def pool_size(rows: Sequence[Row], group: dict[str, Any]) -> str:
    found = cell_rows(rows, group, method="sed", variant="default")
    return f"{found[0]['unlabeled_images']:,} images" if found else "the images"
