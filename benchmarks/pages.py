"""The measured parts of README.md and docs/experiments.md, put behind marks in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.overview import overview
from benchmarks.plan import DEMO_RECIPES, RECIPES
from benchmarks.rows import Row
from benchmarks.tables import write_if_changed
from benchmarks.values import (
    best_twin,
    by_run,
    ceiling_rows,
    cell_rows,
    gain_of,
    gap_share,
    groups,
    interval,
    pool_size,
    signed,
    spread,
    table,
)


def fill_pages(
    readme: Path,
    experiments: Path,
    results: Sequence[dict[str, Any]],
    comparisons: Sequence[Any],
    suite: dict[str, Any] | None = None,
    demo: dict[str, Any] | None = None,
    cost: dict[str, Any] | None = None,
) -> None:
    """Fill the marks of both pages; a page that is not there is left out."""
    on_readme = readme_parts(results, comparisons, cost) | suite_part(suite) | demo_part(demo)
    for page, parts in ((readme, on_readme), (experiments, experiments_part(results))):
        if page.is_file():
            write_if_changed(page, fill(page.read_text(encoding="utf-8"), parts))


def readme_parts(
    results: Sequence[dict[str, Any]], comparisons: Sequence[Any], cost: dict[str, Any] | None = None
) -> dict[str, str]:
    """The measured parts of README.md by the name of their mark."""
    rows = [row for result in results for row in result["rows"] if not row["trial"]]
    parts: dict[str, str] = {}
    shown = [g for g in groups(rows) if g["recipe"] != "tiny"]
    demo = next((g for name in DEMO_RECIPES for g in shown if g["recipe"] == name), None)
    if demo is not None:
        parts["demo-table"] = demo_table(rows, demo)
    lines = []
    for group in (g for g in shown if g["dataset"] != "demo"):
        judged = {g["split"] for g in shown if all(g[k] == group[k] for k in ("dataset", "recipe", "percent"))}
        if group["split"] == "dev" and "val" in judged:
            continue
        twin = best_twin(rows, group)
        twins = cell_rows(rows, group, method="supervised", variant=twin)
        sed, top = cell_rows(rows, group, method="sed", variant="default"), ceiling_rows(rows, group)
        both = by_run(twins).keys() & by_run(sed).keys()  # beside each other stand means over the same runs
        twins, sed = ([row for row in side if (row["fold"], row["seed"]) in both] for side in (twins, sed))
        gains = gain_of(twins, sed)
        if not gains:
            continue
        found = interval(rows, comparisons, group, ("supervised", twin), ("sed", "default"))
        runs = f"{len(gains)} runs" if len(gains) > 1 else "one seed, not conclusive"
        lines.append(
            [
                f"{group['dataset']}, {group['percent']:g} % of {pool_size(rows, group)}, {sed[0]['image_size']} px, "
                f"{sed[0]['steps']:,} updates, `{group['recipe']}`",
                group["split"],
                *(spread([r["ap"] for r in side]) for side in (twins, sed)),
                f"{signed(gains)} {found}".strip(),
                spread([r["ap"] for r in top]),
                gap_share(twins, sed, top) or "–",
                runs,
            ]
        )
    if lines:
        headings = ["labelled", "judged on", "labels alone", "SED", "gain [95 %]", "all labels", "of the gap", ""]
        told = table(headings, lines).rstrip() + "\n\nRecipes: " + "; ".join(recipes_told(shown)) + "."
        parts["results-table"] = f"AP of detectors, COCO's measure:\n\n{told}"
    methods = overview(rows, shown, comparisons, cost)
    return parts | ({"methods-table": methods} if methods else {})


def recipes_told(shown: Sequence[dict[str, Any]]) -> list[str]:
    """What each recipe on real images is, for those that are still known."""
    names = dict.fromkeys(str(g["recipe"]) for g in shown if g["dataset"] != "demo")
    about = yaml.safe_load(RECIPES.read_text(encoding="utf-8"))
    return [f"`{name}`, {about[name]['about']}" for name in names if name in about]


def suite_part(suite: dict[str, Any] | None) -> dict[str, str]:
    """What a newcomer may expect of the test suite."""
    if suite is None:
        return {}
    passed = suite["tests"] - suite["failures"] - suite["errors"] - suite["skipped"]
    minutes, cores = max(1, round(suite["seconds"] / 60)), suite["machine"]["cores"]
    return {"test-time": f"Last measured: {passed:,} tests passed in about {minutes} minutes on {cores} cores."}


def demo_part(run: dict[str, Any] | None) -> dict[str, str]:
    """What a newcomer may expect of the demo."""
    if run is None:
        return {}
    minutes, cores = max(1, round(run["seconds"] / 60)), run["machine"]["cores"]
    return {"demo-time": f"It takes about {minutes} minutes on {cores} cores."}


def demo_table(rows: Sequence[Row], group: dict[str, Any]) -> str:
    """The demo over its seeds."""
    shown: list[tuple[str, list[Row]]] = [
        ("supervised twin", cell_rows(rows, group, method="supervised", variant="default")),
        ("SED, student", cell_rows(rows, group, method="sed", variant="default", teacher=False)),
        ("**SED, teacher**", cell_rows(rows, group, method="sed", variant="default")),
        ("all labels (ceiling)", ceiling_rows(rows, group)),
    ]
    lines = [
        [label, *(spread([r[m] for r in found]) for m in ("ap", "ap50", "ap_small", "ap_medium", "ap_large"))]
        for label, found in shown
        if found
    ]
    gains = gain_of(shown[0][1], shown[2][1])
    text = table(["", "AP", "AP50", "small", "medium", "large"], lines)
    if len(gains) == 1:
        return text + f"\nOne seed, not conclusive: SED gains {gains[0]:+.1f} AP."
    each = ", ".join(f"{g:+.1f}" for g in gains)
    if not gains:
        return text.rstrip()
    return text + f"\nMean ± sd over {len(gains)} seeds; SED gains {signed(gains)} AP ({each})."


def experiments_part(results: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Every row on dev, trials too, for docs/experiments.md."""
    rows = [(row, result) for result in results for row in result["rows"] if row["split"] == "dev" and row["teacher"]]
    if not rows:
        return {}
    students = {row["time"] + str(row["config_id"]): row for r in results for row in r["rows"] if not row["teacher"]}
    lines = []
    for row, result in rows:
        student = students.get(row["time"] + str(row["config_id"]))
        settings = ", ".join(f"{k} {v}" for k, v in result["settings"].items()) or "–"
        lines.append(
            [
                f"{row['dataset']} {row['percent']:g} % {row['recipe']}",
                f"{row['fold']}, {row['seed']}",
                f"{row['method']} {row['variant']}",
                settings,
                "–" if row["burn_in_ap"] is None else f"{row['burn_in_ap']:.2f}",
                f"{student['ap']:.2f}" if student else "–",
                f"{row['ap']:.2f}",
                f"{row['ap50']:.2f}",
                f"`{row['commit'][:10]}`",
            ]
        )
    headings = ["cell", "fold, seed", "method", "settings", "burn-in AP", "student AP", "teacher AP", "AP50", "commit"]
    return {"dev-rows": table(headings, lines, left=4).rstrip()}


def fill(text: str, parts: dict[str, str]) -> str:
    """Put parts behind their marks ``<!-- generated: NAME -->``; what an earlier run put there goes.

    A part is closed by ``<!-- end: NAME -->``. A mark in the middle of a line gets its part on that line.
    """
    for name, part in parts.items():
        mark, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        pattern = re.compile(re.escape(mark) + rf"(?:.*?{re.escape(end)})?", re.DOTALL)
        inline = re.search(rf"[^\n]{re.escape(mark)}", text) is not None
        body = f"{mark} {' '.join(part.split())} {end}" if inline else f"{mark}\n\n{part}\n\n{end}"
        text = pattern.sub(lambda _, body=body: body, text, count=1)  # type: ignore[misc]
    return text
