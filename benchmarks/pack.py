"""A small copy of the data for a machine that gets files but no history and no network.

    python benchmarks/pack.py --size 320

Images are shrunk to the size of training and encoded as JPEG; every format stays what it is (COCO JSON, VOC XML, YOLO
txt), with boxes in the new pixels. ``pack.json`` keeps the original sizes, so that objects count as small or large as
they do elsewhere, and ``commit.json`` the commit and the digests of its code, so that rows can say what they are of.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
from PIL import Image

from benchmarks.inputs import PACK_FILE, SOURCES
from benchmarks.provenance import MANIFEST, ROOT, code_digests, provenance
from benchmarks.rows import write_json
from sedet.data.formats import read_table
from sedet.data.images import read_image
from sedet.data.table import AnnotationTable, ImageEntry
from sedet.data.voc import parse_xml
from sedet.data.write import write_coco
from sedet.errors import ConfigError, SedetError

LIMIT = 55 * 2**20
"""Bytes a pack may have."""

THUMBNAIL = 128
"""Longest side, pixels, of images that are only compared with the pool's: enough to know a picture again."""


def pack(data: Path, out: Path, names: list[str], size: int, quality: int, judged: bool = True) -> int:
    """Write the copy; returns its bytes.

    Raises:
        ConfigError: ``out`` is in use, or the copy is too large (it stays, to be looked at).
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is in use: remove it, or name another with --out")
    sizes: dict[str, list[int]] = {}
    for name in names:
        source = SOURCES[name]
        for part in ("pool", "dev", "val"):
            annotations, images = getattr(source, part)
            table = read_table(str(data / annotations), None if images is None else data / images)
            side = size if judged or part != "val" else min(size, THUMBNAIL)
            small = [shrink(image, data, out, side, quality, sizes) for image in table.images]
            if annotations.endswith(".json"):
                write_coco(scaled(table, small), out / annotations)
        if (data / name / "Annotations").is_dir():
            shutil.copytree(data / name / "ImageSets", out / name / "ImageSets")
            voc(data / name, out, data, sizes)
        for file in sorted((data / name).rglob("*")):
            if file.name == "data.yaml" or file.parent.name == "labels":  # shares of the size: as they are
                target = out / file.relative_to(data)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
    whole = ["pool", "dev", "val"] if judged else ["pool", "dev"]
    write_json(out / PACK_FILE, {"size": size, "quality": quality, "whole": whole, "sizes": sizes})
    total = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    if total > LIMIT:
        raise ConfigError(f"{out} has {total / 2**20:.0f} MiB, over {LIMIT / 2**20:.0f}: lower --size or --quality")
    return total


def shrink(
    entry: ImageEntry, data: Path, out: Path, size: int, quality: int, sizes: dict[str, list[int]]
) -> tuple[int, int]:
    """Write an image whose long side is at most ``size``; returns its new width and height."""
    name = entry.path.relative_to(data).as_posix()
    pixels = read_image(entry.path, use_exif=entry.use_exif)
    height, width = pixels.shape[:2]
    sizes[name] = [width, height]
    scale = min(1.0, size / max(width, height))
    new = (max(1, round(width * scale)), max(1, round(height * scale)))
    target = out / name
    target.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if new != (width, height):
        image = image.resize(new, Image.Resampling.LANCZOS, reducing_gap=3.0)
    options = {"quality": quality, "optimize": True} if target.suffix.lower() in (".jpg", ".jpeg") else {}
    image.save(target, **options)  # type: ignore[arg-type]
    return new


def scaled(table: AnnotationTable, small: list[tuple[int, int]]) -> AnnotationTable:
    images, objects = [], []
    for image, found, (width, height) in zip(table.images, table.objects, small, strict=True):
        scale = np.array([width / image.width, height / image.height] * 2, dtype=np.float32)
        boxes = np.round(found.boxes * scale, 3).astype(np.float32)
        images.append(replace(image, width=width, height=height, use_exif=True))
        objects.append(replace(found, boxes=boxes))
    return replace(table, images=tuple(images), objects=tuple(objects))


def voc(folder: Path, out: Path, data: Path, sizes: dict[str, list[int]]) -> None:
    """The XML files with boxes and size in the new pixels. Those on no list keep neither image nor file."""
    stems = {Path(name).stem: name for name in sizes if name.startswith(f"{folder.name}/")}
    for file in sorted((folder / "Annotations").glob("*.xml")):
        name = stems.get(file.stem)
        if name is None:
            continue
        tree = parse_xml(file)
        with Image.open(out / name) as image:
            new = image.size
        factors = {axis: new[i] / sizes[name][i] for i, axis in enumerate("xy")}
        for tag, value in (("width", new[0]), ("height", new[1])):
            for node in tree.findall(f"size/{tag}"):
                node.text = str(value)
        for node in tree.findall("object/bndbox/*"):
            node.text = f"{float(node.text or 0) * factors[node.tag[0]]:.3f}"
        target = out / file.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        ElementTree.ElementTree(tree).write(target, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / ".gpu" / "data")
    parser.add_argument("--sets", nargs="+", choices=tuple(SOURCES), default=["coco-people", "bccd"])
    parser.add_argument("--size", type=int, default=320, help="longest side, pixels")
    parser.add_argument("--quality", type=int, default=70, help="of JPEG")
    parser.add_argument("--no-val", action="store_true", help="val as thumbnails: no cell there may be judged by it")
    options = parser.parse_args()
    try:
        data, out = options.data.resolve(), options.out.resolve()
        commit = provenance(data).commit
        total = pack(data, out, options.sets, options.size, options.quality, not options.no_val)
        write_json(out / MANIFEST, {"commit": commit, "code": code_digests()})
    except SedetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{out}: {total / 2**20:.1f} MiB, commit {commit[:10]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
