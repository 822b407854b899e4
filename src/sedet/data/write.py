"""Writing an annotation table."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from sedet.data.table import AnnotationTable, ImageEntry
from sedet.errors import DataError
from sedet.files import write_atomically


def write_coco(table: AnnotationTable, path: Path) -> None:
    """Write a table as COCO JSON: reading the file with ``images=table.root`` gives the same table.

    Image names are as in the table, relative to its root. Category and image ids are the source's (image ids are
    positions for COCO files whose ids are not all whole numbers). Beside the standard keys stand ``difficult``
    (where true) and an image's ``use_exif`` (where false).

    Raises:
        DataError: the file cannot be written. A file there before stays as it was.
    """
    text = json.dumps(_coco(table), ensure_ascii=False, allow_nan=True, separators=(",", ":")) + "\n"
    write_text(path, text, errors="backslashreplace")  # of a byte that is no UTF-8: JSON's own escape


def _coco(table: AnnotationTable) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for entry, objects in zip(table.images, table.objects, strict=True):
        rows = zip(objects.boxes, objects.labels, objects.crowd, objects.difficult, objects.outlines, strict=True)
        for box, label, crowd, difficult, outline in rows:
            # float32 corners back to the short decimals they were read from
            x1, y1, x2, y2 = (float(str(v)) for v in box)
            width, height = round(x2 - x1, 4), round(y2 - y1, 4)
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": entry.id,
                "category_id": table.category_ids[int(label)],
                "bbox": [x1, y1, width, height],
                "area": round(max(0.0, width) * max(0.0, height) if math.isnan(outline) else float(outline), 4),
                "iscrowd": int(crowd),
            }
            if difficult:
                annotation["difficult"] = 1
            annotations.append(annotation)
    return {
        "images": [_image(entry) for entry in table.images],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in zip(table.category_ids, table.classes, strict=True)],
    }


def _image(entry: ImageEntry) -> dict[str, Any]:
    image: dict[str, Any] = {"id": entry.id, "file_name": entry.name}
    if entry.width and entry.height:
        image |= {"width": entry.width, "height": entry.height}
    if not entry.use_exif:
        image["use_exif"] = False
    return image


def write_text(path: Path, text: str, errors: str = "backslashreplace") -> None:
    """Write a text file whole or not at all.

    Args:
        errors: what becomes of bytes in file names that are no UTF-8: escaped, or (surrogateescape) kept.

    Raises:
        DataError: it cannot be written (no such folder, no permission, full disk).
    """
    try:
        write_atomically(path, text.encode("utf-8", errors))
    except OSError as error:
        raise DataError(
            f"cannot be written ({error.strerror})",
            path,
            "Check the folder, its permissions and the free space",
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON; nan (nothing to measure by) becomes null."""
    write_text(path, json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
