"""Pictures of the rows: AP over the steps, the twin against SED's teacher and student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from benchmarks.rows import best_variant, select

Result = dict[str, Any]
GROUP = ("dataset", "percent", "recipe")

LINES = (
    ("supervised", "teacher_ap", "supervised twin", "#555555", "-"),
    ("sed", "teacher_ap", "SED, teacher", "#c8501e", "-"),
    ("sed", "student_ap", "SED, student", "#e3a184", "--"),
)


def curve_groups(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The (data set, percent, recipe) for which both defaults have a curve."""
    rows = [r["rows"][0] for r in results]
    groups = dict.fromkeys(tuple(r[k] for k in GROUP) for r in rows if r["percent"] < 100)
    found = [dict(zip(GROUP, group, strict=True)) for group in groups]
    return [
        group
        for group in found
        if all(select(rows, **group, method=m, variant="default") for m in ("sed", "supervised"))
    ]


def curve_name(group: dict[str, Any]) -> str:
    return f"curve-{group['dataset']}-{group['percent']:g}-{group['recipe']}.svg"


def draw_curves(results: Sequence[Result], out: Path) -> list[Path]:
    """One SVG a group. The same results give the same bytes (with one version of matplotlib)."""
    out.mkdir(parents=True, exist_ok=True)
    files = []
    style: Any = {"svg.hashsalt": "sedet", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    for group in curve_groups(results):
        with plt.rc_context(style):
            figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
            draw_curve(axes, results, group)
            files.append(out / curve_name(group))
            figure.savefig(files[-1], metadata={"Date": None, "Creator": None})
            plt.close(figure)
    return files


def draw_curve(axes: Any, results: Sequence[Result], group: dict[str, Any]) -> None:
    """Thin lines: each seed and fold that twin and SED both have. Thick: their mean, where all have the same steps."""
    chosen = {
        # a cell judged on both splits has the same curve twice
        method: {
            (r["rows"][0]["fold"], r["rows"][0]["seed"]): r
            for r in results
            if select(r["rows"], **group, method=method, variant="default")
        }
        for method in dict.fromkeys(line[0] for line in LINES)
    }
    shared = set.intersection(*(set(curves) for curves in chosen.values()))
    if shared:
        chosen = {method: {run: curves[run] for run in shared} for method, curves in chosen.items()}
    for method, key, label, colour, dashes in LINES:
        curves = chosen[method]
        lines = [[(p["step"], p[key]) for p in r["curve"]] for _, r in sorted(curves.items())]
        steps = [[s for s, _ in line] for line in lines]
        values = [[v for _, v in line] for line in lines]
        if len(lines) > 1 and all(s == steps[0] for s in steps):
            for v in values:
                axes.plot(steps[0], v, color=colour, linestyle=dashes, linewidth=0.7, alpha=0.45)
            values = [[sum(at) / len(at) for at in zip(*values, strict=True)]]
            label += f", mean of {len(lines)}"
        for number, v in enumerate(values):
            axes.plot(
                steps[0 if len(values) == 1 else number],
                v,
                color=colour,
                linestyle=dashes,
                linewidth=1.8,
                marker="o",
                markersize=3,
                label=label if number == 0 else None,
            )
    rows = [r["rows"][0] for r in results]
    twin = next(iter(chosen["supervised"].values()))["rows"][0]
    axes.axvline(twin["burn_in_steps"], color="#999999", linewidth=0.8, linestyle=":")
    axes.annotate(
        "unlabelled images join",
        (twin["burn_in_steps"], 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        color="#777777",
        fontsize=8,
    )
    ceiling = {"dataset": group["dataset"], "percent": 100.0, "recipe": group["recipe"], "method": "supervised"}
    best = best_variant(rows, **ceiling)
    if best is not None:
        found = select(rows, **ceiling, variant=best, teacher=True, split="dev")
        ap = sum(r["ap"] for r in found) / len(found)
        axes.axhline(ap, color="#2b6a99", linewidth=1, linestyle="-.", label="all labels, at its end")
    axes.set_xlabel("updates")
    axes.set_ylabel("AP" if group["dataset"] == "demo" else "AP on dev")
    axes.set_title(
        f"{group['dataset']}, {group['percent']:g} % labelled, recipe {group['recipe']}", loc="left", fontsize=9
    )
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", linewidth=0.4, alpha=0.6)
    axes.legend(frameon=False, fontsize=8, loc="best")
