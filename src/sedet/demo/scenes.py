"""The demo's data set: cluttered scenes drawn on the spot, with exact boxes, the same for the same seed.

Few labelled images, a plain folder of unlabelled ones, and a set to judge by. The classes are told apart by how
their parts go together, with a tendency in colour as natural things have; one of them is rare; sides spread over
17x; distractors share textures and some parts with the objects. How hard they are was set by supervised training
alone (what few and what all labels reach), and fixed before any semi-supervised method was tried on them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from sedet.data.chance import generator
from sedet.demo.shapes import CLASSES, DISTRACTORS, Paint, Shape, place, raster
from sedet.demo.surfaces import Floats, background, develop, dress
from sedet.errors import DataError

Box = tuple[float, float, float, float]
"""xyxy, pixels of the image."""

VERSION = 3
"""Goes up whenever the pictures change, so that an older folder is not taken for a newer one."""

CLASS_DECK = {"mug": 15, "fish": 13, "mushroom": 11, "wheel": 9, "key": 2}
"""Objects of each class in fifty: the key is rare (4 %). Dealt like cards, so even a small split has its share."""

SIDES = (6.4 / 128, 114 / 128)
"""Smallest and largest long side of an object, as a share of the image's side."""

OBJECT_COUNTS = (0.16, 0.24, 0.22, 0.16, 0.12, 0.10)
"""Chance of 1, 2, ... 6 objects in an image."""

HUES = {"mug": 0.6, "fish": 0.08, "mushroom": 0.0, "wheel": 0.35, "key": 0.14}
"""Typical hue of each class (0-1 round the colour wheel)."""

DISTRACTOR_COUNTS = (1, 5)
"""Distractors in an image: at least the first, fewer than the second number."""

OVERLAP = 0.25
"""Boxes of two objects share at most this part of the smaller one: one thing is seldom seen right before another."""

VISIBLE = 0.7
"""An object shows at least this share of itself and of its clues; whatever would hide more is laid elsewhere."""


@dataclass(frozen=True, slots=True)
class DemoData:
    """Where the drawn data set lies, and what is in it.

    Attributes:
        root: its folder; file names in the JSON files are relative to it.
        labeled_json: COCO JSON of the few labelled images.
        unlabeled_dir: folder of unlabelled images, with no annotation in it.
        val_json: COCO JSON of the images to judge by.
        all_json: COCO JSON of labelled *and* unlabelled images, kept apart: for the ceiling only. Read it with
            ``root`` as the folder of its images.
        classes: class names, in the order of their category ids (1, 2, ...).
        images: images of each split ("labeled", "unlabeled", "val").
        objects: objects of each class in each split.
    """

    root: Path
    labeled_json: Path
    unlabeled_dir: Path
    val_json: Path
    all_json: Path
    classes: tuple[str, ...]
    images: dict[str, int]
    objects: dict[str, dict[str, int]]


def draw_scenes(
    out: Path, *, seed: int = 0, labeled: int = 24, unlabeled: int = 400, val: int = 150, size: int = 128
) -> DemoData:
    """Draw the data set into ``out``, or take it from there if it is the same one, drawn before.

    Args:
        out: folder to make. It appears only once it is complete.
        seed: base of every draw; another seed gives other images in each split.
        labeled, unlabeled, val: images of each split.
        size: side of the square images, pixels.

    Raises:
        DataError: ``out`` holds something else, or a number makes no sense.
    """
    if min(labeled, unlabeled, val) < 1 or not 64 <= size <= 1024:
        raise DataError(
            f"cannot draw {labeled} labelled, {unlabeled} unlabelled, {val} val images of {size} px",
            todo="Give at least 1 image each, and a size of 64 to 1024",
        )
    out = Path(out).absolute()
    counts = {"labeled": labeled, "unlabeled": unlabeled, "val": val}
    order: dict[str, Any] = {"version": VERSION, "seed": seed, "size": size, "images": counts}
    if out.is_dir() and any(out.iterdir()):
        return _reuse(out, order)
    if out.exists() and not out.is_dir():
        raise DataError("is a file, not a folder", out, "Name another folder for the scenes")

    part = out.with_name(f"{out.name}.{os.getpid()}.partial")
    try:
        records = {split: _draw_split(part / split, split, seed, n, size) for split, n in counts.items()}
        _write_coco(part / "labeled.json", records["labeled"], size)
        _write_coco(part / "val.json", records["val"], size)
        (part / "truth").mkdir()
        _write_coco(part / "truth" / "all.json", [*records["labeled"], *records["unlabeled"]], size)
        tally = {split: _tally(scenes) for split, scenes in records.items()}
        (part / "scenes.json").write_text(json.dumps({**order, "objects": tally}, indent=1) + "\n")
        if out.exists():
            out.rmdir()
        part.rename(out)
    except OSError as error:
        raise DataError(
            f"cannot write the scenes ({error.strerror})", out, "Free some space or name another"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return _describe(out, counts, tally)


@dataclass(frozen=True, slots=True)
class _Scene:
    """An image's name and its objects: (class, xyxy in pixels)."""

    name: str
    objects: list[tuple[str, Box]]


def _draw_split(folder: Path, split: str, seed: int, count: int, size: int) -> list[_Scene]:
    folder.mkdir(parents=True)
    deck = _deal(generator(seed, "classes", split))
    scenes = []
    for i in range(count):
        rng = generator(seed, "scene", split, i)
        n = 1 + int(rng.choice(len(OBJECT_COUNTS), p=OBJECT_COUNTS))
        pixels, objects = draw_scene(rng, [next(deck) for _ in range(n)], size)
        name = f"{split}/{i:05d}.png"
        Image.fromarray(pixels).save(folder.parent / name, compress_level=1)
        scenes.append(_Scene(name, objects))
    return scenes


def _deal(rng: np.random.Generator) -> Iterator[str]:
    cards = [name for name, n in CLASS_DECK.items() for _ in range(n)]
    while True:
        for i in rng.permutation(len(cards)):
            yield cards[int(i)]


def draw_scene(
    rng: np.random.Generator, names: list[str], size: int
) -> tuple[NDArray[np.uint8], list[tuple[str, Box]]]:
    """Draw one image with an object of each class in ``names``.

    Returns:
        uint8 [size, size, 3], and the objects with their boxes: xyxy in pixels, tight round the whole object as
        drawn (what is hidden by others included), clipped to the image.
    """
    canvas = _Canvas(background(rng, size), light=rng.uniform(0, 2 * np.pi))
    wanted: list[tuple[float, str | None, Shape]] = []
    low, high = np.log(SIDES[0] * size), np.log(SIDES[1] * size)
    for name in names:
        wanted.append((float(np.exp(low + (high - low) * rng.beta(1.7, 1.2))), name, CLASSES[name]))
    for _ in range(int(rng.integers(*DISTRACTOR_COUNTS))):
        shape = DISTRACTORS[int(rng.integers(len(DISTRACTORS)))]
        wanted.append((float(np.exp(rng.uniform(low, high - 0.5))), None, shape))
    # Large things tend to lie behind small ones, or nothing small would be seen.
    wanted.sort(key=lambda w: -w[0] * float(np.exp(rng.normal(0, 0.35))))
    for side, kind, shape in wanted:
        for attempt in range(30 if kind else 6):
            # What finds no place is drawn anew, in the end smaller; a distractor may be left out.
            if canvas.lay(rng, shape, max(side * 0.93 ** max(0, attempt - 8), float(np.exp(low))), kind):
                break
    return develop(rng, canvas.image, canvas.light), canvas.objects()


@dataclass(frozen=True, slots=True)
class _Object:
    """An object on the canvas and what still shows of it.

    Attributes:
        shown, clue: float32 [size, size], share of the pixel that shows it, and that shows its clues.
        area, clue_area: pixels of both, had nothing hidden or cut it.
    """

    name: str
    box: Box
    shown: Floats
    clue: Floats
    area: float
    clue_area: float

    def under(self, alpha: Floats) -> _Object:
        """The same with something laid over it."""
        return replace(self, shown=self.shown * (1 - alpha), clue=self.clue * (1 - alpha))

    def recognisable(self) -> bool:
        enough = float(self.shown.sum()) >= VISIBLE * self.area
        return enough and float(self.clue.sum()) >= VISIBLE * self.clue_area


class _Canvas:
    """An image being painted back to front, which knows how much of each object still shows."""

    def __init__(self, image: Floats, light: float) -> None:
        self.image, self.light, self.size = image, light, len(image)
        self._objects: list[_Object] = []

    def objects(self) -> list[tuple[str, Box]]:
        return [(seen.name, seen.box) for seen in self._objects]

    def lay(self, rng: np.random.Generator, shape: Shape, side: float, name: str | None) -> bool:
        """Draw a shape somewhere; false, with nothing changed, if it would hide an object or be cut off too far."""
        any_turn = name in ("wheel", "key") or name is None
        degrees = rng.uniform(0, 360) if any_turn else rng.normal(0, 28 if name == "fish" else 15)
        stretch, shear = float(np.exp(rng.normal(0, 0.16))), rng.normal(0, 0.14)
        parts = place(shape(rng), side, degrees, stretch, shear, mirror=rng.random() < 0.5)
        outline = rng.uniform(0.02, 0.045) * side if rng.random() < 0.45 else 0.0
        drawn = raster(parts, outline, oversample=4 if side < 20 else 3 if side < 48 else 2)

        h, w = drawn.clue.shape
        cut = 0.25 if rng.random() < 0.3 else 0.0
        left, top = (round(rng.uniform(-cut * n, max(self.size - n + cut * n, 1 - cut * n))) for n in (w, h))
        inside = slice(max(top, 0), min(top + h, self.size)), slice(max(left, 0), min(left + w, self.size))
        part = tuple(slice(s.start - at, s.stop - at) for s, at in zip(inside, (top, left), strict=True))
        alpha = np.zeros((self.size, self.size), dtype=np.float32)
        alpha[inside] = 1 - drawn.cover[Paint.HOLE][part]

        showing = [seen.under(alpha) for seen in self._objects]
        if name is not None:
            box = _clip(alpha, drawn.box, top, left)
            clue = np.zeros_like(alpha)
            clue[inside] = drawn.clue[part]
            whole = float((1 - drawn.cover[Paint.HOLE]).sum()), float(drawn.clue.sum())
            showing.append(_Object(name, box, alpha, clue, *whole))
            if self._unfit(box):
                return False
        if not all(seen.recognisable() for seen in showing):
            return False
        self._objects = showing
        behind = self.image[inside].mean(axis=(0, 1))
        if rng.random() < 0.5:
            self._shadow(alpha, side, rng.uniform(0.2, 0.6))
        colours = dress(rng, drawn.cover[:, *part], degrees, outline > 0, behind, self.light, HUES.get(name or ""))
        self.image[inside] += alpha[inside][..., None] * (colours - self.image[inside])
        return True

    def _unfit(self, box: Box) -> bool:
        """Whether an object's box is smaller than objects are to be, or lies too much in the box of another."""
        width, height = box[2] - box[0], box[3] - box[1]
        if max(width, height) < 0.95 * SIDES[0] * self.size or min(width, height) < 0.4 * SIDES[0] * self.size:
            return True
        for other in (seen.box for seen in self._objects):
            w = min(box[2], other[2]) - max(box[0], other[0])
            h = min(box[3], other[3]) - max(box[1], other[1])
            both = max(w, 0) * max(h, 0)
            if both > OVERLAP * min(width * height, (other[2] - other[0]) * (other[3] - other[1])):
                return True
        return False

    def _shadow(self, alpha: Floats, side: float, strength: float) -> None:
        away = -0.08 * side
        cast = Image.new("L", (self.size, self.size))
        shape = Image.fromarray((alpha * 255).astype(np.uint8))
        cast.paste(shape, (round(away * np.cos(self.light)), round(away * np.sin(self.light))))
        soft = np.asarray(cast.filter(ImageFilter.GaussianBlur(max(side * 0.06, 0.6))), dtype=np.float32) / 255
        self.image *= 1 - np.float32(strength) * soft[..., None]


def _clip(alpha: Floats, tight: Box, top: int, left: int) -> Box:
    """The box of what of a shape lies inside the image: ``tight`` where the border does not cut into it."""
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return (
        max(tight[0] + left, float(columns[0])),
        max(tight[1] + top, float(rows[0])),
        min(tight[2] + left, float(columns[-1] + 1)),
        min(tight[3] + top, float(rows[-1] + 1)),
    )


def _write_coco(path: Path, scenes: list[_Scene], size: int) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    ids = {name: i for i, name in enumerate(CLASSES, start=1)}
    for image_id, scene in enumerate(scenes, start=1):
        images.append({"id": image_id, "file_name": scene.name, "width": size, "height": size})
        for name, (x0, y0, x1, y1) in scene.objects:
            box = [round(v, 3) for v in (x0, y0, x1 - x0, y1 - y0)]
            area = round(box[2] * box[3], 3)
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": ids[name], "bbox": box}
            annotations.append({**entry, "area": area, "iscrowd": 0})
    categories = [{"id": i, "name": name} for name, i in ids.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")


def _tally(scenes: list[_Scene]) -> dict[str, int]:
    found = Counter(name for scene in scenes for name, _ in scene.objects)
    return {name: found[name] for name in CLASSES}


def _reuse(out: Path, order: dict[str, Any]) -> DemoData:
    todo = "Name another folder for the scenes, or remove this one"
    try:
        found = json.loads((out / "scenes.json").read_text(encoding="utf-8"))
        same = {key: found[key] for key in order} == order
        tally = {split: {name: int(found["objects"][split][name]) for name in CLASSES} for split in order["images"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("the folder is in use, and holds no drawn scenes", out, todo) from error
    if not same:
        raise DataError("holds scenes drawn with other settings", out, todo)
    return _describe(out, order["images"], tally)


def _describe(out: Path, counts: dict[str, int], tally: dict[str, dict[str, int]]) -> DemoData:
    return DemoData(
        root=out,
        labeled_json=out / "labeled.json",
        unlabeled_dir=out / "unlabeled",
        val_json=out / "val.json",
        all_json=out / "truth" / "all.json",
        classes=tuple(CLASSES),
        images=dict(counts),
        objects=tally,
    )
