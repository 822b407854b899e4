"""COCO: where images are found, which file of a folder is read, and all that is malformed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sedet.data.clean import clean
from sedet.data.formats import read_table

from .refusals import fails, found
from .sets import coco, edit, save, write


def test_coco_boxes_labels_gaps_and_empty_images(tmp_path: Path) -> None:
    path = coco(tmp_path, [[(7, [1, 2, 10, 20]), (90, [0.5, 0.25, 3, 4])], []])
    table = read_table(path)
    assert table.classes == ("cat", "dog", "hen") and table.category_ids == (3, 7, 90)
    assert table.objects[0].boxes.tolist() == [[1, 2, 11, 22], [0.5, 0.25, 3.5, 4.25]]
    assert table.objects[0].labels.tolist() == [1, 2]
    assert len(table.objects[1]) == 0 and table.objects[1].boxes.shape == (0, 4)
    assert [e.id for e in table.images] == [10, 11]
    assert table.images[0].path == tmp_path / "000.png" and table.images[0].path.is_absolute()
    assert (table.images[0].width, table.images[0].height) == (64, 48)
    assert table.root == tmp_path


def test_coco_crowd_difficult_and_polygons(tmp_path: Path) -> None:
    path = coco(tmp_path, [[(3, [0, 0, 5, 5])] * 3])
    data = json.loads(path.read_text())
    data["annotations"][0]["iscrowd"] = 1
    data["annotations"][1]["difficult"] = 1
    del data["annotations"][2]["bbox"]
    data["annotations"][2]["segmentation"] = [[1, 2, 9, 4, 5, 30], [3, 1, 4, 1, 4, 2]]
    objects = read_table(write(path, data)).objects[0]
    assert objects.crowd.tolist() == [True, False, False]
    assert objects.difficult.tolist() == [False, True, False]
    assert objects.boxes[2].tolist() == [1, 1, 9, 30]


def test_coco_area_is_the_outlines_where_it_is_one(tmp_path: Path) -> None:
    path = coco(tmp_path, [[(3, [0, 0, 5, 5])] * 5])
    data = json.loads(path.read_text())
    for annotation, area in zip(data["annotations"], (12.5, 0, "7", float("nan")), strict=False):
        annotation["area"] = area
    data["annotations"][4].pop("area", None)
    assert read_table(write(path, data)).objects[0].areas.tolist() == [12.5, 25, 25, 25, 25]


def test_coco_missing_sizes_come_from_the_file(tmp_path: Path) -> None:
    path = coco(tmp_path, [[]], size=(50, 30))
    edit(path, {"images": [{"id": 1, "file_name": "000.png"}]})
    entry = read_table(path).images[0]
    assert (entry.width, entry.height) == (50, 30)


@pytest.mark.parametrize(
    ("images", "file"),
    [
        ("", "labels.json"),
        ("images", "labels.json"),
        ("val", "instances_val.json"),
        ("val2017", "annotations/instances_val2017.json"),
        ("val", "annotations/instances_val2017.json"),
        ("images/val2017", "annotations/instances_val2017.json"),
        ("pool", "instances_pool.json"),
        ("train", "annotations/train.json"),
    ],
)
def test_coco_images_are_found_where_people_put_them(tmp_path: Path, images: str, file: str) -> None:
    path = coco(tmp_path, [[(3, [0, 0, 5, 5])]], images=images, file=file)
    (tmp_path / "test2017").mkdir()
    assert read_table(path).images[0].path == tmp_path / images / "000.png"


def test_coco_sub_folders_and_an_image_folder_elsewhere(tmp_path: Path) -> None:
    path = coco(tmp_path / "a", [[(3, [0, 0, 5, 5])]])
    save(tmp_path / "b" / "sub" / "x.png")
    edit(path, {"images": [{"id": 10, "file_name": "sub\\x.png"}]})
    table = read_table(path, images=tmp_path / "b")
    assert table.images[0].name == "sub/x.png" and table.root == tmp_path / "b"
    fails("images were not found.*", path)
    fails("no such image folder", path, images=tmp_path / "c")


def test_coco_folder_picks_by_role_and_lists_when_unclear(tmp_path: Path) -> None:
    for split, category in (("train", 3), ("val", 7)):
        coco(
            tmp_path,
            [[(category, [0, 0, 5, 5])]],
            images=f"{split}2017",
            file=f"annotations/instances_{split}2017.json",
        )
        write(tmp_path / "annotations" / f"captions_{split}2017.json", "{}")
    write(tmp_path / "report.json", "{}")
    for split, label in (("train", 0), ("val", 1)):
        assert read_table(tmp_path, split=split).objects[0].labels.tolist() == [label]
        assert read_table(f"{tmp_path}:{split}").objects[0].labels.tolist() == [label]
    message = str(fails("several COCO files", tmp_path))
    assert "instances_train2017.json" in message and "instances_val2017.json" in message
    assert "captions" not in message
    fails("'dev'", f"{tmp_path}:dev")


def test_coco_folder_of_its_own_for_each_split(tmp_path: Path) -> None:
    for split, label in (("train", 3), ("valid", 7)):
        coco(tmp_path / split, [[(label, [0, 0, 5, 5])]], file="_annotations.coco.json")
    assert read_table(tmp_path, split="train").objects[0].labels.tolist() == [0]
    assert read_table(tmp_path, split="val").objects[0].labels.tolist() == [1]
    assert read_table(tmp_path / "valid", split="train").objects[0].labels.tolist() == [1]


def test_coco_parent_category_that_nothing_uses_is_no_class(tmp_path: Path) -> None:
    path = coco(tmp_path, [[(1, [0, 0, 5, 5])]])
    parent = {"id": 0, "name": "cats", "supercategory": "none"}
    edit(path, {"categories": [parent, {"id": 1, "name": "cats", "supercategory": "cats"}]})
    assert read_table(path).category_ids == (1,)


def test_coco_broken_files_say_where(tmp_path: Path) -> None:
    path = coco(tmp_path, [[(3, [0, 0, 5, 5])]])
    good = path.read_text()
    fails(r"labels\.json: broken JSON at line 2, column 1", write(path, '{"images": [,\n'.replace(",\n", "\n")))
    fails("not UTF-8", (path.write_bytes(b"\xff\xfe{}"), path)[1])
    fails("cannot be read", write(path, "[" * 100_000))
    fails("detection results", write(path, "[]"))
    fails("no list 'annotations'", write(path, {"images": []}))
    fails("no COCO annotation file", write(path, "3"))
    fails("broken JSON", write(path, ""))
    for change, match in (
        ({"bbox": [1, 2, 3]}, "annotation 0.*not four numbers"),
        ({"bbox": [1, 2, None, 3]}, "annotation 0.*not four numbers"),
        ({"bbox": "1234"}, "annotation 0.*not four numbers"),
        ({"bbox": None}, "annotation 0.*'bbox' is missing"),
        ({"image_id": None}, "annotation 0.*'image_id'"),
        ({"image_id": 99}, "1 annotations name images that are not listed"),
        ({"category_id": 4}, "annotation 0.*category_id.*not among"),
        ({"category_id": [4]}, "annotation 0.*'category_id'"),
    ):
        data = json.loads(good)
        data["annotations"][0].update(change)
        fails(match, write(path, data))
    for key, value, match in (
        ("images", [{"id": 10}], "image 0.*'file_name'"),
        ("images", [{"file_name": "000.png"}], "image 0.*'id'"),
        ("images", [{"id": 10, "file_name": "000.png"}] * 2, "image 1.*same id"),
        ("categories", [{"id": 3}], "category 0"),
        ("categories", [{"id": "3", "name": "cat"}], "category 0"),
        ("categories", [{"id": 3, "name": "a"}, {"id": 4, "name": "a"}], "2 categories have the name 'a'"),
        ("categories", [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}], "2 categories have the id"),
        ("annotations", [5], "annotation 0"),
    ):
        data = json.loads(good)
        data[key] = value
        fails(match, write(path, data))


def test_coco_degenerate_boxes_are_read_as_they_are(tmp_path: Path) -> None:
    path = coco(tmp_path, [[(3, [0, 0, 0, 5]), (3, [100, 0, 5, 5]), (3, [5, 5, -3, 2])]])
    path.write_text(path.read_text().replace("[100, 0, 5, 5]", "[NaN, 0, 5, Infinity]"))
    boxes = read_table(path).objects[0].boxes
    assert boxes[0].tolist() == [0, 0, 0, 5] and boxes[2].tolist() == [5, 5, 2, 7]
    assert np.isnan(boxes[1, 0]) and np.isinf(boxes[1, 3])


def test_coco_tells_every_malformed_entry(tmp_path: Path) -> None:
    path = coco(tmp_path, [[(3, [0, 0, 5, 5])] * 4, [(3, [0, 0, 5, 5])]])
    data = json.loads(path.read_text())
    data["annotations"][0]["bbox"] = [1]
    data["annotations"][1]["category_id"] = 5
    data["annotations"][2]["iscrowd"] = "x"
    data["annotations"][4]["image_id"] = 99
    told = found(write(path, data))
    parts = ("annotation 0", "annotation 1", "annotation 2", "image_id 99")
    assert all(part in line for part, line in zip(parts, told, strict=True))
    data["images"] += [{"id": 50}, {"id": 10, "file_name": "000.png"}, {"id": 51, "file_name": "../x.png"}]
    data["categories"].append({"id": "a"})
    told = found(write(path, data))
    # what refers to a malformed image or class is no error of its own
    assert [line.split(":")[0].split(", ")[1] for line in told] == [
        "category 3",
        "image 2 (id 50)",
        "image 3 (id 10)",
        "image 4 (id 51)",
        "annotation 0 (id 1)",
        "annotation 2 (id 3)",
    ]


def test_coco_flags_written_as_text(tmp_path: Path) -> None:
    path = coco(tmp_path, [[(3, [0, 0, 5, 5])] * 2])
    data = json.loads(path.read_text())
    data["annotations"][0]["iscrowd"], data["annotations"][1]["iscrowd"] = "0", "1"
    assert read_table(write(path, data)).objects[0].crowd.tolist() == [False, True]


def test_coco_ids_written_as_floats(tmp_path: Path) -> None:
    path = coco(tmp_path, [[(3, [0, 0, 5, 5])], []])
    data = json.loads(path.read_text())
    for entry in (*data["images"], *data["categories"], *data["annotations"]):
        entry |= {key: float(entry[key]) for key in ("id", "image_id", "category_id") if key in entry}
    table = read_table(write(path, data))
    assert [len(o) for o in table.objects] == [1, 0] and all(type(i.id) is int for i in table.images)
    assert all(type(i) is int for i in table.category_ids)
    data["annotations"][0]["image_id"] = 1.5
    fails("key 'image_id' is 1.5, which is no id", write(path, data))
    del data["annotations"][0]["image_id"]
    fails("key 'image_id' is missing", write(path, data))


@pytest.mark.parametrize("kind", [float, str, lambda v: v + 0.3])
def test_coco_sizes_written_as_floats_or_text_settle_the_frame(tmp_path: Path, kind: Callable[[int], object]) -> None:
    path = coco(tmp_path, [[(3, [0, 0, 5, 5])]])
    save(tmp_path / "000.png", 0, 64, 48, orientation=6)
    image = {"id": 10, "file_name": "000.png", "width": kind(64), "height": kind(48)}
    edit(path, {"images": [image]})
    entry = read_table(path).images[0]
    assert (entry.width, entry.height, entry.use_exif) == (64, 48, False)
    edit(path, {"images": [image | {"width": kind(640), "height": kind(480)}]})
    entry = read_table(path).images[0]
    assert (entry.width, entry.height) == (640, 480), "what the size check tells of"


@pytest.mark.parametrize(
    "odd", [0, -5, 0.4, float("nan"), float("inf"), True, None, "", "-64", "wide", "²", "9" * 5000, []]
)
def test_coco_sizes_that_are_none_count_as_not_stated(tmp_path: Path, odd: object) -> None:
    path = coco(tmp_path, [[]], size=(50, 30))
    edit(path, {"images": [{"id": 1, "file_name": "000.png", "width": odd, "height": 30}]})
    entry = read_table(path).images[0]
    assert (entry.width, entry.height) == (50, 30)


def test_coco_supercategory_that_is_no_text_is_ignored(tmp_path: Path) -> None:
    path = coco(tmp_path, [[(3, [0, 0, 5, 5])]])
    odd = [{"id": i, "name": str(i), "supercategory": value} for i, value in ((3, ["animal"]), (7, {"a": 1}), (8, 5))]
    edit(path, {"categories": odd})
    assert read_table(path).category_ids == (3, 7, 8)


@pytest.mark.parametrize(
    ("ids", "taken"),
    [
        (["17", "0042"], [17, 42]),
        (["17", 42.0], [17, 42]),
        (["7", "07"], [0, 1]),
        (["7", 7], [0, 1]),
        (["17", "a"], [0, 1]),
        (["17", "²"], [0, 1]),
        (["17", "9" * 5000], [0, 1]),
    ],
)
def test_coco_image_ids_written_as_text(tmp_path: Path, ids: list[object], taken: list[int]) -> None:
    path = coco(tmp_path, [[(3, [0, 0, 5, 5])], []])
    data = json.loads(path.read_text())
    for image, number in zip(data["images"], ids, strict=True):
        image["id"] = number
    data["annotations"][0]["image_id"] = ids[0]
    table = read_table(write(path, data))
    assert [entry.id for entry in table.images] == taken
    assert [len(o) for o in table.objects] == [1, 0], "annotations refer to ids as they are written"


@pytest.mark.filterwarnings("error")
def test_coco_huge_corners_are_told_of_by_clean_alone(tmp_path: Path) -> None:
    table = read_table(coco(tmp_path, [[(3, [1e300, 0, 5, 5]), (3, [-3e38, 0, 6e38, 5])]]))
    table, problems = clean(table)
    assert len(problems) == 2 and "is not finite; it is dropped" in problems[0].message
    assert table.objects[0].boxes.tolist() == [[0, 0, 64, 5]]
