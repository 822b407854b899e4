"""What is predicted on, one after the other: images, decoded ahead, and the frames of videos."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sedet.data.images import read_image, read_size
from sedet.errors import ImageError
from sedet.outputs import Moment
from sedet.predictor import Pixels
from sedet.video import frames

Source = TypeVar("Source")
Read = tuple[Pixels, tuple[int, int]] | ImageError
"""Pixels of an image as read, and the original's width and height; or what was wrong with it."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One image or frame.

    Attributes:
        name, stem: as of :class:`sedet.outputs.Item`; a frame's are those of its video, a slash and its number.
        path: the file.
        read: pixels and original size, or what was wrong.
        moment: where a frame stands in its video; None for images.
    """

    name: str
    stem: str
    path: Path
    read: Read
    moment: Moment | None = None


def images(
    paths: Sequence[Path], names: Sequence[tuple[str, str]], max_side: int | None, workers: int, ahead: int
) -> Iterator[Picture]:
    """Image files, decoded in threads."""
    items = list(zip(paths, names, strict=True))
    for (path, (name, stem)), read in read_ahead(items, lambda item: read_file(item[0], max_side), workers, ahead):
        yield Picture(name, stem, path, read)


def video_frames(paths: Sequence[Path], names: Sequence[tuple[str, str]], every: int) -> Iterator[Picture]:
    """The frames of video files; one that breaks off is named after its frames."""
    for path, (name, stem) in zip(paths, names, strict=True):
        try:
            for frame in frames(path, every):
                height, width = frame.pixels.shape[:2]
                number, moment = f"{frame.number:06d}", Moment(frame.number, frame.seconds)
                yield Picture(f"{name}/{number}", f"{stem}/{number}", path, (frame.pixels, (width, height)), moment)
        except ImageError as error:
            yield Picture(name, stem, path, error)


def read_file(path: Path, max_side: int | None, use_exif: bool = True) -> Read:
    """Pixels, shrunk to ``max_side`` if they are larger, and the original size; or the error."""
    try:
        return read_image(path, use_exif=use_exif, max_side=max_side), read_size(path, use_exif)
    except ImageError as error:
        return error


def read_ahead(
    items: Iterable[Source], read: Callable[[Source], Read], workers: int, ahead: int
) -> Iterator[tuple[Source, Read]]:
    """Decode in threads, in order, with at most ``ahead`` images waiting."""
    rest = iter(items)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting: deque[tuple[Source, Future[Read]]] = deque(
            (item, pool.submit(read, item)) for item in islice(rest, ahead)
        )
        try:
            while waiting:
                item, future = waiting.popleft()
                yield item, future.result()
                waiting.extend((item, pool.submit(read, item)) for item in islice(rest, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
