"""What pages share: pseudo labels, data, settings, and what made them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sedet.config import MixPLConfig, TrainConfig
from sedet.data.formats import read_table
from sedet.reporting import pseudo_gallery
from sedet.reporting.gallery import Budget
from sedet.reporting.pseudo_gallery import judged_gallery
from sedet.reporting.run_charts import data_chart
from sedet.reporting.sections import data_row, maker_rows, pool_row, setting_rows, trainer_rows
from tests.data.sets import coco
from tests.evaluation.cases import make_detections


def test_answers_are_drawn_in_the_pixels_of_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = read_table(coco(tmp_path, [[(3, [0, 0, 10, 10])], []]))
    found = [make_detections([[8, 4, 40, 24], [0, 0, 9, 9]], [0.9, 0.05], [1, 0]), make_detections([], [], [])]
    monkeypatch.setattr(pseudo_gallery, "READ", 32)  # images are 64 x 48
    gallery = judged_gallery(table, found, 0.5, Budget())
    assert [(p.width, p.height, len(p.marks)) for p in gallery.pictures] == [(32, 24, 1), (32, 24, 0)]
    mark = gallery.pictures[0].marks[0]
    assert mark.box == (4, 2, 20, 12) and mark.text == "dog 0.90" and mark.label == 1
    assert [name for name, _ in gallery.key] == ["dog"] and gallery.images == 2 and gallery.judged


def test_images_are_evenly_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = read_table(coco(tmp_path, [[] for _ in range(7)]))
    monkeypatch.setattr(pseudo_gallery, "SHOWN", 3)
    gallery = judged_gallery(table, [make_detections([], [], [])] * 7, 0.5, Budget())
    assert [picture.name for picture in gallery.pictures] == ["000.png", "003.png", "006.png"]
    left = Budget(left=0)
    assert judged_gallery(table, [make_detections([], [], [])] * 7, 0.5, left).pictures == () and left.left_out == 3


def test_data_by_hand(tmp_path: Path) -> None:
    boxes = [[(3, [0, 0, 10, 10]), (3, [0, 0, 20, 20]), (3, [0, 0, 30, 30])], [(7, [0, 0, 5, 5])]]
    table = read_table(coco(tmp_path, boxes))
    assert data_row("labelled", table) == ("labelled", "2", "4", "2.0", "16 px")  # of sides 5, 10, 20, 30 by area
    assert data_row("none", table.subset([])) == ("none", "0", "0", "0.0", "–")
    assert pool_row("unlabelled", 1234) == ("unlabelled", "1,234", "–", "–", "–")
    chart = data_chart(table)
    assert chart is not None and "4 boxes in 2 images. The most frequent class has 3.0 times" in chart.description


def test_settings_of_every_method_that_was_compared() -> None:
    config = replace(TrainConfig(), mixpl=MixPLConfig(weight=7.0))
    assert setting_rows(config, changed=True) == [], "mixpl was not used"
    rows = setting_rows(config, changed=True, methods=("sed", "mixpl"))
    assert [row[:2] for row in rows] == [("mixpl.weight", "7.0")]


def test_what_trainings_ran_on_and_with() -> None:
    first = {"device": "a GPU", "commit": "abc", "versions": {"torch": "2.0"}}
    rows = trainer_rows([first, first | {"device": "another"}, {}, {"device": 3, "commit": None, "versions": "none"}])
    assert rows == [
        ("trained on", "a GPU, another"),
        ("trained with torch", "2.0"),
        ("trained at commit", "abc"),
    ]
    assert dict(maker_rows())["processor of this report"]
    assert "GPU of this report" not in dict(maker_rows())
