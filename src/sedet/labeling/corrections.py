"""Corrected labels of any tool as an annotation table: the format is recognised, and the images are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sedet.data.clean import clean
from sedet.data.formats import read_table
from sedet.data.images import probe
from sedet.data.layout import SIZE_TOLERANCE, ImageDraft, absolute, assemble
from sedet.data.table import AnnotationTable
from sedet.data.yolo import label_file
from sedet.errors import DataError, ImageError
from sedet.labeling.read_cvat import read_cvat
from sedet.labeling.read_label_studio import is_label_studio, load_json, read_label_studio
from sedet.labeling.reviewed import Export, Finder, Reviewed

ASPECT = 0.02
"""Relative difference of the shapes of two copies of an image, by rounding."""


@dataclass(frozen=True)
class Corrections:
    """Corrected labels.

    Attributes:
        table: the reviewed images; boxes clipped to them.
        format: what they were read as.
        stamps: when each was reviewed, as text that sorts by time; empty where it is not known.
        unreviewed: images of the export that nobody has completed.
        problems: what could not be taken over, a line each.
    """

    table: AnnotationTable
    format: str
    stamps: tuple[str, ...]
    unreviewed: int
    problems: tuple[str, ...]


def read_corrections(
    source: Path, images: Path | None, fallback: Path | None, rename: Mapping[str, str]
) -> Corrections:
    """Read an export of Label Studio, CVAT, COCO, YOLO or Pascal VOC.

    Images that are not found, cannot be read, or have another shape than the tool saw are problems, not errors.
    Of YOLO only images with a label file count as reviewed, of the others all images that the export names.

    Args:
        source: file or folder.
        images: the images' folder, if it was given.
        fallback: where else they may be.
        rename: classes to take for others.

    Raises:
        DataError: no known format, broken, or no reviewed image at all.
    """
    source = absolute(source)
    file = _single(source)
    export: Export | None = None
    if file.suffix.lower() in (".xml", ".zip") and file.is_file():
        export = read_cvat(file)
    elif file.suffix.lower() == ".json" and file.is_file():
        data = load_json(file)
        if isinstance(data, list):
            if not is_label_studio(data):
                raise DataError(
                    "this is a list, but none of Label Studio tasks with annotations",
                    file,
                    "Export from Label Studio as JSON (not JSON-MIN), from others as COCO, CVAT, YOLO or VOC",
                )
            export = read_label_studio(data, file)
    if export is None:
        found = _table(source, images, fallback, rename)
    else:
        root = images or fallback
        if root is None:
            raise DataError("it names images, but not where they are", file, "Name their folder with --images")
        found = _found(export, root, rename, str(source))
    if not len(found.table):
        more = f" {found.problems[0]}" if found.problems else ""
        raise DataError(f"it holds no reviewed image ({found.unreviewed} not completed).{more}", source)
    return found


def _single(source: Path) -> Path:
    """The one file that matters of a folder, or the source itself."""
    if source.is_dir() and (source / "annotations.xml").is_file() and not (source / "data.yaml").exists():
        return source / "annotations.xml"
    return source


def _table(source: Path, images: Path | None, fallback: Path | None, rename: Mapping[str, str]) -> Corrections:
    try:
        table = read_table(source, images=images)
    except DataError:
        if images is not None or fallback is None:
            raise
        table = read_table(source, images=fallback)
    kind = _kind(source)
    problems: list[str] = []
    unreviewed = 0
    if kind == "YOLO":
        file = source if source.is_file() else None
        base = (file.parent if file else source) if images or table.root == fallback else None
        has = [label_file(table.root, e.name, base, "train") is not None for e in table.images]
        unreviewed = has.count(False)
        table = table.subset(i for i, there in enumerate(has) if there)
    table, told = clean(renamed(table, rename))
    problems += [str(problem) for problem in told]
    return Corrections(table, kind, ("",) * len(table), unreviewed, tuple(problems))


def _kind(source: Path) -> str:
    if source.suffix.lower() == ".json":
        return "COCO"
    if source.suffix.lower() in (".yaml", ".yml"):
        return "YOLO"
    if source.is_dir():
        if any(source.glob("*.y*ml")) or (source / "classes.txt").exists():
            return "YOLO"
        if not any((source / name).is_dir() and any((source / name).glob("*.xml")) for name in ("Annotations", ".")):
            return "COCO"
    return "Pascal VOC"


def renamed(table: AnnotationTable, rename: Mapping[str, str]) -> AnnotationTable:
    """The table with classes renamed; two that come to one name become one class."""
    names = [rename.get(name, name) for name in table.classes]
    classes = tuple(dict.fromkeys(names))
    mapping = np.array([classes.index(name) for name in names], dtype=np.int64)
    ids = tuple(table.category_ids[names.index(name)] for name in classes)
    objects = tuple(replace(o, labels=mapping[o.labels]) if len(o) else o for o in table.objects)
    return replace(table, classes=classes, objects=objects, category_ids=ids)


def _found(export: Export, root: Path, rename: Mapping[str, str], source: str) -> Corrections:
    finder, problems = Finder(absolute(root)), list(export.problems)
    drafts: list[ImageDraft] = []
    stamps: list[str] = []
    classes = sorted({rename.get(label, label) for image in export.images for label in image.labels})
    label_of = {name: i for i, name in enumerate(classes)}
    for reviewed in export.images:
        try:
            path = finder.find(reviewed.names, reviewed.where)
            draft = _draft(reviewed, path, path.relative_to(finder.root).as_posix(), len(drafts))
        except DataError as error:
            problems.append(str(error))
            continue
        for box, label in zip(reviewed.boxes, reviewed.labels, strict=True):
            draft.add(box, label_of[rename.get(label, label)])
        drafts.append(draft)
        stamps.append(reviewed.stamp)
    table = assemble(drafts, classes, range(1, len(classes) + 1), source, finder.root)
    stamp_of = {entry.id: stamp for entry, stamp in zip(table.images, stamps, strict=True)}
    table, told = clean(table)
    problems += [str(problem) for problem in told]
    kept = tuple(stamp_of[entry.id] for entry in table.images)
    return Corrections(table, export.format, kept, export.unreviewed, tuple(problems))


def _draft(reviewed: Reviewed, path: Path, name: str, number: int) -> ImageDraft:
    """Of an image that the tool saw in another size only shares can be used, and only if its shape is the same.

    Raises:
        ImageError: the file cannot be read.
        DataError: the tool saw an image of another shape.
    """
    header = probe(path)
    if isinstance(header, ImageError):
        raise header
    draft = ImageDraft(path, name, number, reviewed.width, reviewed.height, reviewed.relative)
    width, height, orientation = header
    shapes = [(width, height)] + ([(height, width)] if orientation >= 5 else [])
    stated = (reviewed.width, reviewed.height)
    if 0 in stated or any(max(abs(a - b) for a, b in zip(s, stated, strict=True)) <= SIZE_TOLERANCE for s in shapes):
        return draft
    alike = [s for s in shapes if abs(s[0] * stated[1] / (s[1] * stated[0]) - 1) <= ASPECT]
    if not reviewed.relative or not alike:
        raise DataError(
            f"the tool saw {name} as {stated[0]} x {stated[1]} pixels, the file has {shapes[-1][0]} x {shapes[-1][1]}",
            reviewed.where,
            "Put the image back that was corrected, or name its folder with --images",
        )
    draft.width, draft.height = alike[-1]  # turned as EXIF says, where both shapes fit
    return draft
