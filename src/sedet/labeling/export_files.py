"""Exports of a file an image: YOLO and Pascal VOC. Images are linked or copied, under names that each
format can hold.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any
from xml.sax.saxutils import escape

from sedet.labeling.placing import Placer
from sedet.labeling.shards import Record
from sedet.labeling.xml_names import legal
from sedet.outputs import write_text

LONGEST = 180
"""Bytes of a name; file systems take 255, and temporary names are longer."""


class YOLO:
    """``data.yaml``, ``images``, ``labels`` (class cx cy w h) and ``scores`` (the same with the score).

    Images are links or copies. The labels can be trained on as they are; readers that know six columns take
    ``scores`` in their place. A folder called images inside is renamed, since readers look for labels in the place of
    the last one.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], copy: bool) -> None:
        self._folder, self._placer = folder, Placer(Path(facts["root"]), copy)
        for name in ("images", "labels", "scores"):
            (folder / name).mkdir()
        names = json.dumps([" ".join(name.split()) for name in facts["classes"]], ensure_ascii=False)
        write_text(folder / "data.yaml", f"train: images\nnc: {len(facts['classes'])}\nnames: {names}\n")

    def add(self, record: Record) -> None:
        parts = [f"{part}_" if part in ("images", "labels") else part for part in record.name.split("/")[:-1]]
        place = PurePosixPath(*parts, record.name.rsplit("/", 1)[-1])
        stem, suffix = _free(place, lambda stem: (self._folder / "labels" / f"{stem}.txt").exists())
        if not self._placer.place(record.name, self._folder / "images" / f"{stem}{suffix}"):
            return
        lines = []
        for box in record.boxes:
            x1, y1, x2, y2 = box.corners
            centre = (x1 + x2) / 2 / record.width, (y1 + y2) / 2 / record.height
            size = (x2 - x1) / record.width, (y2 - y1) / record.height
            lines.append((" ".join([str(box.label), *(f"{v:.7f}" for v in (*centre, *size))]), f"{box.score:.5f}"))
        write_text(self._folder / "labels" / f"{stem}.txt", "".join(f"{line}\n" for line, _ in lines))
        write_text(self._folder / "scores" / f"{stem}.txt", "".join(f"{line} {score}\n" for line, score in lines))

    def finish(self) -> list[str]:
        return self._placer.notes("yolo")


class VOC:
    """``Annotations/NAME.xml`` with a ``score`` in each object, ``JPEGImages``, and ``ImageSets/Main``.

    Images are links or copies; names are flat: of images in folders they hold the folders, ``sub/a.jpg`` as
    ``sub__a``, and _ for what XML cannot hold.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], copy: bool) -> None:
        self._folder, self._classes, self._placer = folder, facts["classes"], Placer(Path(facts["root"]), copy)
        for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (folder / name).mkdir(parents=True)
        self._list = (folder / "ImageSets" / "Main" / "train.txt").open(
            "w", encoding="utf-8", errors="backslashreplace"
        )

    def add(self, record: Record) -> None:
        flat = " ".join(record.name.split()).replace("/", "__").lstrip(".")  # a list holds a name a line
        flat = "".join(c if legal(c) else "_" for c in flat)
        place = PurePosixPath(flat or "image")
        stem, suffix = _free(place, lambda stem: (self._folder / "Annotations" / f"{stem}.xml").exists())
        if not self._placer.place(record.name, self._folder / "JPEGImages" / f"{stem}{suffix}"):
            return
        objects = "".join(
            f"  <object>\n    <name>{_xml(self._classes[box.label])}</name>\n    <pose>Unspecified</pose>\n"
            f"    <truncated>0</truncated>\n    <difficult>0</difficult>\n    <score>{box.score:.5f}</score>\n"
            "    <bndbox>"
            + "".join(f"<{k}>{v:.3f}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box.corners, strict=True))
            + "</bndbox>\n  </object>\n"
            for box in record.boxes
        )
        text = (
            f"<annotation>\n  <folder>JPEGImages</folder>\n  <filename>{_xml(stem + suffix)}</filename>\n"
            f"  <size><width>{record.width}</width><height>{record.height}</height><depth>3</depth></size>\n"
            f"  <segmented>0</segmented>\n{objects}</annotation>\n"
        )
        write_text(self._folder / "Annotations" / f"{stem}.xml", text)
        self._list.write(f"{stem}\n")

    def finish(self) -> list[str]:
        self._list.close()
        return self._placer.notes("voc")


def _free(place: PurePosixPath, taken: Callable[[str], bool]) -> tuple[str, str]:
    """Stem (with folders) and ending of a name that is not taken: photo.jpg, photo.png.png, photo.png-2.png ..."""
    name, suffix = place.name, place.suffix
    short = os.fsencode(name[: len(name) - len(suffix)])[:LONGEST].decode("utf-8", "ignore")
    base = str(place.with_name(short or "image"))
    candidate, number = base, 1
    while taken(candidate):
        candidate = f"{base}{suffix}" + (f"-{number}" if number > 1 else "")
        number += 1
    return candidate, suffix


def _xml(text: str) -> str:
    """Escaped, without the control characters that XML cannot hold."""
    return escape("".join(c if legal(c) else "?" for c in text))
