"""The published protocols, on miniature data of the same folder structure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sedet.cli import main
from sedet.compare.protocols import load_protocol, names
from sedet.errors import ConfigError
from sedet.training.optimizer import rate_at, warmup_updates
from tests.compare.test_compare import SETTINGS
from tests.data.sets import coco, save, voc

TINY = [f"{key}={json.dumps(value)}" for key, value in SETTINGS.items() if key != "model"]
TINY += ["model.neck_channels=8", "detector=fcos", "ramp=0.3", "save_every=6", "accumulate=1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO's and VOC's folders, a few small pictures in each, no two alike."""
    folder = tmp_path_factory.mktemp("datasets")
    for split, count, first in (("train", 8, 100), ("val", 2, 200)):
        boxes = [[((3, 7)[k % 2], [4, 4, 30, 24])] + [(90, [20, 10, 30, 30])] * (k < 3) for k in range(count)]
        file = coco(folder / f"{split}2017", boxes)
        tree = json.loads(file.read_text())
        for number, image in enumerate(tree["images"]):
            save(folder / f"{split}2017" / image["file_name"], first + number)
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(tree))
        file.unlink()
    for number in range(3):
        save(folder / "unlabeled2017" / f"{number}.jpg", 300 + number)
    for year, first, lists in (
        (2007, 400, {"trainval": [0, 1, 2, 3], "test": [4, 5]}),
        (2012, 500, {"trainval": [0, 1]}),
    ):
        voc(folder / "VOCdevkit" / f"VOC{year}", lists, count=6)
        for number in range(6):
            save(folder / "VOCdevkit" / f"VOC{year}" / "JPEGImages" / f"im{number}.jpg", first + number)
    return folder


def run(root: Path, out: Path, name: str, *more: str) -> int:
    return main(["compare", "--protocol", name, "--root", str(root), "--out", str(out), *more, "--set", *TINY])


def test_all_are_here_and_complete() -> None:
    assert names() == ["coco-additional", "coco-shots", "coco-standard", "voc"]
    for name in names():
        protocol = load_protocol(name, Path("/datasets"))
        assert protocol.about and protocol.settings.steps and protocol.settings.detector == "faster_rcnn"
        assert protocol.options["data"].startswith("/datasets/") and protocol.options["val"].startswith("/datasets/")


@pytest.mark.parametrize("name", names())
def test_the_schedules_fit(name: str) -> None:
    """The rate is up long before the burn-in ends, then stays; a batch can be taken in its parts."""
    config = load_protocol(name, Path("/datasets")).settings
    assert config.steps and config.batch and config.burn_in
    burn_in = round(config.burn_in * config.steps)
    assert warmup_updates(config, config.steps) <= burn_in / 2
    assert config.schedule == "constant" and rate_at(burn_in - 1, config.steps, burn_in, config) == config.rate
    assert rate_at(config.steps - 1, config.steps, burn_in, config) == config.rate
    assert config.accumulate > 1 and config.batch % config.accumulate == 0
    published = {"coco-standard": 2000, "coco-shots": 2000, "coco-additional": 90000}
    assert burn_in == published.get(name, burn_in)


def test_weights_are_those_of_the_setting() -> None:
    weights = {}
    for name in names():
        s = load_protocol(name, Path("/datasets")).settings
        weights[name] = (s.unbiased_teacher.weight, s.soft_teacher.weight, s.pseco.weight, s.dense_teacher.class_weight)
    partial = (4.0, 4.0, 2.0, 4.0)
    assert weights == {
        "coco-standard": partial,
        "coco-shots": partial,
        "coco-additional": (2.0, 2.0, 1.0, 2.0),
        "voc": (2.0, *partial[1:]),
    }


def test_coco_standard(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--protocol", "coco-standard", "--root", str(root), "--out", "x", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 * 4 * 5 + 1
    assert run(root, tmp_path / "c", "coco-standard", "--percents", "50", "--folds", "1") == 0
    table = json.loads((tmp_path / "c" / "table.json").read_text())
    assert [(e["labels"], e["method"]) for e in table] == [
        ("50 %", "supervised"),
        ("50 %", "sed"),
        ("all", "supervised"),
    ]
    assert table[2]["ceiling"]
    pool = (tmp_path / "c" / "data" / "p50-f1" / "pool.txt").read_text().splitlines()
    assert len(pool) == 8 and all("train2017" in line for line in pool)


def test_coco_shots(root: Path, tmp_path: Path) -> None:
    assert run(root, tmp_path / "c", "coco-shots", "--shots", "1", "2", "--folds", "1", "--methods", "supervised") == 0
    table = json.loads((tmp_path / "c" / "table.json").read_text())
    assert [e["labels"] for e in table] == ["1 a class", "2 a class"]
    few, more = (json.loads((tmp_path / "c" / "data" / f"k{k}-f1" / "labeled.json").read_text()) for k in (1, 2))
    assert 0 < len(few["images"]) < len(more["images"]) <= 6
    assert (tmp_path / "c" / "ap.svg").read_text().count("a class") == 2


def test_coco_additional(root: Path, tmp_path: Path) -> None:
    assert run(root, tmp_path / "c", "coco-additional") == 0
    table = json.loads((tmp_path / "c" / "table.json").read_text())
    assert [(e["labels"], e["method"], e["ceiling"]) for e in table] == [
        ("all", "supervised", False),
        ("all", "sed", False),
    ]
    pool = (tmp_path / "c" / "data" / "p100-f1" / "pool.txt").read_text()
    assert pool.count("train2017") == 8 and pool.count("unlabeled2017") == 3
    assert len(json.loads((tmp_path / "c" / "data" / "p100-f1" / "labeled.json").read_text())["images"]) == 8


def test_voc(root: Path, tmp_path: Path) -> None:
    assert run(root, tmp_path / "c", "voc") == 0
    pool = (tmp_path / "c" / "data" / "p100-f1" / "pool.txt").read_text()
    assert pool.count("VOC2007") == 4 and pool.count("VOC2012") == 2
    judged = json.loads((tmp_path / "c" / "data" / "val.json").read_text())
    assert sorted(Path(i["file_name"]).name for i in judged["images"]) == ["im4.jpg", "im5.jpg"]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ("data: [", "no YAML file"),
        ("- 1", "a protocol is a map"),
        ({"dta": "x"}, "unknown key 'dta'. Did you mean 'data'?"),
        ({"data": 3}, "data must be a path"),
        ({"folds": 3}, "folds must be a list"),
        ({"folds": ["one"]}, "folds cannot hold 'one'"),
        ({"ceiling": "no"}, "ceiling must be true or false"),
        ({"settings": {"stps": 3}}, "stps"),
        ({"settings": [1]}, "settings must be a map of settings, not '[1]'"),
    ],
)
def test_broken_protocols_are_told(tmp_path: Path, tree: Any, message: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    with pytest.raises(ConfigError) as caught:
        load_protocol(str(file), tmp_path)
    assert message in str(caught.value) and str(file) in str(caught.value)


def test_data_must_come_from_somewhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--out", "nowhere"]) == 2
    assert "DATA is missing" in capsys.readouterr().err
    assert main(["compare", "--protocol", "vocc"]) == 2
    assert "there is no protocol 'vocc'" in capsys.readouterr().err
