"""YOLO: a data.yaml with class names and image folders, and a text file of boxes beside each image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from sedet.data.layout import SAME_SPLIT, Faults, ImageDraft, absolute, assemble, inside, is_file, list_images, shown
from sedet.data.table import AnnotationTable
from sedet.errors import DataError


def read_yolo(file: Path, split: str = "train", images: Path | None = None) -> AnnotationTable:
    """Read one split of a data.yaml.

    A label line is ``class cx cy width height`` or ``class x1 y1 x2 y2 x3 y3 ...`` (a polygon, of which the
    bounds are taken), all as shares of the image's width and height, turned as its EXIF says. The label file
    is the image's with the last folder ``images`` replaced by ``labels`` and the ending .txt, or lies beside
    the image. An image without a label file has no objects.

    Args:
        file: the data.yaml.
        split: a key of it: train, val (also written valid), test ...
        images: folder of the images, where the yaml's own paths do not lead to them. The split's paths are looked
            for below it first, with or without their leading folders; else all its images are the split's.

    Raises:
        DataError: broken YAML (line and column), no such split, a path out of the data folder, malformed
            label lines (each file and line), a class out of range, no label file at all.
    """
    data = _load(file)
    names = _names(data, file)
    root = absolute(images) if images else absolute(file).parent
    if not root.is_dir():
        raise DataError(f"the image folder {root} does not exist", file, "Name it with --images")
    if images is None:
        found = _split_images(data, file, root, split)
    else:
        found = _split_below(data, file, root, split) or list_images(root)
    source = f"{file}:{split}"
    if not found:
        raise DataError(f"there are no images for '{split}'", file, "Check its folder")
    label_base = absolute(file).parent if images else None
    return _table(found, root, names, source, label_base, split)


def read_classes_file(folder: Path, names_file: Path) -> AnnotationTable:
    """A folder of images with label files and a classes.txt, as labelling tools write it; no data.yaml."""
    try:
        text = names_file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("this is not UTF-8 text", names_file, "Save it as UTF-8") from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names or len(set(names)) != len(names):
        raise DataError("it must hold one class name a line, each once", names_file, "Mend it")
    return _table(list_images(folder), folder, names, str(folder), None, "train")


def _table(
    found: list[str], root: Path, names: list[str], source: str, label_base: Path | None, split: str
) -> AnnotationTable:
    drafts, with_labels, boxes, odd, faults = [], 0, 0, 0, Faults()
    for index, name in enumerate(found):
        draft = ImageDraft(root / name, name, index, relative=True)
        labels = label_file(root, name, label_base, split)
        if labels is not None:
            with_labels += 1
            with faults:
                _read_labels(labels, draft, len(names), faults)
            boxes += len(draft.boxes)
            odd += sum(max(b) > 1.5 for b in draft.boxes)
        drafts.append(draft)
    faults.check()
    if not with_labels:
        expected = _candidates(root, found[0], label_base, split)[0] if found else root
        raise DataError(
            f"none of {len(found)} images has a label file (looked for {expected})",
            source,
            "Put the label files into a folder 'labels' beside 'images'",
        )
    if odd * 2 > boxes:
        raise DataError(
            "the boxes look like pixels; YOLO boxes are shares of width and height, 0 to 1",
            source,
            "Divide x and widths by the image's width, y and heights by its height",
        )
    return assemble(drafts, names, range(1, len(names) + 1), source, root)


def _load(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > 10_000_000:
            raise DataError("this is too large for a data.yaml", file, "Check the file")
        data = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise DataError(f"broken YAML{place}: {error.problem}", file, "Mend the file") from None
    except UnicodeDecodeError:
        raise DataError("this is not UTF-8 text", file, "Save it as UTF-8") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise DataError("this YAML cannot be read", file, "Mend the file") from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", file, "Check the path and permissions") from None
    if not isinstance(data, dict):
        raise DataError("this is no YOLO data file", file, "It holds names, train and val")
    return data


def _names(data: dict[str, Any], file: Path) -> list[str]:
    names = data.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError("the class numbers of 'names' must be 0, 1, 2 ...", file, "Number them so")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError("there is no list 'names' of the classes", file, "Add names: ['cat', 'dog', ...]")
    for name in names:
        if isinstance(name, bool) or not isinstance(name, (str, int, float)):
            raise DataError(f"the class name {shown(type(name).__name__)} is no text", file, "Quote the names")
    texts = [str(name).strip() for name in names]
    if len(set(texts)) != len(texts):
        raise DataError("a class name stands twice in 'names'", file, "Name each once")
    count = data.get("nc")
    if isinstance(count, int) and count != len(texts):
        raise DataError(f"nc is {count}, but there are {len(texts)} names", file, "Make them agree")
    return texts


def _split_images(data: dict[str, Any], file: Path, root: Path, split: str) -> list[str]:
    """Names, relative to root, of a split's images."""
    key = _key(data, split)
    if key is None:
        given = [k for k in data if isinstance(k, str) and k not in ("names", "nc", "path", "download")]
        raise DataError(f"there is no split '{split}'", file, f"It has: {', '.join(given)[:200] or 'none'}")
    places = data[key] if isinstance(data[key], list) else [data[key]]
    base = ""
    if data.get("path") and not _elsewhere(root, data["path"]):
        base = _base(root, data["path"], f"{file}, path")
    found: list[str] = []
    for place in places:
        relative = _place(root, base, place, f"{file}, {key}")
        target = root / relative
        if target.is_dir():
            found.extend((Path(relative) / name).as_posix() for name in list_images(target))
        elif target.is_file() and target.suffix.lower() == ".txt":
            found.extend(_listed(target, root, base))
        else:
            raise DataError(f"its {key} images {target} do not exist", file, "Mend the path, or use --images")
    return sorted(dict.fromkeys(found))


def _key(data: dict[str, Any], split: str) -> str | None:
    return next((k for k in (split, *sorted(SAME_SPLIT.get(split, ()))) if data.get(k)), None)


def _elsewhere(root: Path, path: object) -> bool:
    """Whether the yaml's ``path`` is of another machine: there is nothing here, and its own folder is meant."""
    if not isinstance(path, str):
        return False
    text = path.strip().replace("\\", "/")
    inner = text.lstrip("./")
    return not any(os.path.exists(root / p) for p in (text, inner or "."))  # noqa: PTH110  (false for odd names)


def _split_below(data: dict[str, Any], file: Path, root: Path, split: str) -> list[str]:
    """A split's images by the yaml's paths, looked for below the folder of the images; empty if it is not there."""
    key = _key(data, split)
    found: list[str] = []
    for place in () if key is None else data[key] if isinstance(data[key], list) else [data[key]]:
        if (relative := _tail_below(root, place)) is None:
            continue
        if (root / relative).is_dir():
            found.extend((Path(relative) / name).as_posix() for name in list_images(root / relative))
        elif relative.lower().endswith(".txt"):
            found.extend(_listed(root / relative, root, ""))
    return sorted(dict.fromkeys(found))


def _tail_below(root: Path, place: object) -> str | None:
    """The longest end of a path that exists below root."""
    if not isinstance(place, str):
        return None
    parts = [p for p in place.strip().replace("\\", "/").split("/") if p not in ("", ".", "..")]
    tails = ("/".join(parts[i:]) for i in range(len(parts)))
    return next((tail for tail in tails if os.path.exists(root / tail)), None)  # noqa: PTH110


def _base(root: Path, path: object, where: str) -> str:
    """The yaml's ``path`` relative to root; empty where it is the yaml's own folder, whichever way it is written."""
    try:
        return _place(root, "", path, where)
    except DataError:
        # Its text leads out and may lead straight back, as ../birds does in the folder birds.
        text = path.strip().replace("\\", "/") if isinstance(path, str) else ""
        if text and os.path.exists(root / text) and (root / text).samefile(root):  # noqa: PTH110
            return ""
        raise


def _place(root: Path, base: str, place: object, where: str) -> str:
    """A path of the yaml relative to root. Exports of Roboflow say ../train/images for train/images."""
    if isinstance(place, str):
        text = place.strip().replace("\\", "/")
        while text.startswith("../"):
            text = text[3:]
        if text != place and text and not text.startswith("/") and (root / base / text).exists():
            place = text
        if not str(place).startswith("/") and base:
            joined = f"{base}/{place}"
            place = joined if (root / joined).exists() or not (root / str(place)).exists() else place
    return inside(root, place, where)


def _listed(file: Path, root: Path, base: str) -> list[str]:
    """The images of a list file: one path a line, relative to the list, or to the yaml's folder."""
    found = []
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DataError("this list cannot be read as text", file, "Give one image path a line") from None
    here = file.parent.relative_to(root).as_posix()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        text = line.strip().replace("\\", "/")
        options = [text] if text.startswith("/") else [f"{here}/{text}", text, f"{base}/{text}"]
        clean = [inside(root, option, where) for option in options[:1]]
        for option in options[1:]:
            if not is_file(root / clean[0]) and is_file(root / option):
                clean = [inside(root, option, where)]
        found.append(clean[0])
    return found


def _candidates(root: Path, name: str, label_base: Path | None, split: str) -> list[Path]:
    path = Path(name)
    parts = list(path.parts)
    options = []
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            options.append(root / Path(*parts[:i], "labels", *parts[i + 1 :]))
            break
    else:
        if root.name == "images":
            options.append(root.parent / "labels" / path)
        elif root.parent.name == "images":
            options.append(root.parent.parent / "labels" / root.name / path)
    if label_base is not None:
        options += [label_base / "labels" / split / path, label_base / split / "labels" / path]
        options.append(label_base / "labels" / path)
    options += [root / path, root / "labels" / path]
    return [option.with_suffix(".txt") for option in options]


def label_file(root: Path, name: str, label_base: Path | None, split: str) -> Path | None:
    return next((f for f in _candidates(root, name, label_base, split) if is_file(f)), None)


def _read_labels(file: Path, draft: ImageDraft, classes: int, faults: Faults) -> None:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DataError("this label file cannot be read as text", file, "Replace it") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            with faults:
                draft.add(*_label(line, f"{file}, line {number}", classes))


def _label(line: str, where: str, classes: int) -> tuple[tuple[float, float, float, float], int]:
    """Box and class of a label line."""
    words = line.split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise DataError(f"{shown(line.strip())} is not all numbers", where, "Write class cx cy w h") from None
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        raise DataError(
            f"there are {len(values)} numbers, not 5 (class cx cy w h) or a polygon's",
            where,
            "Mend the line; a confidence at its end must go",
        )
    label = values[0]
    if not (label == label and label.is_integer() and 0 <= label < classes):
        raise DataError(
            f"class {shown(words[0])[1:-1]} is not one of the {classes} classes (0 to {classes - 1})",
            where,
            "Mend the line, or add the class to 'names'",
        )
    if len(values) == 5:
        _, cx, cy, w, h = values
        return (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), int(label)
    return (min(values[1::2]), min(values[2::2]), max(values[1::2]), max(values[2::2])), int(label)
