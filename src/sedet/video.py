"""Video files: their frames as they are shown, and pictures back into a video. PyAV (FFmpeg) does the work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sedet.errors import ImageError, SedetError

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"})
MOST_PIXELS = 50_000_000
"""Frames with more are refused: no camera makes them, and a crafted file could fill the memory."""


def is_video(path: str | Path) -> bool:
    """Whether the name is that of a video file."""
    return Path(path).suffix.lower() in SUFFIXES


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame.

    Attributes:
        number: its place in the video, from 0.
        seconds: when it is shown; of a file that does not say, from its number and the rate.
        pixels: uint8 [height, width, 3], RGB, turned as a player turns it.
    """

    number: int
    seconds: float
    pixels: NDArray[np.uint8]


def frames(path: Path, every: int = 1) -> Iterator[Frame]:
    """Every n-th frame of a video, one after the other: memory does not grow with its length.

    Raises:
        ImageError: there is no such file, it is no video, has no frames, or breaks off (after the frames before).
        SedetError: PyAV is not installed.
    """
    av = need_av()
    if not path.is_file():
        raise ImageError("there is no such file", path, "Give a video file")
    count = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ImageError("there are no pictures in this file", path, "Give a video")
            stream = container.streams.video[0]
            if stream.codec_context.width * stream.codec_context.height > MOST_PIXELS:
                raise ImageError(
                    f"its frames have {stream.codec_context.width} x {stream.codec_context.height} pixels, too many",
                    path,
                    "Make a smaller copy",
                )
            stream.thread_type = "AUTO"
            rate = float(stream.average_rate or 25)
            for frame in container.decode(stream):
                if count % every == 0:
                    seconds = float(frame.time) if frame.time is not None else count / rate
                    pixels = frame.to_ndarray(format="rgb24")
                    turns = round(getattr(frame, "rotation", 0) / 90) % 4
                    yield Frame(count, seconds, np.ascontiguousarray(np.rot90(pixels, turns)))
                count += 1
    except (av.error.FFmpegError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        what = f"the video breaks off after {count} frames" if count else "not a video that can be read"
        raise ImageError(f"{what} ({reason})", path, "Check that it plays") from error
    if not count:
        raise ImageError("there are no frames in this video", path, "Check that it plays")


def rate_of(path: Path) -> Fraction:
    """Frames a second, as the file says; 25 where it does not."""
    av = need_av()
    with contextlib.suppress(av.error.FFmpegError, OSError), av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        if rate:
            return Fraction(rate)
    return Fraction(25)


class VideoFile:
    """A video (H.264, else MPEG-4) made of pictures of one size; it gets its name when it is finished."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        self.path = path
        self._part = path.with_name(f".{path.name}.part.mp4")
        self._rate = rate.limit_denominator(10_000)
        self._container: Any = None
        self._stream: Any = None

    def add(self, picture: Image.Image) -> None:
        av = need_av()
        width, height = (side - side % 2 for side in picture.size)  # the codecs take even sides only
        if self._container is None:
            self._container = av.open(str(self._part), "w")
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            self._stream = self._container.add_stream(codec, rate=self._rate)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_image(picture.crop((0, 0, width, height)))
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def finish(self) -> Path:
        if self._container is not None:
            for packet in self._stream.encode():
                self._container.mux(packet)
            self._container.close()
            self._container = None
            self._part.replace(self.path)
        return self.path

    def discard(self) -> None:
        if self._container is not None:
            with contextlib.suppress(Exception):  # what matters is that the file goes
                self._container.close()
        self._part.unlink(missing_ok=True)


def need_av() -> Any:
    """
    Raises:
        SedetError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise SedetError("videos need PyAV: pip install av") from error
    return av
