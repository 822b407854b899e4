"""What a training leaves behind: nothing half-written, a folder that can be gone on with, a verdict that is true."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sedet
from sedet.api import resumed
from sedet.config import TrainConfig
from sedet.data.loading import StepData
from sedet.detectors.build import Detector
from sedet.detectors.file import load_detector
from sedet.errors import CheckpointError, ConfigError, SedetError, TrainingError
from sedet.settings import load_config
from sedet.training import loop, plan
from sedet.training.checkpoint import load_checkpoint, read_saved, save_checkpoint
from sedet.training.inputs import read_data, same_data
from sedet.training.memory import is_lost_worker
from sedet.training.pictures import Album
from sedet.training.run import train
from sedet.training.runlog import RunLog
from sedet.training.validate import Judge
from tests.data.sets import edit
from tests.training.runs import data, judged, snapshot, supervised


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setattr(Album, "_draw", lambda *_: None)  # pictures take longer than these trainings
    return data(tmp_path)


# --- nothing half-written -----------------------------------------------------------------------------------


def no_boxes(config: TrainConfig) -> TrainConfig:
    edit(Path(config.labeled), {"annotations": []})
    return config


def broken_json(config: TrainConfig) -> TrainConfig:
    Path(config.labeled).write_text('{"images": [')
    return config


def other_val(config: TrainConfig) -> TrainConfig:
    edit(Path(config.val or ""), {"categories": [{"id": 3, "name": "tree"}, {"id": 7, "name": "house"}]})
    return config


def unreadable_pool(config: TrainConfig) -> TrainConfig:
    for path in Path(config.unlabeled[0]).iterdir():
        path.write_bytes(b"no image " + path.name.encode())
    return config


def undecodable(folder: Path) -> None:
    for path in folder.glob("*.png"):
        path.write_bytes(path.read_bytes()[:-400])


def undecodable_labels(config: TrainConfig) -> TrainConfig:
    undecodable(Path(config.labeled).parent)
    return config


def undecodable_pool(config: TrainConfig) -> TrainConfig:
    undecodable(Path(config.unlabeled[0]))
    return config


def foreign_start(config: TrainConfig) -> TrainConfig:
    run = Path(config.out).parent / "foreign"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "burn_in.pt").write_bytes(b"not a checkpoint")
    return replace(config, start=str(run))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_boxes, "no boxes at all"),
        (broken_json, "labels.json"),
        (other_val, "no box of a class to learn"),
        (unreadable_pool, "none of the unlabelled images"),
        (undecodable_labels, r"labeled/.*png: none of the 6 labelled images can be read .*sedet check"),
        (undecodable_pool, r"unlabeled/.*png: none of the 5 unlabelled images can be read .*sedet check"),
        (lambda c: replace(undecodable_labels(c), workers=1), "none of the 6 labelled images"),
        (foreign_start, "burn_in.pt"),
        (lambda c: replace(c, labeled="/nowhere/labels.json"), "/nowhere/labels.json"),
        (lambda c: replace(c, unlabeled=("/nowhere",)), "/nowhere"),
        (lambda c: replace(c, classes=("cat", "dgo")), "'dgo'"),
        (lambda c: replace(c, weights="/nowhere/w.pth"), "w.pth"),
        (lambda c: replace(c, backbone="resnet51"), "resnet51"),
        (lambda c: replace(c, init="/nowhere/best.safetensors"), "best.safetensors"),
        (lambda c: replace(c, start="/nowhere/run"), "/nowhere/run"),
        (lambda c: replace(c, accumulate=3), "accumulate"),
    ],
)
def test_mistakes_leave_nothing_behind(
    config: TrainConfig, spoil: Callable[[TrainConfig], TrainConfig], said: str
) -> None:
    with pytest.raises(SedetError, match=said):
        train(spoil(config))
    assert not Path(config.out).exists()


def test_a_folder_in_use_is_told_before_anything_is_read(config: TrainConfig) -> None:
    Path(config.out).mkdir()
    (Path(config.out) / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"in use: give a new one with --out$"):
        train(replace(config, labeled="/nowhere"))
    assert [p.name for p in Path(config.out).iterdir()] == ["thesis.txt"]


def test_a_full_disk_is_one_line(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("sedet.training.runlog.write_atomically", full)
    with pytest.raises(TrainingError, match=r"disk is full .*metrics\.csv.*--resume"):
        train(config)


def test_a_disk_full_from_the_start_leaves_nothing(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no checkpoint to go on with, and the same folder can be given again."""

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("sedet.training.checkpoint.write_atomically", full)
        with pytest.raises(TrainingError, match=r"disk is full .*last\.pt.* is removed") as caught:
            train(config)
    assert "--resume" not in str(caught.value) and not Path(config.out).exists()
    assert train(supervised(config)).finished


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_a_killed_loading_process_is_one_line(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, trainer = StepData.__getitem__, os.getpid()

    def killed(self: StepData, step: int) -> Any:
        if os.getpid() != trainer and step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(self, step)

    monkeypatch.setattr(StepData, "__getitem__", killed)
    with pytest.raises(TrainingError, match=r"memory \(/dev/shm\).*--workers 0.*--shm-size, then go on with --resume"):
        train(replace(supervised(config), workers=1))


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ... shared memory", True),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", True),
        ("unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)", True),
        ("unable to write to file </torch_1_2>: No space left on device (28)", True),
        ("DataLoader worker (pid 7) is killed by signal: Segmentation fault.", False),
        ("out of resource: shared memory", False),
        ("Caught ValueError in DataLoader worker process 0.", False),
    ],
)
def test_lost_loading_processes_are_known(text: str, lost: bool) -> None:
    assert is_lost_worker(RuntimeError(text)) == lost


def test_unreadable_labelled_and_val_images_are_counted(config: TrainConfig) -> None:
    broken = (
        sorted(Path(config.labeled).parent.glob("*.png"))[0],
        sorted(Path(config.val or "").parent.glob("*.png"))[0],
    )
    for path in broken:
        path.write_bytes(b"")
    stored = json.loads(Path(config.labeled).read_text())
    stored["images"][-1]["width"] += 30  # left out too, but it can be read
    Path(config.labeled).write_text(json.dumps(stored))
    outcome = train(supervised(config))
    assert outcome.skipped == tuple(map(str, broken))
    assert "2 images could not be read and were skipped" in (Path(config.out) / "train.log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_names_of_any_bytes_are_told(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """Of an image that cannot be decoded; in the log, on the terminal, and in a checkpoint that is resumed."""
    pool = Path(config.unlabeled[0])
    whole = sorted(pool.iterdir())[0]
    (pool / os.fsdecode(b"caf\xe9\x1b[31m\n.png")).write_bytes(whole.read_bytes()[:900])
    train(replace(config, stop=3, ratio=4.0))
    outcome = train(replace(config, ratio=4.0), resume=Path(config.out))
    assert outcome.finished and [Path(name).name for name in outcome.skipped] == ["caf\udce9\x1b[31m\n.png"]
    log = (Path(config.out) / "train.log").read_text(encoding="utf-8")
    for text in (log, capsys.readouterr().err):
        assert "caf\\udce9\\x1b[31m\\n.png cannot be read" in text and "\x1b[31m" not in text


# --- one process at a time ----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_a_folder_is_trained_by_one_process_at_a_time(config: TrainConfig) -> None:
    config = supervised(config)
    train(replace(config, stop=2))
    hold = (
        "import sys; from pathlib import Path; from sedet.training.lock import sole_trainer\n"
        "with sole_trainer(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    before = snapshot_of_all(Path(config.out))
    command = [sys.executable, "-c", hold, config.out]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=r"run is being trained by another process: wait"):
            train(config, resume=Path(config.out))
        assert snapshot_of_all(Path(config.out)).keys() == before.keys() | {".lock"}
        other.kill()
    assert (Path(config.out) / ".lock").is_file()  # of a process that was killed: nobody holds it
    assert train(config, resume=Path(config.out)).finished
    assert not (Path(config.out) / ".lock").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
@pytest.mark.parametrize("resumed", [False, True])
def test_a_training_holds_its_folder(resumed: bool, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = supervised(config)
    if resumed:
        train(replace(config, stop=2))
    held: list[bool] = []
    monkeypatch.setattr(Album, "watch", lambda *_: held.append((Path(config.out) / ".lock").is_file()))
    train(config, resume=Path(config.out) if resumed else None)
    assert held and all(held)


def test_a_file_system_without_locks_goes_without(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sedet.training.lock.fcntl", None)
    assert train(supervised(config)).finished


# --- one whole run ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A finished run on data with a damaged unlabelled image, started with relative paths."""
    root = tmp_path_factory.mktemp("whole")
    config = data(root)
    (root / "unlabeled" / "empty.png").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        train(
            replace(config, labeled="labeled/labels.json", unlabeled=("unlabeled",), val="val/labels.json", out="run")
        )
    return config


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


def snapshot_of_all(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}


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


# --- the end ------------------------------------------------------------------------------------------------

# Judgements come in pairs, teacher and student; the first pair is that of the end of the burn-in.
FALLING = [30.0, 20.0, 25.0, 25.0, 24.0, 24.0, 23.0, 23.0, 22.0, 22.0]


@pytest.mark.parametrize("guard", [True, False])
def test_an_early_stop_ships_and_is_final(config: TrainConfig, guard: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(config, steps=20, burn_in=0.1, eval_every=2, patience=2, guard=guard)
    judged(monkeypatch, FALLING)
    outcome = train(config)
    assert (outcome.step, outcome.finished) == (6, True)
    assert outcome.detector is not None and outcome.labels_alone == 30.0
    assert outcome.ap == (30.0 if guard else 24.0)
    assert load_detector(outcome.detector).metadata["step"] == (2 if guard else 6)
    before = snapshot(Path(config.out))
    judged(monkeypatch, [])  # judging again would fail
    again = sedet.train(resume=config.out)
    assert (again.step, again.finished, again.ap) == (6, True, outcome.ap)
    assert snapshot(Path(config.out)) == before


def test_the_guard_never_ships_less_than_the_labels_alone(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a run that takes its burn-in from another: the detector of the labels alone comes along."""
    judged(monkeypatch, [30.0, 20.0, 28.0, 28.0])
    twin = train(replace(supervised(config), out=str(Path(config.out).parent / "twin"), guard=False))
    assert twin.ap == 28.0
    judged(monkeypatch, [30.0, 25.0, 25.0])
    outcome = train(replace(config, start=str(twin.run)))
    assert (outcome.ap, outcome.labels_alone, outcome.teacher_ap) == (30.0, 30.0, 25.0)
    assert outcome.detector is not None and load_detector(outcome.detector).metadata["step"] == 2
    log = (Path(config.out) / "train.log").read_text()
    assert "supervised twin      AP  28.0" in log
    assert "of the labels alone (step 2): no later teacher was better" in log
    assert "Unlabelled images: -3.0 AP, last teacher against last teacher of both runs." in log  # the guard hides none


def test_the_twin_of_a_run_says_what_unlabelled_images_brought(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that a run prints at its end leads to the comparison."""
    judged(monkeypatch, [30.0, 20.0, 34.0, 33.0])
    train(config)
    judged(monkeypatch, [30.0, 31.0, 30.0])
    twin = replace(supervised(config), start=config.out, out=f"{config.out}-supervised")
    assert train(twin).ap == 31.0
    log = (Path(twin.out) / "train.log").read_text()
    assert "with unlabelled      AP  34.0" in log
    assert "Unlabelled images: +3.0 AP" in log


def test_the_guard_never_ships_less_than_a_warm_start_brought(
    run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(data(tmp_path), backbone=None, init=str(Path(run.out) / "best.safetensors"))
    judged(monkeypatch, [40.0, 30.0, 20.0, 35.0, 33.0])  # the first is of the warm start alone
    outcome = train(replace(config, stop=2))
    assert outcome.detector is not None and load_detector(outcome.detector).metadata["step"] == 0
    outcome = sedet.train(resume=tmp_path / "run")
    assert (outcome.ap, outcome.teacher_ap, outcome.labels_alone) == (40.0, 35.0, 30.0)
    assert outcome.detector is not None and load_detector(outcome.detector).metadata["step"] == 0
    log = (tmp_path / "run" / "train.log").read_text()
    assert "--init               AP  40.0   before the first step" in log
    assert "the detector of --init: no later teacher was better" in log


def test_the_guard_knows_a_warm_start_behind_a_shared_burn_in(
    run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very command that a run with --init prints at its end; and with raw flags, sizes left to the file."""
    config = replace(data(tmp_path), backbone=None, init=str(Path(run.out) / "best.safetensors"))
    judged(monkeypatch, [40.0, 30.0, 20.0, 35.0, 33.0])
    train(config)
    for name, scores, (ap, step) in (
        ("a", [30.0, 40.0, 31.0, 30.0], (40.0, 0)),  # the burn-in, the warm start, last teacher and student
        ("b", [30.0, 25.0, 31.0, 30.0], (31.0, 4)),
    ):
        judged(monkeypatch, scores)
        outcome = train(replace(supervised(config), start=config.out, out=str(tmp_path / name)))
        assert outcome.ap == ap and outcome.detector is not None
        shipped = load_detector(outcome.detector)
        assert shipped.metadata["step"] == step
        if step == 0:
            assert equal_models(shipped.model, load_detector(Path(run.out)).model)
            assert "the detector of --init: no later teacher was better" in (tmp_path / name / "train.log").read_text()


def equal_models(a: Detector, b: Detector) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_patience_does_not_count_against_a_warm_start(
    run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = str(Path(run.out) / "best.safetensors")
    config = replace(data(tmp_path), backbone=None, init=init, steps=10, burn_in=0.2, patience=2)
    judged(monkeypatch, [40.0, 30.0, 30.0, 31.0, 31.0, 32.0, 32.0, 31.0, 31.0, 31.5, 31.5])
    outcome = train(config)
    assert (outcome.step, outcome.ap) == (10, 40.0)


def test_a_warm_start_killed_while_it_is_judged_can_be_resumed(
    run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(data(tmp_path), backbone=None, init=str(Path(run.out) / "best.safetensors"))

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Judge, "judge", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    judged(monkeypatch, [40.0, 30.0, 20.0, 35.0, 33.0])
    assert sedet.train(resume=tmp_path / "run").ap == 40.0


def test_a_resumed_run_is_still_compared_with_its_twin(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(monkeypatch, [30.0, 20.0, 28.0, 28.0])
    twin = train(replace(supervised(config), out=str(Path(config.out).parent / "the twin"), guard=False))
    judged(monkeypatch, [30.0])
    train(replace(config, start=str(twin.run), stop=3))
    log = Path(config.out) / "train.log"
    assert "Unlabelled images" not in log.read_text() and "After the burn-in" not in log.read_text()  # not judged yet
    judged(monkeypatch, [33.0, 32.0])
    assert sedet.train(resume=config.out).finished
    assert "Unlabelled images: +5.0 AP, last teacher against last teacher of both runs." in log.read_text()
    shutil.rmtree(twin.run)  # gone: then nothing is compared, and the command names what was shared
    sedet.train(resume=config.out)
    said = log.read_text().splitlines()
    assert any(f"--start '{twin.run}' --out" in line for line in said)


def test_equal_flags_share_a_burn_in_whatever_the_pool(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default number of steps follows the pool, which the twin does not see."""
    monkeypatch.setattr(plan, "_steps", lambda gpu, labeled, unlabeled: 4 if not unlabeled else 6)
    config = replace(config, steps=None)
    train(replace(supervised(config), out=str(Path(config.out).parent / "twin"), stop=2))
    outcome = train(replace(config, start=str(Path(config.out).parent / "twin")))
    assert outcome.finished and outcome.step == 4


def test_the_guard_knows_the_teachers_of_the_burn_in_too(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(monkeypatch, [23.2, 20.0, 19.6, 18.0, 21.5, 21.0])
    outcome = train(replace(config, steps=6, burn_in=4 / 6))
    assert (outcome.ap, outcome.labels_alone, outcome.teacher_ap) == (23.2, 19.6, 21.5)
    assert outcome.detector is not None and load_detector(outcome.detector).metadata["step"] == 2
    assert "of the labels alone (step 2): no later teacher was better" in (Path(config.out) / "train.log").read_text()


def test_mistakes_are_told_before_the_data_are_read(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sedet.training.run.read_data", None)
    (tmp_path / "weights.pth").write_text("no weights")
    (tmp_path / "file").touch()
    for change, message in (
        ({"backbone": "resnot50", "weights": "none"}, r"'resnot50' cannot be used.*Near names: resne"),
        ({"weights": str(tmp_path / "weights.pth")}, r"weights\.pth: no weights that can be read.*Give a .safetensors"),
        ({"out": str(tmp_path / "file" / "run")}, "file is no folder. Give another with --out"),
    ):
        with pytest.raises(SedetError, match=message):
            train(replace(config, **change))


def test_a_damaged_last_checkpoint_points_to_the_burn_in(config: TrainConfig) -> None:
    train(replace(config, stop=3))
    path = Path(config.out) / "checkpoints" / "last.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"damaged.*start a new run from it with --start {config.out}"):
        sedet.train(resume=config.out)
    (path.parent / "burn_in.pt").unlink()
    path.unlink()
    with pytest.raises(CheckpointError, match=r"no such checkpoint\. Start the run anew"):
        sedet.train(resume=config.out)


def test_without_a_twin_nothing_is_claimed_for_unlabelled_images(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch, [30.0, 20.0, 34.0, 33.0])
    train(config)
    log = (Path(config.out) / "train.log").read_text()
    assert "After the burn-in the last teacher changed by +4.0 AP. How much of it labels alone would have" in log


def test_without_val_the_last_teacher_is_shipped_with_a_warning(config: TrainConfig) -> None:
    outcome = train(replace(config, val=None))
    assert outcome.detector is not None and outcome.ap is None
    assert load_detector(outcome.detector).metadata["step"] == 4
    log = (Path(config.out) / "train.log").read_text()
    assert "too few to set some aside" in log and "Warning: without val" in log


def test_an_interruption_names_the_step_it_goes_on_from(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    tick = RunLog.tick

    def interrupt(self: RunLog, state: loop.State, *rest: Any) -> None:
        tick(self, state, *rest)
        if state.step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunLog, "tick", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(supervised(config))
    log = (Path(config.out) / "train.log").read_text()
    assert f"Interrupted at step 3; go on with --resume {config.out} (from step 2, of the last checkpoint)" in log


def test_an_interruption_says_how_to_go_on(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    save = loop.save

    def interrupt(t: loop.Training, name: str) -> None:
        save(t, name)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert f"Interrupted at step 0; go on with --resume {config.out}" in (Path(config.out) / "train.log").read_text()
    monkeypatch.setattr(loop, "save", save)
    assert train(resumed(Path(config.out), ()), resume=Path(config.out)).finished


def test_commands_it_names_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(monkeypatch, [1.0] * 20)
    config = replace(supervised(data(tmp_path)), out=str(tmp_path / "my run"), stop=2)
    train(config)
    text = (tmp_path / "my run" / "train.log").read_text()
    assert f"go on with --resume '{config.out}'" in text
    assert f"sedet predict '{config.out}/best.safetensors' IMAGES" in text
