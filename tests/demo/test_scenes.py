"""The demo's data set: deterministic, correctly labelled, hard in the ways it says, and without leaks."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sedet.data.chance import generator
from sedet.demo.scenes import CLASS_DECK, SIDES, DemoData, draw_scene, draw_scenes
from sedet.demo.shapes import CLASSES, Paint, place, raster
from sedet.errors import DataError

SIZE = 128


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoData:
    return draw_scenes(tmp_path_factory.mktemp("demo") / "scenes", labeled=12, unlabeled=24, val=8, size=SIZE)


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def digests(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_same_seed_gives_same_bytes_and_another_seed_another_set(tmp_path: Path) -> None:
    few = {"labeled": 2, "unlabeled": 3, "val": 2, "size": 96}
    first, again, other = (
        digests(draw_scenes(tmp_path / name, seed=seed, **few).root) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == again
    pictures = [name for name in first if name.endswith(".png")]
    assert len(pictures) == 7
    assert all(first[name] != other[name] for name in pictures)


def test_an_image_does_not_depend_on_how_many_are_drawn(demo: DemoData, tmp_path: Path) -> None:
    short = draw_scenes(tmp_path / "short", labeled=2, unlabeled=1, val=1, size=SIZE)
    whole, part = digests(demo.root), digests(short.root)
    assert all(part[name] == whole[name] for name in part if name.endswith(".png"))


def test_json_agrees_with_the_pictures(demo: DemoData) -> None:
    for path, count in ((demo.labeled_json, 12), (demo.val_json, 8), (demo.all_json, 36)):
        coco = read(path)
        assert len(coco["images"]) == count
        assert [c["name"] for c in coco["categories"]] == list(CLASSES) == list(demo.classes)
        for entry in coco["images"]:
            with Image.open(demo.root / entry["file_name"]) as image:
                assert (image.size, image.mode) == ((entry["width"], entry["height"]), "RGB")
        assert len({a["id"] for a in coco["annotations"]}) == len(coco["annotations"])
        per_image = Counter(a["image_id"] for a in coco["annotations"])
        assert set(per_image) == {i["id"] for i in coco["images"]}
        assert min(per_image.values()) >= 1 and max(per_image.values()) <= 8


def test_boxes_lie_inside_and_are_not_too_small(demo: DemoData) -> None:
    for a in [*read(demo.all_json)["annotations"], *read(demo.val_json)["annotations"]]:
        x, y, w, h = a["bbox"]
        assert x >= 0 and y >= 0 and x + w <= SIZE + 1e-3 and y + h <= SIZE + 1e-3
        assert max(w, h) >= 0.95 * SIDES[0] * SIZE - 1e-3 and min(w, h) >= 0.4 * SIDES[0] * SIZE - 1e-3
        assert a["area"] == pytest.approx(w * h, abs=1e-2)


def test_sides_are_spread_and_one_class_is_rare(demo: DemoData) -> None:
    assert SIDES[1] / SIDES[0] >= 16
    annotations = [a for path in (demo.all_json, demo.val_json) for a in read(path)["annotations"]]
    sides = [max(a["bbox"][2:]) for a in annotations]
    assert max(sides) / min(sides) >= 10  # of the few drawn here; the whole set's spread is above 16
    assert min(CLASS_DECK.values()) / sum(CLASS_DECK.values()) == pytest.approx(0.04)
    counts = Counter(a["category_id"] for a in annotations)
    assert len(counts) == len(CLASSES) >= 4
    rare = list(CLASSES).index("key") + 1
    assert 0.01 <= counts[rare] / len(annotations) <= 0.08
    assert all(n >= 2 * counts[rare] for i, n in counts.items() if i != rare)


def test_counts_are_those_of_the_files(demo: DemoData) -> None:
    assert demo.images == {"labeled": 12, "unlabeled": 24, "val": 8}
    for split, path in (("labeled", demo.labeled_json), ("val", demo.val_json)):
        found = Counter(a["category_id"] for a in read(path)["annotations"])
        assert {name: found[i] for i, name in enumerate(demo.classes, start=1)} == demo.objects[split]
    everything = len(read(demo.all_json)["annotations"])
    assert everything == sum(sum(demo.objects[split].values()) for split in ("labeled", "unlabeled"))


def test_unlabeled_folder_holds_pictures_only(demo: DemoData) -> None:
    files = list(demo.unlabeled_dir.rglob("*"))
    assert len(files) == 24
    assert {p.suffix for p in files} == {".png"}
    for path in files:
        with Image.open(path) as image:
            assert not image.info  # nothing said in the picture's own metadata either


def test_splits_share_no_image(demo: DemoData) -> None:
    pictures = [sha for name, sha in digests(demo.root).items() if name.endswith(".png")]
    assert len(pictures) == len(set(pictures)) == 44
    names = [{i["file_name"] for i in read(p)["images"]} for p in (demo.labeled_json, demo.val_json)]
    assert not names[0] & names[1]
    assert names[0] < {i["file_name"] for i in read(demo.all_json)["images"]}


@pytest.mark.parametrize("name", list(CLASSES))
@pytest.mark.parametrize("oversample", [2, 4])
def test_raster_box_is_tight(name: str, oversample: int) -> None:
    for i in range(10):
        rng = generator(0, "shape", name, i)
        parts = place(CLASSES[name](rng), 40.0, rng.uniform(0, 360), 1.1, 0.1, mirror=bool(i % 2))
        drawn = raster(parts, 0.0, oversample)
        seen = 1 - drawn.cover[Paint.HOLE]
        assert np.allclose(drawn.cover.sum(axis=0), 1)
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        x0, y0, x1, y1 = drawn.box
        assert [np.floor(x0), np.floor(y0), np.ceil(x1), np.ceil(y1)] == [
            columns[0],
            rows[0],
            columns[-1] + 1,
            rows[-1] + 1,
        ]
        assert max(x1 - x0, y1 - y0) == pytest.approx(40, abs=1.5)
        assert 0 < drawn.clue.sum() < seen.sum()  # every class has something it is told by


def test_box_is_where_the_object_changed_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lone object on plain grey: its box is the bounding box of what is not grey."""
    grey = np.full((SIZE, SIZE, 3), 0.5, dtype=np.float32)
    monkeypatch.setattr("sedet.demo.scenes.background", lambda rng, size: grey.copy())
    monkeypatch.setattr("sedet.demo.scenes.develop", lambda rng, image, light: image)
    monkeypatch.setattr("sedet.demo.scenes._Canvas._shadow", lambda *args: None)
    monkeypatch.setattr("sedet.demo.scenes.DISTRACTOR_COUNTS", (0, 1))
    for i, name in enumerate([*CLASSES] * 3):
        image, [(found, box)] = draw_scene(generator(1, "lone", i), [name], SIZE)
        changed = np.abs(image - grey).max(axis=2) > 0
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        assert found == name
        assert box == pytest.approx((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), abs=1.01)


def test_a_finished_set_is_taken_again(demo: DemoData) -> None:
    before = {p: p.stat().st_mtime_ns for p in demo.root.rglob("*")}
    assert draw_scenes(demo.root, labeled=12, unlabeled=24, val=8, size=SIZE) == demo
    assert before == {p: p.stat().st_mtime_ns for p in demo.root.rglob("*")}


def test_user_errors(demo: DemoData, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="other settings"):
        draw_scenes(demo.root, seed=1, labeled=12, unlabeled=24, val=8, size=SIZE)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="in use"):
        draw_scenes(tmp_path / "used", labeled=1, unlabeled=1, val=1)
    assert [p.name for p in (tmp_path / "used").iterdir()] == ["notes.txt"]
    with pytest.raises(DataError, match="not a folder"):
        draw_scenes(tmp_path / "used" / "notes.txt", labeled=1, unlabeled=1, val=1)
    with pytest.raises(DataError, match="cannot draw 0 labelled"):
        draw_scenes(tmp_path / "none", labeled=0)
    with pytest.raises(DataError, match="size of 64"):
        draw_scenes(tmp_path / "none", size=16)
    assert not (tmp_path / "none").exists()


def test_a_failed_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sedet.demo.scenes._write_coco", full)
    with pytest.raises(DataError, match="No space left"):
        draw_scenes(tmp_path / "scenes", labeled=1, unlabeled=1, val=1)
    assert not list(tmp_path.iterdir())
