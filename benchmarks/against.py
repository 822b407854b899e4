"""SED against the other methods, and against itself with a part away or replaced."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import mean
from typing import Any

from benchmarks.compare import SED, compared_methods
from benchmarks.rows import Row, select
from benchmarks.values import (
    HEADINGS,
    METRICS,
    best_twin,
    ceiling_rows,
    cell_rows,
    gain_of,
    gap_share,
    heading,
    interval,
    narrowed,
    signed,
    spread,
    table,
)

RIVAL_VARIANTS = {
    "2x": "2 times the updates",
    "share-0.1": "the surest 10 % of the regions",
    "weight-0.5": "weight 0.5",
    "over-0.1": "threshold 0.1",
    "over-0.2": "threshold 0.2",
    "over-0.5": "threshold 0.5",
    "over-0.6-weight-2": "threshold 0.6, weight 2",
    "over-0.7": "threshold 0.7",
    "over-0.5-mosaic-1": "threshold 0.5, mosaics weigh 1",
}


def methods_lines(rows: Sequence[Row], group: dict[str, Any], comparisons: Sequence[Any]) -> list[list[str]]:
    """A line a method, the best first, each against the twin and against SED, over the runs that all of them have.

    None if SED stands alone.
    """
    kinds, runs = compared_methods(rows, select(rows, **group))
    if not runs:
        return []
    twin = ("supervised", best_twin(rows, group))
    top = ceiling_rows(rows, group)
    # an interval must be of the very runs that stand in the line
    beside = narrowed(rows, group, lambda r: (r["fold"], r["seed"]) in runs)
    of = {kind: cell_rows(beside, group, method=kind[0], variant=kind[1]) for kind in kinds}
    sed, twin_rows = of[SED], of[twin]
    lines = []
    for method, variant in sorted(kinds, key=lambda kind: -mean(row["ap"] for row in of[kind])):
        found = of[method, variant]
        lead = "" if method == "sed" else signed(gain_of(found, sed))
        sure = "" if method == "sed" else interval(beside, comparisons, group, (method, variant), SED)
        gained = method != "supervised"
        lines.append(
            [
                f"**{method}**" if method == "sed" else method_name(method, variant),
                *(spread([r[m] for r in found]) for m in METRICS),
                signed(gain_of(twin_rows, found)) if gained else "",
                interval(beside, comparisons, group, twin, (method, variant)) if gained else "",
                gap_share(twin_rows, found, top) if gained else "",
                f"{lead} {sure}".strip(),
                spread([r["seconds"] / 60 for r in found], 0),
                str(found[0]["trials"]),
                str(len(found)),
            ]
        )
    return lines


def over_all_runs(rows: Sequence[Row], group: dict[str, Any], comparisons: Sequence[Any]) -> list[str]:
    """SED's gain, and its lead over each other method, over every run that both have, where the table has fewer.

    A sentence each.
    """
    kinds, runs = compared_methods(rows, select(rows, **group))
    sed = cell_rows(rows, group, method="sed", variant="default")
    told = []
    for method, variant in kinds:
        other = cell_rows(rows, group, method=method, variant=variant)
        leads = gain_of(other, sed)
        if (method, variant) == SED or len(leads) <= len(runs):
            continue
        each = ", ".join(f"{lead:+.1f}" for lead in leads)
        sure = interval(rows, comparisons, group, (method, variant), SED)
        what = " gains" if method == "supervised" else f"'s lead over {method_name(method, variant)} is"
        values = f"{signed(leads)} {sure}".strip()
        told.append(f"Over all {len(leads)} runs of the two SED{what} {values} ({each}).")
    return told


def method_name(method: str, variant: str) -> str:
    return method if variant == "default" else f"{method}, {RIVAL_VARIANTS.get(variant, variant)}"


def methods_table(rows: Sequence[Row], group: dict[str, Any], comparisons: Sequence[Any]) -> str:
    """The methods on the same labels, detector, burn-in and schedule."""
    lines = methods_lines(rows, group, comparisons)
    if not lines:
        return ""
    headings = ["", *HEADINGS, "gain", "95 %", "of the gap", "SED's lead", "minutes", "trials", "runs"]
    note = (
        "\nOne burn-in, detector, schedule, batch and evaluator for all, over the runs that all of them have. The "
        "other methods have the settings of their publications, or where a line says so others, chosen on dev. SED's "
        "defaults were chosen in trials on blood cells and drawn scenes (docs/experiments.md), more than any other "
        "method had: its place is not owed to the method alone. Minutes hold whatever else the machine did: they are "
        "no comparison.\n"
    )
    few = "" if all(line[-1] != "1" for line in lines) else "**One seed, not conclusive.**\n"
    more = "\n".join(f"{told}\n" for told in over_all_runs(rows, group, comparisons))
    return f"### Methods: {heading(group)}\n\n" + table(headings, lines) + note + more + few


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


def labels_table(results: Sequence[dict[str, Any]], group: dict[str, Any]) -> str:
    """What the hard labels of each variant's last teacher are: how many, how many right, how many objects found."""
    lines = []
    for result in results:
        row = result["rows"][0]
        if row["trial"] or any(row[k] != v for k, v in group.items()) or row["method"] != "sed":
            continue
        if not (match := re.fullmatch(r"hard-(?:class-)?([\d.]+)", row["variant"])):
            continue
        own = next(q for q in result["labels"] if q["threshold"] == float(match[1]))
        shares = ("–" if own[k] is None else f"{100 * own[k]:.0f} %" for k in ("precision", "recall"))
        lines.append([ablation_name(row), f"{own['labels']:.1f}", *shares, f"{row['ap']:.1f}"])
    if not lines:
        return ""
    text = "What the last teacher of each would label so, on the judged images (right: IoU over 0.5 and the class):\n\n"
    return text + table(["", "labels an image", "right", "objects found", "AP"], lines)


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
        "classes": "classes alone, no pairs, strong view",
        "overlay": "unlabelled images laid over each other in pairs",
        "no-overlay": "unlabelled images each alone (cpu-few: and in the strong view)",
        "sharp": "student sees the strong view, scores sharpened by 2",
        "fast-teacher": "a teacher that follows fast (decay 0.93)",
        "weak-view": "student sees the weak view",
        "strong-view": "student sees the strong view",
        "sharper": "classes sharpened, temperature 0.5",
        "no-half-labeled": "labels at full size only (own burn-in)",
    }
    if variant.startswith("hard-class-"):
        return f"hard labels over {variant[11:]}, class term alone"
    if variant.startswith("hard-"):
        return f"hard labels over {variant[5:]}"
    return names.get(variant, variant)
