"""CVAT's export "CVAT for images 1.1": boxes and polygons (their bounds), read as a stream.

https://docs.cvat.ai/docs/manual/advanced/xml_format/ says what the elements mean.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn
from xml.parsers import expat

from sedet.data.layout import shown
from sedet.errors import DataError
from sedet.labeling.reviewed import Corners, Export, Reviewed, turned_bounds
from sedet.labeling.xml_names import from_xml

SHAPES = ("box", "polygon")
OTHER_SHAPES = ("polyline", "points", "mask", "cuboid", "ellipse", "skeleton", "tag")
BLOCK = 1 << 20


def read_cvat(file: Path) -> Export:
    """Read an ``annotations.xml``, or the zip file that CVAT exports it in. All images it lists count as reviewed.

    Raises:
        DataError: broken, hostile (a document type declaration), or no "CVAT for images 1.1".
    """
    reader = _Reader(file)
    with _open(file) as stream:
        reader.read(stream)
    return reader.export


@contextmanager
def _open(file: Path) -> Iterator[IO[bytes]]:
    try:
        if file.suffix.lower() != ".zip":
            with file.open("rb") as stream:
                yield stream
            return
        with zipfile.ZipFile(file) as archive, archive.open("annotations.xml") as stream:
            yield stream
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError):
        raise DataError("this zip file cannot be read", file, "Export it again") from None
    except KeyError:
        raise DataError("it holds no annotations.xml", file, "Export as 'CVAT for images 1.1', or unpack it") from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", file, "Check the path and permissions") from None


class _Reader:
    def __init__(self, file: Path) -> None:
        self.file, self.export = file, Export("CVAT")
        self._image: Reviewed | None = None
        self._depth = 0

    def read(self, stream: IO[bytes]) -> None:
        parser = expat.ParserCreate()

        def refuse(*_: object) -> NoReturn:
            raise DataError("it has a document type declaration, which is refused", self.file, "Remove <!DOCTYPE ...>")

        parser.StartDoctypeDeclHandler = refuse
        parser.EntityDeclHandler = refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        try:
            while block := stream.read(BLOCK):
                parser.Parse(block, False)
            parser.Parse(b"", True)
        except expat.ExpatError as error:
            place = f"broken XML at line {error.lineno}, column {error.offset + 1}: {expat.ErrorString(error.code)}"
            raise DataError(place, self.file, "Mend the file or export it again") from None
        except (ValueError, LookupError):
            raise DataError("this XML cannot be read (unknown encoding)", self.file, "Save it as UTF-8") from None

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1 and tag != "annotations":
            raise DataError(f"its root is <{shown(tag)[1:-1]}>, not <annotations>", self.file, "Give an export of CVAT")
        if self._depth == 2 and tag == "track":
            raise DataError("this is 'CVAT for video'", self.file, "Export as 'CVAT for images 1.1'")
        if self._depth == 2 and tag == "image":
            self._image = self._begin(attributes)
        elif self._depth == 3 and self._image is not None:
            if tag in SHAPES:
                try:
                    corners = _box(attributes) if tag == "box" else _polygon(attributes)
                except (KeyError, ValueError, OverflowError):
                    self.export.problems.append(f"{self._image.where}: a malformed <{tag}> is left out")
                    return
                label = from_xml(attributes.get("label", "")).strip()
                if not label:
                    self.export.problems.append(f"{self._image.where}: a <{tag}> without a label is left out")
                    return
                self._image.boxes.append(corners)
                self._image.labels.append(label)
            elif tag in OTHER_SHAPES:
                self.export.problems.append(f"{self._image.where}: a <{tag}> is no box; left out")

    def _end(self, tag: str) -> None:
        if self._depth == 2 and self._image is not None:
            self.export.images.append(self._image)
            self._image = None
        self._depth -= 1

    def _begin(self, attributes: dict[str, str]) -> Reviewed | None:
        where = f"{self.file}, image {shown(attributes.get('id', ''))}"
        name = attributes.get("name", "")
        try:
            width, height = int(attributes["width"]), int(attributes["height"])
        except (KeyError, ValueError):
            width = height = 0
        if not name.strip():
            self.export.problems.append(f"{where}: it has no name; left out")
            return None
        return Reviewed(list(dict.fromkeys([from_xml(name), name])), width, height, False, where)


def _box(attributes: dict[str, str]) -> Corners:
    x1, y1, x2, y2 = (_finite(attributes[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    rotation = _finite(attributes.get("rotation", "0"))
    if rotation % 360 == 0:
        return x1, y1, x2, y2
    return turned_bounds(x1, y1, x2 - x1, y2 - y1, rotation, centre=True)


def _polygon(attributes: dict[str, str]) -> Corners:
    points = [tuple(_finite(v) for v in point.split(",")) for point in attributes["points"].split(";") if point.strip()]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value
