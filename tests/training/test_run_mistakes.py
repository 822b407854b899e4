"""What goes wrong before or while a training writes: one line, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sedet.config import TrainConfig
from sedet.data.loading import StepData
from sedet.errors import ConfigError, SedetError, TrainingError
from sedet.training.memory import is_lost_worker
from sedet.training.pictures import Album
from sedet.training.run import train
from tests.data.sets import edit
from tests.training.runs import snapshot_of_all, supervised

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
