from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sedet.data.formats import align_classes, read_table
from sedet.data.voc import parse_xml
from sedet.errors import DataError, DataErrors

from .sets import SHARED, coco, edit, save, voc, voc_xml, write, yolo

needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the data sets are not at {SHARED}")


def fails(match: str, source: str | Path, **options: str | Path | None) -> DataError:
    with pytest.raises(DataError, match=match) as caught:
        read_table(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert caught.value.todo, "the message says what to do"
    return caught.value


# COCO


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


# Pascal VOC


def test_voc_lists_roles_and_explicit_splits(tmp_path: Path) -> None:
    voc(tmp_path, {"train": [0, 1], "val": [2], "trainval": [0, 1, 2], "cat_train": [0]})
    names = {role: [e.name for e in read_table(tmp_path, split=role).images] for role in ("train", "val", None)}
    assert names["train"] == ["JPEGImages/im0.jpg", "JPEGImages/im1.jpg"]
    assert names["val"] == ["JPEGImages/im2.jpg"]
    assert names[None] == [f"JPEGImages/im{i}.jpg" for i in range(4)]
    assert len(read_table(f"{tmp_path}:trainval", split="val")) == 3
    assert len(read_table(tmp_path / "ImageSets" / "Main" / "trainval.txt")) == 3
    assert len(read_table(f"{tmp_path}:cat_train")) == 1
    message = str(fails("no list ImageSets/Main/test.txt", f"{tmp_path}:test"))
    assert ":trainval" in message and "cat_train" not in message


def test_voc_boxes_classes_and_difficult(tmp_path: Path) -> None:
    voc(tmp_path, {})
    write(
        tmp_path / "Annotations" / "im0.xml",
        voc_xml("im0.jpg", [("zebra", (1.5, 2, 30, 40))], extra="<difficult>1</difficult>"),
    )
    table = read_table(tmp_path, split="val")  # no lists: all
    assert table.classes == ("cat", "dog", "zebra") and table.category_ids == (1, 2, 3)
    assert table.objects[0].boxes.tolist() == [[1.5, 2, 30, 40]]
    assert table.objects[0].difficult.tolist() == [True]
    assert table.objects[1].labels.tolist() == [0, 1] and not table.objects[1].difficult.any()


def test_voc_folder_of_xml_beside_images_and_devkit_folder(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        save(tmp_path / "flat" / split / "a.png")
        write(tmp_path / "flat" / split / "a.xml", voc_xml("renamed.jpg", [("cat", (1, 1, 9, 9))]))
    assert read_table(tmp_path / "flat" / "train").images[0].name == "a.png"
    assert read_table(tmp_path / "flat", split="val").source.endswith("valid")
    voc(tmp_path / "kit" / "VOC2012", {"train": [0]})
    assert len(read_table(tmp_path / "kit", split="train")) == 1


def test_voc_size_zero_and_missing_comes_from_the_file(tmp_path: Path) -> None:
    voc(tmp_path, {})
    write(tmp_path / "Annotations" / "im0.xml", voc_xml("im0.jpg", [], size=(0, 0)))
    write(tmp_path / "Annotations" / "im1.xml", "<annotation><filename>im1.jpg</filename></annotation>")
    table = read_table(tmp_path)
    assert [(e.width, e.height) for e in table.images[:2]] == [(64, 48)] * 2


def test_voc_broken_files_say_where(tmp_path: Path) -> None:
    voc(tmp_path, {"train": [0, 1], "empty": []})
    xml = tmp_path / "Annotations" / "im0.xml"
    cases = {
        "<annotation><object></annotation>": r"im0\.xml: broken XML at line 1, column \d+: mismatched tag",
        "": "broken XML",
        "<root/>": "not <annotation>",
        "<annotation><object/></annotation>": "object 1: <name> is missing",
        "<annotation><object><name>a</name></object></annotation>": "object 1: <bndbox> is missing",
        voc_xml("im0.jpg", [("cat", (1, 2, "x", 4))]): "object 1: <xmax> is 'x'",
        voc_xml("im0.jpg", [("cat", (1, 2, 3, 4))]).replace("<ymax>4</ymax>", ""): "<ymax> is missing",
        voc_xml("../../secret.jpg", []): "leads out of the data folder",
        '<?xml version="1.0" encoding="nonsense"?><annotation/>': "XML",
    }
    for text, match in cases.items():
        fails(match, (write(xml, text), tmp_path)[1])
    write(xml, voc_xml("im0.jpg", []))
    fails("list is empty", f"{tmp_path}:empty")
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "im0\nim77\n")
    fails("1 of 2 listed annotation files do not exist: .*im77", tmp_path, split="train")
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "../Annotations/im0\n")
    fails("leads out", tmp_path, split="train")
    (tmp_path / "JPEGImages" / "im2.jpg").unlink()
    fails("1 of 4 images do not exist", tmp_path)


def test_xml_entities_are_refused_before_they_expand(tmp_path: Path) -> None:
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "ha"}">' for i in range(12))
    outside = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>'
    for encoding, text in (
        ("utf-8", f"<!DOCTYPE a [{laughs}]><annotation>&l11;</annotation>"),
        ("utf-8", outside),
        ("utf-16", outside),
        ("utf-8", "<!DOCTYPE annotation><annotation/>"),
    ):
        path = tmp_path / "a.xml"
        path.write_bytes(text.encode(encoding))
        with pytest.raises(DataError, match="document type declaration"):
            parse_xml(path)


# YOLO


def test_yolo_boxes_splits_and_images_without_labels(tmp_path: Path) -> None:
    path = yolo(tmp_path)
    for source in (path, tmp_path, f"{path}:train", f"{tmp_path}:train"):
        table = read_table(source)
        assert [e.name for e in table.images] == [f"train/images/{i}.png" for i in range(3)]
    assert table.classes == ("cat", "dog")
    assert table.objects[1].boxes.tolist() == [[24, 12, 40, 36]] and table.objects[1].labels.tolist() == [1]
    assert len(table.objects[2]) == 0
    assert len(read_table(tmp_path, split="val")) == 1
    fails("no split 'test'.*train, val", f"{path}:test")


@pytest.mark.parametrize(
    "yaml",
    [
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n",
        "path: .\ntrain: train/images\nvalid: valid/images\nnames: {0: cat, 1: dog}\n",
        "train: [train/images]\nval: ./valid/images/\nnames:\n  - cat\n  - dog\n",
        "train: list.txt\nval: valid/images\nnames: [cat, dog]\n",
    ],
)
def test_yolo_yaml_dialects(tmp_path: Path, yaml: str) -> None:
    path = yolo(tmp_path, yaml)
    write(tmp_path / "list.txt", "./train/images/0.png\ntrain/images/1.png\n\ntrain\\images\\2.png\n")
    assert [len(read_table(path, split=s)) for s in ("train", "val")] == [3, 1]
    assert read_table(path).classes == ("cat", "dog")


def test_yolo_path_key_and_absolute_paths_stay_inside(tmp_path: Path) -> None:
    data = tmp_path / "data"
    yolo(data / "inner")
    write(data / "data.yaml", f"path: {data}/inner\ntrain: train/images\nnames: [cat, dog]\n")
    assert len(read_table(data / "data.yaml")) == 3
    write(data / "data.yaml", "path: inner\ntrain: train/images\nnames: [cat, dog]\n")
    assert len(read_table(data / "data.yaml")) == 3
    for train in ("/etc", "../outside/images", "inner/../../outside"):
        save(tmp_path / "outside" / "images" / "a.png")
        write(data / "data.yaml", f"train: {train}\nnames: [cat, dog]\n")
        fails("leads out of the data folder", data / "data.yaml")
    write(data / "data.yaml", "train: list.txt\nnames: [cat, dog]\n")
    for line in ("../outside/images/a.png", str(tmp_path / "outside/images/a.png")):
        write(data / "list.txt", line)
        fails("line 1.*leads out", data / "data.yaml")


def test_yolo_polygons_and_bad_lines(tmp_path: Path) -> None:
    path = yolo(tmp_path)
    label = tmp_path / "train" / "labels" / "0.txt"
    write(label, "1 0.25 0.5 0.75 0.25 0.5 1.0\n\n0 0.5 0.5 1 1\n")
    assert read_table(path).objects[0].boxes.tolist() == [[16, 12, 48, 48], [0, 0, 64, 48]]
    for text, match in (
        ("0 0.5 0.5 0.1\n", r"0\.txt, line 1.*4 numbers"),
        ("0 .5 .5 .1 .1\n0 0.5 0.5 0.1 0.1 0.9\n", r"0\.txt, line 2.*6 numbers.*confidence"),
        ("2 0.5 0.5 0.1 0.1\n", "line 1.*class 2 is not one of the 2"),
        ("-1 0.5 0.5 0.1 0.1\n", "class -1 is not"),
        ("0.5 0.5 0.5 0.1 0.1\n", "class 0.5 is not"),
        ("nan 0.5 0.5 0.1 0.1\n", "class nan is not"),
        ("cat 0.5 0.5 0.1 0.1\n", "not all numbers"),
        ("0 20 20 10 10\n1 20 20 10 10\n1 5 5 10 10\n", "look like pixels"),
    ):
        fails(match, (write(label, text), path)[1])
    write(label, "0 nan 0.5 0.1 0.1\n")
    assert np.isnan(read_table(path).objects[0].boxes[0, 0])


def test_yolo_broken_yaml_says_where(tmp_path: Path) -> None:
    path = yolo(tmp_path)
    for text, match in (
        ("names: [cat, dog\ntrain: x\n", r"broken YAML at line \d, column \d+"),
        ("- a\n- b\n", "no YOLO data file"),
        ("", "no YOLO data file"),
        ("train: train/images\n", "no list 'names'"),
        ("names: {0: cat, 2: dog}\ntrain: train/images\n", "class numbers"),
        ("names: [yes, no]\ntrain: train/images\n", "is no text"),
        ("names: [cat, cat]\ntrain: train/images\n", "twice"),
        ("names: [cat, dog]\nnc: 3\ntrain: train/images\n", "nc is 3"),
        ("names: [cat, dog]\ntrain: nowhere\n", "nowhere do not exist"),
        ("names: [cat, dog]\ntrain: 5\n", "no file name"),
        ("names: [cat, dog]\nval: valid/images\n", "no split 'train'"),
        ("names: !!python/object/apply:os.system ['true']\n", "YAML"),
    ):
        fails(match, (write(path, text), path)[1])
    laughs = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    fails("is no text", (write(path, laughs + "names: *a11\ntrain: train/images\n"), path)[1])


def test_yolo_without_any_label_file(tmp_path: Path) -> None:
    path = yolo(tmp_path)
    for file in (tmp_path / "train" / "labels").iterdir():
        file.unlink()
    fails("none of 3 images has a label file.*train/labels/0.txt", path)


def test_yolo_folder_with_classes_txt(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    write(tmp_path / "a.txt", "1 0.5 0.5 0.5 0.5\n")
    write(tmp_path / "classes.txt", "cat\ndog\n")
    assert read_table(tmp_path, split="train").objects[0].labels.tolist() == [1]


def test_classes_txt_that_is_no_text(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "classes.txt").write_bytes(b"caf\xe9\n")
    fails("classes.txt: this is not UTF-8", tmp_path)


# All that is malformed


def found(source: Path) -> list[str]:
    with pytest.raises(DataErrors, match=r"more errors?: sedet check lists all\)") as caught:
        read_table(source, split="train")
    first = caught.value.found[0]
    assert str(caught.value).startswith(f"{first.where}: {first.what} (and ")
    assert all(error.todo for error in caught.value.found)
    return [str(error) for error in caught.value.found]


def test_coco_tells_every_malformed_entry(tmp_path: Path) -> None:
    path = coco(tmp_path, [[(3, [0, 0, 5, 5])] * 4, [(3, [0, 0, 5, 5])]])
    data = json.loads(path.read_text())
    data["annotations"][0]["bbox"] = [1]
    data["annotations"][1]["category_id"] = 5
    data["annotations"][2]["iscrowd"] = "x"
    data["annotations"][4]["image_id"] = 99
    told = found(write(path, data))
    parts = ("annotation 0", "annotation 1", "annotation 2", "image_id int '99'")
    assert all(part in line for part, line in zip(parts, told, strict=True))
    data["images"] += [{"id": 50}, {"id": 10, "file_name": "000.png"}, {"id": 51, "file_name": "../x.png"}]
    data["categories"].append({"id": "a"})
    told = found(write(path, data))
    # what refers to a malformed image or class is no error of its own
    assert [line.split(":")[0].split(", ")[1] for line in told] == [
        "category 3",
        "image 2 (id int '50')",
        "image 3 (id int '10')",
        "image 4 (id int '51')",
        "annotation 0 (id int '1')",
        "annotation 2 (id int '3')",
    ]


def test_coco_flags_written_as_text(tmp_path: Path) -> None:
    path = coco(tmp_path, [[(3, [0, 0, 5, 5])] * 2])
    data = json.loads(path.read_text())
    data["annotations"][0]["iscrowd"], data["annotations"][1]["iscrowd"] = "0", "1"
    assert read_table(write(path, data)).objects[0].crowd.tolist() == [False, True]


def test_voc_tells_every_malformed_object(tmp_path: Path) -> None:
    voc(tmp_path, {})
    write(tmp_path / "Annotations" / "im0.xml", "<annotation>")
    bad = "<object><name>cat</name></object><object><bndbox/></object>"
    write(tmp_path / "Annotations" / "im2.xml", f"<annotation>{bad}</annotation>")
    told = found(tmp_path)
    assert len(told) == 3
    assert "im0.xml: broken XML" in told[0] and "im2.xml, object 1" in told[1] and "im2.xml, object 2" in told[2]


def test_voc_a_path_of_another_machine(tmp_path: Path) -> None:
    voc(tmp_path, {})
    write(tmp_path / "Annotations" / "im0.xml", voc_xml("C:/Users/me/im0.jpg", []))
    write(tmp_path / "Annotations" / "im1.xml", voc_xml("/data/photos/im1.jpg", []))
    assert [e.name for e in read_table(tmp_path).images[:2]] == ["JPEGImages/im0.jpg", "JPEGImages/im1.jpg"]
    write(tmp_path / "Annotations" / "other.xml", voc_xml("/data/photos/other.jpg", []))
    fails("leads out of the data folder", tmp_path)


def test_yolo_tells_every_malformed_line(tmp_path: Path) -> None:
    path = yolo(tmp_path)
    write(tmp_path / "train" / "labels" / "0.txt", "0 0.5 0.5 0.2\n\n0 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.2 0.2\n")
    (tmp_path / "train" / "labels" / "1.txt").write_bytes(b"\xff")
    told = found(path)
    assert len(told) == 3 and "0.txt, line 1" in told[0] and "0.txt, line 4" in told[1] and "1.txt" in told[2]


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
