"""Label Studio's JSON export: tasks with annotations, of which rectangles and polygons (their bounds) are read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from sedet.data.layout import shown
from sedet.errors import DataError
from sedet.labeling.export_label_studio import NAME_KEY
from sedet.labeling.reviewed import Corners, Export, Reviewed, turned_bounds, url_names


def is_label_studio(data: object) -> bool:
    """Whether parsed JSON is a list of tasks."""
    return isinstance(data, list) and any(
        isinstance(task, dict)
        and isinstance(task.get("data"), dict)
        and ("annotations" in task or "predictions" in task)
        for task in data[:50]
    )


def read_label_studio(data: list[Any], file: Path) -> Export:
    """Read the tasks of a full JSON export (not JSON-MIN).

    Of a task's annotations that were not cancelled the one changed last counts; tasks without any were not reviewed.
    Percent become shares of the image as the tool showed it.

    Raises:
        DataError: no task holds annotations.
    """
    export = Export("Label Studio")
    for position, task in enumerate(data):
        where = f"{file}, task {_own_number(task.get('id', position))}" if isinstance(task, dict) else str(file)
        try:
            reviewed = _task(task, where, export)
        except DataError as error:
            export.problems.append(str(error))
            continue
        if reviewed is None:
            export.unreviewed += 1
        else:
            export.images.append(reviewed)
    return export


def _own_number(found: Any) -> str:
    """A task's own number, or whatever stands in its place."""
    return str(found) if type(found) is int else shown(found)[-40:]


def _task(task: Any, where: str, export: Export) -> Reviewed | None:
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise DataError("it is no task with data", where, "Export as JSON (not JSON-MIN)")
    annotations = task.get("annotations") or []
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        raise DataError("its annotations are no list of objects", where, "Export as JSON again")
    done = [a for a in annotations if not a.get("was_cancelled")]
    if not done:
        return None
    last = max(done, key=_stamp)
    results = last.get("result")
    if not isinstance(results, list) or not all(isinstance(r, dict) for r in results):
        raise DataError("an annotation has no list 'result'", where, "Export as JSON again")
    reviewed = Reviewed(_names(task, where), 0, 0, True, where, stamp=_stamp(last))
    beside = {
        own: v["labels"]
        for r in results
        if isinstance(v := r.get("value"), dict) and "labels" in v and (own := _id(r)) is not None
    }
    for result in results:
        value = result.get("value")
        shape = isinstance(value, dict) and (_is_rectangle(value) or "points" in value)
        if not shape:
            if result.get("type") not in ("labels", "choices", "textarea", "rating", "relation"):
                export.problems.append(f"{where}: a region of type {shown(result.get('type'))} is no box; left out")
            continue
        _add(reviewed, result, beside, where)
    return reviewed


def _id(result: dict[str, Any]) -> str | int | None:
    """What ties a region to its labels; None where it has no id, or one that is neither text nor number."""
    found = result.get("id")
    return found if isinstance(found, (str, int)) else None


def _stamp(annotation: dict[str, Any]) -> str:
    return str(annotation.get("updated_at") or annotation.get("created_at") or "")


def _names(task: dict[str, Any], where: str) -> list[str]:
    data = task["data"]
    names = [data[NAME_KEY]] if isinstance(data.get(NAME_KEY), str) else []
    texts = [
        v for k, v in sorted(data.items(), key=lambda kv: kv[0] != "image") if isinstance(v, str) and k != NAME_KEY
    ]
    names += [name for text in texts[:3] for name in url_names(text)]
    if not names:
        raise DataError("its data name no image", where, "Keep the key 'image' of the task")
    return names


def _is_rectangle(value: dict[str, Any]) -> bool:
    return all(key in value for key in ("x", "y", "width", "height"))


def _add(reviewed: Reviewed, result: dict[str, Any], beside: dict[str | int, Any], where: str) -> None:
    value = result["value"]
    if result.get("image_rotation") not in (None, 0):
        raise DataError("the image was turned in the tool, so that its boxes cannot be placed", where, "Turn it back")
    width: Any = result.get("original_width")
    height: Any = result.get("original_height")
    if not (_number(width) and _number(height) and width >= 1 and height >= 1):
        raise DataError("a region does not say the image's width and height", where, "Export as JSON (not JSON-MIN)")
    reviewed.width, reviewed.height = round(width), round(height)
    labels = next((v for k in ("rectanglelabels", "polygonlabels", "labels") if (v := value.get(k))), None)
    if not labels and (own := _id(result)) is not None:
        labels = beside.get(own)
    if not isinstance(labels, list) or not labels or not isinstance(labels[0], str) or not labels[0].strip():
        raise DataError("a box has no class", where, "Give it one, or remove it")
    reviewed.boxes.append(_corners(value, width, height, where))
    reviewed.labels.append(labels[0].strip())


def _corners(value: dict[str, Any], width: float, height: float, where: str) -> Corners:
    """Shares of width and height."""
    wrong = DataError("a region's numbers are malformed", where, "Draw it anew, or remove it")
    if not _is_rectangle(value):
        points = value["points"]
        if not isinstance(points, list) or not points or not all(_pair(p) for p in points):
            raise wrong
        xs, ys = [p[0] / 100 for p in points], [p[1] / 100 for p in points]
        return min(xs), min(ys), max(xs), max(ys)
    numbers = [value[key] for key in ("x", "y", "width", "height")] + [value.get("rotation") or 0]
    if not all(_number(n) for n in numbers):
        raise wrong
    x, y, w, h, rotation = (float(n) for n in numbers)
    if rotation % 360 == 0:
        return x / 100, y / 100, (x + w) / 100, (y + h) / 100
    x1, y1, x2, y2 = turned_bounds(
        x * width / 100, y * height / 100, w * width / 100, h * height / 100, rotation, centre=False
    )
    return x1 / width, y1 / height, x2 / width, y2 / height


def _pair(point: object) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(_number(v) for v in point)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def load_json(file: Path) -> Any:
    """Parsed JSON.

    Raises:
        DataError: it cannot be read or parsed.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        place = f"broken JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        raise DataError(place, file, "Mend the file or export it again") from None
    except (UnicodeDecodeError, RecursionError, ValueError):
        raise DataError("this JSON cannot be read", file, "Export it again") from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", file, "Check the path and permissions") from None
