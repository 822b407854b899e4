"""The data of a cell: which images keep their labels, which train without, and what judges."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.plan import SPLITS, Cell, Inputs
from sedet.data.clean import clean
from sedet.data.duplicates import repeated, same_pictures
from sedet.data.formats import align_classes, read_table
from sedet.data.split import split_table
from sedet.data.table import AnnotationTable
from sedet.data.write import write_coco, write_text
from sedet.demo.scenes import VERSION, DemoData, draw_scenes
from sedet.demo.settings import AREA_RANGES, SCENES
from sedet.errors import ConfigError
from sedet.evaluation.coco import COCO_AREA_RANGES

COCO_PEOPLE = (
    "person, bicycle, car, motorcycle, bus, train, truck, boat, horse, dog, umbrella, skis, skateboard, surfboard, "
    "tennis racket, chair, couch, dining table"
)
"""The 18 classes of the tables: those that hold enough objects when labels are scarce."""

SPLIT_SEED = 0
"""Folds are the same for every seed of the training: a seed changes the training, a fold the labels."""

PACK_FILE = "pack.json"
"""Written by pack.py beside re-encoded data: the original sizes of its images."""


@dataclass(frozen=True)
class Source:
    """Where a data set's parts lie, below the data folder: (annotations, images or None)."""

    pool: tuple[str, str | None]
    dev: tuple[str, str | None]
    val: tuple[str, str | None]
    classes: tuple[str, ...] = ()


SOURCES = {
    "coco-people": Source(
        ("coco-people/instances_pool.json", "coco-people/pool"),
        ("coco-people/instances_dev.json", "coco-people/dev"),
        ("coco-people/instances_val.json", "coco-people/val"),
        tuple(COCO_PEOPLE.split(", ")),
    ),
    "bccd": Source(("bccd:train", None), ("bccd:val", None), ("bccd:test", None)),
    "vehicles": Source(
        ("vehicles/data.yaml:train", None), ("vehicles/data.yaml:val", None), ("vehicles/data.yaml:test", None)
    ),
}


@dataclass(frozen=True)
class CellData:
    """A cell's data, written down for the training.

    Attributes:
        inputs: paths and digest for the settings.
        labeled, pool: counts of images; ``pool`` is what trains without labels (labelled ones included).
        left_out: images of the pool left out because they show what a judged image shows, or copies.
    """

    inputs: Inputs
    labeled: int
    pool: int
    left_out: int


def cell_data(cell: Cell, data: Path, work: Path) -> CellData:
    """Write the lists of a cell below ``work`` (again the same ones, if it was done before)."""
    if cell.dataset == "demo":
        return _demo_data(cell, work)
    table, left_out = pool_table(cell.dataset, data)
    labeled = (
        table if cell.percent == 100 else table.subset(split_table(table, cell.percent, cell.fold, SPLIT_SEED).labeled)
    )
    dev = part_table(cell.dataset, "dev", data)
    folder = work / "data" / f"{cell.dataset}-{cell.percent:g}-f{cell.fold}"
    paths = {"labeled": folder / "labeled.json", "dev": folder / "dev.json", "pool": folder / "pool.txt"}
    write_coco(labeled, paths["labeled"])
    write_coco(dev, paths["dev"])
    write_text(paths["pool"], "".join(f"{image.path}\n" for image in table.images))
    digest = hashlib.sha256()
    digest.update(paths["labeled"].read_bytes() + paths["dev"].read_bytes())
    digest.update("\n".join(f"{i.name} {i.path.stat().st_size}" for i in table.images).encode())
    inputs = Inputs(
        labeled=str(paths["labeled"]),
        images=str(table.root),
        unlabeled=(str(paths["pool"]),),
        val=str(paths["dev"]),
        val_images=str(dev.root),
        digest=digest.hexdigest(),
    )
    return CellData(inputs, len(labeled), len(table), left_out)


def _demo_data(cell: Cell, work: Path) -> CellData:
    scenes = _demo_scenes(cell, work)
    ceiling = cell.percent == 100
    labeled = scenes.all_json if ceiling else scenes.labeled_json
    if not ceiling and cell.percent != demo_percent():
        raise ConfigError(f"the demo labels {demo_percent():g} % (or 100, the ceiling), not {cell.percent:g}")
    digest = hashlib.sha256(labeled.read_bytes() + scenes.val_json.read_bytes()).hexdigest()
    root = str(scenes.root)
    inputs = Inputs(str(labeled), root, (str(scenes.unlabeled_dir),), str(scenes.val_json), root, digest)
    few, many = scenes.images["labeled"], scenes.images["unlabeled"]
    return CellData(inputs, few + many if ceiling else few, many, 0)


def _demo_scenes(cell: Cell, work: Path) -> DemoData:
    folder = work / "data" / f"demo-v{VERSION}-s{cell.seed}"
    s = SCENES
    return draw_scenes(folder, seed=cell.seed, labeled=s.labeled, unlabeled=s.unlabeled, val=s.val, size=s.size)


def demo_percent() -> float:
    """The demo's labelled share of labelled and unlabelled images, percent."""
    return round(100 * SCENES.labeled / (SCENES.labeled + SCENES.unlabeled), 1)


def area_ranges(dataset: str) -> tuple[float, float]:
    """Sides, pixels, that part small, medium and large objects: COCO's, but for the demo's small pictures."""
    return AREA_RANGES if dataset == "demo" else COCO_AREA_RANGES


def judged_table(cell: Cell, data: Path, work: Path) -> AnnotationTable:
    """The ground truth a cell is judged by, in pixels of the images as they were published.

    The demo has one set to judge by; it stands for both splits.
    """
    if cell.dataset == "demo":
        scenes = _demo_scenes(cell, work)
        return align_classes(read_table(scenes.val_json, scenes.root, "val"), scenes.classes)
    if cell.split not in _packed(data).get("whole", SPLITS):
        raise ConfigError(f"{data} has thumbnails of {cell.split}: pack it anew without --no-val to judge by it")
    return original_size(part_table(cell.dataset, cell.split, data), data)


def _packed(data: Path) -> dict[str, Any]:
    """What pack.py wrote of its copy; empty where ``data`` is none."""
    file = data / PACK_FILE
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


@cache
def part_table(dataset: str, part: str, data: Path) -> AnnotationTable:
    """The pool, dev or val of a data set with the classes that are measured, cleaned."""
    source = SOURCES[dataset]
    annotations, images = getattr(source, part)
    table = read_table(str(data / annotations), None if images is None else data / images)
    if part != "pool" and not source.classes:
        table = align_classes(table, part_table(dataset, "pool", data).classes)
    if source.classes:
        table = table.with_classes(source.classes)
    return clean(table)[0]


@cache
def pool_table(dataset: str, data: Path) -> tuple[AnnotationTable, int]:
    """The pool without copies and without what dev or val show, and how many images that left out.

    So the ceiling has exactly the images that train without labels elsewhere, and nothing judged is seen.
    """
    table = part_table(dataset, "pool", data)
    paths = [image.path for image in table.images]
    judged = [i.path for part in ("dev", "val") for i in part_table(dataset, part, data).images]
    shown = same_pictures(paths, judged)
    kept = [i for i, (a, b) in enumerate(zip(shown, repeated(paths), strict=True)) if a is None and b is None]
    return table.subset(kept), len(table) - len(kept)


def original_size(table: AnnotationTable, data: Path) -> AnnotationTable:
    """Boxes and sizes in the pixels of the original images, where ``data`` is a packed copy.

    Sizes of objects (AP small, medium, large) so mean the same on every machine.
    """
    sizes: dict[str, Sequence[int]] | None = _packed(data).get("sizes")
    if sizes is None:
        return table
    images, objects = [], []
    for image, found in zip(table.images, table.objects, strict=True):
        width, height = sizes[image.path.relative_to(data).as_posix()]
        scale = np.array([width / image.width, height / image.height] * 2, dtype=np.float32)
        images.append(replace(image, width=width, height=height))
        objects.append(replace(found, boxes=(found.boxes * scale).astype(np.float32)))
    return replace(table, images=tuple(images), objects=tuple(objects))
