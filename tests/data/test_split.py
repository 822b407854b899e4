from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sedet.data.chance import generator
from sedet.data.formats import read_table
from sedet.data.sources import find_images
from sedet.data.split import Split, box_counts, holdout, split_shots, split_table, write_split
from sedet.data.table import AnnotationTable, ImageEntry, Objects
from sedet.data.write import write_coco, write_text
from sedet.errors import DataError

from .sets import SHARED, coco, edit, voc, write, yolo

needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the data sets are not at {SHARED}")


def table(labels: list[list[int]], classes: int = 3, ignored: bool = False) -> AnnotationTable:
    """A table without files: the labels of each image."""
    images, objects = [], []
    for i, row in enumerate(labels):
        images.append(ImageEntry(Path(f"/data/{i}.jpg"), f"{i}.jpg", 100, 100, i))
        boxes = [[0, 0, 10, 10]] * len(row)
        objects.append(Objects.build(boxes, row, crowd=[ignored and c == 2 for c in row]))
    names = tuple(f"c{i}" for i in range(classes))
    return AnnotationTable(names, tuple(images), tuple(objects), "test", tuple(range(1, classes + 1)), Path("/data"))


def long_tail(images: int = 200, classes: int = 12, seed: int = 0) -> AnnotationTable:
    rng = np.random.default_rng(seed)
    p = 0.5 ** np.arange(classes)
    rows = [rng.choice(classes, rng.integers(0, 6), p=p / p.sum()).tolist() for _ in range(images)]
    rows[17].append(classes - 1)  # at least one
    return table(rows, classes)


def test_parts_are_nested_complete_and_of_the_asked_size() -> None:
    data = long_tail()
    for fold in range(4):
        parts = [split_table(data, p, fold) for p in (0.5, 1, 2, 5, 10, 20, 50, 100)]
        for small, large in itertools.pairwise(parts):
            assert set(small.labeled) <= set(large.labeled)
        for part in parts:
            assert sorted(part.labeled + part.unlabeled) == list(range(200))
            assert list(part.labeled) == sorted(part.labeled)
        assert len(parts[4].labeled) >= 20 and len(parts[6].labeled) == 100 and len(parts[7].unlabeled) == 0


def test_shots_are_nested_and_hold_so_many_images_of_each_class() -> None:
    data = long_tail()
    images = (box_counts(data) > 0).sum(axis=0)
    assert images.min() < 5 < images.max()
    for fold in range(4):
        parts = [split_shots(data, k, fold) for k in (1, 2, 5, 30)]
        for small, large in itertools.pairwise(parts):
            assert set(small.labeled) < set(large.labeled)
        for k, part in zip((1, 2, 5, 30), parts, strict=True):
            held = (box_counts(data.subset(part.labeled)) > 0).sum(axis=0)
            assert (held >= np.minimum(k, images)).all()
            assert sorted(part.labeled + part.unlabeled) == list(range(200))
            assert len(part.labeled) <= k * len(data.classes)
            assert part.percent == len(part.labeled) / 2
    assert split_shots(data, 3, 1) == split_shots(data, 3, 1) != split_shots(data, 3, 2)


def test_shots_are_those_of_the_rule_read_word_by_word() -> None:
    """Folds are compared across versions: a faster way must draw the same."""
    data = long_tail()
    counts = box_counts(data)
    rarest = [int(c) for c in np.argsort(counts.sum(axis=0), kind="stable")]
    for fold, shots in itertools.product(range(3), (1, 4, 30)):
        order = [int(i) for i in generator(0, "split", fold).permutation(len(data))]
        chosen: set[int] = set()
        for k, c in itertools.product(range(1, shots + 1), rarest):
            have = sum(bool(counts[i, c]) for i in chosen)
            more = [i for i in order if counts[i, c] and i not in chosen]
            chosen |= set(more[: max(0, k - have)])
        assert split_shots(data, shots, fold).labeled == tuple(sorted(chosen))


def test_many_shots_of_many_images_are_drawn_at_once() -> None:
    data = table([[i % 40] for i in range(6000)], classes=40)
    began = time.process_time()
    assert len(split_shots(data, 150, 1).labeled) == 6000
    assert time.process_time() - began < 1


def test_shots_by_hand() -> None:
    """One image holds both classes: it is the shot of each, and a second is drawn for the common class alone."""
    data = table([[0, 1], [0], [0]])
    assert split_shots(data, 1, 0).labeled == (0,)
    two = split_shots(data, 2, 0).labeled
    assert len(two) == 2 and 0 in two
    assert split_shots(data, 9, 0).labeled == (0, 1, 2)
    for wrong, number in ((data, 0), (table([[], []]), 1)):
        with pytest.raises(DataError):
            split_shots(wrong, number, 0)


def test_each_class_keeps_three_boxes_or_all_it_has() -> None:
    data = long_tail()
    total = data.class_counts()
    assert total.min() < 3, "the case must hold a class with fewer"
    for fold in range(6):
        part = data.subset(split_table(data, 1, fold).labeled)
        assert (part.class_counts() >= np.minimum(3, total)).all()


def test_the_core_is_no_larger_than_needed_and_ignored_boxes_do_not_count() -> None:
    data = table([[0]] * 100 + [[1]] + [[2]] * 3, ignored=True)
    part = split_table(data, 1, 0)
    assert 100 in part.labeled  # the only image of class 1
    assert len(part.labeled) == 4  # three of class 0, one of class 1; crowds of class 2 are no boxes
    assert box_counts(data)[:, 2].sum() == 0


def test_size_is_rounded_half_up_and_at_least_one() -> None:
    data = table([[]] * 30, classes=1)
    assert [len(split_table(data, p, 0).labeled) for p in (0.1, 5, 15, 100)] == [1, 2, 5, 30]


def test_draws_depend_on_seed_and_fold_alone() -> None:
    data = long_tail()
    assert split_table(data, 10, 1) == split_table(data, 10, 1)
    drawn = {split_table(data, 10, fold, seed).labeled for fold in range(3) for seed in range(3)}
    assert len(drawn) == 9


def test_the_draw_is_the_same_in_another_process() -> None:
    """Folds are compared across machines and versions: this draw must never change."""
    code = (
        "from tests.data.test_split import long_tail; from sedet.data.split import split_shots, split_table;"
        "print(split_table(long_tail(), 5, 1).labeled)"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, env=environment, check=True
    )
    expected = (8, 17, 23, 36, 49, 53, 54, 63, 84, 105, 119, 127, 138, 166, 181)
    assert done.stdout.strip() == str(expected) == str(split_table(long_tail(), 5, 1).labeled)


@pytest.mark.parametrize("percent", [0, -1, 100.5, float("nan")])
def test_percent_must_be_a_share(percent: float) -> None:
    with pytest.raises(DataError, match="percent"):
        split_table(long_tail(), percent, 0)


def test_nothing_to_split() -> None:
    with pytest.raises(DataError, match="no images"):
        split_table(table([]), 10, 0)


def test_holdout_is_a_partition_that_keeps_classes_in_both() -> None:
    data = table([[0]] * 28 + [[1]] * 2 + [[2]] + [[]] * 4)
    for seed in range(5):
        parts = holdout(data, 0.2, seed)
        assert parts is not None
        train, val = parts
        assert len(val) == 7 and len(train) == 28
        assert {e.id for e in train.images} | {e.id for e in val.images} == set(range(35))
        assert (train.class_counts() > 0).all(), "no class loses its last image"
        assert val.class_counts()[1] == 1 and val.class_counts()[2] == 0
        assert train.classes == val.classes == data.classes
        again = holdout(data, 0.2, seed)
        assert again is not None and again[1].images == val.images


def test_holdout_needs_thirty_images() -> None:
    assert holdout(table([[0]] * 29)) is None
    assert holdout(table([[0]] * 30)) is not None
    assert holdout(table([[i] for i in range(40)], classes=40)) is None  # each class on one image: none can go


@pytest.mark.parametrize("near", [True, False])
def test_holdout_parts_no_copies(tmp_path: Path, near: bool) -> None:
    """Images 0 to 5 come twice: as equal files, and (seen where images are decoded) encoded anew."""
    path = coco(tmp_path, [[(3, [1, 2, 9, 9])]] * 30)
    for i in range(6):
        if i < 3:
            shutil.copy(tmp_path / f"{i:03d}.png", tmp_path / f"{10 + i:03d}.png")
        else:
            Image.open(tmp_path / f"{i:03d}.png").save(tmp_path / f"{10 + i:03d}.png", compress_level=0)
    data = read_table(path)
    parted = 0
    for seed in range(6):
        parts = holdout(data, 0.2, seed, near)
        assert parts is not None and 4 <= len(parts[1]) <= 6
        val = {e.name for e in parts[1].images}
        for i in range(6):
            together = (f"{i:03d}.png" in val) == (f"{10 + i:03d}.png" in val)
            assert together or (i >= 3 and not near)
            parted += not together
        again = holdout(data, 0.2, seed, near)
        assert again is not None and again[1].images == parts[1].images
    assert near or parted


def test_copies_of_one_picture_are_no_val(tmp_path: Path) -> None:
    path = coco(tmp_path, [[(3, [1, 2, 9, 9])]] * 30)
    for i in range(1, 30):
        shutil.copy(tmp_path / "000.png", tmp_path / f"{i:03d}.png")
    assert holdout(read_table(path)) is None


# Writing


def equal(a: AnnotationTable, b: AnnotationTable) -> bool:
    return (
        a.classes == b.classes
        and a.category_ids == b.category_ids
        and [(e.name, e.width, e.height, e.id, e.use_exif) for e in a.images]
        == [(e.name, e.width, e.height, e.id, e.use_exif) for e in b.images]
        and all(
            np.array_equal(getattr(x, key), getattr(y, key))
            for x, y in zip(a.objects, b.objects, strict=True)
            for key in ("boxes", "labels", "crowd", "difficult")
        )
        and all(np.allclose(x.areas, y.areas, rtol=1e-4) for x, y in zip(a.objects, b.objects, strict=True))
    )


def test_written_coco_reads_back_the_same(tmp_path: Path) -> None:
    path = coco(tmp_path / "data", [[(7, [177.37, 6.67, 18.79, 22.58]), (90, [0.1, 0.2, 3.3, 4.4])], [], []])
    data = edit(path, {})
    data["annotations"][0]["iscrowd"] = data["annotations"][1]["difficult"] = 1
    data["annotations"][0]["area"] = 100.5
    data["images"][2]["use_exif"] = False
    path.write_text(json.dumps(data))
    original = read_table(path).with_classes(["hen", "cat", "dog"])
    assert not original.images[2].use_exif
    write_coco(original, tmp_path / "new" / "out.json")
    assert equal(read_table(tmp_path / "new" / "out.json", images=tmp_path / "data"), original)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(DataError, match="cannot be written"):
        write_text(path / "below.txt", "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
def test_a_written_split_reads_back_with_its_images(tmp_path: Path, kind: str) -> None:
    source = {
        "coco": lambda: coco(tmp_path / "d", [[(3, [1.5, 2, 9, 9])], [(7, [0, 0, 5, 5])], [], [(3, [1, 1, 4, 4])]]),
        "voc": lambda: voc(tmp_path / "d", {"train": [0, 1, 2, 3]}),
        "yolo": lambda: yolo(tmp_path / "d"),
    }[kind]()
    original = read_table(source, split="train")
    split = split_table(original, 50, 1)
    out = tmp_path / "splits" / "one"
    lines = write_split(original, split, out)
    for place in (out, out / "labeled.json"):
        back = read_table(place, split="train")
        assert equal(back, original.subset(split.labeled))
        assert [e.path.resolve() for e in back.images] == [original.images[i].path for i in split.labeled]
    text = (out / "unlabeled.txt").read_text()
    assert "{" not in text and text.count("\n") == len(split.unlabeled)
    if split.unlabeled:
        assert find_images([str(out / "unlabeled.txt")]) == sorted(original.images[i].path for i in split.unlabeled)
    whole = write_split(original, split_table(original, 100, 1), tmp_path / "splits" / "whole")
    assert "--unlabeled" in lines[-1] and whole[-1].endswith("labeled.json --method supervised")
    report = json.loads((out / "report.json").read_text())
    assert report["labeled_images"] == len(split.labeled) and report["fold"] == 1
    assert [c["all_boxes"] for c in report["classes"]] == original.class_counts().tolist()
    assert (out / "report.txt").read_text().splitlines() == lines
    assert sorted(p.name for p in out.iterdir()) == [
        "images",
        "labeled.json",
        "report.json",
        "report.txt",
        "unlabeled.txt",
    ]


def test_a_split_goes_only_to_a_new_or_empty_folder(tmp_path: Path) -> None:
    data = read_table(coco(tmp_path / "d", [[(3, [1, 2, 9, 9])], []]))
    split = split_table(data, 50, 0)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("used", "file"):
        with pytest.raises(DataError, match="in use"):
            write_split(data, split, tmp_path / name)
    with pytest.raises(DataError, match="cannot be written"):
        write_split(data, split, tmp_path / "file" / "below")
    assert (tmp_path / "used" / "mine").read_text() == "x"
    (tmp_path / "empty").mkdir()
    write_split(data, split, tmp_path / "empty")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "empty", "file", "used"]  # nothing left over


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_names_of_any_bytes_are_written_and_read_back(tmp_path: Path) -> None:
    yolo(tmp_path / "d")
    for i in (0, 2):
        odd = tmp_path / "d" / "train" / "images" / os.fsdecode(b"caf\xe9%d.png" % i)
        (tmp_path / "d" / "train" / "images" / f"{i}.png").rename(odd)
    original = read_table(tmp_path / "d", split="train")
    split = Split((0, 1), (2,), 67, 1, 0)
    write_split(original, split, tmp_path / "s")
    assert equal(read_table(tmp_path / "s"), original.subset(split.labeled))
    assert find_images([str(tmp_path / "s" / "unlabeled.txt")]) == [original.images[2].path]
    assert os.fsencode(original.images[2].path) + b"\n" == (tmp_path / "s" / "unlabeled.txt").read_bytes()


def test_a_name_with_a_line_break_is_refused(tmp_path: Path) -> None:
    yolo(tmp_path / "d")
    images = tmp_path / "d" / "train" / "images"
    (images / "2.png").rename(images / "a\nb.png")
    original = read_table(tmp_path / "d", split="train")
    with pytest.raises(DataError, match=r"a\\nb\.png' does not fit on a line"):
        write_split(original, Split((0, 1), (2,), 67, 1, 0), tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["frame0", ".hidden.png"])
def test_an_image_that_no_list_can_hold_is_refused(tmp_path: Path, name: str) -> None:
    data = coco(tmp_path / "d", [[(3, [1, 1, 9, 9])]] * 3)
    tree = json.loads(data.read_text())
    old = tree["images"][2]["file_name"]
    tree["images"][2]["file_name"] = name
    write(data, tree)
    (data.parent / old).rename(data.parent / name)
    with pytest.raises(DataError, match=f"{name}: a list cannot hold an image that is hidden or has no image's ending"):
        write_split(read_table(data), Split((0, 1), (2,), 67, 1, 0), tmp_path / "s")
    assert not (tmp_path / "s").exists()


@needs_data
def test_real_folds() -> None:
    people = read_table(SHARED / "coco-people" / "instances_pool.json")
    total = people.class_counts()
    small, large = (split_table(people, p, 1) for p in (5, 10))
    assert set(small.labeled) <= set(large.labeled) and len(large.labeled) == 170
    assert (people.subset(small.labeled).class_counts() >= np.minimum(3, total)).all()


def test_the_command_it_names_can_be_typed(tmp_path: Path) -> None:
    table = read_table(coco(tmp_path / "my data", [[(3, [0, 0, 9, 9])]] * 4))
    out = tmp_path / "my split"
    line = write_split(table, split_table(table, 50, 1), out)[-1]
    words = shlex.split(line)
    assert words[:3] == ["Train:", "sedet", "train"]
    assert words[3:7] == ["--labeled", str(out / "labeled.json"), "--unlabeled", str(out / "unlabeled.txt")]
