"""Corrections of every format, by hand and as round trips; what changed; what is refused."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sedet.cli import main
from sedet.data.formats import read_table
from sedet.data.table import AnnotationTable, Objects
from sedet.errors import DataError, SedetError
from sedet.labeling.changes import BoxChanges, compare
from sedet.labeling.label import label
from sedet.labeling.merge import _carried, merge
from sedet.labeling.reviewed import turned_bounds, url_names
from sedet.predictor import Predictor
from tests.data.sets import coco, save, write


def boxes_of(table: AnnotationTable) -> dict[str, list[tuple[str, list[float]]]]:
    """By the image's real file: classes and boxes, to a hundredth of a pixel."""
    return {
        entry.path.resolve().name: [
            (table.classes[label], box)
            for label, box in zip(o.labels, np.round(o.boxes.astype(float), 2).tolist(), strict=True)
        ]
        for entry, o in zip(table.images, table.objects, strict=True)
    }


def task(image: str, *regions: dict[str, Any], **annotation: Any) -> dict[str, Any]:
    return {"id": 7, "data": {"image": image}, "annotations": [{"result": list(regions), **annotation}]}


def region(
    x: float, y: float, w: float, h: float, name: str, size: tuple[int, int] = (64, 48), **value: Any
) -> dict[str, Any]:
    """A rectangle in percent, as Label Studio writes it."""
    inside = {"x": x, "y": y, "width": w, "height": h, "rotation": 0, "rectanglelabels": [name], **value}
    sizes = {"original_width": size[0], "original_height": size[1], "image_rotation": 0}
    return {"type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": inside, **sizes}


@pytest.fixture
def labeled(tmp_path: Path) -> Path:
    """Two labelled images, 000.png with a cat and a dog, 001.png without; 64 x 48."""
    return coco(tmp_path / "set", [[(3, [0, 0, 10, 10]), (7, [20, 20, 20, 20])], []])


@pytest.mark.parametrize("name", ["coco", "yolo", "voc", "cvat", "label-studio"])
def test_round_trip(red: Predictor, detector: Path, photos: Path, tmp_path: Path, name: str) -> None:
    labels = tmp_path / "labels"
    label(detector, [str(photos)], labels, format=[name], rank=False, score=0.1, device="cpu")
    export = labels / name
    if name == "label-studio":  # what a person does who accepts every proposal
        tasks = json.loads((export / "tasks-00001.json").read_text())
        for one in tasks:
            one["annotations"] = [{"result": one["predictions"][0]["result"], "was_cancelled": False}]
        export = write(tmp_path / "export.json", tasks)
    done = merge(None, export, tmp_path / "out", proposals=labels)
    corner = ("cat", [0, 0, 5, 5])
    merged = boxes_of(read_table(tmp_path / "out"))
    assert merged == {
        "a.png": [("red box", [20, 10, 50, 30]), corner],
        "b.png": [corner],
        "c d.png": [("red box", [60, 10, 90, 35]), corner],
        "turned.png": [("red box", [30, 20, 50, 50]), corner],
    }
    assert done.proposals == BoxChanges(kept=7) and done.count("added") == 4 and not done.problems


def test_label_studio_by_hand(labeled: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    save(photos / "sub" / "a.png", 5)
    save(photos / "b.jpg", 6, orientation=6)
    first = labeled.read_bytes()
    export = [
        task("/data/local-files/?d=sub/a.png", region(25, 50, 50, 25, "cat"), updated_at="2026-02-02"),
        # shown turned: 48 x 64; 90 degrees clockwise about the upper left corner of a 12 x 16 box at (24, 16)
        task("/data/upload/3/1a2b3c4d-b.jpg", region(50, 25, 25, 25, "dog", (48, 64), rotation=90)),
        task("/data/local-files/?d=sub/a.png", was_cancelled=True),
        task("s3://bucket/gone.png"),
        task("x.png", region(0, 0, 5, 5, "cat") | {"image_rotation": 90}),
        {"id": 1, "data": {"image": "never.png"}, "annotations": []},
    ]
    done = merge(labeled, write(tmp_path / "export.json", export), tmp_path / "out", images=photos)
    merged = boxes_of(read_table(tmp_path / "out"))
    assert merged["a.png"] == [("cat", [16, 24, 48, 36])]
    assert merged["b.jpg"] == [("dog", [8, 16, 24, 28])]
    assert merged["000.png"] == [("cat", [0, 0, 10, 10]), ("dog", [20, 20, 40, 40])] and merged["001.png"] == []
    assert (done.unreviewed, done.count("added"), done.images) == (2, 2, 4)
    assert len(done.problems) == 2 and "turned in the tool" in done.problems[0]
    assert "gone.png" in done.problems[1]
    assert labeled.read_bytes() == first


def test_the_last_review_counts(labeled: Path, tmp_path: Path) -> None:
    one = task("000.png", region(0, 0, 50, 50, "cat"), updated_at="2026-03-02T10:00:00Z")
    one["annotations"].append({"result": [], "updated_at": "2026-03-01T10:00:00Z"})
    twice = task("000.png", region(0, 0, 25, 25, "dog"), updated_at="2026-03-01T12:00:00Z")
    export = write(tmp_path / "export.json", [one, twice])
    done = merge(labeled, export, tmp_path / "out", images=labeled.parent)
    assert boxes_of(read_table(tmp_path / "out"))["000.png"] == [("cat", [0, 0, 32, 24])]
    assert "more than once" in done.problems[0] and done.count("replaced") == 1


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels><label><name>cat</name></label></labels></task></meta>
<image id="0" name="photos/a.png" width="64" height="48" subset="default">
<box label="cat" source="manual" occluded="0" xtl="1.50" ytl="2.00" xbr="30.25" ybr="40.00" z_order="0">
<attribute name="score">0.9</attribute></box>
<box label="dog" source="manual" occluded="0" xtl="20" ytl="10" xbr="40" ybr="20" rotation="90.0" z_order="0"></box>
<polygon label="cat" source="manual" occluded="0" points="5.00,6.00;9.00,3.00;7.00,11.50" z_order="0"></polygon>
<mask label="cat" source="manual" occluded="0" rle="1" left="1" top="1" width="2" height="2" z_order="0"></mask>
</image>
<image id="1" name="b.png" width="64" height="48"></image>
<image id="2" name="c.png" width="640" height="48"></image>
</annotations>"""


@pytest.mark.parametrize("packed", [False, True])
def test_cvat_by_hand(labeled: Path, tmp_path: Path, packed: bool) -> None:
    for seed, name in enumerate("abc"):
        save(tmp_path / "photos" / f"{name}.png", seed + 20)
    export = write(tmp_path / "annotations.xml", CVAT)
    if packed:
        with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
            archive.write(export, "annotations.xml")
        export = tmp_path / "export.zip"
    done = merge(labeled, export, tmp_path / "out", images=tmp_path / "photos")
    merged = boxes_of(read_table(tmp_path / "out"))
    assert merged["a.png"] == [("cat", [1.5, 2, 30.25, 40]), ("dog", [25, 5, 35, 25]), ("cat", [5, 3, 9, 11.5])]
    assert merged["b.png"] == [] and "c.png" not in merged
    assert ["<mask> is no box" in done.problems[0], "640 x 48" in done.problems[1]] == [True, True]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("<annotations><image", "broken XML at line 1"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "document type declaration"),
        ('<annotations><track id="0"/></annotations>', "CVAT for video"),
        ("<annotation/>", "its root is <annotation>"),
        ("<annotations/>", "no reviewed image"),
    ],
)
def test_cvat_refused(labeled: Path, tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        merge(labeled, write(tmp_path / "x.xml", text), tmp_path / "out", images=tmp_path)
    assert not (tmp_path / "out").exists()


def test_what_became_of_boxes() -> None:
    before = np.array([[0, 0, 10, 10], [20, 0, 40, 20], [50, 0, 60, 10], [80, 80, 90, 90]], dtype=float)
    after = np.array([[0, 0.5, 10, 10.5], [20, 4, 40, 24], [50, 0, 60, 10], [0, 50, 9, 60]], dtype=float)
    found = compare(before, ["a", "a", "a", "b"], after, ["a", "a", "b", "b"])
    assert found == BoxChanges(kept=1, moved=1, relabelled=1, added=1, removed=1)
    empty = np.zeros((0, 4))
    assert compare(empty, [], after, ["a"] * 4) == BoxChanges(added=4)
    assert compare(before, ["a"] * 4, empty, []) == BoxChanges(removed=4)


def test_classes_that_are_new(labeled: Path, tmp_path: Path) -> None:
    export = write(tmp_path / "e.json", [task("000.png", region(0, 0, 50, 50, "Cat"), region(0, 0, 9, 9, "fox"))])
    folder = labeled.parent
    with pytest.raises(DataError, match=r"do not have: Cat, fox\. If it is 'cat', add --rename 'Cat=cat'"):
        merge(labeled, export, tmp_path / "out", images=folder)
    done = merge(labeled, export, tmp_path / "out", images=folder, rename=["Cat=cat"], add_classes=True)
    assert done.new_classes == ("fox",)
    data = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert [(c["id"], c["name"]) for c in data["categories"]] == [(3, "cat"), (7, "dog"), (90, "hen"), (91, "fox")]
    with pytest.raises(SedetError, match="--rename must be as OLD=NEW"):
        merge(labeled, export, tmp_path / "out2", images=folder, rename=["Cat"])


def test_copies_replace_and_marks_stay(labeled: Path, tmp_path: Path) -> None:
    data = json.loads(labeled.read_text())
    data["annotations"][1]["iscrowd"] = 1
    write(labeled, data)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "renamed.png").write_bytes((labeled.parent / "000.png").read_bytes())
    save(tmp_path / "photos" / "001.png", 50)  # another picture of a name that is taken
    moved = region(0, 0, 10, 100 * 10 / 48, "cat"), region(31.25, 100 * 20 / 48, 31.25, 100 * 20 / 48, "dog")
    export = write(tmp_path / "e.json", [task("renamed.png", *moved), task("001.png", region(0, 0, 50, 50, "hen"))])
    done = merge(labeled, export, tmp_path / "out", images=tmp_path / "photos", copy=True)
    assert [(c.image, c.state) for c in done.changes] == [("000.png", "replaced"), ("001-2.png", "added")]
    assert done.labels == BoxChanges(kept=1, moved=1)
    table = read_table(tmp_path / "out")
    assert not any(e.path.is_symlink() for e in table.images) and len(table) == 3
    assert table.objects[0].crowd.tolist() == [False, True]
    with (tmp_path / "out" / "changes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["image"] == "001-2.png" and rows[1]["labelled_kept"] == ""


def test_areas_of_outlines_stay_with_boxes_that_were_kept(labeled: Path, tmp_path: Path) -> None:
    data = json.loads(labeled.read_text())
    for annotation, area in zip(data["annotations"], (30.5, 120.25), strict=True):
        annotation["area"] = area
    write(labeled, data)
    kept, moved = (
        region(0, 0, 10 / 0.64, 10 / 0.48, "cat"),
        region(22 / 0.64, 22 / 0.48, 20 / 0.64, 20 / 0.48, "dog"),
    )
    export = write(tmp_path / "e.json", [task("000.png", moved, kept)])
    done = merge(labeled, export, tmp_path / "out", images=labeled.parent)
    assert done.labels == BoxChanges(kept=1, moved=1)
    table = read_table(tmp_path / "out")
    assert table.objects[0].areas.tolist() == pytest.approx([400, 30.5]), "of a moved box nobody knows the outline"


@pytest.mark.parametrize(("stated", "area"), [(400.0, 30.5), (396.5, 30.5), (77.0, 77.0), (float("nan"), 30.5)])
def test_the_area_of_a_box_says_nothing_of_an_outline(stated: float, area: float) -> None:
    """As tools write it that know boxes alone."""
    old = Objects.build([[10, 10, 30, 30]], [0], outlines=[30.5])
    new = Objects.build([[10, 10, 30, 30]], [0], outlines=[stated])
    assert _carried(old, new).areas.tolist() == [area]


def test_yolo_images_without_a_file_were_not_reviewed(
    red: Predictor, detector: Path, photos: Path, tmp_path: Path
) -> None:
    label(detector, [str(photos)], tmp_path / "labels", format=["yolo"], rank=False, score=0.1, device="cpu")
    for name in ("b.txt", "turned.txt"):
        (tmp_path / "labels" / "yolo" / "labels" / name).unlink()
    done = merge(None, tmp_path / "labels" / "yolo", tmp_path / "out", proposals=tmp_path / "labels")
    assert (done.images, done.unreviewed) == (2, 2)


def test_addresses_and_turns() -> None:
    assert url_names("/data/local-files/?d=sub/a%20b.png")[0] == "sub/a b.png"
    assert "a.png" in url_names("/data/upload/3/1a2b3c4d-a.png")
    assert url_names("https://host/sub/a%20b.png?token=1")[0] == "sub/a b.png"
    assert turned_bounds(24, 16, 12, 16, 90, centre=False) == pytest.approx((8, 16, 24, 28))
    assert turned_bounds(20, 10, 20, 10, 90, centre=True) == pytest.approx((25, 5, 35, 25))


def test_no_path_out_of_the_folder(labeled: Path, tmp_path: Path) -> None:
    save(tmp_path / "secret.png", 9)
    (tmp_path / "photos").mkdir()
    for name in ("../secret.png", str(tmp_path / "secret.png"), "a/../../secret.png"):
        export = write(tmp_path / "e.json", [task(name)])
        with pytest.raises(DataError, match="no reviewed image"):
            merge(labeled, export, tmp_path / "out", images=tmp_path / "photos")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t[0]["annotations"][0]["result"][0]["value"].pop("rectanglelabels"), "a box has no class"),
        (lambda t: t[0]["annotations"][0]["result"][0]["value"].update(x="1"), "numbers are malformed"),
        (lambda t: t[0]["annotations"][0]["result"][0].pop("original_width"), "does not say the image's width"),
        (lambda t: t[0].pop("data"), "none of Label Studio tasks"),
        (lambda t: t[0].update(annotations=5), "no list of objects"),
    ],
)
def test_malformed_tasks(labeled: Path, tmp_path: Path, change: Callable[[Any], Any], match: str) -> None:
    tasks = [task("000.png", region(0, 0, 50, 50, "cat"))]
    change(tasks)
    with pytest.raises(DataError, match=match):
        merge(labeled, write(tmp_path / "e.json", tasks), tmp_path / "out", images=labeled.parent)


@pytest.mark.parametrize("odd", [[1, 2], {"a": 1}])
def test_regions_without_a_usable_id(labeled: Path, tmp_path: Path, odd: object) -> None:
    def bare(x: float) -> dict[str, Any]:
        whole = region(x, 0, 25, 25, "")
        return whole | {"value": {k: v for k, v in whole["value"].items() if k != "rectanglelabels"}}

    labels = {"type": "labels", "value": {"labels": ["dog"]}}
    good = task(
        "000.png", bare(0) | {"id": "r1"}, labels | {"id": "r1"}, {**labels, "value": {"labels": ["cat"]}, "id": odd}
    )
    bad = task("001.png", bare(50) | {"id": odd}, labels | {"id": odd})
    export = write(tmp_path / "e.json", [good, bad])
    done = merge(labeled, export, tmp_path / "out", images=labeled.parent)
    assert boxes_of(read_table(tmp_path / "out"))["000.png"] == [("dog", [0, 0, 16, 12])]
    assert len(done.problems) == 1 and "a box has no class" in done.problems[0]


def test_the_command(labeled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = write(tmp_path / "e.json", [task("001.png", region(0, 0, 50, 50, "cat"))])
    words = ["merge", str(labeled), str(export), "--images", str(labeled.parent), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "1 corrected images: 0 added, 1 replaced" in out
    assert "labelled boxes: 0 kept, 0 moved, 0 relabelled, 1 added" in out
    assert main(words) == 2, "the folder is in use"
    assert "in use" in capsys.readouterr().err


@pytest.mark.parametrize("media", [True, False])
def test_what_fiftyone_exports(labeled: Path, tmp_path: Path, media: bool) -> None:
    """A COCODetectionDataset as its documentation lays it out: ``labels.json`` beside ``data``, or labels alone."""
    export = tmp_path / "fiftyone"
    save((export / "data" if media else tmp_path / "photos") / "new.png", 30)
    content = {
        "info": {"year": "", "version": "", "description": "Exported from FiftyOne", "contributor": "", "url": ""},
        "licenses": [],
        "categories": [{"id": i, "name": name, "supercategory": None} for i, name in enumerate(("cat", "dog"))],
        "images": [
            {"id": 1, "file_name": "new.png", "height": 48, "width": 64, "license": None, "coco_url": None},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 0, "bbox": [1, 2, 20, 30], "area": 600, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [30, 5, 10, 10], "area": 100, "score": 0.9, "tag": "x"},
        ],
    }
    export.mkdir(exist_ok=True)
    file = write(export / "labels.json", content)
    done = merge(labeled, file, tmp_path / "out", images=None if media else tmp_path / "photos")
    assert not done.problems
    merged = boxes_of(read_table(tmp_path / "out"))
    assert merged["new.png"] == [("cat", [1, 2, 21, 32]), ("dog", [30, 5, 40, 15])] and len(merged) == 3


@pytest.mark.parametrize(("number", "told"), [(7, "e.json, task 7: "), ("é", "e.json, task 'é': ")])
def test_messages_name_the_task(labeled: Path, tmp_path: Path, number: int | str, told: str) -> None:
    one = task("001.png", region(0, 0, 50, 50, "cat"), {"type": "polygonlabels", "value": {}})
    one["id"] = number
    done = merge(labeled, write(tmp_path / "e.json", [one]), tmp_path / "out", images=labeled.parent)
    assert told in done.problems[0]
