"""Tables and pictures from the rows alone: docs/results.md, its curves, and the measured parts of other pages.

    python benchmarks/tables.py              docs/results.md and docs/curve-*.svg
    python benchmarks/tables.py --readme     also the marked parts of README.md and docs/experiments.md

Running it twice changes nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from benchmarks.against import ablation_table, labels_table, methods_table
from benchmarks.compare import load_comparisons
from benchmarks.provenance import ROOT
from benchmarks.rows import COST, DEMO_RUN, RESULTS, SUITE, Row, load_command, load_results, read_openings, select
from benchmarks.values import (
    GROUP,
    HEADINGS,
    METRICS,
    best_twin,
    by_run,
    ceiling_rows,
    cell_rows,
    gain_of,
    gap,
    gap_share,
    groups,
    heading,
    interval,
    other_starts,
    signed,
    spread,
    table,
)

TITLES = {
    "coco-people": "coco-people, 18 classes",
    "bccd": "bccd, blood cells",
    "vehicles": "vehicles",
    "demo": "The demo",
}
TWINS = {
    "default": "supervised twin",
    "no-half": "twin, labels at full size only",
    "2x": "twin, 2 times the updates",
    "4x": "twin, 4 times the updates",
    "wallclock": "twin, as long as SED took when it was begun",
}
TARGETS = {5.0: 0.47, 10.0: 0.60}
"""Shares of the gap to the ceiling that are aimed at."""

INTRO = """# Results

Made from `benchmarks/results/*.json` by `python benchmarks/tables.py`; nothing here is typed by hand.

How it was measured:

- **The supervised twin** has everything SED has but the unlabelled images: the same strong views, the labelled loss at
  both sizes, teacher, schedule, batches and data order, and SED's own burn-in. Where twins with more updates,
  without the half-size loss, or with SED's time are in the tables too, gains are counted over the best, chosen on dev.
- **The ceiling** is trained on the labels of exactly those images that SED has labelled or unlabelled.
- A row is the teacher at the last step, never the best of several. One score threshold (0.001), one evaluator.
- *dev* is what settings were chosen on: a gain there is no proof of one elsewhere. *val* is opened for frozen
  configurations only; {opened}.
- Intervals are 95 %, from a paired bootstrap over the judged images (1,000 draws). They hold the noise of the images,
  not that of the training: for that see the seeds.
- AP is COCO's, in percent points; small, medium and large are under 32², between, and over 96² pixels of the original
  images (demo: 16² and 48²). ± is the standard deviation over seeds or folds.
"""


def render(results: Sequence[dict[str, Any]], comparisons: Sequence[Any], openings: Sequence[Any]) -> str:
    """The text of docs/results.md."""
    rows = [row for result in results for row in result["rows"]]
    parts = [INTRO.format(opened="its openings stand below" if openings else "it has not been opened yet")]
    if not rows:
        parts.append("No rows yet.\n")
    counted = [row for row in rows if not row["trial"]]
    for dataset in (d for d in TITLES if select(counted, dataset=d)):
        parts.append(f"## {TITLES[dataset]}\n")
        for group in groups(select(counted, dataset=dataset)):
            parts.append(main_table(counted, group, comparisons))
            parts.append(methods_table(counted, group, comparisons))
            parts.append(ablation_table(counted, group, comparisons))
            parts.append(labels_table(results, group))
            parts.append(other_starts(counted, group))
        parts.append(class_table(counted, dataset))
        parts.append(curves(results, dataset))
    if openings:
        parts.append(openings_table(openings))
    if rows:
        parts.append(provenance_table(counted))
    return "\n".join(part for part in parts if part).rstrip() + "\n"


# --- tables -------------------------------------------------------------------------------------------------


def main_table(rows: Sequence[Row], group: dict[str, Any], comparisons: Sequence[Any]) -> str:
    """The twins, SED's student and teacher, and the ceiling, with SED's gain."""
    twin = best_twin(rows, group)
    twin_rows = cell_rows(rows, group, method="supervised", variant=twin)
    lines = []

    def line(label: str, found: Sequence[Row], gain: bool = False, gap: str = "") -> None:
        if found:
            # the gain only over runs that the twin has too
            text = signed(gain_of(twin_rows, found)) if gain and twin_rows else ""
            lines.append([label, *(spread([r[m] for r in found]) for m in METRICS), text, gap, str(len(found))])

    for variant, label in TWINS.items():
        found = cell_rows(rows, group, method="supervised", variant=variant)
        mark = f" ({times(rows, group, found[0]):.1f} times the updates)" if found and variant == "wallclock" else ""
        mark += " (best on dev)" if variant == twin and len(_variants(rows, group)) > 1 else ""
        line(label + mark, found)
    sed = cell_rows(rows, group, method="sed", variant="default")
    top = ceiling_rows(rows, group)
    line("SED, student", cell_rows(rows, group, method="sed", variant="default", teacher=False), gain=True)
    line("**SED, teacher**", sed, gain=True, gap=gap_share(twin_rows, sed, top))
    line("all labels (ceiling)", top, gain=True)
    headings = ["", *HEADINGS, "gain", "of the gap", "runs"]
    text = f"### {heading(group)}\n\n" + table(headings, lines)
    return text + "\n" + verdict(rows, group, twin_rows, sed, top, comparisons, twin)


def times(rows: Sequence[Row], group: dict[str, Any], row: Row) -> float:
    """Updates after the burn-in, as a multiple of the twin's."""
    twin = cell_rows(rows, group, method="supervised", variant="default")[0]
    longer, usual = (r["steps"] - r["burn_in_steps"] for r in (row, twin))
    return float(longer / usual)


def _variants(rows: Sequence[Row], group: dict[str, Any]) -> set[str]:
    return {r["variant"] for r in select(rows, **group, method="supervised", teacher=True)}


def verdict(
    rows: Sequence[Row],
    group: dict[str, Any],
    twin_rows: Sequence[Row],
    sed: Sequence[Row],
    top: Sequence[Row],
    comparisons: Sequence[Any],
    twin: str,
) -> str:
    """The gain in words, with its interval and what it cannot say."""
    gains = gain_of(twin_rows, sed)
    if not gains:
        return "No gain is stated: SED's row or the twin's is missing.\n"
    ap50 = gain_of(twin_rows, sed, "ap50")
    found = interval(rows, comparisons, group, ("supervised", twin), ("sed", "default"))
    found50 = interval(rows, comparisons, group, ("supervised", twin), ("sed", "default"), "ap50")
    text = f"SED's teacher against the {TWINS[twin]}: AP {signed(gains)} {found}, AP50 {signed(ap50)} {found50}"
    text = re.sub(r" +([,.]|$)", r"\1", text) + "."
    if not found:
        text += " No interval yet."
    share, target = gap(twin_rows, sed, top), TARGETS.get(group["percent"])
    if share is not None and target is not None and group["dataset"] == "coco-people":
        text += f" The aim is +10 AP or {100 * target:.0f} % of the gap to the ceiling; reached: {100 * share:.0f} %."
    if len(gains) == 1:
        return text + " **One seed, not conclusive.**\n"
    ahead = sum(g > 0 for g in gains)
    return text + f" Ahead in {ahead} of {len(gains)} runs ({', '.join(f'{g:+.1f}' for g in gains)}).\n"


def class_table(rows: Sequence[Row], dataset: str) -> str:
    """AP of each class, twin against SED, of the first group of a data set."""
    for group in groups(select(rows, dataset=dataset)):
        twin = by_run(cell_rows(rows, group, method="supervised", variant=best_twin(rows, group)))
        sed = by_run(cell_rows(rows, group, method="sed", variant="default"))
        runs = [run for run in twin if run in sed]
        if not runs:
            continue
        top = ceiling_rows(rows, group)
        lines = []
        for name, values in sed[runs[0]]["per_class"].items():
            a = [twin[run]["per_class"][name]["ap"] for run in runs]
            b = [sed[run]["per_class"][name]["ap"] for run in runs]
            c = [row["per_class"][name]["ap"] for row in top]
            gains = [y - x for x, y in zip(a, b, strict=True) if x is not None and y is not None]
            lines.append([name, str(int(values["boxes"])), spread(a), spread(b), signed(gains), spread(c)])
        headings = ["class", "boxes", "best twin", "SED, teacher", "gain", "ceiling"]
        return f"### By class: {heading(group)}\n\n" + table(headings, lines)
    return ""


def curves(results: Sequence[dict[str, Any]], dataset: str) -> str:
    from benchmarks.plots import curve_groups, curve_name

    lines = [
        f"![AP over the updates: {g['percent']:g} % labelled, recipe {g['recipe']}]({curve_name(g)})\n"
        for g in curve_groups([r for r in results if r["rows"][0]["dataset"] == dataset])
    ]
    return "\n".join(lines)


def openings_table(openings: Sequence[Any]) -> str:
    lines = []
    for o in openings:
        codes = [f"`{o[key]}`" for key in ("cell", "config_id")]
        lines.append([o["time"][:10], *codes, f"`{o['commit'][:10]}`", o["reason"]])
    text = "## Openings of val\n\nEach time a detector was judged on images kept for the report.\n\n"
    return text + table(["date", "cell", "configuration", "commit", "reason"], lines, left=5)


def provenance_table(rows: Sequence[Row]) -> str:
    """Every training: what it was, from which commit, on what machine, in how many seconds."""
    lines = []
    order = (*GROUP, "method", "variant", "fold", "seed")
    for row in sorted(select(rows, teacher=True), key=lambda r: tuple(str(r[k]) for k in order)):
        threads = "1 thread" if row["machine"]["threads"] == 1 else f"{row['machine']['threads']} threads"
        machine = row["machine"].get("gpu") or f"{row['machine']['processor']}, {threads}"
        lines.append(
            [
                f"{row['dataset']} {row['percent']:g} % {row['recipe']} {row['split']}",
                f"{row['method']} {row['variant']}",
                f"{row['fold']}, {row['seed']}",
                f"{row['ap']:.2f}",
                str(row["labeled_images"]),
                str(row["unlabeled_images"]),
                str(row["steps"]),
                str(row["image_size"]),
                row["backbone"],
                str(row["trials"]),
                f"{row['seconds']:.0f}",
                machine,
                f"`{row['commit'][:10]}`",
            ]
        )
    headings = ["cell", "method", "fold, seed", "AP", "labelled", "unlabelled", "updates", "px", "backbone", "trials"]
    headings += ["seconds", "device", "commit"]
    found = sorted({tuple(sorted(row["versions"].items())) for row in rows})
    used = "\n".join("- " + ", ".join(f"{k} {v}" for k, v in versions) for versions in found)
    text = (
        "## Every row\n\nTrials: how often the method was tried on dev before its settings were frozen. Seconds hold "
        "the shared burn-in and the evaluations on the way.\n\n"
    )
    return text + table(headings, lines, left=2) + f"\nVersions:\n\n{used}\n"


def write_if_changed(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    parser.add_argument("--readme", action="store_true", help="fill README.md and experiments.md too")
    options = parser.parse_args()
    from benchmarks.pages import fill_pages
    from benchmarks.plots import draw_curves

    results, comparisons = load_results(options.results), load_comparisons(options.results)
    write_if_changed(options.docs / "results.md", render(results, comparisons, read_openings(options.results)))
    draw_curves(results, options.docs)
    if options.readme:
        measured = [load_command(name, options.results) for name in (SUITE, DEMO_RUN, COST)]
        fill_pages(ROOT / "README.md", options.docs / "experiments.md", results, comparisons, *measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
