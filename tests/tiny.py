"""Small, quick stand-ins that several tests share: a detector, batches of views, data on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sedet.config import ModelConfig, SEDConfig, TrainConfig
from sedet.data.batch import Batch, Targets
from sedet.data.views import View, half_view, stack_views
from sedet.detectors.build import build_detector
from sedet.detectors.fcos import FCOS
from sedet.detectors.regions import Regions

BACKBONE = "lcnet_035"
"""The quickest timm model with strides 4-32 that is installed everywhere."""
MODEL = ModelConfig(neck_channels=8, head_convs=1)


def detector(classes: int = 3, seed: int = 0, confident: bool = False) -> FCOS:
    """A real FCOS from scratch with few channels; ``confident`` spreads its answers, as training would."""
    torch.manual_seed(seed)
    model = build_detector("fcos", BACKBONE, classes, MODEL, "none")
    if confident:
        with torch.no_grad():
            model.classification_head.cls_logits.weight.mul_(20)
            model.classification_head.cls_logits.bias.zero_()
            model.regression_head.bbox_reg.weight.mul_(10)
            model.regression_head.bbox_ctrness.weight.mul_(20)
    return model


def targets(*rows: tuple[int, float, float, float, float], ignore: list[list[float]] | None = None) -> Targets:
    """Rows of label, x1, y1, x2, y2."""
    return Targets(
        torch.tensor([r[1:] for r in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([r[0] for r in rows], dtype=torch.int64),
        torch.tensor(ignore or [], dtype=torch.float32).reshape(-1, 4),
    )


def batch(
    sizes: list[tuple[int, int]],
    side: int = 64,
    seed: int = 0,
    labels: list[Targets] | None = None,
    erased: list[list[list[float]]] | None = None,
) -> Batch:
    """Noise images of the given content sizes (width, height); unlabelled unless ``labels`` are given.

    Unlabelled ones have the weak view at half and double size too; :func:`one_size` takes them away.
    """
    rng = np.random.default_rng(seed)

    def views(draw: np.random.Generator) -> list[View]:
        return [
            View(
                torch.from_numpy(draw.integers(0, 256, (3, height, width), dtype=np.uint8)),
                np.eye(3),
                torch.zeros(0, 4),
            )
            for width, height in sizes
        ]

    weak, strong = views(rng), views(rng)
    stacked, content = stack_views(strong, side)
    rectangles = torch.zeros(len(sizes), 3, 4)
    for i, rows in enumerate(erased or []):
        for k, row in enumerate(rows):
            rectangles[i, k] = torch.tensor(row)
    doubled = [View(v.image.repeat_interleave(2, -1).repeat_interleave(2, -2), v.matrix, v.erased) for v in weak]
    return Batch(
        strong=stacked,
        half=stack_views([half_view(v) for v in strong], side // 2)[0],
        weak=None if labels is not None else stack_views(weak, side)[0],
        content=content,
        erased=rectangles,
        targets=None if labels is None else tuple(labels),
        names=tuple(f"{seed}-{i}.png" for i in range(len(sizes))),
        weak_half=None if labels is not None else stack_views([half_view(v) for v in weak], side // 2)[0],
        weak_double=None if labels is not None else stack_views(doubled, 2 * side)[0],
        doubled=None if labels is not None else torch.arange(len(sizes)),
    )


def one_size(batch: Batch) -> Batch:
    """The batch as it is without ``sed.three_sizes``."""
    return replace(batch, weak_double=None, doubled=None)


def regions(
    logits: Tensor,
    boxes: Tensor,
    quality: Tensor | None,
    points: Tensor | None = None,
    strides: Tensor | None = None,
    valid: Tensor | None = None,
) -> Regions:
    """Answers from their parts; points 0, strides 8 and all valid unless given."""
    count = logits.shape[1]
    return Regions(
        logits,
        boxes,
        quality,
        torch.zeros(count, 2, dtype=boxes.dtype) if points is None else points,
        torch.full((count,), 8.0, dtype=boxes.dtype) if strides is None else strides,
        torch.ones(logits.shape[:2], dtype=torch.bool) if valid is None else valid,
    )


def scene(seed: int, width: int = 64, height: int = 48) -> tuple[np.ndarray, list[tuple[int, list[float]]]]:
    """uint8 [height, width, 3] with one or two flat rectangles, and their (class 1 or 2, xywh)."""
    rng = np.random.default_rng(seed)
    image = rng.integers(60, 120, (height, width, 3), dtype=np.uint8)
    found = []
    for label in (1, 2)[: 1 + seed % 2]:
        w, h = (int(v) for v in rng.integers(12, 28, 2))
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        image[y : y + h, x : x + w] = (230, 40, 40) if label == 1 else (40, 40, 230)
        found.append((label, [float(x), float(y), float(w), float(h)]))
    return image, found


def dataset(folder: Path, labeled: int = 6, unlabeled: int = 6, val: int = 3) -> Path:
    """Writes labeled.json, val.json, their images, and a folder ``unlabeled``. Returns the folder."""
    seed = 0
    for name, count in (("labeled", labeled), ("val", val), ("unlabeled", unlabeled)):
        data = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]}
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image, objects = scene(seed)
            seed += 1
            file = folder / name / f"{name}{i}.png"
            Image.fromarray(image).save(file)
            data["images"].append({"id": i, "file_name": f"{name}/{file.name}", "width": 64, "height": 48})
            for label, box in objects:
                number = len(data["annotations"])
                data["annotations"].append({"id": number, "image_id": i, "category_id": label, "bbox": box})
        if name != "unlabeled":
            (folder / f"{name}.json").write_text(json.dumps(data))
    return folder


def config(data: Path, out: Path, **changes: Any) -> TrainConfig:
    """Settings of a training of seconds on :func:`dataset`: 2 of 8 steps are burn-in."""
    settings = TrainConfig(
        labeled=str(data / "labeled.json"),
        unlabeled=(str(data / "unlabeled"),),
        val=str(data / "val.json"),
        out=str(out),
        backbone=BACKBONE,
        weights="none",
        image_size=64,
        batch=2,
        steps=8,
        burn_in=0.25,
        ramp=0.25,
        eval_every=2,
        device="cpu",
        report=False,  # takes longer than these trainings
        threads=1,
        workers=0,
        model=MODEL,
        # Every loss term, also those that are off by default.
        sed=SEDConfig(class_weight=1.0, box_weight=1.0, quality_weight=1.0),
    )
    return replace(settings, **changes)
