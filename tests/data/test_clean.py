from __future__ import annotations

from pathlib import Path

from sedet.data.clean import clean
from sedet.data.formats import read_table

from .sets import coco, edit, save, yolo


def test_boxes_are_clipped_or_dropped_and_told(tmp_path: Path) -> None:
    rows = [
        (3, [10, 10, 20, 20]),
        (7, [50, 40, 30, 30]),  # reaches out
        (3, [63, 0, 2, 5]),  # reaches out by a pixel: not worth a word
        (3, [5, 5, 0, 9]),
        (3, [9, 9, -4, 4]),
        (90, [70, 5, 9, 9]),  # outside
        (3, [-9, -9, 9, 9]),  # touches the corner only
    ]
    path = coco(tmp_path, [rows, []])
    path.write_text(path.read_text().replace("[9, 9, -4, 4]", "[NaN, 9, 4, 4]"))
    table, problems = clean(read_table(path))
    assert table.objects[0].boxes.tolist() == [[10, 10, 30, 30], [50, 40, 64, 48], [63, 0, 64, 5]]
    assert table.objects[0].labels.tolist() == [0, 1, 0]
    told = [p.message for p in problems]
    assert len(told) == 5 and all(p.level == "warning" and p.file.endswith("000.png") for p in problems)
    for part, line in zip(
        ("box 2 (dog) [50, 40, 80, 70] reaches out", "box 4 (cat)", "box 5 (cat) [nan", "box 6 (hen)", "box 7"),
        told,
        strict=True,
    ):
        assert part in line
    for word, line in zip(("clipped", "no area", "not finite", "outside", "outside"), told, strict=True):
        assert word in line
    again, none = clean(table)
    assert none == [] and again.objects[0].boxes.tolist() == table.objects[0].boxes.tolist()


def test_unreadable_and_mis_sized_images_are_dropped(tmp_path: Path) -> None:
    path = coco(tmp_path, [[(3, [0, 0, 5, 5])]] * 5)
    (tmp_path / "001.png").write_bytes(b"")
    (tmp_path / "002.png").write_text("text")
    save(tmp_path / "003.png", 3, 32, 24)  # half the size its boxes were drawn on
    save(tmp_path / "004.png", 4, 63, 49)  # a pixel off is rounding
    table, problems = clean(read_table(path))
    assert [e.id for e in table.images] == [10, 14] and len(table.objects) == 2
    assert (table.images[1].width, table.images[1].height) == (63, 49)
    assert [Path(p.file).name for p in problems] == ["001.png", "002.png", "003.png"]
    assert "0 bytes" in problems[0].message and "32x24" in problems[2].message and "64x48" in problems[2].message


def test_exif_turn_is_no_size_mismatch(tmp_path: Path) -> None:
    path = coco(tmp_path, [[(3, [0, 0, 5, 5])]])
    save(tmp_path / "000.png", 0, 64, 48, orientation=6)
    assert clean(read_table(path))[1] == []
    edit(path, {"images": [{"id": 10, "file_name": "000.png", "width": 48, "height": 64}]})
    table, problems = clean(read_table(path))
    assert problems == [] and table.images[0].use_exif


def test_a_yolo_image_without_a_size_is_dropped_not_taken_for_background(tmp_path: Path) -> None:
    path = yolo(tmp_path)
    (tmp_path / "train" / "images" / "0.png").write_bytes(b"")
    table, problems = clean(read_table(path))
    assert len(table) == 2 and len(problems) == 1
