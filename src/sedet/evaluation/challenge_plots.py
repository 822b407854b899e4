"""Plots of an analysis: one picture a question. Drawn without a window system; pyplot is left alone."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sedet.evaluation.errors import ERRORS
from sedet.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Facts = Mapping[str, Any]

# Okabe and Ito's palette, told apart by the colour-blind too.
BLUE, ORANGE, GREEN, RED, SKY, PINK, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#777777"
SIZES = {"all": ("black", "-"), "small": (SKY, "--"), "medium": (ORANGE, "-."), "large": (GREEN, "-")}
MOST_CLASSES = 10
"""Classes that have a line or a bar of their own: those with the most objects."""


def plots(facts: Facts) -> dict[str, bytes]:
    """PNG files by name, of what :func:`sedet.evaluation.analysis.analyze` measured."""
    drawn: dict[str, Callable[[Facts, Figure], None]] = {
        "false_negatives.png": false_negatives,
        "localization.png": localization,
        "sizes.png": sizes,
        "consistency.png": consistency,
        "imbalance.png": imbalance,
        "calibration.png": calibration,
        "errors.png": errors,
    }
    return {name: _png(draw, facts) for name, draw in drawn.items()}


def false_negatives(facts: Facts, figure: Figure) -> None:
    """Lost objects over the score threshold: by size, and by class."""
    lost = facts["false_negatives"]
    left, right = figure.subplots(1, 2, sharey=True)
    for name, (colour, dashes) in SIZES.items():
        number = lost["objects_by_size"][name]
        if number:
            _line(left, lost["thresholds"], lost["lost"][name], f"{name} ({number})", color=colour, linestyle=dashes)
    for name in _most(lost["objects_by_class"]):
        number = lost["objects_by_class"][name]
        if number:
            _line(right, lost["thresholds"], lost["lost_by_class"][name], f"{_text(name)} ({number})")
    for axes, title in ((left, "By size (objects)"), (right, "By class (objects)")):
        for row in lost["hard"]:
            axes.axvline(row["threshold"], color=GREY, linestyle=":", linewidth=0.9)
        axes.set(
            title=title, xlabel="score threshold of pseudo labels (dotted: usual ones)", xlim=(0, 1), ylim=(0, 1.02)
        )
        _finish(axes, "lower right")
    left.set_ylabel("share of objects lost")


def localization(facts: Facts, figure: Figure) -> None:
    """How well boxes lie, and whether the score tells."""
    found = facts["localization"]
    left, right = figure.subplots(1, 2)
    edges, counts = found["histogram"]["edges"], found["histogram"]["counts"]
    left.bar(edges[:-1], counts, width=edges[1] - edges[0], align="edge", color=BLUE, edgecolor="white", linewidth=0.5)
    if not math.isnan(found["mean_iou"]):
        left.axvline(found["mean_iou"], color=RED, label=f"mean {found['mean_iou']:.2f}")
    left.set(title=f"{found['boxes']} pseudo boxes, score ≥ {found['cut']:g}", xlim=(edges[0], 1))
    left.set(xlabel="IoU with the object of their class", ylabel="boxes")
    left.yaxis.get_major_locator().set_params(integer=True)
    left.set_ylim(0, max(1, 1.08 * max(counts)))
    rows = found["by_score"]
    middle = [(row["from"] + row["to"]) / 2 for row in rows]
    _line(right, middle, [row["mean_iou"] for row in rows], "mean IoU", color=BLUE, marker="o")
    _line(right, middle, [row["share_well"] for row in rows], "share with IoU ≥ 0.75", color=ORANGE, marker="s")
    right.set_xticks(middle, [f"{row['from']:g}-{row['to']:g}\n{row['boxes']}" for row in rows], fontsize=8)
    right.set(title="By score", xlabel="score, and boxes with it", xlim=(0, 1), ylim=(0, 1.02))
    _finish(left, "upper left")
    _finish(right, "upper left")


def sizes(facts: Facts, figure: Figure) -> None:
    """AP and recall over the size of objects, with how many there are."""
    rows = [row for row in facts["sizes"] if row["objects"]]
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    x = range(len(rows))
    _line(upper, x, [row["ap"] / 100 for row in rows], "AP", color="black", marker="o")
    _line(upper, x, [row["ap50"] / 100 for row in rows], "AP at IoU 0.5", color=BLUE, marker="o")
    _line(upper, x, [row["recall"] for row in rows], "recall at IoU 0.5", color=GREEN, marker="^", linestyle="--")
    label = f"recall from score {facts['score_cut']:g} on"
    _line(upper, x, [row["recall_cut"] for row in rows], label, color=ORANGE, marker="v", linestyle="--")
    upper.set(ylim=(0, 1.02), title="What is found, by the size of objects")
    bars = lower.bar(x, [row["objects"] for row in rows], color=GREY, width=0.7)
    lower.bar_label(bars, fontsize=7)
    lower.margins(y=0.25)
    _size_ticks(lower, rows, facts["image_size"])
    lower.set_ylabel("objects")
    _finish(upper, "best")


def consistency(facts: Facts, figure: Figure) -> None:
    """How far the answers at full and at half size are apart, by the size of objects."""
    rows = [row for row in facts["consistency"]["by_size"] if row["regions"]]
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    x = range(len(rows))
    _line(upper, x, [row["difference"] for row in rows], "|p full - p half|", color=RED, marker="o")
    _line(upper, x, [row["iou"] for row in rows], "IoU of the boxes", color=BLUE, marker="o")
    for name, colour in (("full", "black"), ("half", GREY)):
        values = [row[f"score_{name}"] for row in rows]
        _line(upper, x, values, f"p {name}", color=colour, marker=".", linestyle=":", linewidth=1)
    upper.set(ylim=(0, 1.02), title="Full and half size at foreground regions" + _stage(facts))
    bars = lower.bar(x, [row["regions"] for row in rows], color=GREY, width=0.7)
    lower.bar_label(bars, fontsize=7)
    lower.margins(y=0.25)
    _size_ticks(lower, rows, facts["image_size"])
    lower.set_ylabel("regions")
    _finish(upper, "best")


def imbalance(facts: Facts, figure: Figure) -> None:
    """Foreground against background by level, what re-weighting makes of it, and the classes."""
    found = facts["imbalance"]
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 0.8, 1.2))
    rows = found["levels"]
    x = list(range(len(rows)))
    images = max(1, facts["images"])
    for shift, key, colour in ((-0.2, "foreground", ORANGE), (0.2, "background", BLUE)):
        values = [row[key] / images for row in rows]
        bars = left.bar([i + shift for i in x], values, width=0.4, color=colour, label=key)
        left.bar_label(bars, [f"{v:.2g}" if v < 9.95 else f"{v:.0f}" for v in values], fontsize=7)
    left.set_yscale("log") if any(row["foreground"] or row["background"] for row in rows) else None
    left.set_xticks(x, [row["level"] for row in rows])
    left.set(title="Regions an image" + _stage(facts), ylabel="regions (logarithmic)")
    left.margins(y=0.15)
    _finish(left, "upper right")
    weights = found["weights"]
    shares = [weights["share_of_regions"], weights["share_of_weight"]]
    bars = middle.bar([0, 1], [0 if math.isnan(v) else 100 * v for v in shares], color=[GREY, ORANGE], width=0.6)
    middle.bar_label(bars, ["–" if math.isnan(v) else f"{100 * v:.1f} %" for v in shares], fontsize=8)
    middle.set_xticks([0, 1], ["of the\nregions", "of the\nweight"])
    middle.set(title="Share inside objects", ylabel="percent")
    middle.margins(y=0.12)
    middle.set_axisbelow(True)
    middle.grid(axis="y", alpha=0.3)
    classes = facts["imbalance"]["classes"]
    names = _most({name: row["objects"] for name, row in classes.items()})
    bars = right.barh(range(len(names)), [classes[name]["objects"] for name in names], color=GREEN)
    right.bar_label(bars, fontsize=8, padding=2)
    right.set_yticks(range(len(names)), [_text(name, 14) for name in names])
    right.invert_yaxis()
    right.margins(x=0.15)
    right.xaxis.get_major_locator().set_params(integer=True)
    left_out = len(classes) - len(names)
    right.set(title="Classes" + (f" ({left_out} rarer ones not shown)" if left_out else ""), xlabel="objects")


def calibration(facts: Facts, figure: Figure) -> None:
    """Reliability of the scores."""
    found = facts["calibration"]["all"]
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    rows = found["bins"]
    left = [row["from"] for row in rows]
    width = 1 / len(rows)
    right = [0 if math.isnan(row["precision"]) else row["precision"] for row in rows]
    upper.bar(left, right, width=width, align="edge", color=SKY, edgecolor="white", linewidth=0.5, label="right")
    _line(
        upper,
        [row["mean_score"] for row in rows],
        [row["precision"] for row in rows],
        "right, at the mean score",
        color=BLUE,
        marker="o",
    )
    upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="as the score says")
    parts = [("all detections", found), (f"from {facts['score_cut']:g} on", facts["calibration"]["from_cut"])]
    told = ", ".join(f"{name} {part['ece']:.3f}" for name, part in parts if not math.isnan(part["ece"]))
    upper.set(title="Expected calibration error: " + (told or "no detections"), xlim=(0, 1), ylim=(0, 1.02))
    upper.set_ylabel("share of detections that are right")
    counts = [row["detections"] for row in rows]
    bars = lower.bar(left, counts, width=width, align="edge", color=GREY, edgecolor="white", linewidth=0.5)
    lower.bar_label(bars, fontsize=7)
    if any(counts):
        lower.set_yscale("log")
        lower.set_ylim(0.5, max(counts) * 8)
    else:
        lower.set_ylim(0, 1)
    lower.set(xlabel="score", ylabel="detections")
    _finish(upper, "upper left")


def errors(facts: Facts, figure: Figure) -> None:
    """What kinds of errors there are, and what mending each would gain."""
    found = facts["errors"]
    left, right = figure.subplots(1, 2, sharey=True)
    y = range(len(ERRORS))
    colours = [BLUE, ORANGE, PINK, GREY, GREEN, RED]
    counts = [found["counts_from_cut"][name] for name in ERRORS]
    gains = [found["dap"][name] for name in ERRORS]
    bars = left.barh(y, counts, color=colours)
    left.bar_label(bars, fontsize=8, padding=2)
    left.set(title=f"Errors from score {found['cut']:g} on (right: {found['right_from_cut']})", xlabel="number")
    left.set_yticks(list(y), ERRORS)
    left.invert_yaxis()
    bars = right.barh(y, [0 if math.isnan(v) else v for v in gains], color=colours)
    right.bar_label(bars, ["–" if math.isnan(v) else f"+{v:.1f}" for v in gains], fontsize=8, padding=2)
    ap50 = "–" if math.isnan(found["ap50"]) else f"{found['ap50']:.1f}"
    right.set(title=f"Gain in AP at IoU 0.5 if mended (now {ap50})", xlabel="percent points, all detections")
    for axes, values in ((left, counts), (right, gains)):
        axes.set_xlim(0, max(1.0, *(1.15 * v for v in values if not math.isnan(v)), 0.0))
        axes.set_axisbelow(True)
        axes.grid(axis="x", alpha=0.3)


def _png(draw: Callable[[Facts, Figure], None], facts: Facts) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks: a box stands for each
        draw(facts, figure)
        data = io.BytesIO()
        figure.savefig(data, format="png")
    return data.getvalue()


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], label: str, **style: Any) -> None:
    axes.plot(x, y, label=label, **{"linewidth": 1.6, "markersize": 4, **style})


def _finish(axes: Axes, place: Any) -> None:
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc=place)


def _size_ticks(axes: Axes, rows: Sequence[Facts], image_size: int) -> None:
    """Sizes as shares of the long side, and in the pixels that the detector sees."""
    shares = [f"{share(row['from'])}-{share(row['to'])} %" for row in rows]
    sides = [f"{row['from'] * image_size:.0f}-{row['to'] * image_size:.0f} px" for row in rows]
    axes.set_xticks(range(len(rows)), [f"{a}\n{b}" for a, b in zip(shares, sides, strict=True)], fontsize=8)
    axes.set_xlabel(f"side of the object: share of the image's long side, and pixels at {image_size} px")


def share(part: float) -> str:
    """In percent, two figures."""
    return f"{100 * part:.2g}" if part < 0.0995 else f"{100 * part:.0f}"


def _stage(facts: Facts) -> str:
    return " (first stage)" if facts["first_stage"] else ""


def _most(numbers: Mapping[str, int]) -> list[str]:
    """The names with the largest numbers, largest first."""
    return sorted(numbers, key=lambda name: -numbers[name])[:MOST_CLASSES]


def _text(name: str, most: int = 22) -> str:
    """A name from outside that matplotlib shows as it is: no formula, no hidden legend entry, not too long."""
    clean = printable(name)
    clean = clean if len(clean) <= most else clean[: most - 1] + "…"
    clean = clean.replace("$", r"\$")
    return f" {clean}" if clean.startswith("_") else clean
