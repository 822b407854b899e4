from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sedet.data.images import MAX_PIXELS, probe, read_image, read_size
from sedet.errors import ImageError

from .sets import picture, save


def corners(width: int = 40, height: int = 20) -> Image.Image:
    """Red, green, blue and white quarters: every turn and flip shows."""
    a = np.zeros((height, width, 3), np.uint8)
    a[: height // 2, : width // 2] = (255, 0, 0)
    a[: height // 2, width // 2 :] = (0, 255, 0)
    a[height // 2 :, : width // 2] = (0, 0, 255)
    a[height // 2 :, width // 2 :] = 255
    return Image.fromarray(a)


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """What EXIF says, written with array operations: the reference."""
    return {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.transpose(1, 0, 2),
        6: np.rot90(array, -1),
        7: array[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(array, 1),
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif", "webp", "jpg"])
def test_exif_turns_or_stays_as_asked(tmp_path: Path, orientation: int, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(ending, {})
    corners().save(path, exif=exif, **options)
    stored = np.asarray(corners())
    for use_exif, expected in ((True, turned(stored, orientation)), (False, stored)):
        got = read_image(path, use_exif=use_exif)
        assert got.shape == expected.shape
        assert np.abs(got.astype(int) - expected).mean() < 6  # JPEG rings at the borders
        assert read_size(path, use_exif) == (expected.shape[1], expected.shape[0])
        small = read_image(path, use_exif=use_exif, max_side=20)
        assert small.shape == (expected.shape[0] // 2, expected.shape[1] // 2, 3)
        assert np.abs(small[2, 2].astype(int) - expected[4, 4]).max() < 30


def read(path: Path, image: Image.Image, **options: object) -> np.ndarray:
    image.save(path, **options)
    got = read_image(path)
    assert got.dtype == np.uint8 and got.ndim == 3 and got.shape[2] == 3
    assert got.flags.c_contiguous and got.flags.writeable
    return got


def test_grey_and_bilevel(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (read(tmp_path / "a.png", Image.fromarray(grey)) == grey[..., None]).all()
    one = Image.fromarray((grey > 100).astype(np.uint8) * 255).convert("1")
    assert (read(tmp_path / "b.png", one)[..., 0] == (grey > 100) * 255).all()


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_keeps_its_full_range(tmp_path: Path, ending: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(values).save(path)
    assert read_image(path)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_32_bit_and_float(tmp_path: Path) -> None:
    whole = Image.fromarray(np.array([[0, 65535 * 4]], dtype=np.int32))
    assert read(tmp_path / "i.tif", whole)[0, :, 0].tolist() == [0, 255]
    share = Image.fromarray(np.array([[0.0, 0.5, 1.0, np.nan]], dtype=np.float32))
    assert read(tmp_path / "f.tif", share)[0, :, 0].tolist() == [0, 128, 255, 0]
    flat = Image.fromarray(np.full((2, 2), 1e6, dtype=np.float32))
    assert (read(tmp_path / "g.tif", flat) == 0).all()


def test_cmyk(tmp_path: Path) -> None:
    got = read(tmp_path / "a.jpg", corners().convert("CMYK"), quality=100)
    assert np.abs(got.astype(int) - np.asarray(corners())).mean() < 8


def test_palette_and_its_transparent_entry(tmp_path: Path) -> None:
    image = corners().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    assert np.abs(read(tmp_path / "a.png", image).astype(int) - np.asarray(corners())).max() < 8
    index = image.getpixel((0, 0))
    got = read(tmp_path / "b.png", image, transparency=index)
    assert got[0, 0].tolist() == [255, 255, 255]  # red was transparent, and white shows
    assert got[0, -1, 1] > 240 and got[0, -1, 0] < 10


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_shows_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (2, 1), (0, 0, 0, 255) if mode == "RGBA" else (0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0) if mode == "RGBA" else (0, 0))
    assert read(tmp_path / "a.png", image)[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_other_formats_and_first_frame(tmp_path: Path) -> None:
    for ending in ("bmp", "gif", "ppm", "webp"):
        assert read(tmp_path / f"a.{ending}", corners()).shape == (20, 40, 3)
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "b.gif")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("size", [(301, 200), (200, 301), (1000, 3)])
def test_max_side_shrinks_and_never_enlarges(tmp_path: Path, ending: str, size: tuple[int, int]) -> None:
    path = save(tmp_path / f"a.{ending}", 1, *size)
    for side in (37, 100, 150, 299):
        scale = min(1, side / max(size))
        expected = (max(1, round(size[1] * scale)), max(1, round(size[0] * scale)), 3)
        assert read_image(path, max_side=side).shape == expected
    assert read_image(path, max_side=5000).shape == (size[1], size[0], 3)


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    got = read_image(tmp_path / "a.png", max_side=16)[4:-4, 4:-4]
    assert got.min() > 110 and got.max() < 145  # picking pixels would give 0 or 255


def test_shrunk_jpeg_lies_where_the_full_one_does(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    picture(3, 401, 299).save(path, quality=95)
    got = read_image(path, max_side=67)
    full = Image.fromarray(read_image(path)).resize((67, 50), Image.Resampling.BICUBIC)
    assert np.abs(got.astype(int) - np.asarray(full, dtype=int)).max() < 12


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(20_000, 10_000), (10_001, 10_000), (60_000, 60_000)])
def test_bombs_are_refused_by_their_header(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    assert size[0] * size[1] > MAX_PIXELS
    for call in (read_image, read_size):
        with pytest.raises(ImageError, match=r"bomb\.png.*100 megapixels"):
            call(path)


def broken_files(folder: Path) -> dict[str, Path]:
    files = {name: folder / name for name in ("empty.jpg", "text.jpg", "cut.jpg", "cut.png", "gone.jpg")}
    files["empty.jpg"].write_bytes(b"")
    files["text.jpg"].write_text("no image at all")
    for ending in ("jpg", "png"):
        data = io.BytesIO()
        picture(1, 200, 150).save(data, "JPEG" if ending == "jpg" else "PNG")
        files[f"cut.{ending}"].write_bytes(data.getvalue()[: len(data.getvalue()) * 2 // 3])
    return files


@pytest.mark.parametrize("name", ["empty.jpg", "text.jpg", "cut.jpg", "cut.png", "gone.jpg"])
@pytest.mark.parametrize("max_side", [None, 20])
def test_broken_files_are_image_errors_that_name_the_file(tmp_path: Path, name: str, max_side: int | None) -> None:
    path = broken_files(tmp_path)[name]
    with pytest.raises(ImageError) as caught:
        read_image(path, max_side=max_side)
    assert str(path) in str(caught.value) and caught.value.todo


def test_a_folder_or_a_format_that_is_not_listed_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        read_image(tmp_path)
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(ImageError, match="not an image in a known format"):
        read_image(path)  # Pillow would hand it to Ghostscript


def test_damaged_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for ending in ("jpg", "png", "tif", "gif", "webp", "bmp"):
        path = tmp_path / f"a.{ending}"
        picture(2, 40, 30).save(path)
        whole = bytearray(path.read_bytes())
        for _ in range(40):
            data = bytearray(whole)
            for position in rng.integers(0, len(data), 6):
                data[position] = rng.integers(0, 256)
            path.write_bytes(data)
            with contextlib.suppress(ImageError):
                assert read_image(path).shape[2] == 3


def test_probe_notices_a_changed_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 0, 30, 20)
    assert probe(path) == (30, 20, 1)
    save(path, 0, 50, 20)
    assert probe(path) == (50, 20, 1)
    path.write_bytes(b"")
    assert isinstance(probe(path), ImageError)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        probe(path)


def test_the_padding_of_a_shrunk_jpeg_does_not_move_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    ramp = np.repeat(np.linspace(0, 255, 25).astype(np.uint8)[:, None], 800, axis=1)
    Image.fromarray(ramp).convert("RGB").save(path, quality=95)
    got = read_image(path, max_side=48)  # decoded at a quarter: 6.25 rows, stored as 7
    full = Image.fromarray(read_image(path)).resize((48, 2), Image.Resampling.BICUBIC)
    assert np.abs(got.astype(int) - np.asarray(full, dtype=int)).max() < 8
