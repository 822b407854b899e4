"""Images that are the same: byte for byte, or the same picture resized or encoded anew.

Near-duplicates are found in two steps: a 63-bit hash of the picture's low frequencies proposes pairs, and
32x32 grey thumbnails confirm them. Both limits are conservative: on photographs, blood cells and vehicles
(3,400 images) they join no two different pictures, and find copies at half or a third of the size, stretched,
or encoded at JPEG quality 10. A moved object of a thirty-second of the side or more tells two frames of a
fixed camera apart. Mirrored and cropped copies are not found.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sedet.data.images import forget_frames, read_image
from sedet.errors import ImageError

MAX_BITS = 8
"""Differing hash bits, of 63, up to which a pair is looked at."""
MAX_DIFFERENCE = 15.0
"""Largest difference of grey values (0..255, means removed) at any place of two thumbnails."""
MIN_CONTRAST = 3.0
"""Standard deviation of grey values under which a picture is too plain to be told from others."""

_SIDE = 32
_k, _x = np.mgrid[0:8, 0:_SIDE]
_COSINES = np.cos(np.pi * (2 * _x + 1) * _k / (2 * _SIDE))  # [8, 32]: the lowest rows of a DCT-II


@dataclass(frozen=True, slots=True)
class Match:
    """The reference that shows the same picture: its index, and whether the files are equal bytes."""

    index: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Glance:
    """What one decoding of a picture leaves behind.

    Attributes:
        thumb: uint8 [32, 32], grey.
        bits: 63-bit hash of the low frequencies.
        plain: it has too little contrast to be told from others.
        peak: its brightest value, 0..255.
    """

    thumb: NDArray[np.uint8]
    bits: int
    plain: bool
    peak: int


T = TypeVar("T")
_digests: dict[tuple[str, int, int], bytes] = {}
_glances: dict[tuple[str, int, int], Glance | ImageError] = {}


def glances(paths: Sequence[Path]) -> list[Glance | ImageError]:
    """Decode every image once, small (the whole file is read all the same); errors are returned, not raised."""
    return _each(_glance, paths)


def same_pictures(paths: Sequence[Path], references: Sequence[Path], near: bool = True) -> list[Match | None]:
    """For each path the reference that shows the same picture, equal files first, or None.

    Files that cannot be read match only files of equal bytes. Answers are remembered by path, size and time.

    Args:
        paths, references: image files.
        near: look for resized and re-encoded copies too, which decodes every image once (small).
    """
    matches: list[Match | None] = [None] * len(paths)
    if not paths or not references:
        return matches
    by_size: dict[int, list[int]] = defaultdict(list)
    for i, reference in enumerate(references):
        by_size[_size(reference)].append(i)
    equal_size = [i for i, path in enumerate(paths) if _size(path) in by_size]
    wanted = {r for i in equal_size for r in by_size[_size(paths[i])]}
    known = _each(_digest, [references[r] for r in sorted(wanted)])
    first: dict[bytes, int] = {}
    for r, digest in zip(sorted(wanted), known, strict=True):
        first.setdefault(digest, r)
    for i, digest in zip(equal_size, _each(_digest, [paths[i] for i in equal_size]), strict=True):
        if digest in first:
            matches[i] = Match(first[digest], True)
    if near:
        rest = [i for i, match in enumerate(matches) if match is None]
        found = _near([paths[i] for i in rest], references)
        for i, nearest in zip(rest, found, strict=True):
            if nearest is not None:
                matches[i] = Match(nearest, False)
    return matches


def repeated(paths: Sequence[Path], near: bool = False) -> list[Match | None]:
    """For each path an earlier one that shows the same picture, or None; ``near`` as in ``same_pictures``."""
    matches: list[Match | None] = [None] * len(paths)
    by_size: dict[int, list[int]] = defaultdict(list)
    for i, path in enumerate(paths):
        by_size[_size(path)].append(i)
    suspects = sorted(i for group in by_size.values() if len(group) > 1 for i in group)
    first: dict[bytes, int] = {}
    for i, digest in zip(suspects, _each(_digest, [paths[i] for i in suspects]), strict=True):
        if digest in first:
            matches[i] = Match(first[digest], True)
        else:
            first[digest] = i
    if near:
        for i, r in enumerate(_near(paths, paths, earlier=True)):
            if r is not None and matches[i] is None:
                matches[i] = Match(r, False)
    return matches


def _near(paths: Sequence[Path], references: Sequence[Path], earlier: bool = False) -> list[int | None]:
    """Index of the most similar reference, if near enough; with ``earlier`` only of smaller indices."""
    found: list[int | None] = [None] * len(paths)
    own = _telling(paths)
    theirs = own if earlier else _telling(references)
    columns = sorted(theirs)
    column_bits = np.array([theirs[r].bits for r in columns], dtype=np.uint64)
    for i, mine in own.items():
        distance = _popcount(column_bits ^ np.uint64(mine.bits))
        best = MAX_DIFFERENCE
        for position in np.flatnonzero(distance <= MAX_BITS):
            r = columns[int(position)]
            if earlier and r >= i:
                continue
            difference = _difference(mine.thumb, theirs[r].thumb)
            if difference < best or (found[i] is None and difference <= best):
                best, found[i] = difference, r
    return found


def _telling(paths: Sequence[Path]) -> dict[int, Glance]:
    """The pictures that can be told from others, by index."""
    seen = enumerate(glances(paths))
    return {i: g for i, g in seen if isinstance(g, Glance) and not g.plain}


def _difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    d = a.astype(np.float32) - b.astype(np.float32)
    return float(np.abs(d - d.mean()).max())


def _popcount(values: NDArray[np.uint64]) -> NDArray[np.uint8]:
    if hasattr(np, "bitwise_count"):
        return np.asarray(np.bitwise_count(values), dtype=np.uint8)
    bits = np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1)  # NumPy 1.x
    return np.asarray(bits.sum(axis=1), dtype=np.uint8)


def _glance(path: Path) -> Glance | ImageError:
    try:
        key = _key(path)
    except OSError:
        return ImageError("there is no such image file", path, "Check the path")
    if key not in _glances:
        try:
            _glances[key] = _look(read_image(path, max_side=4 * _SIDE))
        except ImageError as error:
            _glances[key] = forget_frames(error)
        except MemoryError:
            return ImageError("there is no memory to decode the image", path, "Shrink it")
    return _glances[key]


def _look(pixels: NDArray[np.uint8]) -> Glance:
    grey = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    thumb = np.asarray(grey, dtype=np.uint8)
    waves = (_COSINES @ thumb.astype(np.float64) @ _COSINES.T).ravel()[1:]  # 63, without the mean
    bits = 0
    for bit in waves > np.median(waves):
        bits = bits << 1 | int(bit)
    return Glance(thumb, bits, bool(thumb.std() < MIN_CONTRAST), int(pixels.max()))


def _digest(path: Path) -> bytes:
    try:
        key = _key(path)
        if key not in _digests:
            with path.open("rb") as file:
                _digests[key] = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
        return _digests[key]
    except OSError:  # gone or not to be read: like nothing but itself
        return os.fsencode(path)


def _key(path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _each(function: Callable[[Path], T], paths: Sequence[Path]) -> list[T]:
    """In threads: decoding and hashing leave Python's lock."""
    if len(paths) < 4:
        return [function(p) for p in paths]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, paths))
