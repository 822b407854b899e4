"""COCO JSON: one file with images, categories and annotations."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from sedet.data.layout import Faults, ImageDraft, absolute, assemble, inside, is_file, shown, split_words
from sedet.data.table import AnnotationTable
from sedet.errors import DataError

_PREFIXES = {"instances", "annotations", "annotation", "person", "keypoints", "coco", "labels"}


def read_coco(file: Path, images: Path | None = None) -> AnnotationTable:
    """Read a COCO JSON file.

    Boxes are ``bbox`` (x, y, width, height; corners in pixels), or the bounds of a polygon ``segmentation``
    where there is no bbox; ``area`` is kept, as COCO's metrics tell small from large objects by it. Classes come
    in the order of the categories. The images' folder is ``images``, or the first of these that holds most of
    them: the JSON's folder; its folder named as the split in the JSON's name (instances_val2017.json: val2017,
    val); its ``images``; the same beside an ``annotations`` folder. Image ids are numbers, also where all are
    written as digits ("17"); where one is another text, or two are the same number, the positions in the file
    stand for all of them.

    Raises:
        DataError: not readable as COCO (with line and column, or each malformed entry), or images are missing.
    """
    data = _load(file)
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list):
            raise DataError(f"there is no list '{key}'", file, "A COCO file holds images, annotations and categories")
    faults = Faults()
    categories = _categories(data, file, faults)
    names, ids = [c[1] for c in categories], [c[0] for c in categories]
    labels: dict[int | str, int] = {number: i for i, number in enumerate(ids)}
    root, drafts = _images(data["images"], file, images, faults)
    listed = not faults.found  # else what annotations refer to may only be malformed
    lost: list[object] = []
    for position, annotation in enumerate(data["annotations"]):
        where = f"{file}, annotation {position}"
        with faults:
            if not isinstance(annotation, dict):
                raise DataError("it is no object with keys", where, "See the COCO format")
            where += f" (id {_named(annotation['id'])})" if "id" in annotation else ""
            image_id, category_id = (_id(annotation, key, where) for key in ("image_id", "category_id"))
            draft, label = drafts.get(image_id), labels.get(category_id)
            if draft is None:
                lost.append(image_id)
            elif label is None and listed:
                raise DataError(
                    f"category_id {_named(category_id)} is not among the categories",
                    where,
                    "Add the category or remove the annotation",
                )
            else:
                crowd, difficult = (_flag(annotation, key, where) for key in ("iscrowd", "difficult"))
                draft.add(_box(annotation, where), label or 0, crowd, difficult, _outline(annotation))
    with faults:
        if lost and listed:
            raise DataError(
                f"{len(lost)} annotations name images that are not listed (image_id {_named(lost[0])} ...)",
                file,
                "Add the images or remove the annotations",
            )
    with faults:
        table = assemble(drafts.values(), names, ids, str(file), root)
    faults.check()
    return table


def _load(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"broken JSON at line {error.lineno}, column {error.colno}: {error.msg}",
            file,
            "Mend the file or export it again",
        ) from None
    except UnicodeDecodeError:
        raise DataError("this is not UTF-8 text", file, "Export the file again as JSON") from None
    except (RecursionError, ValueError):
        raise DataError("this JSON cannot be read (nested or numbers too long)", file, "Export it again") from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", file, "Check the path and permissions") from None
    if isinstance(data, list):
        raise DataError(
            "this is a list, as of detection results, not a COCO annotation file",
            file,
            "Give the file that holds images, annotations and categories",
        )
    if not isinstance(data, dict):
        raise DataError("this is no COCO annotation file", file, "It holds images, annotations and categories")
    return data


def _categories(data: dict[str, Any], file: Path, faults: Faults) -> list[tuple[int, str]]:
    """(id, name), in the order of the file."""
    found: list[tuple[int, str, str | None]] = []
    for position, category in enumerate(data["categories"]):
        with faults:
            if not (
                isinstance(category, dict)
                and isinstance(whole := _whole(category.get("id")), int)
                and isinstance(category.get("name"), str)
                and category["name"].strip()
            ):
                raise DataError("a whole-number 'id' or a 'name' is missing", f"{file}, category {position}", "Add it")
            parent = category.get("supercategory")
            found.append((whole, category["name"].strip(), parent if isinstance(parent, str) else None))
    # Roboflow exports put a parent category first that no annotation uses: it is no class.
    used = {str(_whole(a.get("category_id"))) for a in data["annotations"] if isinstance(a, dict)}
    parents = {parent for _, _, parent in found}
    kept = [
        (i, name)
        for i, name, parent in found
        if not (parent == "none" and name in parents and str(i) not in used and len(found) > 1)
    ]
    for column, what in ((0, "id"), (1, "name")):
        value, count = Counter(c[column] for c in kept).most_common(1)[0] if kept else ("", 0)
        with faults:
            if count > 1:
                raise DataError(f"{count} categories have the {what} {_named(value)}", file, "Give each its own")
    return kept


def _images(
    entries: list[Any], file: Path, images: Path | None, faults: Faults
) -> tuple[Path, dict[int | str, ImageDraft]]:
    good: list[tuple[int, int | str, dict[str, Any]]] = []
    for position, entry in enumerate(entries):
        with faults:
            where = f"{file}, image {position}"
            if not isinstance(entry, dict):
                raise DataError("it is no object with keys", where, "See the COCO format")
            number = _id(entry, "id", where)
            if not isinstance(entry.get("file_name"), str):
                raise DataError("key 'file_name' is missing", f"{where} (id {_named(number)})", "Add it")
            good.append((position, number, entry))
    root = absolute(images) if images else _find_root(file, [entry["file_name"] for _, _, entry in good], faults)
    # What is written (detections, tables) refers to images by number, so ids in digits are taken as they read.
    numbers = [_digits(number) for _, number, _ in good]
    whole = all(isinstance(number, int) for number in numbers) and len(set(numbers)) == len(numbers)
    drafts: dict[int | str, ImageDraft] = {}
    for position, number, entry in good:
        where = f"{file}, image {position} (id {_named(number)})"
        with faults:
            if number in drafts:
                raise DataError("another image has the same id", where, "Give each image its own id")
            name = inside(root, entry["file_name"], where)
            width, height = (_pixels(entry.get(key)) for key in ("width", "height"))
            flag = entry.get("use_exif")
            drafts[number] = ImageDraft(
                root / name,
                name,
                int(number) if whole else position,
                width,
                height,
                use_exif=flag if isinstance(flag, bool) else None,
            )
    return root, drafts


def _whole(value: object) -> object:
    """A whole number written as a float (some tools write 1.0) as an int."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _digits(value: object) -> object:
    """A whole number written as a float or in digits (some tools write "640") as an int, if it fits 64 bits."""
    value = _whole(value)
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value) else value


def _pixels(value: object) -> int:
    """A stated width or height, rounded; 0 (not stated) where it cannot be one."""
    value = _digits(value)
    if isinstance(value, float) and math.isfinite(value):
        value = round(value)
    return max(0, value) if isinstance(value, int) and not isinstance(value, bool) else 0


def _id(entry: dict[str, Any], key: str, where: str) -> int | str:
    value = _whole(entry.get(key))
    if value is None:
        raise DataError(f"key '{key}' is missing", where, "Add it")
    if not isinstance(value, (int, str)):
        raise DataError(f"key '{key}' is {_named(value)}, which is no id", where, "Write a whole number")
    return value


def _named(value: object) -> str:
    """An id for a message: a number as it is."""
    value = _whole(value)
    return shown(value) if isinstance(value, bool) or not isinstance(value, (int, float)) else str(value)[:80]


def _find_root(file: Path, names: list[str], faults: Faults) -> Path:
    """The folder the images' names are relative to. Raises what was found before too where there is none."""
    folder = absolute(file).parent
    bases = [folder]
    if folder.name.lower() in ("annotations", "annotation", "labels"):
        bases.append(folder.parent)
    words = [w for w in file.stem.lower().replace("-", "_").replace(".", "_").split("_") if w not in _PREFIXES]
    parts = [w for word in words for w in (word, *split_words(word))]
    candidates = []
    for base in bases:
        for part in ("", *parts, "images", *(f"images/{p}" for p in parts), "data"):  # data: FiftyOne's exports
            candidate = base / part if part else base
            if candidate not in candidates and candidate.is_dir():
                candidates.append(candidate)
    step = max(1, len(names) // 50)
    sample = names[::step]

    def hits(candidate: Path) -> int:
        count = 0
        for name in sample:
            try:
                count += is_file(candidate / inside(candidate, name, file))
            except DataError:  # told later, with the entry
                continue
        return count

    best = max(candidates, key=hits)  # the first of equals
    if names and hits(best) == 0:
        before = len(faults.found)
        for position, name in enumerate(names):
            with faults:
                inside(folder, name, f"{file}, image {position}")  # leading out is the better message
        if len(faults.found) == before:
            tried = ", ".join(str(c) for c in candidates[:6])
            with faults:
                raise DataError(
                    f"its images were not found (looked for {shown(names[0])} in {tried})",
                    file,
                    "Name their folder with --images",
                )
        faults.check()
    return best


def _flag(annotation: dict[str, Any], key: str, where: str) -> bool:
    """A 0 or 1, which some tools write as text."""
    value = annotation.get(key, 0)
    if isinstance(value, str):
        if value.strip() not in ("", "0", "1"):
            raise DataError(f"{key} {shown(value)} is not 0 or 1", where, "Write 0 or 1")
        return value.strip() == "1"
    return bool(value)


def _outline(annotation: dict[str, Any]) -> float:
    """The stated area; nan where there is none or it cannot be one (some tools write 0)."""
    area = annotation.get("area")
    if isinstance(area, (int, float)) and not isinstance(area, bool) and 0 < area < math.inf:
        return float(area)
    return math.nan


def _box(annotation: dict[str, Any], where: str) -> tuple[float, float, float, float]:
    box = annotation.get("bbox")
    try:
        if box is None:
            polygons = annotation["segmentation"]
            xs = [float(v) for p in polygons for v in p[0::2]]
            ys = [float(v) for p in polygons for v in p[1::2]]
            return min(xs), min(ys), max(xs), max(ys)
        if isinstance(box, list) and len(box) == 4 and not any(isinstance(v, (str, bool)) for v in box):
            x, y, width, height = map(float, box)
            return x, y, x + width, y + height
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        pass
    if box is None:
        raise DataError("key 'bbox' is missing", where, "Add it as [x, y, width, height] in pixels")
    raise DataError(f"bbox {shown(box)} is not four numbers", where, "Write [x, y, width, height] in pixels")
