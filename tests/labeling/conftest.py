"""The predictor that finds red rectangles, and a folder of its scenes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.predict.conftest import red  # noqa: F401
from tests.predict.scenes import save, scene


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images: three red rectangles (one 90 degrees turned by EXIF, one in a folder), one without, one broken."""
    from PIL import Image

    folder = tmp_path / "photos"
    save(folder / "a.png")
    save(folder / "b.png", scene(box=None))
    save(folder / "images" / "c d.png", scene(100, 40, (60, 10, 90, 35)))
    exif = Image.Exif()
    exif[0x0112] = 6
    save(folder / "turned.png", scene(), exif=exif)
    (folder / "torn.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """A file that stands for a detector; ``red`` is what it loads as."""
    file = tmp_path / "run" / "best.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    return file
