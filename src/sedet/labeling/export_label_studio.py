"""Export for Label Studio: tasks with predictions, and the labelling configuration that they need.

https://labelstud.io/guide/predictions: a rectangle is given by its upper left corner and its sides, in percent of the
image's width and height.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from sedet.labeling.shards import Box, Record
from sedet.outputs import Stream, write_text

TASKS = 2_000
"""Tasks a file: Label Studio refuses large uploads."""
NAME_KEY = "sedet_image"
"""The task's own key that keeps the image's name on its way through the tool."""
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000", "#808000", "#000075")


class LabelStudio:
    """``tasks-00001.json`` ... and ``label-config.xml``.

    Args:
        image_url: what stands before an image's name, which is quoted as in a URL.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], image_url: str) -> None:
        self._folder, self._classes, self._url = folder, facts["classes"], image_url
        self._version = f"sedet-{facts['detector'][:8]}"
        self._stream: Stream | None = None
        self._files = self._tasks = 0
        write_text(folder / "label-config.xml", label_config(self._classes))

    def add(self, record: Record) -> None:
        if self._stream is None:
            self._files += 1
            self._stream = Stream(self._folder / f"tasks-{self._files:05d}.json")
        text = json.dumps(task(record, self._classes, self._url, self._version), allow_nan=False)
        self._stream.write(("[\n" if self._tasks == 0 else ",\n") + text)
        self._tasks += 1
        if self._tasks == TASKS:
            self._close()

    def finish(self) -> list[str]:
        self._close()
        return []

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.write("\n]\n")
            self._stream.finish()
        self._stream, self._tasks = None, 0


def label_config(classes: list[str]) -> str:
    """The configuration of a labelling project whose regions these predictions fill."""
    labels = "".join(
        f"    <Label value={quoteattr(name)} background={quoteattr(COLOURS[i % len(COLOURS)])}/>\n"
        for i, name in enumerate(classes)
    )
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n'
        f'  <RectangleLabels name="label" toName="image">\n{labels}  </RectangleLabels>\n</View>\n'
    )


def task(record: Record, classes: list[str], image_url: str, version: str) -> dict[str, Any]:
    """A task with one prediction; its score is the mean of its boxes' (0 without boxes)."""
    results = [_result(i, box, record, classes) for i, box in enumerate(record.boxes)]
    mean = sum(box.score for box in record.boxes) / len(record.boxes) if record.boxes else 0.0
    data: dict[str, Any] = {"image": image_url + quote(os.fsencode(record.name)), NAME_KEY: record.name}
    data |= {key: round(value, 5) for key, value in record.measures.items()}
    return {"data": data, "predictions": [{"model_version": version, "score": round(mean, 5), "result": results}]}


def _result(number: int, box: Box, record: Record, classes: list[str]) -> dict[str, Any]:
    x1, y1, x2, y2 = box.corners
    return {
        "id": f"box{number}",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": record.width,
        "original_height": record.height,
        "image_rotation": 0,
        "score": round(box.score, 5),
        "value": {
            "x": 100 * x1 / record.width,
            "y": 100 * y1 / record.height,
            "width": 100 * (x2 - x1) / record.width,
            "height": 100 * (y2 - y1) / record.height,
            "rotation": 0,
            "rectanglelabels": [classes[box.label]],
        },
    }
