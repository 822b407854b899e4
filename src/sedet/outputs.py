"""Files that predictions are written to: JSON lines, CSV, COCO, YOLO txt, and pictures.

Everything is streamed; a file has its own name only once it is whole.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, get_args

from sedet.errors import ConfigError
from sedet.files import naming, write_atomically

if TYPE_CHECKING:
    from PIL import Image

    from sedet.predictor import Result
    from sedet.video import VideoFile

Format = Literal["jsonl", "csv", "coco", "yolo"]
FORMATS: tuple[str, ...] = get_args(Format)


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a frame stands in its video: its number from 0, and when it is shown."""

    frame: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Item:
    """One image, or frame of a video, to write down.

    Attributes:
        index: its place among all images, from 0.
        name: its path below the folder that all images share (forward slashes).
        stem: ``name`` without its ending, different for each image; for files made from it.
        result: its detections.
        moment: of a frame.
    """

    index: int
    name: str
    stem: str
    result: Result
    moment: Moment | None = None


class Writer(Protocol):
    """Takes images one by one; ``finish`` gives the files their names, ``discard`` removes all it made."""

    def add(self, item: Item) -> None: ...

    def finish(self) -> list[Path]: ...

    def discard(self) -> None: ...


class Stream:
    """A text file that gets its name when it is finished."""

    def __init__(self, path: Path, newline: str | None = None) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        # File names may hold bytes that are no UTF-8; they are written escaped.
        self.file: IO[str] = self._temporary.open("w", encoding="utf-8", errors="backslashreplace", newline=newline)

    def write(self, text: str) -> None:
        with naming(self.path):
            self.file.write(text)

    def finish(self) -> Path:
        with naming(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            self._temporary.replace(self.path)
        return self.path

    def discard(self) -> None:
        with suppress(OSError):  # a full disk fails here again; what matters is that the file goes
            self.file.close()
        self._temporary.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


class JSONLines:
    """``predictions.jsonl``: one line an image, also without detections. Boxes are xyxy in its pixels."""

    def __init__(self, out: Path) -> None:
        self._stream = Stream(out / "predictions.jsonl")

    def add(self, item: Item) -> None:
        record: dict[str, Any] = {"image": item.name}
        if item.moment is not None:
            record |= {"frame": item.moment.frame, "seconds": round(item.moment.seconds, 4)}
        record |= item.result.to_dict()
        self._stream.write(json.dumps(record, allow_nan=False) + "\n")

    def finish(self) -> list[Path]:
        return [self._stream.finish()]

    def discard(self) -> None:
        self._stream.discard()


class CSV:
    """``predictions.csv``: one row a detection; images without any have none."""

    def __init__(self, out: Path) -> None:
        self._stream = Stream(out / "predictions.csv", newline="")
        self._rows = csv.writer(self._stream)
        self._rows.writerow(("image", "name", "score", "x1", "y1", "x2", "y2"))

    def add(self, item: Item) -> None:
        for found in item.result.to_dict()["detections"]:
            self._rows.writerow((item.name, found["name"], found["score"], *found["box"]))

    def finish(self) -> list[Path]:
        return [self._stream.finish()]

    def discard(self) -> None:
        self._stream.discard()


class COCO:
    """``predictions.coco.json``, a COCO results list, and ``images.coco.json`` with the ids it uses.

    Categories have the ids of the labels the detector was trained on; images are numbered from 1.
    """

    def __init__(self, out: Path, classes: Sequence[str], category_ids: Sequence[int]) -> None:
        self._ids = category_ids
        self._results = Stream(out / "predictions.coco.json")
        self._images = Stream(out / "images.coco.json")
        categories = [{"id": i, "name": name} for i, name in zip(category_ids, classes, strict=True)]
        self._results.write("[")
        self._images.write(f'{{"categories": {json.dumps(categories)},\n"annotations": [],\n"images": [')
        self._first = {self._results: True, self._images: True}

    def _append(self, stream: Stream, entry: dict[str, Any]) -> None:
        stream.write(("\n" if self._first[stream] else ",\n") + json.dumps(entry, allow_nan=False))
        self._first[stream] = False

    def add(self, item: Item) -> None:
        image_id, result = item.index + 1, item.result
        self._append(
            self._images,
            {"id": image_id, "file_name": item.name, "width": result.width, "height": result.height},
        )
        rows = zip(result.boxes.tolist(), result.labels.tolist(), result.scores.tolist(), strict=True)
        for box, label, score in rows:
            self._append(self._results, coco_result(image_id, self._ids[label], box, score))

    def finish(self) -> list[Path]:
        self._results.write("\n]\n")
        self._images.write("\n]}\n")
        return [self._results.finish(), self._images.finish()]

    def discard(self) -> None:
        self._results.discard()
        self._images.discard()


def coco_result(image_id: int, category_id: int, box: Sequence[float], score: float) -> dict[str, Any]:
    """An entry of a COCO results list, of a box in xyxy: a thousandth of a pixel, scores to five places."""
    x1, y1, x2, y2 = (round(value, 3) for value in box)
    bbox = [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)]
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": round(score, 5)}


class YOLO:
    """``labels/NAME.txt``, a line ``class cx cy w h`` (shares of the image) a detection, and ``classes.txt``.

    The files can serve as labels to train on, so they hold no scores. An image without detections gets an
    empty one.
    """

    def __init__(self, out: Path, classes: Sequence[str]) -> None:
        self._folder = out / "labels"
        self._classes = out / "classes.txt"
        write_text(self._classes, "".join(f"{' '.join(name.split())}\n" for name in classes))
        self._folder.mkdir()

    def add(self, item: Item) -> None:
        result = item.result
        lines = []
        for (x1, y1, x2, y2), label in zip(result.boxes.tolist(), result.labels.tolist(), strict=True):
            centre = (x1 + x2) / 2 / result.width, (y1 + y2) / 2 / result.height
            size = (x2 - x1) / result.width, (y2 - y1) / result.height
            lines.append(" ".join([str(label), *(f"{value:.6f}" for value in (*centre, *size))]) + "\n")
        write_text(self._folder / f"{item.stem}.txt", "".join(lines))

    def finish(self) -> list[Path]:
        return [self._folder]

    def discard(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._classes.unlink(missing_ok=True)


class Pictures:
    """``pictures/NAME.jpg``: the images with their detections drawn; of a video one video, ``pictures/NAME.mp4``."""

    def __init__(self, out: Path, every: int = 1) -> None:
        self.folder = out / "pictures"
        self.folder.mkdir()
        self._every = every
        self._video: VideoFile | None = None

    def add(self, item: Item, picture: Image.Image) -> None:
        if item.moment is not None and item.result.path is not None:
            self._add_frame(item, item.result.path, picture)
            return
        encoded = io.BytesIO()  # written to a file, Pillow does not tell of a full disk
        picture.save(encoded, format="JPEG", quality=90, subsampling=0)
        write_atomically(self.folder / f"{item.stem}.jpg", encoded.getvalue(), durable=False)

    def _add_frame(self, item: Item, source: Path, picture: Image.Image) -> None:
        from sedet.video import VideoFile, rate_of

        path = self.folder / f"{item.stem.rpartition('/')[0]}.mp4"
        if self._video is None or self._video.path != path:
            self.finish()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._video = VideoFile(path, rate_of(source) / self._every)
        self._video.add(picture)

    def finish(self) -> None:
        if self._video is not None:
            self._video.finish()

    def discard(self) -> None:
        if self._video is not None:
            self._video.discard()
        shutil.rmtree(self.folder, ignore_errors=True)


def open_writers(
    formats: Sequence[str], out: Path, classes: Sequence[str], category_ids: Sequence[int]
) -> Iterator[Writer]:
    """A writer for each format, ``out`` being a new or empty folder; one by one, as opening one may fail."""
    makers: dict[str, Callable[[], Writer]] = {
        "jsonl": lambda: JSONLines(out),
        "csv": lambda: CSV(out),
        "coco": lambda: COCO(out, classes, category_ids),
        "yolo": lambda: YOLO(out, classes),
    }
    for name in formats:
        yield makers[name]()


def check_formats(formats: str | Sequence[str]) -> tuple[str, ...]:
    """The formats, each once.

    Raises:
        ConfigError: an unknown format, or none.
    """
    names = tuple(dict.fromkeys((formats,) if isinstance(formats, str) else formats))
    for name in names or ("",):
        if name not in FORMATS:
            hint = ". Separate them by spaces" if "," in name else ""
            raise ConfigError(f"there is no format '{name}'; there are: {', '.join(FORMATS)}{hint}")
    return names


def output_names(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """Name and stem of each image: its path below the folder all share, and the same for files made from it.

    Stems differ from each other also where a file system ignores case or the encoding of accents, and hold no
    part that leads elsewhere.
    """
    paths = [Path(os.path.normpath(path.absolute())) for path in paths]
    try:
        root = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
        names = [path.relative_to(root).as_posix() for path in paths]
    except ValueError:  # several drives
        names = ["/".join(path.parts[1:]) for path in paths]
    stems = [name[: -len(Path(name).suffix)] if Path(name).suffix else name for name in names]
    twins: dict[str, int] = {}
    for stem in stems:
        twins[_folded(stem)] = twins.get(_folded(stem), 0) + 1
    taken: set[str] = set()
    unique = []
    for name, stem in zip(names, stems, strict=True):
        # photo.jpg and photo.png become photo.jpg.txt and photo.png.txt
        base = stem if twins[_folded(stem)] == 1 else name
        candidate, number = base, 2
        while _folded(candidate) in taken or (candidate != stem and _folded(candidate) in twins):
            candidate, number = f"{base}-{number}", number + 1
        taken.add(_folded(candidate))
        unique.append(candidate)
    return list(zip(names, unique, strict=True))


def write_text(path: Path, text: str) -> None:
    """Write a small text file whole or not at all, with the folders above it."""
    write_atomically(path, text.encode("utf-8", "backslashreplace"), durable=False)


def check_new(path: Path) -> None:
    """Check that a folder can be written to without touching what is there. Nothing is made yet.

    Raises:
        ConfigError: it is there and not empty, or a file has its name.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file; give --out a folder that is new or empty")
    if path.is_dir() and any(path.iterdir()):
        raise ConfigError(f"{path} is in use: it holds files already. Give --out a folder that is new or empty")


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()
