"""What a training leaves behind, and how it goes on from there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sedet
from sedet.api import resumed
from sedet.config import TrainConfig
from sedet.detectors.file import load_detector
from sedet.errors import CheckpointError, ConfigError
from sedet.settings import load_config
from sedet.training import loop
from sedet.training.checkpoint import load_checkpoint, read_saved, save_checkpoint
from sedet.training.inputs import read_data, same_data
from sedet.training.run import train
from tests.data.sets import edit
from tests.training.runs import data, snapshot, snapshot_of_all

# --- one whole run ------------------------------------------------------------------------------------------


def test_the_folder_has_everything(run: TrainConfig) -> None:
    out = Path(run.out)
    pictures = {"labeled_000000", "labeled_000002", "unlabeled_000002", "labeled_000004", "unlabeled_000004"}
    assert {p.stem for p in (out / "pictures").iterdir()} == pictures | {"predictions"}
    files = {"config.yaml", "metrics.csv", "train.log", "best.safetensors", "curves.png", "checkpoints", "pictures"}
    assert {p.name for p in out.iterdir()} == files | {"student.safetensors"}
    assert {p.name for p in (out / "checkpoints").iterdir()} == {"last.pt", "burn_in.pt"}


def test_its_settings_mean_the_same_from_anywhere(
    run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(Path(run.out) / "config.yaml")
    assert (config.labeled, config.unlabeled, config.val) == (run.labeled, run.unlabeled, run.val)
    inputs = read_data(config)
    digest = read_data(run).facts()["digest"]
    assert inputs.facts() == {"classes": ["cat", "dog"], "labeled": 6, "val": 3, "unlabeled": 5, "digest": digest}


def test_its_log_tells_the_plan_and_the_verdict(run: TrainConfig) -> None:
    log = (Path(run.out) / "train.log").read_text()
    for part in (
        "1 unlabelled images left out: they cannot be read",
        "empty.png",
        "Plan",
        "6 labelled, 5 unlabelled, 3 to judge by",
        "labels alone         AP",
        "sed, teacher         AP",
        "sed, student         AP",
        "shipped              AP",
        "Detector: run/best.safetensors",
        "Measured: ",
    ):
        assert part in log, part
    assert "Warning" not in log
    told = "Only 3 images to judge by: scores on so few are inconclusive."
    assert log.count(told) == 2 and log.index(told) < log.index("Plan") < log.rindex(told)


def test_a_finished_run_is_not_trained_again(run: TrainConfig) -> None:
    before = snapshot(Path(run.out))
    outcome = sedet.train(resume=run.out)
    assert outcome.finished and outcome.step == 4
    assert snapshot(Path(run.out)) == before
    assert "nothing is left to train" in (Path(run.out) / "train.log").read_text()


def test_a_warm_start_from_a_run(run: TrainConfig, tmp_path: Path) -> None:
    """Other classes; goes on although the file it began with is gone."""
    config = data(tmp_path)
    changed = {"categories": [{"id": 3, "name": "dog"}, {"id": 7, "name": "hen"}]}
    for file in (config.labeled, config.val):
        edit(Path(file or ""), changed)
    init = tmp_path / "mine.safetensors"
    shutil.copy(Path(run.out) / "best.safetensors", init)
    train(replace(config, backbone=None, init=str(init), stop=2))
    log = (tmp_path / "run" / "train.log").read_text()
    assert "weights from sedet, mine.safetensors" in log and "1 of 2 class rows" in log
    init.unlink()
    outcome = sedet.train(resume=tmp_path / "run")
    assert outcome.finished and outcome.detector is not None
    shipped = load_detector(outcome.detector)
    assert shipped.classes == ("dog", "hen")
    ids = {c["name"]: c["id"] for c in json.loads(Path(config.labeled).read_text())["categories"]}
    assert shipped.metadata["category_ids"] == [ids["dog"], ids["hen"]]


# --- going on -----------------------------------------------------------------------------------------------


def classes_renamed(config: TrainConfig) -> None:
    edit(Path(config.labeled), {"categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "wolf"}]})


def image_gone(config: TrainConfig) -> None:
    images = json.loads(Path(config.labeled).read_text())["images"]
    last = images[-1]["id"]
    annotations = json.loads(Path(config.labeled).read_text())["annotations"]
    kept = [a for a in annotations if a["image_id"] != last]
    edit(Path(config.labeled), {"images": images[:-1], "annotations": kept})


@pytest.mark.parametrize(
    ("change", "said"),
    [(classes_renamed, "gone: dog; new: wolf"), (image_gone, "6 labelled images when this run began, 5 now")],
)
def test_a_run_is_not_continued_on_other_labels(
    config: TrainConfig, change: Callable[[TrainConfig], None], said: str
) -> None:
    train(replace(config, stop=2))
    before = snapshot_of_all(Path(config.out))
    change(config)
    with pytest.raises(ConfigError, match=said):
        train(resumed(Path(config.out), ()), resume=Path(config.out))
    assert snapshot_of_all(Path(config.out)) == before


def test_more_unlabelled_images_are_only_told(config: TrainConfig) -> None:
    saved: dict[str, Any] = {"classes": ["cat"], "labeled": 6, "val": 3, "unlabeled": 5, "digest": "a"}
    assert same_data(saved, saved, config) == []
    (line,) = same_data(saved, {**saved, "unlabeled": 7}, config)
    assert "5 unlabelled images when this run began, 7 now" in line
    with pytest.raises(ConfigError, match="their order"):
        same_data({**saved, "classes": ["a", "b"]}, {**saved, "classes": ["b", "a"]}, config)
    with pytest.raises(ConfigError, match="3 validation images"):
        same_data(saved, {**saved, "val": 0}, config)
    with pytest.raises(ConfigError, match="boxes or images"):
        same_data(saved, {**saved, "digest": "b"}, config)


def test_a_moved_box_is_another_data_set(config: TrainConfig) -> None:
    before = read_data(config).facts()["digest"]
    assert read_data(config).facts()["digest"] == before
    stored = json.loads(Path(config.labeled).read_text())
    stored["annotations"][0]["bbox"][2] -= 1
    Path(config.labeled).write_text(json.dumps(stored))
    assert read_data(config).facts()["digest"] != before


def test_a_checkpoint_of_another_network_is_refused(config: TrainConfig) -> None:
    train(replace(config, stop=2))
    path = Path(config.out) / "checkpoints" / "last.pt"
    state = load_checkpoint(path)
    state["student"] = {name: tensor[:1] for name, tensor in state["student"].items() if tensor.ndim}
    save_checkpoint(path, state)
    with pytest.raises(CheckpointError, match=r"last\.pt: does not fit this training"):
        train(resumed(Path(config.out), ()), resume=Path(config.out))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda saved: saved["facts"].update(data={}),
        lambda saved: saved["facts"].update(data=[]),
        lambda saved: saved["facts"].pop("spec"),
        lambda saved: saved["facts"]["data"].update(labeled="6"),
        lambda saved: saved["state"].update(rows=5),
        lambda saved: saved["state"].update(rows=[5]),
        lambda saved: saved["state"].update(step=-5),
        lambda saved: saved["state"].pop("sums"),
        lambda saved: saved.update(state=[]),
    ],
)
def test_a_checkpoint_of_another_make_is_one_line(spoil: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    known = {"classes": ["cat"], "labeled": 6, "val": 3, "unlabeled": 5}
    saved = {"state": dict(vars(loop.State())), "facts": {"data": known, "spec": {}}}
    save_checkpoint(tmp_path / "last.pt", saved)
    assert read_saved(tmp_path / "last.pt")["state"] == saved["state"]
    spoil(saved)
    save_checkpoint(tmp_path / "last.pt", saved)
    with pytest.raises(CheckpointError, match=r"last\.pt: damaged, or not the checkpoint of a training"):
        read_saved(tmp_path / "last.pt")
