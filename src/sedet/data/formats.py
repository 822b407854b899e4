"""Reading labelled data: the format is recognised from the file or folder."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sedet.data.coco import read_coco
from sedet.data.layout import SAME_SPLIT, absolute, choose, names_split
from sedet.data.table import AnnotationTable
from sedet.data.voc import read_names, read_voc
from sedet.data.yolo import read_classes_file, read_yolo
from sedet.errors import DataError

_KNOWN = (
    "a COCO JSON, a Pascal VOC folder (Annotations/*.xml), an ImageSets list, or a YOLO data.yaml, as a file "
    "or the folder that holds it"
)
_FOLDERS = ("train", "training", "val", "valid", "validation", "test")


def read_table(source: str | Path, images: str | Path | None = None, split: str | None = None) -> AnnotationTable:
    """Read labelled data in COCO JSON, Pascal VOC XML or YOLO txt.

    ``source`` is a file (a COCO .json, a YOLO data.yaml, a VOC ImageSets .txt) or a folder that holds one of
    them; ``:name`` at its end picks a split, as in ``data.yaml:val`` or ``bccd:trainval``. Boxes may be
    degenerate: see ``clean``.

    Args:
        source: file or folder, with or without ``:split``.
        images: folder of the images, where the annotations' own paths do not lead to them.
        split: the role the data are for, 'train' or 'val', which decides where a folder holds both (COCO: the
            JSON named so; VOC: ImageSets/Main/<split>.txt, all XML files if there are no lists; YOLO: the key
            of the yaml). Overridden by ``:name``.

    Raises:
        DataError: the source is missing, of no known format, ambiguous (lists the choices), broken (file and
            line or entry), names paths out of the data folder, or images that do not exist.
    """
    try:
        return _read(str(source), images, split)
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", error.filename or source, "Check the path and its permissions"
        ) from None


def _read(source: str, images: str | Path | None, split: str | None) -> AnnotationTable:
    path, explicit = find_source(source)
    folder = _folder(images)
    if path.is_dir():
        return _read_folder(path, folder, explicit or split, explicit is not None)
    suffix = path.suffix.lower()
    if suffix == ".json":
        if explicit:
            raise DataError(f"a COCO file has no split '{explicit}'", path, "Name the file alone")
        return read_coco(path, folder)
    if suffix in (".yaml", ".yml"):
        return read_yolo(path, explicit or split or "train", folder)
    if suffix == ".txt":
        return _read_list(path, folder)
    if suffix == ".xml":
        raise DataError("this is a single XML file", path, "Give the folder that holds all of them")
    raise DataError("this is no annotation file", path, f"Give {_KNOWN}")


def align_classes(table: AnnotationTable, classes: Sequence[str]) -> AnnotationTable:
    """The same images with labels into ``classes``, for validation data of a detector with these classes.

    Objects of other classes are dropped; classes the table lacks get no objects and an unused category id.
    """
    index = {name: i for i, name in enumerate(classes)}
    mapping = np.array([index.get(name, -1) for name in table.classes], dtype=np.int64)
    objects = []
    for o in table.objects:
        labels = mapping[o.labels] if len(o) else o.labels
        objects.append(replace(o, labels=labels).select(labels >= 0))
    known = dict(zip(table.classes, table.category_ids, strict=True))
    unused = max((0, *table.category_ids)) + 1
    ids = []
    for name in classes:
        ids.append(known.get(name, unused))
        unused += name not in known
    return replace(table, classes=tuple(classes), objects=tuple(objects), category_ids=tuple(ids))


def find_source(source: str) -> tuple[Path, str | None]:
    """Path and explicit split of labelled data that are there.

    Raises:
        DataError: there is no such file or folder.
    """
    path, explicit = _parse(source)
    if not path.exists():
        raise DataError("there is no such file or folder", path, f"Give {_KNOWN}")
    return path, explicit


def _parse(source: str) -> tuple[Path, str | None]:
    """Path and explicit split. A path that exists as written has no split."""
    if not source.strip():
        raise DataError("no labelled data is given", None, f"Give {_KNOWN}")
    path = absolute(source)
    if not path.exists() and ":" in source:
        head, _, tail = source.rpartition(":")
        if head and tail and "/" not in tail and "\\" not in tail and absolute(head).exists():
            return absolute(head), tail
    return path, None


def _folder(images: str | Path | None) -> Path | None:
    if images is None or str(images) == "":
        return None
    folder = absolute(images)
    if not folder.is_dir():
        raise DataError("there is no such image folder", folder, "Check --images")
    return folder


def _read_folder(folder: Path, images: Path | None, split: str | None, explicit: bool) -> AnnotationTable:
    # An explicit split that is a folder of its own (Roboflow exports: train/, valid/, test/) is meant first.
    found = _formats(folder)
    if not found:
        below = [f.name for f in sorted(folder.iterdir()) if f.is_dir() and _formats(f)]
        inner = [name for name in below if names_split(name, split)] if split else []
        if not inner and len(below) == 1 and not explicit and not names_split(below[0], "val"):
            inner = below
        if len(inner) == 1:
            chosen = folder / inner[0]
            # A devkit's inner folder (VOC2012/) still needs the split; a split's own folder does not.
            own = names_split(inner[0], split) if split else False
            return _read_folder(chosen, images, None if own else split, explicit and not own)
        if below:
            choices = ", ".join(str(folder / name) for name in below[:12])
            raise DataError("it holds several data sets", folder, f"Name one of: {choices}")
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() in (".yaml", ".yml") and file.stem.lower() in ("data", "dataset"):
                return read_yolo(file, split or "train", images)  # says what is wrong with it
        raise DataError("no annotations were found in this folder", folder, f"Give {_KNOWN}")
    if len(found) > 1:
        listing = ", ".join(str(files[0]) for files in found.values())
        raise DataError(
            f"it holds annotations in more than one format ({', '.join(found)})",
            folder,
            f"Name one: {listing}",
        )
    ((kind, files),) = found.items()
    names = [f.relative_to(folder).as_posix() for f in files]
    if kind == "COCO":
        wanted = split if explicit or len(names) > 1 else None
        return read_coco(folder / choose("it holds several COCO files", folder, names, wanted), images)
    if kind == "YOLO":
        chosen = folder / choose("it holds several YOLO yaml files", folder, names, None)
        return read_yolo(chosen, split or "train", images)
    if kind == "YOLO classes":
        if explicit:
            raise DataError(f"there is no split '{split}' without a data.yaml", folder, "Add a data.yaml")
        return read_classes_file(folder, files[0])
    return _read_voc(folder, files[0], images, split, explicit)


def _formats(folder: Path) -> dict[str, list[Path]]:
    """What annotations a folder holds: format name to its files (VOC: the folder of its XML files)."""
    found: dict[str, list[Path]] = {}
    entries = sorted(folder.iterdir())
    yamls = [f for f in entries if f.suffix.lower() in (".yaml", ".yml") and _is_yolo(f)]
    if yamls:
        preferred = [f for f in yamls if f.stem.lower() in ("data", "dataset")]
        found["YOLO"] = preferred[:1] or yamls
    for name in ("Annotations", "annotations"):
        below = folder / name
        if below.is_dir() and any(f.suffix.lower() == ".xml" for f in below.iterdir()):
            found["Pascal VOC"] = [below]
            break
    if "Pascal VOC" not in found and any(f.suffix.lower() == ".xml" for f in entries):
        found["Pascal VOC"] = [folder]
    jsons = [f for f in entries if f.suffix.lower() == ".json"]
    for below in (folder / "annotations", folder / "Annotations"):
        if below.is_dir():
            more = [f for f in sorted(below.iterdir()) if f.suffix.lower() == ".json"]
            jsons += [f for f in more if not any(f.samefile(known) for known in jsons)]
    for name in _FOLDERS:  # Roboflow: train/_annotations.coco.json
        jsons += [f for f in [folder / name / "_annotations.coco.json"] if f.is_file()]
    preferred = [f for f in jsons if f.name.startswith(("instances", "_annotations.coco"))]
    if len(preferred or jsons) > 1:  # reports and results lie beside annotations
        jsons = [f for f in preferred or jsons if _is_coco(f)] or jsons
    else:
        jsons = preferred or jsons
    if jsons:
        found["COCO"] = jsons
    if not found:
        for file in (folder / "classes.txt", folder / "labels" / "classes.txt"):
            if file.is_file():
                found["YOLO classes"] = [file]
                break
    return found


def _is_coco(file: Path) -> bool:
    try:
        with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return all(text.find(key) >= 0 for key in (b'"images"', b'"annotations"', b'"categories"'))
    except (OSError, ValueError):  # ValueError: an empty file
        return False


def _is_yolo(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            return any(line.startswith(("names", "'names'", '"names"')) for line in lines)
    except (OSError, UnicodeDecodeError):
        return False


def _read_list(file: Path, images: Path | None) -> AnnotationTable:
    """An ImageSets list: .../ImageSets/Main/train.txt."""
    folders = [p for p in file.parents if (p / "Annotations").is_dir()][:1]
    if not folders or "ImageSets" not in file.parts:
        raise DataError(
            "a list of names is labelled data only as Pascal VOC's ImageSets/Main/*.txt",
            file,
            f"Give {_KNOWN}; a list of unlabelled images goes to --unlabeled",
        )
    root = folders[0]
    return read_voc(root / "Annotations", images or _voc_images(root), root, read_names(file), str(file))


def _voc_images(root: Path) -> Path:
    for name in ("JPEGImages", "images", "Images", "PNGImages", "imgs"):
        if (root / name).is_dir():
            return root / name
    return root


def _read_voc(
    folder: Path, annotations: Path, images: Path | None, split: str | None, explicit: bool
) -> AnnotationTable:
    lists = folder / "ImageSets" / "Main"
    files = sorted(lists.glob("*.txt")) if lists.is_dir() else []
    general = [f for f in files if "_" not in f.stem]  # person_train.txt lists one class
    where = folder if annotations == folder else None
    pictures = images or where or _voc_images(folder)
    if split is None or (not explicit and not general):
        return read_voc(annotations, pictures, folder, None, str(folder))
    wanted = [split, *sorted(SAME_SPLIT.get(split, ()))]
    chosen = next((f for name in wanted for f in files if f.stem == name), None)
    if chosen is None:
        choices = ", ".join(f"{folder}:{f.stem}" for f in general[:12])
        raise DataError(
            f"there is no list ImageSets/Main/{split}.txt",
            folder,
            f"Name one of: {choices}" if choices else "Give the folder without ':split'",
        )
    return read_voc(annotations, pictures, folder, read_names(chosen), f"{folder}:{chosen.stem}")
