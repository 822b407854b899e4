"""YOLO: the dialects of its data file, boxes, and all that is malformed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sedet.data.formats import read_table

from .refusals import fails, found
from .sets import save, write, yolo


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


def test_yolo_path_key_may_name_the_folder_of_the_yaml(tmp_path: Path) -> None:
    data = tmp_path / "z4"
    path = yolo(data)
    (tmp_path / "link").symlink_to(data)
    for own in (data, f"{data}/", f"{data}/../z4", "../z4", "../z4/", "./../z4", "..\\z4", tmp_path / "link"):
        write(path, f"path: {own}\ntrain: train/images\nnames: [cat, dog]\n")
        assert [e.name for e in read_table(path).images] == [f"train/images/{i}.png" for i in range(3)]
        write(path, f"path: {own}\ntrain: ../other/images\nnames: [cat, dog]\n")
        save(tmp_path / "other" / "images" / "a.png")
        fails("leads out of the data folder", path)
    for out in (tmp_path, "..", "../", "../other", "./../other", f"{data}/..", f"{data}/../other", f"{data}er"):
        (tmp_path / "z4er").mkdir(exist_ok=True)
        write(path, f"path: {out}\ntrain: images\nnames: [cat, dog]\n")
        fails("path: the path .* leads out of the data folder", path)
    write(path, "path: ' '\ntrain: train/images\nnames: [cat, dog]\n")
    fails("is no file name", path)


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


def test_yolo_tells_every_malformed_line(tmp_path: Path) -> None:
    path = yolo(tmp_path)
    write(tmp_path / "train" / "labels" / "0.txt", "0 0.5 0.5 0.2\n\n0 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.2 0.2\n")
    (tmp_path / "train" / "labels" / "1.txt").write_bytes(b"\xff")
    told = found(path)
    assert len(told) == 3 and "0.txt, line 1" in told[0] and "0.txt, line 4" in told[1] and "1.txt" in told[2]


def test_yolo_of_another_machine_keeps_its_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for i in range(3):
            save(tmp_path / "images" / split / f"{split}{i}.png", i)
            write(tmp_path / "labels" / split / f"{split}{i}.txt", "0 0.5 0.5 0.25 0.5\n")
    for path in ("/nowhere/y10", "../datasets/y10", "y10"):
        yaml = f"path: {path}\ntrain: images/train\nval: images/val\nnames: [cat]\n"
        file = write(tmp_path / "data.yaml", yaml)
        away = write(tmp_path / "elsewhere" / "data.yaml", yaml)
        own = read_table(file, split="train")
        assert [e.name for e in own.images] == [f"images/train/train{i}.png" for i in range(3)]
        for source in (file, away):
            for images in (tmp_path, tmp_path / "images", tmp_path / "images" / "train"):
                table = read_table(source, images=images, split="train")
                assert [e.path.name for e in table.images] == [f"train{i}.png" for i in range(3)]
                assert all(len(o) == 1 for o in table.objects)
    outside = tmp_path / "elsewhere" / "data.yaml"
    write(outside, f"path: {tmp_path}/labels\ntrain: images/train\nnames: [cat]\n")
    fails("leads out of the data folder", outside)
