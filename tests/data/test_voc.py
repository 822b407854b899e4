"""Pascal VOC: lists, boxes, and all that is malformed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sedet.data.formats import read_table
from sedet.data.voc import parse_xml
from sedet.errors import DataError

from .refusals import fails, found
from .sets import save, voc, voc_xml, write


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
