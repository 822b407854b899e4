"""Small data sets, written by the tests that read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
"""Real data sets; tests that need them skip where they are absent."""


def picture(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """A picture with structure at several scales, different for each seed."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (3, 6, 12):
        coarse = rng.uniform(0, 255, (cells, cells, 3)).astype(np.uint8)
        layer = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(layer, dtype=np.float64)
    return Image.fromarray((total / 3).astype(np.uint8))


def save(path: Path, seed: int = 0, width: int = 64, height: int = 48, orientation: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = picture(seed, width, height)
    if orientation is None:
        image.save(path)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(path, exif=exif)
    return path


def coco(
    folder: Path,
    boxes: Sequence[Sequence[tuple[int, Sequence[float]]]],
    *,
    images: str = "",
    categories: Sequence[tuple[int, str]] = ((3, "cat"), (7, "dog"), (90, "hen")),
    file: str = "labels.json",
    size: tuple[int, int] = (64, 48),
    seed: int = 0,
) -> Path:
    """A COCO set: for each image its (category id, [x, y, w, h]) annotations. Returns the JSON."""
    data: dict[str, Any] = {"images": [], "annotations": []}
    for i, rows in enumerate(boxes):
        name = f"{i:03d}.png"
        save(folder / images / name, seed + i, *size)
        data["images"].append({"id": 10 + i, "file_name": name, "width": size[0], "height": size[1]})
        for category, box in rows:
            data["annotations"].append(
                {"id": len(data["annotations"]) + 1, "image_id": 10 + i, "category_id": category, "bbox": box}
            )
    data["categories"] = [{"id": i, "name": name} for i, name in categories]
    return write(folder / file, data)


def write(path: Path, data: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def edit(path: Path, change: dict[str, Any]) -> dict[str, Any]:
    """Change top-level keys of a JSON file."""
    data: dict[str, Any] = json.loads(path.read_text())
    data.update(change)
    write(path, data)
    return data


def voc_xml(
    name: str,
    objects: Sequence[tuple[str, Sequence[float]]],
    size: tuple[int, int] = (64, 48),
    extra: str = "",
) -> str:
    body = "".join(
        f"<object><name>{label}</name>{extra}<bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
        f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for label, b in objects
    )
    return (
        f"<annotation><filename>{name}</filename><size><width>{size[0]}</width><height>{size[1]}</height>"
        f"<depth>3</depth></size>{body}</annotation>"
    )


def voc(folder: Path, lists: dict[str, list[int]], count: int = 4) -> Path:
    """A VOC set of images 0..count-1: image i holds a cat, odd ones a dog as well."""
    for i in range(count):
        save(folder / "JPEGImages" / f"im{i}.jpg", i)
        objects = [("cat", (2, 3, 20, 30))] + ([("dog", (10, 10, 40, 44))] if i % 2 else [])
        write(folder / "Annotations" / f"im{i}.xml", voc_xml(f"im{i}.jpg", objects))
    for name, members in lists.items():
        write(folder / "ImageSets" / "Main" / f"{name}.txt", "".join(f"im{i}\n" for i in members))
    return folder


def yolo(folder: Path, yaml: str = "train: train/images\nval: valid/images\nnames: [cat, dog]\n") -> Path:
    """A YOLO set: three training images (the last without a label file), one for val."""
    for split, seeds in (("train", (0, 1, 2)), ("valid", (3,))):
        for seed in seeds:
            save(folder / split / "images" / f"{seed}.png", seed)
            if seed != 2:
                write(folder / split / "labels" / f"{seed}.txt", f"{seed % 2} 0.5 0.5 0.25 0.5\n")
    return write(folder / "data.yaml", yaml)
