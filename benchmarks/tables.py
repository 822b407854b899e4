"""Tables and pictures from the rows alone: docs/results.md, its curves, and the measured parts of other pages.

    python benchmarks/tables.py              docs/results.md and docs/curve-*.svg
    python benchmarks/tables.py --readme     also the marked parts of README.md and docs/experiments.md

Running it twice changes nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np

from benchmarks.compare import identity, load_comparisons, wanted
from benchmarks.provenance import ROOT
from benchmarks.rows import (
    DEMO_RUN,
    RESULTS,
    SUITE,
    Row,
    best_variant,
    load_command,
    load_results,
    read_openings,
    select,
)

GROUP = ("dataset", "recipe", "split", "percent")
METRICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
HEADINGS = ("AP", "AP50", "AP75", "small", "medium", "large")
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
    "wallclock": "twin, as long as SED in time",
}
TARGETS = {5.0: 0.47, 10.0: 0.60}
"""Shares of the gap to the ceiling that are aimed at."""

INTRO = """# Results

Made from `benchmarks/results/*.json` by `python benchmarks/tables.py`; nothing here is typed by hand.

How it was measured:

- **The supervised twin** has everything SED has but the unlabelled images: the same strong views, the labelled loss at
  both sizes, teacher, schedule, batches and data order, and SED's own burn-in. Twins with more updates, without the
  half-size loss, and with SED's time stand beside it. Gains are counted over the best of them, chosen on dev.
- **The ceiling** is trained on the labels of exactly those images that SED has labelled or unlabelled.
- A row is the teacher at the last step, never the best of several. One score threshold (0.001), one evaluator.
- *dev* is what settings were chosen on. *val* was opened for frozen configurations only; the openings stand below.
- Intervals are 95 %, from a paired bootstrap over the judged images (1,000 draws). They hold the noise of the images,
  not that of the training: for that see the seeds.
- AP is COCO's, in percent points; small, medium and large are under 32², between, and over 96² pixels of the original
  images (demo: 16² and 48²). ± is the standard deviation over seeds or folds.
"""


def render(results: Sequence[dict[str, Any]], comparisons: Sequence[Any], openings: Sequence[Any]) -> str:
    """The text of docs/results.md."""
    rows = [row for result in results for row in result["rows"]]
    parts = [INTRO]
    if not rows:
        parts.append("No rows yet.\n")
    counted = [row for row in rows if not row["trial"]]
    for dataset in (d for d in TITLES if select(counted, dataset=d)):
        parts.append(f"## {TITLES[dataset]}\n")
        for group in groups(select(counted, dataset=dataset)):
            parts.append(main_table(counted, group, comparisons))
            parts.append(ablation_table(counted, group, comparisons))
        parts.append(class_table(counted, dataset))
        parts.append(curves(results, dataset))
    if openings:
        parts.append(openings_table(openings))
    if rows:
        parts.append(provenance_table(counted))
    return "\n".join(part for part in parts if part).rstrip() + "\n"


def groups(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The (data set, recipe, split, percent) below 100 percent, val first."""
    found = {tuple(r[k] for k in GROUP) for r in rows if r["percent"] < 100}
    ordered = sorted(found, key=lambda g: (g[0], g[2] != "val", g[1], g[3]))
    return [dict(zip(GROUP, group, strict=True)) for group in ordered]


# --- values -------------------------------------------------------------------------------------------------


def by_run(rows: Iterable[Row]) -> dict[tuple[int, int], Row]:
    return {(r["fold"], r["seed"]): r for r in sorted(rows, key=lambda r: (r["fold"], r["seed"]))}


def cell_rows(rows: Sequence[Row], group: dict[str, Any], **what: Any) -> list[Row]:
    return list(by_run(select(rows, **group, **{"teacher": True, **what})).values())


def spread(values: Sequence[float | None], digits: int = 1) -> str:
    """Mean, with the standard deviation if there are several."""
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    text = f"{np.mean(known):.{digits}f}"
    return text + (f" ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else "")


def ceiling_rows(rows: Sequence[Row], group: dict[str, Any]) -> list[Row]:
    """The rows with all labels, at their best length."""
    top = {**group, "percent": 100.0}
    best = best_variant(rows, dataset=group["dataset"], recipe=group["recipe"], percent=100.0, method="supervised")
    found = cell_rows(rows, top, method="supervised", variant=best or "default")
    return found or cell_rows(rows, top, method="supervised", variant="default")


def best_twin(rows: Sequence[Row], group: dict[str, Any]) -> str:
    """The twin that gains are counted over: the best on dev among those with a row here."""
    here = {r["variant"] for r in select(rows, **group, method="supervised", teacher=True)}
    dev = {key: group[key] for key in ("dataset", "recipe", "percent")}
    usable = [r for r in rows if r["variant"] in here]
    return best_variant(usable, **dev, method="supervised") or "default"


def interval(
    rows: Sequence[Row], comparisons: Sequence[Any], group: dict[str, Any], first: Any, second: Any, metric: str = "ap"
) -> str:
    """The bootstrap interval of a comparison, if it is of just these rows: none beats one of older rows."""
    asked = {**{k: group[k] for k in GROUP}, "first": list(first), "second": list(second)}
    for what in (identity(a, b) for a, b in wanted(rows)):
        if any(what[key] != value for key, value in asked.items()):
            continue
        for c in comparisons:
            if all(c[key] == value for key, value in what.items()):
                found = c["metrics"][metric]
                return "" if found is None else f"[{found['low']:+.1f}, {found['high']:+.1f}]"
    return ""


def gain_of(first: Sequence[Row], second: Sequence[Row], key: str = "ap") -> list[float]:
    """Second minus first for each (fold, seed) that both have."""
    a, b = by_run(first), by_run(second)
    return [b[run][key] - a[run][key] for run in a if run in b and None not in (a[run][key], b[run][key])]


# --- tables -------------------------------------------------------------------------------------------------


def table(headings: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    rule = ["---"] * left + ["---:"] * (len(headings) - left)
    body = [headings, rule, *lines]
    return "\n".join("| " + " | ".join(str(c) for c in line) + " |" for line in body) + "\n"


def heading(group: dict[str, Any]) -> str:
    where = "its own val images" if group["dataset"] == "demo" else group["split"]
    return f"{group['percent']:g} % labelled, recipe {group['recipe']}, judged on {where}"


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
        mark = " (best on dev)" if variant == twin and len(_variants(rows, group)) > 1 else ""
        line(label + mark, cell_rows(rows, group, method="supervised", variant=variant))
    sed = cell_rows(rows, group, method="sed", variant="default")
    top = ceiling_rows(rows, group)
    line("SED, student", cell_rows(rows, group, method="sed", variant="default", teacher=False), gain=True)
    line("**SED, teacher**", sed, gain=True, gap=gap_share(twin_rows, sed, top))
    line("all labels (ceiling)", top, gain=True)
    headings = ["", *HEADINGS, "gain", "of the gap", "runs"]
    text = f"### {heading(group)}\n\n" + table(headings, lines)
    return text + "\n" + verdict(rows, group, twin_rows, sed, top, comparisons, twin)


def _variants(rows: Sequence[Row], group: dict[str, Any]) -> set[str]:
    return {r["variant"] for r in select(rows, **group, method="supervised", teacher=True)}


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


def ablation_table(rows: Sequence[Row], group: dict[str, Any], comparisons: Sequence[Any]) -> str:
    """SED's variants against SED."""
    here = select(rows, **group, method="sed", teacher=True)
    variants = [v for v in dict.fromkeys(r["variant"] for r in here) if v != "default"]
    default = cell_rows(rows, group, method="sed", variant="default")
    if not variants or not default:
        return ""
    lines = [["SED", *(spread([r[m] for r in default]) for m in METRICS), "", "", str(len(default))]]
    for variant in variants:
        found = cell_rows(rows, group, method="sed", variant=variant)
        low_high = interval(rows, comparisons, group, ("sed", "default"), ("sed", variant))
        values = [spread([r[m] for r in found]) for m in METRICS]
        lines.append([ablation_name(found[0]), *values, signed(gain_of(default, found)), low_high, str(len(found))])
    note = "" if len(default) > 1 else "\n**One seed, not conclusive:** differences within the interval are noise.\n"
    headings = ["", *HEADINGS, "against SED", "95 %", "runs"]
    return f"### Ablation: {heading(group)}\n\n" + table(headings, lines) + note


def ablation_name(row: Row) -> str:
    variant = str(row["variant"])
    names = {
        "2x": "2 times the updates",
        "no-scale": "without scale-equivalent distillation",
        "no-distill": "without self-distillation at full size",
        "one-size": "teacher at one size only",
        "reweight-foreground": "weights: the teacher's foreground",
        "reweight-none": "no weights",
        "no-reweight": "no weights, mean over all regions",
        "gamma-2": "weights: the squared discrepancy, class term twice",
        "box": "with the box and quality terms",
        "box-one-size": "with these terms, teacher at one size only",
        "box-smooth-l1": "smooth L1 in place of GIoU",
        "no-box": "without the box and quality terms",
        "fast-teacher": "a teacher that follows fast (decay 0.93)",
        "weak-view": "student sees the weak view",
        "sharper": "classes sharpened, temperature 0.5",
        "no-half-labeled": "labels at full size only (own burn-in)",
    }
    if variant.startswith("hard-class-"):
        return f"hard labels over {variant[11:]}, class term alone"
    if variant.startswith("hard-"):
        return f"hard labels over {variant[5:]}"
    return names.get(variant, variant)


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
        suite, demo = load_command(SUITE, options.results), load_command(DEMO_RUN, options.results)
        fill_pages(ROOT / "README.md", options.docs / "experiments.md", results, comparisons, suite, demo)
    return 0


if __name__ == "__main__":
    sys.exit(main())
