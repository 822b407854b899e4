"""Labels on disk: JSON lines of a few hundred images each, a file has its name only once it is whole."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedet.errors import DataError
from sedet.labeling.parts import write_whole

MEASURES = ("uncertainty", "teacher_student", "scale")
"""What a record may say of how much a human label would help; see ``sedet.labeling.measures``."""


@dataclass(frozen=True, slots=True)
class Box:
    """A proposed box: xyxy in pixels of the original image as turned by its EXIF orientation, score, class index."""

    corners: tuple[float, float, float, float]
    score: float
    label: int


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one image.

    Attributes:
        name: its path below the labelled folder, forward slashes.
        width, height: pixels, as turned by EXIF; 0 if it could not be read.
        boxes: proposals, best first.
        measures: some of MEASURES.
        error: why it could not be read, or None.
    """

    name: str
    width: int = 0
    height: int = 0
    boxes: tuple[Box, ...] = ()
    measures: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    def line(self, classes: Sequence[str]) -> str:
        if self.error is not None:
            return json.dumps({"image": self.name, "error": self.error})
        detections = [
            {"box": [round(v, 3) for v in b.corners], "score": round(b.score, 5), "label": b.label}
            | {"name": classes[b.label]}
            for b in self.boxes
        ]
        return json.dumps(
            {"image": self.name, "width": self.width, "height": self.height, "detections": detections}
            | {key: round(value, 6) for key, value in self.measures.items()},
            allow_nan=False,
        )

    @staticmethod
    def parse(line: str, classes: int) -> Record:
        """Raises ValueError, KeyError or TypeError where the line is no record."""
        data: dict[str, Any] = json.loads(line)
        name = str(data["image"])
        if "error" in data:
            return Record(name, error=str(data["error"]))
        boxes = []
        for found in data["detections"]:
            x1, y1, x2, y2 = (float(v) for v in found["box"])
            label = int(found["label"])
            if not 0 <= label < classes:
                raise ValueError(f"label {label}")
            boxes.append(Box((x1, y1, x2, y2), float(found["score"]), label))
        measures = {key: float(data[key]) for key in MEASURES if key in data}
        return Record(name, int(data["width"]), int(data["height"]), tuple(boxes), measures)


def shard_file(folder: Path, number: int) -> Path:
    return folder / "shards" / f"{number:06d}.jsonl"


def write_shard(
    folder: Path, number: int, records: Sequence[Record], classes: Sequence[str], features: NDArray[np.float16] | None
) -> None:
    """Write a shard; ``features`` [records, dimensions] go to a file beside it, first, as the lines tell it is done."""
    path = shard_file(folder, number)
    if features is not None:
        encoded = io.BytesIO()
        np.save(encoded, features, allow_pickle=False)
        write_whole(path.with_suffix(".npy"), encoded.getvalue())
    write_whole(path, "".join(record.line(classes) + "\n" for record in records).encode("ascii"))


def read_shard(folder: Path, number: int, classes: int) -> list[Record]:
    """The records of a shard.

    Raises:
        DataError: a line is damaged; says which.
    """
    path, records = shard_file(folder, number), []
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DataError("this shard cannot be read", path, "Delete it and run the same sedet label again") from None
    for position, line in enumerate(lines, start=1):
        try:
            records.append(Record.parse(line, classes))
        except (ValueError, KeyError, TypeError, RecursionError):
            todo = "Delete the shard and run the same sedet label again"
            raise DataError("this is no line of a label shard", f"{path}, line {position}", todo) from None
    return records


def read_records(folder: Path, shards: int, classes: int) -> Iterator[Record]:
    """All records in order; one shard is in memory at a time."""
    for number in range(shards):
        yield from read_shard(folder, number, classes)


def read_features(folder: Path, number: int) -> NDArray[np.float16] | None:
    """float16 [records, dimensions] of a shard, or None where it has none.

    Raises:
        DataError: the file is damaged.
    """
    path = shard_file(folder, number).with_suffix(".npy")
    if not path.exists():
        return None
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise DataError("these features cannot be read", path, "Delete the shard and label again") from None
    return np.asarray(found, dtype=np.float16)
