"""Large images in tiles: objects lie where they are, once each, and small images are looked at as ever."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sedet import cli
from sedet.detectors.file import LoadedDetector, save_detector
from sedet.detectors.regions import Detections
from sedet.errors import ConfigError
from sedet.judge import evaluate
from sedet.predictor import Predictor
from sedet.tiles import TiledPredictor
from tests import tiny

pytest.importorskip("supervision")

TILE = 100


class Squares(Predictor):
    """Finds each white square that is smaller than half of what it looks at, and at least a hundredth of it."""

    def __init__(self) -> None:
        model = tiny.detector(1)
        super().__init__(LoadedDetector(model, ("square",), 64, {}), torch.device("cpu"))
        self.seen: list[tuple[int, ...]] = []

    def detect(self, images: Sequence[np.ndarray], score_threshold: float, max_detections: int) -> list[Detections]:
        found = []
        for image in images:
            self.seen.append(image.shape)
            side = max(image.shape[:2])
            boxes = [b for b in squares(image) if side / 100 <= max(b[2] - b[0], b[3] - b[1]) <= side / 2]
            table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
            area = (table[:, 2:] - table[:, :2]).prod(dim=1)
            found.append(
                Detections(table, 0.5 + 0.4 * area / area.max() if len(area) else area, torch.zeros(len(area)).long())
            )
        return found


def squares(image: np.ndarray) -> list[list[int]]:
    """Boxes of the white parts, found by filling each."""
    left = image[..., 0] > 128
    boxes = []
    while left.any():
        y, x = np.argwhere(left)[0]
        right, bottom = x, y
        while right < left.shape[1] and left[y, right]:
            right += 1
        while bottom < left.shape[0] and left[bottom, x]:
            bottom += 1
        left[y:bottom, x:right] = False
        boxes.append([int(x), int(y), int(right), int(bottom)])
    return boxes


def canvas(width: int, height: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 255
    return image


def tiled(**options: object) -> tuple[TiledPredictor, Squares]:
    plain = Squares()

    class Both(TiledPredictor, Squares):
        """The tiles of the one, with the answers of the other."""

        def __init__(self) -> None:
            TiledPredictor.__init__(self, plain, TILE, **options)  # type: ignore[arg-type]

    return Both(), plain


def test_objects_lie_where_they_are_in_the_image() -> None:
    boxes = [(10, 10, 14, 14), (250, 130, 256, 136), (290, 190, 299, 199)]
    detector, plain = tiled(whole=False)
    found = detector.detect([canvas(300, 200, *boxes)], 0.3, 100)[0]
    assert sorted(map(tuple, found.boxes.tolist())) == sorted(boxes) and len(plain.seen) >= 6
    assert (found.scores.diff() <= 0).all() and set(found.labels.tolist()) == {0}


def test_an_object_that_an_edge_cuts_is_found_once_and_whole() -> None:
    """Tiles of 100 px begin every 80: the square from 90 to 110 is cut by the first and whole in the second."""
    detector, _ = tiled(whole=False)
    found = detector.detect([canvas(260, 100, (90, 40, 110, 60))], 0.3, 100)[0]
    assert found.boxes.tolist() == [[90, 40, 110, 60]]


def test_objects_larger_than_a_tile_need_the_whole_image() -> None:
    image = canvas(400, 400, (20, 20, 180, 180), (300, 300, 305, 305))
    with_whole = tiled()[0].detect([image], 0.3, 100)[0].boxes.tolist()
    without = tiled(whole=False)[0].detect([image], 0.3, 100)[0].boxes.tolist()
    assert [20, 20, 180, 180] in with_whole and [20, 20, 180, 180] not in without
    assert [300, 300, 305, 305] in with_whole and [300, 300, 305, 305] in without


def test_an_image_that_fits_into_a_tile_is_looked_at_as_ever() -> None:
    detector, plain = tiled()
    image = canvas(TILE, 60, (10, 10, 20, 20))
    assert detector.detect([image], 0.3, 100)[0].boxes.tolist() == [[10, 10, 20, 20]]
    assert plain.seen == [(60, TILE, 3)]


def test_nothing_is_found_in_an_empty_image() -> None:
    found = tiled()[0].detect([canvas(300, 300)], 0.3, 100)[0]
    assert found.boxes.shape == (0, 4) and found.scores.shape == found.labels.shape == (0,)


@pytest.mark.parametrize(("tile", "overlap", "said"), [(8, 0.2, "32 pixels or more"), (64, 0.95, "0 to 0.9")])
def test_what_makes_no_tiles(tile: int, overlap: float, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TiledPredictor(Squares(), tile, overlap)


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.dataset(tmp_path / "data")
    path = tmp_path / "detector.safetensors"
    save_detector(path, tiny.detector(classes=2, confident=True), ("red", "blue"), 64, {})
    Image.fromarray(canvas(300, 200, (10, 10, 60, 60))).save(tmp_path / "large.png")
    sides: list[tuple[int, int]] = []

    def recorded(self: Predictor, images: Sequence[np.ndarray], *limits: object) -> list[Detections]:
        sides.extend(image.shape[:2] for image in images)
        return original(self, images, *limits)  # type: ignore[arg-type]

    original = Predictor.detect
    monkeypatch.setattr(Predictor, "detect", recorded)
    words = ["predict", str(path), "large.png", "--score", "0.1", "--tiles", "100", "--tile-overlap", "0.5"]
    assert cli.main([*words, "--out", "a"]) == 0
    assert set(sides) == {(100, 100), (200, 300)}
    record = json.loads((tmp_path / "a" / "predictions.jsonl").read_text())
    assert (record["width"], record["height"]) == (300, 200) and record["detections"]
    sides.clear()
    assert cli.main([*words, "--no-tile-whole", "--out", "b"]) == 0 and set(sides) == {(100, 100)}
    assert cli.main(["predict", str(path), "large.png", "--tiles", "5"]) == 2
    plain = evaluate(path, tmp_path / "data" / "val.json")
    assert evaluate(path, tmp_path / "data" / "val.json", tiles=64).ap == plain.ap, "its images fit into a tile"
