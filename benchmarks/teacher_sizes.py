"""What SED's teacher sees at each size: AP on val of a finished run at half, full and double size, and joined.

    python benchmarks/teacher_sizes.py RUN... --out benchmarks/trials/teacher-sizes.json

A look behind the method (``sedet.methods.join.join_sizes``), not a result: no detector is shipped that way.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks.provenance import ROOT, provenance, versions
from benchmarks.rows import write_json
from sedet.config import TrainConfig
from sedet.data.batch import pixels
from sedet.data.formats import align_classes, read_table
from sedet.data.images import read_image
from sedet.data.table import AnnotationTable, ImageEntry
from sedet.data.views import View, canvas_side, plain_view, stack_views
from sedet.demo.settings import AREA_RANGES
from sedet.detectors.build import Detector, rebuild_detector
from sedet.detectors.file import load_detector
from sedet.detectors.regions import HALF_LEVELS, Detections, Regions
from sedet.evaluation.coco import coco_metrics
from sedet.methods.join import join_sizes
from sedet.settings import load_config
from sedet.training.checkpoint import load_checkpoint
from sedet.training.loop import BURN_IN_FILE

SHARES = tuple((classes, boxes) for classes in (0.0, 0.25, 0.5) for boxes in (0.0, 0.5, 1.0))
"""Of the other size's classes and boxes in the joined answer."""


def look(run: Path) -> dict[str, Any]:
    """Metrics of the teacher at the end of a run's burn-in (or of the one it started from), and of what it shipped."""
    config = load_config(run / "config.yaml")
    loaded = load_detector(run / "best.safetensors")
    model = loaded.model
    shipped = by_size(model, loaded.classes, config)
    checkpoint = Path(config.start or run) / "checkpoints" / BURN_IN_FILE
    model.load_state_dict(load_checkpoint(checkpoint)["teacher"])
    about = {"run": run.name, "seed": config.seed, "burn_in": config.burn_in, "steps": config.steps}
    return {**about, "end of burn-in": by_size(model, loaded.classes, config), "shipped": shipped}


def burn_in_teacher(run: Path) -> tuple[Detector, AnnotationTable, TrainConfig]:
    """The teacher at the end of a run's burn-in (or of the one it started from), the run's val, and its settings."""
    config = load_config(run / "config.yaml")
    checkpoint = Path(config.start or run) / "checkpoints" / BURN_IN_FILE
    stored = load_checkpoint(checkpoint)
    model = rebuild_detector(stored["facts"]["spec"], checkpoint).eval()
    model.load_state_dict(stored["teacher"])
    assert config.val is not None and config.image_size
    classes = tuple(stored["facts"]["data"]["classes"])
    return model, align_classes(read_table(config.val, config.val_images, "val"), classes), config


def three_answers(
    model: Detector, table: AnnotationTable, size: int
) -> Iterator[tuple[Sequence[ImageEntry], list[View], Tensor, tuple[Regions, Regions, Regions]]]:
    """By sixteen images: entries, plain views, the contents of these, answers at full, double and half size."""
    for start in range(0, len(table), 16):
        entries = table.images[start : start + 16]
        images = [read_image(entry.path, use_exif=entry.use_exif, max_side=2 * size) for entry in entries]
        views = [plain_view(image, size) for image in images]
        stacked, content = stack_views(views, canvas_side(size))
        twice = stack_views([plain_view(image, 2 * size) for image in images], 2 * canvas_side(size))[0]
        small = torch.nn.functional.interpolate(pixels(stacked), scale_factor=0.5, mode="bilinear", antialias=True)
        full, double = model(pixels(stacked), content), model(pixels(twice), 2 * content)
        yield entries, views, content, (full, double, model(small, content // 2, HALF_LEVELS))


@torch.inference_mode()
def by_size(model: Detector, classes: tuple[str, ...], config: TrainConfig) -> dict[str, Any]:
    """Metrics on val at each size, and joined."""
    assert config.val is not None and config.image_size
    model.eval()
    table, size = align_classes(read_table(config.val, config.val_images, "val"), classes), config.image_size
    found: dict[str, list[Detections]] = {}
    for entries, views, content, (full, double, half) in three_answers(model, table, size):
        answers = {"half": (half, 0.5), "full": (full, 1.0), "double": (double, 2.0)}
        for classes_share, box_share in SHARES:
            joined = join_sizes(full, double, half, classes_share, box_share)
            answers[f"joined, classes {classes_share:g}, boxes {box_share:g}"] = joined, 1.0
        for name, (regions, scale) in answers.items():
            inside = (content * scale).long()
            for one, view, entry in zip(model.detect(regions, inside), views, entries, strict=True):
                boxes = one.boxes * (entry.width / (scale * view.width))
                found.setdefault(name, []).append(replace(one, boxes=boxes))
    result: dict[str, Any] = {}
    for name, answers_of in found.items():
        m = coco_metrics(table, answers_of, area_ranges=AREA_RANGES)
        keys = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
        result[name] = {key: round(float(getattr(m, key)), 1) for key in keys}
        result[name]["classes"] = {c: round(v["ap"], 1) for c, v in m.per_class.items()} if len(classes) < 9 else {}
    return result


def looked(about: str | None, look: Callable[[Path], dict[str, Any]], **facts: Any) -> None:
    """The command line of a look at runs: what it finds is written to a file, with commit and versions, and printed."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0] if about else None)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    looks = [look(run) for run in options.runs]
    where = provenance(ROOT.parent / "shared" / "data")
    write_json(options.out, {"commit": where.commit, "versions": versions(), **facts, "runs": looks})
    print(json.dumps(looks, indent=1))


if __name__ == "__main__":
    looked(__doc__, look, area_ranges=AREA_RANGES)
