"""The four challenges, measured: `sedet analyze` on the detectors of measured cells, side by side.

    python benchmarks/challenges.py measure --dataset bccd --recipe cpu-long --methods supervised unbiased-teacher sed
    python benchmarks/challenges.py write

``measure`` takes each cell's last teacher, as its row does, and analyses it on dev: benchmarks/analysis/*.json.
``write`` makes docs/challenges.md and its pictures from these files alone.
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

from benchmarks.against import RIVAL_VARIANTS, ablation_name
from benchmarks.inputs import judged_table
from benchmarks.plan import Cell
from benchmarks.provenance import ROOT, machine, provenance, versions
from benchmarks.rows import RESULTS, read_result, write_json
from benchmarks.tables import TITLES, write_if_changed
from benchmarks.values import table
from sedet.errors import ConfigError, SedetError
from sedet.evaluation.analysis import Analysis, measured
from sedet.predictor import load

ANALYSIS = Path(__file__).resolve().parent / "analysis"
FIRST = ("supervised", "unbiased-teacher", "mixpl", "dense-teacher")
LEAST = 0.01
"""A smaller difference of a share, an IoU, a calibration error or an AP (of 1) is called none."""
NAMES = {
    "supervised": "labels alone (twin)",
    "unbiased-teacher": "hard labels (Unbiased Teacher)",
    "mixpl": "hard labels (MixPL)",
    "dense-teacher": "soft labels, no scale (Dense Teacher)",
    "sed": "SED",
}

INTRO = """# The four challenges

Learning from a detector's own answers is hard for four reasons: objects that get no label, boxes that lie badly,
objects of all sizes, and background that outnumbers objects. Here each is measured on detectors that share labels,
burn-in, schedule and evaluator: trained on the labels alone, with SED, and where measured on hard pseudo labels. Made
by `python benchmarks/challenges.py` from `benchmarks/analysis/*.json`; the figures are those of `sedet analyze`, on dev
images, of the last teacher. One seed each: a small difference is none.

In (b) the pseudo labels are each detector's detections from its own best score (F1) on: another score would give
others. (d) weighs each region by what the detector itself says differently at full and half size, which stands for
the difference of teacher and student that SED weighs by. Classes, finer sizes and levels are in the reports of `sedet
analyze` and in these files.
"""


def measure(cell: Cell, commit: str, data: Path, work: Path, results: Path, device: str) -> dict[str, Any]:
    """The analysis of a cell's teacher, with where it comes from.

    Raises:
        ConfigError: the cell has no row, or its run is not here.
    """
    result = read_result(results / f"{cell.name}.json")
    if result is None:
        raise ConfigError(f"{cell.name} has no row: measure it first (benchmarks/run.py)")
    file = work / "runs" / f"{cell.run_name}-{result['config_id']}" / "best.safetensors"
    if not file.is_file():
        raise ConfigError(f"{file} is not here: give --work, or measure the cell again")
    row = result["rows"][0]
    facts = measured(load(file, device), judged_table(cell, data, work), cell.run_name)
    if abs(facts["ap"] - row["ap"]) > 0.05:
        raise ConfigError(
            f"{file} has AP {facts['ap']:.2f}, its row {row['ap']:.2f}: it is not the detector of the row"
        )
    return {
        "cell": {key: row[key] for key in ("dataset", "percent", "fold", "seed", "recipe", "method", "variant")},
        "config_id": result["config_id"],
        "commit": commit,
        "row_commit": row["commit"],
        "versions": versions(),
        "machine": machine(device),
        "facts": {**Analysis(facts).to_dict(), "data": f"{cell.dataset} dev"},
    }


def load_analyses(folder: Path = ANALYSIS) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def render(analyses: Sequence[dict[str, Any]]) -> str:
    """The text of docs/challenges.md."""
    parts = [INTRO]
    for group, found in grouped(analyses).items():
        dataset, percent, recipe = group
        facts = {name_of(a): a["facts"] for a in found}
        first = found[0]["facts"]
        parts.append(f"## {TITLES[dataset]}, {percent:g} % labelled, recipe {recipe}\n")
        parts.append(f"{first['images']} images, {first['objects']} objects, {first['image_size']} px.\n")
        parts.append(table(["", *facts], lines(list(facts.values()))))
        parts.append(f"![the four challenges on {dataset}]({picture_name(group)})\n")
        parts.append(reading(facts))
    return "\n".join(parts).rstrip() + "\n"


def grouped(analyses: Sequence[dict[str, Any]]) -> dict[tuple[str, float, str], list[dict[str, Any]]]:
    """By data set, percent and recipe; in each the twin first and SED last."""
    groups: dict[tuple[str, float, str], list[dict[str, Any]]] = {}
    for analysis in sorted(analyses, key=place_of):
        cell = analysis["cell"]
        groups.setdefault((cell["dataset"], cell["percent"], cell["recipe"]), []).append(analysis)
    return dict(sorted(groups.items()))


def place_of(analysis: dict[str, Any]) -> tuple[int, str]:
    """The twin first, then other methods, then variants of SED; SED last."""
    key = key_of(analysis)
    return (FIRST.index(key) if key in FIRST else len(FIRST) + (key == "sed"), key)


def key_of(analysis: dict[str, Any]) -> str:
    cell = analysis["cell"]
    return str(cell["variant"] if cell["method"] == "sed" and cell["variant"] != "default" else cell["method"])


def name_of(analysis: dict[str, Any]) -> str:
    method, variant = analysis["cell"]["method"], analysis["cell"]["variant"]
    name = NAMES.get(method, method)
    if variant == "default":
        return name
    return f"{name}, {ablation_name(analysis['cell']) if method == 'sed' else RIVAL_VARIANTS.get(variant, variant)}"


def lines(columns: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line a figure, a value a detector."""

    def line(label: str, values: Sequence[str]) -> list[str]:
        return [label, *values]

    def hard(facts: dict[str, Any], at: float) -> dict[str, Any]:
        return next(dict(row) for row in facts["false_negatives"]["hard"] if row["threshold"] == at)

    found = [line("AP, AP50", [f"{c['ap']:.1f}, {c['ap50']:.1f}" for c in columns])]
    for at in (0.5, 0.7, 0.9):
        rows = [hard(c, at) for c in columns]
        label = f"(a) objects lost at a score of {at:g}; labels that are right"
        shares = [f"{percent(1 - r['recall'])}; {percent(r['precision'])}" for r in rows]
        found.append(line(label, shares))
    for name in ("small", "medium", "large"):
        if columns[0]["false_negatives"]["objects_by_size"][name]:
            at = columns[0]["false_negatives"]["thresholds"].index(0.5)
            values = [percent(c["false_negatives"]["lost"][name][at]) for c in columns]
            found.append(line(f"(a) lost at 0.5, {name}", values))
    found.append(line("(b) labels are taken from a score of", [show(c["localization"]["cut"]) for c in columns]))
    found.append(line("(b) IoU of labels with the truth, mean", [show(c["localization"]["mean_iou"]) for c in columns]))
    found.append(line("(b) of them 0.75 and more", [percent(c["localization"]["share_well"]) for c in columns]))
    both = [c["consistency"]["all"] for c in columns]
    found.append(line("(c) difference of scores at full and half size", [show(b["difference"], 3) for b in both]))
    found.append(line("(c) IoU of boxes at full and half size", [show(b["iou"]) for b in both]))
    weights = [c["imbalance"]["weights"] for c in columns]
    regions = [percent(w["share_of_regions"], 1) for w in weights]
    found.append(line("(d) share of objects in the regions", regions))
    found.append(line("(d) in SED's weight", [percent(w["share_of_weight"], 1) for w in weights]))
    calibrated = [show(c["calibration"]["from_cut"]["ece"], 3) for c in columns]
    found.append(line("calibration error, from the best score on", calibrated))
    for error in ("localization", "class", "background", "missed"):
        found.append(line(f"AP50 lost to: {error}", [show(c["errors"]["dap"][error], 1) for c in columns]))
    return found


def reading(facts: dict[str, dict[str, Any]]) -> str:
    """Which figures SED moves, and in which direction, against both others: stated from the numbers alone."""
    if "SED" not in facts:
        return ""
    sed, text = facts["SED"], []
    for name, other in facts.items():
        if name == "SED":
            continue
        wanted = zip(GOALS, goals(other), goals(sed), strict=True)
        known = [(label, before, after) for label, before, after in wanted if before is not None and after is not None]
        better = [label for label, before, after in known if before - after >= LEAST]
        worse = [label for label, before, after in known if after - before >= LEAST]
        same = [label for label, before, after in known if abs(after - before) < LEAST]
        told = [f"- Against *{name}*, SED has: {'; '.join(better) or 'nothing better'}."]
        told += [f"Not: {'; '.join(worse)}."] if worse else []
        told += [f"No difference: {'; '.join(same)}."] if same else []
        text.append(" ".join(told))
    weights = sed["imbalance"]["weights"]
    shares = (percent(weights[f"share_of_{what}"]) for what in ("regions", "weight"))
    text.append("- In SED, objects are {} of the regions and {} of the weight.".format(*shares))
    return "\n".join(text) + "\n"


GOALS = (
    "fewer objects lost at 0.5",
    "more labels that are right there",
    "boxes that lie better",
    "scores that differ less between the sizes",
    "boxes that differ less between the sizes",
    "better calibrated",
    "less AP50 lost to localization",
)


def goals(facts: dict[str, Any]) -> list[float | None]:
    """The figures that the method's parts are meant to lower, as in GOALS."""
    lost, both = facts["false_negatives"], facts["consistency"]["all"]
    at, boxes = lost["thresholds"].index(0.5), facts["localization"]["mean_iou"]
    right = next(row["precision"] for row in lost["hard"] if row["threshold"] == 0.5)
    return [
        lost["lost"]["all"][at],
        None if right is None else 1 - right,
        None if boxes is None else 1 - boxes,
        both["difference"],
        None if both["iou"] is None else 1 - both["iou"],
        facts["calibration"]["from_cut"]["ece"],
        facts["errors"]["dap"]["localization"] / 100,
    ]


def picture_name(group: tuple[str, float, str]) -> str:
    return f"challenges-{group[0]}-{group[1]:g}-{group[2]}.svg"


def draw(analyses: Sequence[dict[str, Any]], out: Path) -> None:
    """One SVG a group: lost objects, where boxes lie, AP by size, consistency of the sizes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    style: Any = {"svg.hashsalt": "sedet", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    colours = ("#7a7a7a", "#c2571a", "#2b6a99", "#3c8d5a", "#8a5a9e", "#b8a02a", "#50b0b8", "#c0567a")
    for group, found in grouped(analyses).items():
        with plt.rc_context(style):
            figure, axes = plt.subplots(2, 2, figsize=(8.4, 6.0), layout="constrained")
            for analysis, colour in zip(found, colours[: len(found)], strict=True):
                facts, label = analysis["facts"], name_of(analysis)
                lost = facts["false_negatives"]
                every = [100 * v for v in lost["lost"]["all"]]
                axes[0][0].plot(lost["thresholds"], every, color=colour, label=label, linewidth=1.8)
                histogram = facts["localization"]["histogram"]
                counts, edges = histogram["counts"], histogram["edges"]
                total = max(1, sum(counts))
                shares = [100 * c / total for c in counts]
                axes[0][1].stairs(shares, edges, color=colour, label=label, linewidth=1.6)
                sized = [r for r in facts["sizes"] if r["objects"] >= 10]
                middle = [100 * (r["from"] * r["to"]) ** 0.5 for r in sized]
                axes[1][0].plot(middle, [r["ap"] for r in sized], color=colour, marker="o", markersize=3, label=label)
                both = [r for r in facts["consistency"]["by_size"] if r["objects"] >= 10]
                middle = [100 * (r["from"] * r["to"]) ** 0.5 for r in both]
                axes[1][1].plot(middle, [r["iou"] for r in both], color=colour, marker="o", markersize=3, label=label)
            titles = (
                ("(a) objects without a pseudo label", "score to cut at", "% lost"),
                ("(b) where pseudo boxes lie", "IoU with the truth", "% of boxes"),
                ("(c) AP by object size", "side, % of the image's", "AP"),
                ("(c) agreement of full and half size", "side, % of the image's", "IoU of the boxes"),
            )
            for ax, (title, below, beside) in zip(axes.flat, titles, strict=True):
                ax.set_title(title, loc="left", fontsize=9)
                ax.set_xlabel(below)
                ax.set_ylabel(beside)
                ax.grid(axis="y", linewidth=0.4, alpha=0.6)
            for ax in axes[1]:
                ax.set_xscale("log")
                ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
                ax.xaxis.set_minor_formatter(lambda value, _: "")
            handles, names = axes[0][0].get_legend_handles_labels()
            columns = 1 if max(map(len, names)) > 50 else 2 if max(map(len, names)) > 30 else 3
            figure.legend(handles, names, frameon=False, fontsize=8, loc="outside upper left", ncols=columns)
            out.mkdir(parents=True, exist_ok=True)
            figure.savefig(out / picture_name(group), metadata={"Date": None, "Creator": None})
            plt.close(figure)


def show(value: float | None, places: int = 2) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def percent(share: float | None, places: int = 0) -> str:
    return "–" if share is None else f"{100 * share:.{places}f} %"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "write"))
    parser.add_argument("--dataset", default="bccd")
    parser.add_argument("--percent", type=float, default=10)
    parser.add_argument("--recipe", default="cpu-long")
    parser.add_argument(
        "--methods", nargs="+", default=["supervised", "unbiased-teacher", "sed"], help="or METHOD:VARIANT"
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "benchmarks")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    try:
        if options.what == "measure":
            commit = provenance(options.data.resolve()).commit  # before the first file changes the tree
            for name in options.methods:
                method, _, variant = name.partition(":")
                fold = 0 if options.dataset == "demo" else 1
                cell = Cell(options.dataset, options.percent, fold, method, variant or "default", 0, options.recipe)
                found = measure(
                    cell, commit, options.data.resolve(), options.work.resolve(), options.results, options.device
                )
                write_json(ANALYSIS / f"{cell.run_name}.json", found)
                print(f"{cell.run_name}: AP {found['facts']['ap']:.1f}", flush=True)
    except SedetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    analyses = load_analyses()
    write_if_changed(options.docs / "challenges.md", render(analyses))
    draw(analyses, options.docs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
