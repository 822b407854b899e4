from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from sedet.config import TrainConfig
from sedet.data.check import Report, check_data
from sedet.training.inputs import read_data

from .sets import SHARED, coco, edit, picture, save, voc, write

needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the data sets are not at {SHARED}")
CATEGORIES = ((3, "cat"),)


def good(folder: Path, count: int = 12, seed: int = 0, **options: object) -> Path:
    rows = [[(3, [5, 5, 20, 20])]] * count
    return coco(folder, rows, categories=CATEGORIES, size=(120, 90), seed=seed, **options)  # type: ignore[arg-type]


def texts(report: Report, level: str) -> list[str]:
    return [str(p) for p in report.problems if p.level == level]


def test_good_data_has_no_problem(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "pool" / f"{i}.jpg", 500 + i)
    for fast in (True, False):
        val = good(tmp_path / "v", count=30, seed=100)
        report = check_data(good(tmp_path / "a"), [str(tmp_path / "pool")], val, fast=fast)
        assert report.ok and report.problems == ()
        lines = report.lines()
        assert lines[0].startswith("labelled: 12 images (0 without objects), 12 boxes, 1 classes")
        assert any("unlabelled: 3" in line for line in lines)
        assert lines[-1] == "0 errors, 0 warnings: training would start"


def test_what_cannot_be_read_is_an_error_line_and_no_exception(tmp_path: Path) -> None:
    save(tmp_path / "only" / "a.png")
    for source, word in (
        (tmp_path / "nothing", "no such file"),
        (tmp_path / "only", "no annotations were found"),
        (write(tmp_path / "bad.json", "{"), "broken JSON at line 1"),
    ):
        report = check_data(source)
        assert not report.ok and word in texts(report, "error")[0]
        assert report.lines()[-1] == "1 error, 0 warnings: training would not start"
    report = check_data(good(tmp_path / "a"), ["nowhere"], tmp_path / "nothing")
    assert len(texts(report, "error")) == 2


def test_every_malformed_entry_is_a_line(tmp_path: Path) -> None:
    data = good(tmp_path / "a")
    content = edit(data, {})
    for i in (2, 5, 7):
        content["annotations"][i]["bbox"] = [i]
    told = texts(check_data(write(data, content), val=good(tmp_path / "v", seed=100)), "error")
    assert len(told) == 3 and all(f"annotation {i} " in t for i, t in zip((2, 5, 7), told, strict=True))
    assert all("Write [x, y, width, height]" in t for t in told)


def test_classes(tmp_path: Path) -> None:
    data = coco(tmp_path / "a", [[(3, [5, 5, 9, 9])] * 11, [(7, [5, 5, 9, 9])]] + [[]] * 10)
    told = texts(check_data(data), "warning")
    assert any("class 'hen' has no boxes" in t for t in told)
    assert any("class 'dog' has only 1 box." in t for t in told)
    report = check_data(data, classes=["cat", "cow"])
    assert not report.ok and "no class 'cow'" in texts(report, "error")[0]
    assert "Separate classes by spaces" in texts(check_data(data, classes=["cat,dog"]), "error")[0]
    assert not check_data(data, classes=["hen"]).ok
    assert "no boxes at all" in texts(check_data(data, classes=["hen"]), "error")[0]


def test_val_classes(tmp_path: Path) -> None:
    data = good(tmp_path / "a")
    val = coco(tmp_path / "v", [[(7, [5, 5, 9, 9])]], seed=50, size=(120, 90))
    report = check_data(data, val=val)
    assert not report.ok and any("val has no box of a class to learn" in t for t in texts(report, "error"))
    assert any("class 'dog' (1 boxes) is not among the classes" in t for t in texts(report, "warning"))
    none = coco(tmp_path / "n", [[]], seed=60)
    assert any("val has no boxes at all" in t for t in texts(check_data(data, val=none), "error"))
    both = coco(tmp_path / "b", [[(c, [5, 5, 9, 9]) for c in (3, 7, 90)]] * 12, size=(120, 90), seed=70)
    told = texts(check_data(both, val=good(tmp_path / "w", seed=90)), "warning")
    assert len(told) == 2 and "class 'dog' has no boxes in val" in told[0] and "'hen'" in told[1]


@pytest.mark.parametrize("fast", [True, False])
def test_broken_images(tmp_path: Path, fast: bool) -> None:
    data = good(tmp_path / "a")
    (tmp_path / "a" / "001.png").write_bytes(b"")
    whole = (tmp_path / "a" / "002.png").read_bytes()
    (tmp_path / "a" / "002.png").write_bytes(whole[: len(whole) // 2])
    pool = tmp_path / "pool"
    save(pool / "a.png", 300)
    write(pool / "b.png", "text")
    report = check_data(data, [str(pool)], fast=fast)
    told = texts(report, "warning")
    assert report.ok and any(line.endswith("; 1 of them can be read") for line in report.facts)
    assert any("001.png" in t and "0 bytes" in t for t in told)
    assert any("002.png" in t for t in told) is not fast  # a header does not tell of a truncated file
    assert any("b.png" in t and "skipped" in t for t in told)
    for i in range(12):
        (tmp_path / "a" / f"{i:03d}.png").write_bytes(b"x")
    report = check_data(data, fast=fast)
    assert not report.ok and any("no usable image" in t for t in texts(report, "error"))
    (pool / "a.png").write_bytes(b"")
    report = check_data(good(tmp_path / "c"), [str(pool)], fast=fast)
    assert any("none of the unlabelled images can be read" in t for t in texts(report, "error"))


def test_repeats_in_val_and_among_the_unlabelled(tmp_path: Path) -> None:
    data, val, pool = good(tmp_path / "a"), good(tmp_path / "v", seed=100), tmp_path / "pool"
    save(pool / "a.png", 300)
    save(pool / "b.png", 301)
    assert not any("look the same as another" in t for t in texts(check_data(data, [str(pool)], val=val), "note"))
    (pool / "c.png").write_bytes((pool / "a.png").read_bytes())
    save(pool / "d.jpg", 301)  # the same picture, other bytes
    images = sorted((tmp_path / "v").glob("*.png"))
    images[1].write_bytes(images[0].read_bytes())
    report = check_data(data, [str(pool)], val=val)
    (note,) = [t for t in texts(report, "note") if "look the same as another" in t]
    assert "1 of 3 unlabelled images" in note and "d.jpg" in note  # the copy, c.png, is left out as one
    assert "1 left out: copies of another file" in " ".join(report.facts)
    assert any("the val image is a copy of" in t for t in texts(report, "warning"))
    assert report.ok


def test_all_truncated_is_an_error_of_the_full_check(tmp_path: Path) -> None:
    data = good(tmp_path / "a")
    for file in (tmp_path / "a").glob("*.png"):
        file.write_bytes(file.read_bytes()[:400])
    assert any("none of the labelled images can be read" in t for t in texts(check_data(data), "error"))


def test_boxes_and_sizes(tmp_path: Path) -> None:
    data = good(tmp_path / "a")
    content = json.loads(data.read_text())
    boxes = [[0, 0, 0, 9], [500, 5, 9, 9], [5, 5, 20, 20], [5, 5, 20, 20], [1, 1, 2, 9]]
    for i, box in enumerate(boxes):
        content["annotations"].append({"id": 50 + i, "image_id": 10, "category_id": 3, "bbox": box})
    write(data, content)
    save(tmp_path / "a" / "003.png", 3, 60, 45)
    save(tmp_path / "a" / "004.png", 4, 20, 90)
    content["images"][4].update(width=20)
    write(data, content)
    report = check_data(data)
    told = texts(report, "warning")
    for part in ("no area", "outside the image", "2 boxes stand twice", "60x45", "tiny (20x90)"):
        assert sum(part in t for t in told) == 1, part
    assert any("1 of" in t and "a side under 4 px" in t for t in texts(report, "note"))
    assert all(str(tmp_path) in t for t in told), "each line names its file"


def test_duplicates_and_leaks(tmp_path: Path) -> None:
    data = good(tmp_path / "a")
    val = good(tmp_path / "v", seed=100)
    shutil.copy(tmp_path / "a" / "000.png", tmp_path / "a" / "001.png")
    picture(2, 120, 90).resize((120, 90)).save(tmp_path / "a" / "003.png", compress_level=0)
    shutil.copy(tmp_path / "a" / "004.png", tmp_path / "v" / "000.png")
    picture(5, 120, 90).save(tmp_path / "v" / "001.png", compress_level=0)
    full = "\n".join(texts(check_data(data, val=val), "warning"))
    assert "001.png: the labelled image is a copy of" in full
    assert "003.png: the labelled image looks the same as" in full
    assert "v/000.png: the val image is also labelled for training" in full
    assert "v/001.png: the val image looks the same as a training image" in full
    fast = "\n".join(texts(check_data(data, val=val, fast=True), "warning"))
    assert "is a copy of" in fast and "is also labelled" in fast and "looks the same" not in fast
    content = json.loads(data.read_text())
    content["images"][7]["file_name"] = "006.png"
    assert "is listed twice" in "\n".join(texts(check_data(write(data, content)), "warning"))


def test_without_val_it_says_what_is_set_aside(tmp_path: Path) -> None:
    assert "6 of 30 labelled images would be set aside" in texts(check_data(good(tmp_path / "a", count=30)), "note")[0]
    report = check_data(good(tmp_path / "b", count=5))
    assert report.ok and any("fewer than 30" in t for t in texts(report, "warning"))


def test_check_and_training_read_the_same(tmp_path: Path) -> None:
    """What is set aside or left out: of the pool with and without val, of classes that are not to be learnt."""
    rows = [[(3, [5, 5, 20, 20]), (7, [5, 5, 20, 20])]] * 30
    data, val = coco(tmp_path / "a", rows, size=(120, 90)), coco(tmp_path / "v", rows, size=(120, 90), seed=100)
    for seed in (500, 501):
        save(tmp_path / "v" / f"{seed}.png", seed, 120, 90)
    pools = (str(tmp_path / "a"), str(tmp_path / "v"))
    for judged in (None, str(val)):
        trained = read_data(TrainConfig(labeled=str(data), unlabeled=pools, val=judged, classes=("cat",)))
        assert trained.pool is not None and trained.pool.left_out_val == (6 if judged is None else 30)
        for fast in (False, True):
            report = check_data(data, pools, judged, ("cat",), fast)
            assert f"unlabelled: {trained.pool.summary()}" in report.facts
            assert texts(report, "warning") == [str(p) for p in trained.problems if p.level == "warning"] == []
        few = [line for line in trained.notes if "inconclusive" in line]
        assert len(few) == (judged is None) == any("Only 6 images to judge by" in t for t in texts(report, "note"))


def test_a_nearly_black_image_is_noted(tmp_path: Path) -> None:
    data = good(tmp_path / "a")
    Image.new("I;16", (120, 90), 900).save(tmp_path / "a" / "002.png")
    assert any("002.png" in t and "nearly black" in t for t in texts(check_data(data), "note"))


def test_lines_are_limited_and_clean(tmp_path: Path) -> None:
    data = good(tmp_path / "a", count=30)
    edit(
        data, {"categories": [{"id": 3, "name": "cat"}, *({"id": i, "name": f"\x1b[31m{i}\n"} for i in range(20, 30))]}
    )
    report = check_data(data)
    assert len(texts(report, "warning")) == 10
    lines = report.lines(limit=3)
    assert sum("has no boxes" in line for line in lines) == 3
    assert any("7 more like these" in line for line in lines)
    assert all(line.isprintable() for line in report.lines())


def test_voc_and_explicit_image_folders(tmp_path: Path) -> None:
    voc(tmp_path / "d", {"train": [0, 1], "val": [2, 3]})
    shutil.move(tmp_path / "d" / "JPEGImages", tmp_path / "pictures")
    assert not check_data(tmp_path / "d").ok
    pictures = tmp_path / "pictures"
    assert check_data(tmp_path / "d", val=tmp_path / "d", images=pictures, val_images=pictures).ok


@needs_data
@pytest.mark.parametrize("source", ["bccd", "vehicles"])
def test_real_sets_pass(source: str) -> None:
    data = str(SHARED / source)
    report = check_data(data, [data], data, fast=True)
    assert report.ok
    no_area = [p for p in report.problems if "no area" in p.message]
    assert len(report.problems) == len(no_area) == (2 if source == "bccd" else 0)
