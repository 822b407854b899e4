"""Labels for other tools, with scores: COCO, YOLO, Pascal VOC, Label Studio, CVAT. Streamed, image by image.

Each format gets a folder of its own, which has its name only once it is whole. Text from outside (class and file
names) is escaped as each format asks for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

from sedet.data.layout import inside
from sedet.errors import ConfigError, DataError
from sedet.files import naming
from sedet.labeling.export_cvat import CVAT
from sedet.labeling.export_files import VOC, YOLO
from sedet.labeling.export_label_studio import LabelStudio
from sedet.labeling.options import Export
from sedet.labeling.parts import clear_part_folders, clear_parts, part_of, write_whole
from sedet.labeling.placing import Placer, linked
from sedet.labeling.shards import Record, read_records
from sedet.outputs import Stream
from sedet.training.lock import sole

EXPORTS: tuple[str, ...] = get_args(Export)
PLACING = ("coco", "yolo", "voc")
"""Exports with the images in them; the tools of the others hold or fetch them on their own."""
RECORD = "exports.json"
"""What each export was made with."""
LOCK = ".exports.lock"
SORTED = 20_000
"""Up to so many images chosen by rank are written best first; more in the order they lie in."""


@dataclass(frozen=True)
class How:
    """What exports are made with.

    Attributes:
        top: only so many images, those ranked first; None for all.
        image_url: what stands before an image's name in Label Studio.
        copy: copy images in place of linking to them, where a format places images.
    """

    top: int | None
    image_url: str
    copy: bool

    def of(self, name: str) -> dict[str, Any]:
        """What matters to one format."""
        placed = {"copy": True} if self.copy and name in PLACING else {}
        return {"top": self.top} | placed | ({"image_url": self.image_url} if name == "label-studio" else {})


class Exporter(Protocol):
    """Writes into a folder of its own: images one by one, then what is left to say."""

    def add(self, record: Record) -> None: ...

    def finish(self) -> list[str]:
        """Notes on what the format could not hold."""


class COCO:
    """``instances.json``: COCO annotations, each with its ``score``; ``images`` is a link to the images, or copies.

    A file name stands there as it is. Readers take some for a path of another system; those are named in a note.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], copy: bool) -> None:
        self._folder = folder
        self._images, self._boxes = Stream(folder / "instances.json"), Stream(folder / "annotations.part")
        ids, names = facts["category_ids"], facts["classes"]
        self._ids = ids
        categories = [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)]
        self._images.write(f'{{"categories": {json.dumps(categories)},\n"images": [')
        self._count = [0, 0]
        self._unclear, self._first_unclear = 0, ""
        self._root = root = Path(facts["root"])
        self._placer, self._notes = (Placer(root, copy) if copy else None), []
        if not copy and not linked(folder / "images", root, folder=True):
            self._notes = ["coco: the images could not be linked: give readers their folder, or write it with --copy"]

    def add(self, record: Record) -> None:
        place = self._folder / "images" / record.name
        if self._placer is not None and not self._placer.place(record.name, place):
            return
        if not _clear(self._root, record.name):
            self._unclear, self._first_unclear = self._unclear + 1, self._first_unclear or record.name
        number = self._count[0] + 1
        image = {"id": number, "file_name": record.name, "width": record.width, "height": record.height}
        self._images.write((",\n" if self._count[0] else "\n") + json.dumps(image))
        self._count[0] = number
        for box in record.boxes:
            x1, y1, x2, y2 = (round(v, 3) for v in box.corners)
            width, height = round(x2 - x1, 3), round(y2 - y1, 3)
            entry = {
                "id": self._count[1] + 1,
                "image_id": number,
                "category_id": self._ids[box.label],
                "bbox": [x1, y1, width, height],
                "area": round(width * height, 3),
                "iscrowd": 0,
                "score": round(box.score, 5),
            }
            self._boxes.write((",\n" if self._count[1] else "\n") + json.dumps(entry, allow_nan=False))
            self._count[1] += 1

    def finish(self) -> list[str]:
        part = self._boxes.finish()
        self._images.write('\n],\n"annotations": [')
        with part.open(encoding="ascii") as lines:
            for line in lines:
                self._images.write(line)
        self._images.write("\n]}\n")
        self._images.finish()
        part.unlink()
        notes = self._notes if self._placer is None else self._placer.notes("coco")
        if self._unclear:
            count = f"{self._unclear} file name{'' if self._unclear == 1 else 's'}"
            notes = [
                *notes,
                f"coco: {count} with a backslash, a drive or spaces at an end would not be found again by readers, "
                f"which take them for paths; rename the files, or use another format: {self._first_unclear!r} ...",
            ]
        return notes


def _clear(root: Path, name: str) -> bool:
    """Whether a reader of COCO takes the name for what it is."""
    try:
        return inside(root, name, root) == name
    except DataError:
        return False


def check_exports(formats: str | Sequence[str]) -> tuple[str, ...]:
    """The formats, each once.

    Raises:
        ConfigError: an unknown one.
    """
    names = tuple(dict.fromkeys((formats,) if isinstance(formats, str) else formats))
    for name in names:
        if name not in EXPORTS:
            hint = ". Separate them by spaces" if "," in name else ""
            raise ConfigError(f"there is no export '{name}'; there are: {', '.join(EXPORTS)}{hint}")
    return names


def check_room(out: Path, formats: Sequence[str], how: How) -> list[str]:
    """The formats still to write. An export that is there stays: it may have been corrected in place.

    Raises:
        ConfigError: one that is there was written otherwise, or there are no images to copy.
    """
    if how.copy and not set(PLACING).intersection(formats):
        raise ConfigError(f"--copy needs an export that holds images, of {', '.join(PLACING)}: add one to --format")
    written = _written(out)
    missing = []
    for name in formats:
        if not (out / name).exists():
            missing.append(name)
        elif name not in written:
            known = f"{out / RECORD} does not say with what settings"
            raise ConfigError(f"{out / name} is there, but {known}: move it away to write it anew")
        elif written[name] != how.of(name):
            flags = "--top, --image-url" if name == "label-studio" else "--top, --copy" if name in PLACING else "--top"
            raise ConfigError(f"{out / name} is an export with other settings ({flags}): move it away to write it anew")
    return missing


def write_exports(
    out: Path,
    facts: dict[str, Any],
    shards: int,
    formats: Sequence[str],
    chosen: Sequence[int] | None,
    how: How,
) -> tuple[list[Path], list[str]]:
    """Write exports that are not there yet.

    How one is made is written down before its folder has its name. So whenever a process is killed, a folder that is
    there is whole and known, and a later call writes those that are not there.

    Args:
        facts: as ``label.json`` has them.
        chosen: numbers of the images to export, best first; None for all.

    Returns:
        The folders of all formats, and notes on what a format could not hold.

    Raises:
        ConfigError: an export was written otherwise, or another process writes exports there.
        OSError: a file cannot be written (``filename`` names it).
    """
    with sole(out / LOCK, f"the exports of {out} are being written by another process") as held:
        if held:  # then what is there in parts is of killed processes
            for name in EXPORTS:
                clear_part_folders(out, name)
        notes = _write(out, facts, shards, formats, chosen, how)
        if held:  # else another process may be writing down how its exports are made
            for folder in (out, out / "shards"):
                clear_parts(folder)
    return [out / name for name in formats], notes


def _write(
    out: Path,
    facts: dict[str, Any],
    shards: int,
    formats: Sequence[str],
    chosen: Sequence[int] | None,
    how: How,
) -> list[str]:
    missing = check_room(out, formats, how)
    makers: dict[str, Callable[[Path], Exporter]] = {
        "coco": lambda folder: COCO(folder, facts, how.copy),
        "yolo": lambda folder: YOLO(folder, facts, how.copy),
        "voc": lambda folder: VOC(folder, facts, how.copy),
        "label-studio": lambda folder: LabelStudio(folder, facts, how.image_url),
        "cvat": lambda folder: CVAT(folder, facts),
    }
    notes: list[str] = []
    folders = {name: part_of(out / name) for name in missing}
    try:
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        writers = [makers[name](folder) for name, folder in folders.items()]
        for record in _records(out, shards, len(facts["classes"]), chosen) if writers else ():
            for writer in writers:
                writer.add(record)
        for writer in writers:
            notes += writer.finish()
        for name, folder in folders.items():
            made = _written(out) | {name: how.of(name)}
            write_whole(out / RECORD, (json.dumps(made, indent=1) + "\n").encode("ascii"))
            with naming(out / name):
                folder.rename(out / name)
    finally:
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)
    return notes


def _records(out: Path, shards: int, classes: int, chosen: Sequence[int] | None) -> Iterator[Record]:
    every = (r for r in enumerate(read_records(out, shards, classes)))
    if chosen is None:
        yield from (record for _, record in every if record.error is None)
        return
    place = {number: rank for rank, number in enumerate(chosen)}
    picked: Iterator[tuple[int, Record]] = ((place[number], record) for number, record in every if number in place)
    if len(place) <= SORTED:
        picked = iter(sorted(picked, key=lambda pair: pair[0]))
    yield from (record for _, record in picked)


def _written(out: Path) -> dict[str, Any]:
    try:
        found = json.loads((out / RECORD).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
