"""What all annotation formats share: paths, sizes of turned images, recognition, classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sedet.data.formats import align_classes, read_table

from .refusals import fails
from .sets import SHARED, coco, edit, save, voc, write, yolo

needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the data sets are not at {SHARED}")


def test_missing_images_are_counted_and_named(tmp_path: Path) -> None:
    path = coco(tmp_path, [[]] * 5)
    for i in (1, 2, 3, 4):
        (tmp_path / f"00{i}.png").unlink()
    message = str(fails("4 of 5 images do not exist", path))
    assert "001.png" in message and "003.png" in message and "004.png" not in message


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "sub/../../secret.png", "/etc/passwd", "..\\secret.png", "C:\\secret.png", "", "a\0b", "."],
)
def test_no_path_leads_out_of_the_data_folder(tmp_path: Path, name: str) -> None:
    save(tmp_path / "secret.png")
    path = coco(tmp_path / "data", [[(3, [0, 0, 5, 5])]])
    data = json.loads(path.read_text())
    data["images"][0]["file_name"] = name
    expected = "image 0.*no file name" if name in ("", "a\0b") else "leads out|do not exist|not found"
    fails(expected, write(path, data))
    fails(expected, path, images=tmp_path / "data")


def test_absolute_paths_inside_the_folder_are_fine_and_links_are_followed(tmp_path: Path) -> None:
    path = coco(tmp_path / "data", [[], []])
    data = json.loads(path.read_text())
    save(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    data["images"][0]["file_name"] = str(tmp_path / "data" / "000.png")
    data["images"][1]["file_name"] = "linked/a.png"
    assert [e.name for e in read_table(write(path, data)).images] == ["000.png", "linked/a.png"]


# EXIF


@pytest.mark.parametrize("stated_turned", [True, False])
def test_stated_sizes_tell_whether_annotations_mean_the_turned_image(tmp_path: Path, stated_turned: bool) -> None:
    path = coco(tmp_path, [[], [], []])
    save(tmp_path / "000.png", 0, 64, 48, orientation=6)  # tells
    save(tmp_path / "001.png", 1, 48, 48, orientation=6)  # square: follows the one that tells
    save(tmp_path / "002.png", 2, 64, 48, orientation=3)  # half a turn: follows too
    data = json.loads(path.read_text())
    if stated_turned:
        data["images"][0].update(width=48, height=64)
    data["images"][1].update(width=48, height=48)
    table = read_table(write(path, data))
    assert [e.use_exif for e in table.images] == [stated_turned] * 3
    assert (table.images[0].width, table.images[0].height) == ((48, 64) if stated_turned else (64, 48))


def test_without_a_stated_size_the_turned_image_is_meant(tmp_path: Path) -> None:
    path = coco(tmp_path, [[]])
    save(tmp_path / "000.png", 0, 64, 48, orientation=8)
    edit(path, {"images": [{"id": 1, "file_name": "000.png"}]})
    entry = read_table(path).images[0]
    assert entry.use_exif and (entry.width, entry.height) == (48, 64)


def test_yolo_shares_are_of_the_turned_image(tmp_path: Path) -> None:
    path = yolo(tmp_path)
    save(tmp_path / "train" / "images" / "0.png", 0, 64, 48, orientation=6)
    table = read_table(path)
    assert table.objects[0].boxes.tolist() == [[18, 16, 30, 48]]  # of 48 x 64


# Recognition


def test_sources_that_are_no_annotations(tmp_path: Path) -> None:
    fails("no such file or folder", tmp_path / "nothing")
    fails("no such file or folder", f"{tmp_path}/nothing:train")
    fails("no labelled data", "")
    fails("no annotations were found", tmp_path)
    fails("no annotation file", save(tmp_path / "a.png"))
    fails("no annotations were found", tmp_path)
    fails("single XML", write(tmp_path / "b" / "a.xml", "<annotation/>"))
    fails("--unlabeled", write(tmp_path / "list.txt", "a.png\n"))


def test_more_than_one_format_or_set_is_ambiguous(tmp_path: Path) -> None:
    yolo(tmp_path / "a")
    coco(tmp_path / "a", [[]])
    assert "labels.json" in str(fails("more than one format", tmp_path / "a"))
    voc(tmp_path / "b", {})
    fails("several data sets", tmp_path, split="train")


def test_a_broken_image_does_not_stop_reading(tmp_path: Path) -> None:
    path = coco(tmp_path, [[(3, [0, 0, 5, 5])], []])
    (tmp_path / "000.png").write_bytes(b"")
    table = read_table(path)
    assert len(table) == 2 and (table.images[0].width, table.images[0].height) == (64, 48)


def test_align_classes(tmp_path: Path) -> None:
    table = read_table(coco(tmp_path, [[(7, [0, 0, 5, 5]), (90, [0, 0, 6, 6])], []]))
    aligned = align_classes(table, ["hen", "cow", "cat"])
    assert aligned.classes == ("hen", "cow", "cat") and aligned.category_ids == (90, 91, 3)
    assert aligned.objects[0].labels.tolist() == [0]
    assert aligned.objects[0].boxes.tolist() == [[0, 0, 6, 6]]
    assert len(align_classes(table, []).objects[0]) == 0


@needs_data
@pytest.mark.parametrize(
    ("source", "role", "images", "boxes", "classes"),
    [
        ("coco-people/instances_pool.json", "train", 1700, 15914, 80),
        ("coco-people:dev", "train", 300, 2838, 80),
        ("coco-people", "val", 400, 3636, 80),
        ("bccd", "train", 205, 2805, 3),
        ("bccd", "val", 87, 1138, 3),
        ("bccd", None, 364, 4888, 3),
        ("bccd/ImageSets/Main/test.txt", None, 72, 945, 3),
        ("vehicles", "train", 439, 838, 5),
        ("vehicles/data.yaml", "val", 125, 227, 5),
        ("vehicles/data.yaml:test", "train", 63, 129, 5),
    ],
)
def test_real_sets(source: str, role: str | None, images: int, boxes: int, classes: int) -> None:
    table = read_table(SHARED / source, split=role)
    assert (len(table), sum(map(len, table.objects)), len(table.classes)) == (images, boxes, classes)
    assert all(e.width > 0 and e.height > 0 for e in table.images)


def test_names_too_long_are_missing_files(tmp_path: Path) -> None:
    path = coco(tmp_path / "a", [[]])
    edit(path, {"images": [{"id": 1, "file_name": "x" * 5000}]})
    fails("not found|do not exist", path)
    fails("do not exist", path, images=tmp_path / "a")
    voc(tmp_path / "b", {"train": [0]})
    write(tmp_path / "b" / "ImageSets" / "Main" / "train.txt", "x" * 5000)
    fails("do not exist", tmp_path / "b", split="train")
    fails("cannot be read|no such file", "x" * 5000)


def test_a_broken_data_yaml_is_told_by_its_folder_too(tmp_path: Path) -> None:
    for text, match in (
        ("train: [a\nval: b\n", r"data\.yaml: broken YAML at line 2"),
        ("train: a\n", "no list 'names'"),
    ):
        file = write(tmp_path / "data.yaml", text)
        fails(match, tmp_path)
        fails(match, file)
