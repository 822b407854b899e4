"""Reading image files: any colour mode to 8-bit RGB, turned by EXIF, size checked before a pixel is decoded.

Files are foreign: only the formats named here are tried, and whatever goes wrong inside a decoder becomes an
ImageError that names the file.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sedet.errors import ImageError

MAX_PIXELS = 100_000_000
"""Largest image that is decoded, width x height; larger ones are refused from the header alone."""

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif")
    + (".ppm", ".pgm", ".pbm", ".pnm", ".mpo")
)
"""File name endings taken for images, lower case."""

_PLUGINS = ("Bmp", "Gif", "Jpeg", "Ppm", "Png", "Tiff", "WebP", "Mpo", "Avif")
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "MPO", "PPM", "AVIF")
# Sizes are checked here, and damage is told as ImageError: Pillow's warnings only repeat it on stderr.
warnings.filterwarnings("ignore", module=r"PIL\.")

_usable: list[str] = []  # filled on first use: a Pillow build may lack WebP or AVIF

_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURN_BACK = {**_TURN, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
_ORIENTATION = 0x0112


def is_image_name(path: Path) -> bool:
    """Whether the name ends like an image's (any case) and is not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_size(path: Path, use_exif: bool = True) -> tuple[int, int]:
    """(width, height) in pixels from the header alone, after EXIF orientation if ``use_exif``.

    Raises:
        ImageError: the file is missing, no image, or larger than ``MAX_PIXELS``.
    """
    width, height, orientation = read_header(path)
    return (height, width) if use_exif and orientation >= 5 else (width, height)


def read_header(path: Path) -> tuple[int, int, int]:
    """Width and height as stored, and the EXIF orientation (1..8; 1: not turned). Errors as ``read_size``."""
    with _opened(path) as image:
        width, height = _stored_size(image)
        return width, height, _orientation(image)


_probed: dict[str, tuple[int, int, tuple[int, int, int] | ImageError]] = {}


def probe(path: Path) -> tuple[int, int, int] | ImageError:
    """``read_header``, remembered while size and time of the file stay; errors are returned, not raised.

    Raises:
        FileNotFoundError: there is no such file.
    """
    stat = path.stat()
    known = _probed.get(str(path))
    if known is not None and known[:2] == (stat.st_size, stat.st_mtime_ns):
        return known[2]
    answer: tuple[int, int, int] | ImageError
    try:
        answer = read_header(path)
    except ImageError as error:
        answer = forget_frames(error)
    _probed[str(path)] = (stat.st_size, stat.st_mtime_ns, answer)
    return answer


def forget_frames(error: ImageError) -> ImageError:
    """An error to keep: without the frames, and so the pixels, that its traceback holds."""
    error.__context__ = None
    return error.with_traceback(None)


def read_image(path: Path, *, use_exif: bool = True, max_side: int | None = None) -> NDArray[np.uint8]:
    """Decode an image to RGB.

    Grey becomes three equal channels. 16-bit values are divided by 257, so that the full range of 16 bits
    becomes the full range of 8. Transparent pixels show white. Of animations the first frame is taken. Colour
    profiles are not applied.

    Args:
        path: the file.
        use_exif: turn the image as its EXIF orientation says.
        max_side: shrink (antialiased, never enlarge) so that the long side is at most this many pixels; each
            side becomes round(side * max_side / long side), at least 1.

    Returns:
        uint8 [height, width, 3], RGB, contiguous and writable.

    Raises:
        ImageError: the file is missing, empty, truncated, no image, or larger than ``MAX_PIXELS``.
    """
    with _opened(path) as image:
        width, height = _stored_size(image)
        orientation = _orientation(image)
        is_tiff = image.format == "TIFF"  # Pillow turns TIFF by itself when it loads the pixels
        box: tuple[float, float, float, float] | None = None
        scale = 1.0 if max_side is None else min(1.0, max_side / max(width, height))
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
        if scale < 1:
            # JPEGs can be decoded at 1/2, 1/4, 1/8; twice the wanted size is left for the resampling.
            draft = image.draft(None, (2 * target[0], 2 * target[1]))
            box = None if draft is None else draft[1]
        image.load()
        if is_tiff and orientation != 1:
            image = _stored_orientation(image, orientation, (width, height))
        rgb = _to_rgb(image, path)
        if scale < 1:
            rgb = rgb.resize(target, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
        if use_exif and orientation != 1:
            rgb = rgb.transpose(_TURN[orientation])
        return np.array(rgb)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open, check the size, and turn whatever goes wrong, here or in the block, into an ImageError."""
    try:
        if path.stat().st_size == 0:
            raise ImageError("the image file is empty (0 bytes)", path, "Replace or remove it")
        with Image.open(path, formats=_formats()) as image:
            width, height = _stored_size(image)
            if width * height > MAX_PIXELS:
                raise _too_large(path, f"{width} x {height} pixels")
            if width < 1 or height < 1:
                raise ImageError("the image has no pixels", path, "Replace or remove it")
            yield image
    except (ImageError, MemoryError):
        raise
    except FileNotFoundError:
        raise ImageError("there is no such image file", path, "Check the path") from None
    except UnidentifiedImageError:
        raise ImageError(
            "this is not an image in a known format",
            path,
            "Replace or remove it, or convert it to JPEG or PNG",
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(path, "a size that looks like a decompression bomb") from None
    except PermissionError:
        raise ImageError("the image may not be read", path, "Check the file's permissions") from None
    except Exception as error:  # decoders of damaged files raise nearly anything: struct, zlib, Key, Type ...
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ImageError(f"the image cannot be decoded ({reason})", path, "Replace or remove it") from None


def _too_large(path: Path, size: str) -> ImageError:
    limit = MAX_PIXELS // 1_000_000
    return ImageError(f"the image has {size}; the limit is {limit} megapixels", path, "Shrink or tile it")


def _formats() -> list[str]:
    if not _usable:
        for name in _PLUGINS:
            try:
                importlib.import_module(f"PIL.{name}ImagePlugin")
            except ImportError:
                continue
        _usable.extend(name for name in _FORMATS if name in Image.OPEN)
    return _usable


def _stored_size(image: Image.Image) -> tuple[int, int]:
    if image.format == "TIFF":  # newer Pillow reports the turned size of a TIFF
        tags = getattr(image, "tag_v2", {})
        width, height = tags.get(256), tags.get(257)
        if isinstance(width, int) and isinstance(height, int):
            return width, height
    return image.size


def _orientation(image: Image.Image) -> int:
    # A PNG whose EXIF chunk follows the pixels would be decoded only to learn this: it counts as not turned.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    if image.format == "TIFF":
        value = getattr(image, "tag_v2", {}).get(_ORIENTATION, 1)
    else:
        try:
            value = image.getexif().get(_ORIENTATION, 1)
        except Exception:  # damaged EXIF is no reason to refuse good pixels
            return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _stored_orientation(image: Image.Image, orientation: int, stored: tuple[int, int]) -> Image.Image:
    """Undo the turn that Pillow gave a TIFF, so that all formats go on alike."""
    back = image.transpose(_TURN_BACK[orientation])
    return back if back.size == stored else image


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image
    if mode.startswith("I;16") or mode in ("I", "F"):
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    try:
        return image.convert("RGB")
    except ValueError:
        raise ImageError(f"colour mode {mode} is not supported", path, "Convert the image to RGB") from None


def _to_8_bit(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey of more than 8 bits to uint8.

    Integers up to 65535 are 16-bit values. Wider integers and floats have no set range: floats within 0..1
    and within 0..255 are taken so, all else is stretched from its smallest to its largest value.
    """
    v = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(v.min()), float(v.max())
    if low >= 0 and np.issubdtype(values.dtype, np.integer) and high <= 65535:
        v = v / 257
    elif low >= 0 and np.issubdtype(values.dtype, np.floating) and high <= 255:
        v = v * 255 if high <= 1 else v
    else:
        v = (v - low) * (255 / (high - low)) if math.isfinite(high - low) and high > low else np.zeros_like(v)
    return np.asarray(np.rint(v), dtype=np.uint8)
