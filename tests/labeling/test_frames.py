"""Boxes of the stored image and of the one that EXIF turns: told against the pixels, and merged across."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sedet.data.formats import read_table
from sedet.data.frames import reframed
from sedet.data.images import read_image
from sedet.labeling.changes import BoxChanges
from sedet.labeling.label import label
from sedet.labeling.merge import merge
from sedet.predictor import Predictor
from tests.data.sets import save as save_picture
from tests.data.sets import write
from tests.predict.scenes import BOX, save, scene

TURNED_BOX = (30, 20, 50, 50)
"""Where ``BOX`` is in an 80 x 60 scene of orientation 6, turned."""


def red_bounds(image: NDArray[np.uint8]) -> list[int]:
    rows, columns = np.nonzero((image[..., 0] > 180) & (image[..., 1] < 80))
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_follow_the_pixels(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", scene(), exif=exif)
    stored = np.array([BOX, (0, 0, 80, 60)], dtype=np.float32)
    whole = [0, 0, 60, 80] if orientation >= 5 else [0, 0, 80, 60]
    turned = reframed(stored, path, False, True)
    assert turned.dtype == np.float32 and turned.tolist() == [red_bounds(read_image(path)), whole]
    assert reframed(turned, path, True, False).tolist() == stored.tolist()
    for same in (True, False):
        assert reframed(stored, path, same, same) is stored


def cvat(file: Path, size: tuple[int, int], *boxes: tuple[float, float, float, float], name: str = "a.jpg") -> Path:
    rows = "".join(f'<box label="x" xtl="{a}" ytl="{b}" xbr="{c}" ybr="{d}"/>' for a, b, c, d in boxes)
    image = f'<image id="0" name="{name}" width="{size[0]}" height="{size[1]}">{rows}</image>'
    return write(file, f"<annotations>{image}</annotations>")


STORED = (64, 48), (30.0, 2.0, 50.0, 12.0), (2.0, 20.0, 42.0, 40.0)
TURNED = (48, 64), (36.0, 30.0, 46.0, 50.0), (8.0, 2.0, 28.0, 42.0)
"""Size and two boxes of one image, as stored and as orientation 6 turns it."""


@pytest.mark.parametrize(("labels", "tool", "turned"), [(STORED, TURNED, True), (TURNED, STORED, False)])
@pytest.mark.parametrize("third", [False, True])
def test_labels_and_corrections_of_two_frames(
    tmp_path: Path, labels: tuple[Any, ...], tool: tuple[Any, ...], turned: bool, third: bool
) -> None:
    photos = tmp_path / "photos"
    save_picture(photos / "a.jpg", 1, orientation=6)
    (width, height), *boxes = labels
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [a, b, c - a, d - b], "area": 50 + i, "iscrowd": i}
        for i, (a, b, c, d) in enumerate(boxes)
    ]
    images = [{"id": 1, "file_name": "a.jpg", "width": width, "height": height}]
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    file = write(photos / "labels.json", data)
    more = [(0.0, 0.0, 6.0, 6.0)] if third else []
    done = merge(file, cvat(tmp_path / "e.xml", tool[0], *tool[1:], *more), tmp_path / "out", images=photos)
    assert done.labels == BoxChanges(kept=2, added=len(more))
    table = read_table(tmp_path / "out")
    (entry,), (objects,) = table.images, table.objects
    # One new box replaces the labels by the tool's, in its frame; without any the labels stay as they were.
    (size, *expected), use_exif = (tool, turned) if third else (labels, not turned)
    assert (entry.use_exif, entry.width, entry.height) == (use_exif, *size)
    assert objects.boxes.tolist() == [list(box) for box in (*expected, *more)]
    assert objects.crowd.tolist() == [False, True, *[False] * len(more)]
    assert objects.areas.tolist() == [50, 51, *[36] * len(more)]


def test_proposals_and_corrections_of_two_frames(red: Predictor, detector: Path, photos: Path, tmp_path: Path) -> None:
    label(detector, [str(photos)], tmp_path / "labels", format=["coco"], rank=False, score=0.5, device="cpu")
    proposed = json.loads((tmp_path / "labels" / "coco" / "instances.json").read_text())["annotations"]
    assert [30, 20, 20, 30] in [one["bbox"] for one in proposed], "of the turned image"
    for size, box in (((60, 80), TURNED_BOX), ((80, 60), BOX)):
        export = cvat(tmp_path / "e.xml", size, box, name="turned.png")
        out = tmp_path / f"out {size[0]}"
        done = merge(None, export, out, images=photos, proposals=tmp_path / "labels", rename=["x=red box"])
        assert done.proposals == BoxChanges(kept=1)
