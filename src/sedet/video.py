"""Video files: their frames as they are shown, and pictures back into a video. PyAV (FFmpeg) does the work."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sedet.errors import DataError, ImageError, SedetError

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"})
MOST_PIXELS = 50_000_000
"""Frames with more are refused: no camera makes them, and a crafted file could fill the memory."""


def is_video(path: str | Path) -> bool:
    """Whether the name is that of a video file."""
    return Path(path).suffix.lower() in SUFFIXES


def find_videos(names: Sequence[str]) -> list[Path]:
    """The files of names and globs of videos, each once, in their order; those of a glob sorted.

    Raises:
        DataError: nothing matches a glob. Whether a file is there is left to ``frames``.
    """
    found: dict[Path, None] = {}
    for name in names:
        if not any(c in name for c in "*?[") or Path(name).is_file():
            found[Path(name)] = None
            continue
        matched = sorted(glob.glob(str(Path(name).expanduser()), recursive=True))  # noqa: PTH207
        if not (files := [path for path in map(Path, matched) if path.is_file()]):
            raise DataError("no video matches", name, "Check the folder and the ending")
        found.update(dict.fromkeys(files))
    return list(found)


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
    count, ends, lasts = 0, 0.0, None
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
            lasts = _promised(container, stream)
            for frame in container.decode(stream):
                if frame.time is None:
                    lasts = None  # no times to compare with
                else:
                    length = float((getattr(frame, "duration", 0) or 0) * frame.time_base)
                    ends = max(ends, frame.time + (length or 1 / rate))
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
    # FFmpeg takes the end of a file that was cut for the end of the video. Headers are not exact to the frame.
    if lasts is not None and ends < 0.9 * lasts - 1 / rate:
        raise ImageError(
            f"the video breaks off after {count} frames ({ends:.1f} of {lasts:.1f} s)", path, "Check that it plays"
        )


def _promised(container: Any, stream: Any) -> float | None:
    """When the last frame ends, in seconds, by the header; None if it does not say.

    Not by the number of frames: AVI counts those left out, too, and MP4 those that an edit list hides.
    """
    step = float(stream.time_base or 0)
    if container.format.name == "avi" and stream.frames:
        return float(stream.frames * step)  # its duration is reckoned from the size of the file
    # what follows is of the whole file in some formats, whose sound may be longer than the picture
    alone = len(container.streams) == 1
    if stream.duration and (alone or container.format.name != "asf"):
        return float(stream.duration * step)  # of some formats without the start: rather miss a cut than make one up
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")  # Matroska: 00:01:02.500000000
    with contextlib.suppress(ValueError):
        minutes, seconds = rest.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    return container.duration / 1_000_000 if alone and container.duration else None


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
