"""Judging while training: the same numbers as ``sedet eval``, also where images are broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sedet.data.formats import read_table
from sedet.detectors.file import save_detector
from sedet.evaluation.coco import coco_metrics
from sedet.judge import evaluate
from sedet.training.pictures import Album
from sedet.training.run import train
from sedet.training.validate import Judge
from tests import tiny


def cut(file: Path) -> Path:
    """Half of an image file: its header can be read, its pixels cannot."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    return file


def test_an_image_that_cannot_be_read_is_not_judged(tmp_path: Path) -> None:
    data = tiny.dataset(tmp_path, labeled=2, unlabeled=1, val=4)
    broken = cut(data / "val" / "val1.png")
    table = read_table(data / "val.json")
    model = tiny.detector(classes=2, confident=True).eval()
    save_detector(tmp_path / "best.safetensors", model, table.classes, 64, {})
    judge = Judge(table, 64, batch=3)
    first, second = judge.judge(model), judge.judge(model)
    assert first.images == 3 and judge.unread == [str(broken)]
    assert first.boxes == sum(len(o) for i, o in enumerate(table.objects) if i != 1)
    assert first.to_dict() == second.to_dict()
    assert first.to_dict() == evaluate(tmp_path / "best.safetensors", data / "val.json", device="cpu").to_dict()
    found = judge.detections(model)  # one entry an image all the same
    assert len(found) == 4 and not len(found[1].scores) and len(found[0].scores)
    assert coco_metrics(table, found).boxes == first.boxes + len(table.objects[1])


def test_no_image_that_can_be_read_is_no_score(tmp_path: Path) -> None:
    data = tiny.dataset(tmp_path, labeled=2, unlabeled=1, val=2)
    for i in range(2):
        cut(data / "val" / f"val{i}.png")
    metrics = Judge(read_table(data / "val.json"), 64).judge(tiny.detector(classes=2).eval())
    assert metrics.images == metrics.boxes == 0 and metrics.to_dict()["ap"] is None


def test_training_says_once_what_it_does_not_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Album, "_draw", lambda *_: None)
    data = tiny.dataset(tmp_path / "data")
    broken = cut(data / "val" / "val1.png")
    config = tiny.config(data, tmp_path / "run", steps=4, eval_every=1, stop=2)
    train(config)
    outcome = train(replace(config, stop=None), resume=tmp_path / "run")
    assert outcome.skipped == (str(broken),)
    said = f"Skipped: {broken} cannot be read; it is not judged"
    assert (tmp_path / "run" / "train.log").read_text().count(said) == 1
