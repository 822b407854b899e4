"""A real process, killed and resumed, equals one that was left alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sedet
from sedet.config import PseCoConfig, TrainConfig
from sedet.errors import CheckpointError, ConfigError, DataError
from sedet.settings import PLACES, load_config, save_config
from sedet.signals import TERMINATED
from sedet.training import loop
from sedet.training.checkpoint import load_checkpoint
from sedet.training.pictures import Album
from sedet.training.run import train
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.dataset(tmp_path_factory.mktemp("data"), val=1)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Album, "_draw", lambda *_: None)


def config(data: Path, out: Path, **changes: Any) -> TrainConfig:
    return tiny.config(data, out, **{"steps": 10, "burn_in": 0.3, "eval_every": 5, "save_every": 2, **changes})


def start(*words: str) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "sedet", "train", *words],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )


def same(a: Any, b: Any) -> bool:
    """Equal bit for bit, floats that are NaN too."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or (a != a and b != b)


def assert_same_runs(first: Path, second: Path) -> None:
    for name in ("last.pt", "burn_in.pt"):
        one, two = (load_checkpoint(run / "checkpoints" / name) for run in (first, second))
        for part in ("student", "teacher", "optimizer", "state", "schedule"):
            assert same(one[part], two[part]), (name, part)
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()


def test_a_killed_and_resumed_run_equals_one_left_alone(data: Path, tmp_path: Path) -> None:
    """Killed in the burn-in, and asked to end after it as a scheduler does, wherever the process happens to be."""
    file = tmp_path / "config.yaml"
    save_config(config(data, tmp_path / "unused"), file)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    alone = start("--config", str(file), "--out", str(whole))
    assert alone.wait(300) == 0, alone.communicate()[1].decode()

    killed_at = []
    words = ["--config", str(file), "--out", str(broken)]
    for target, sent in ((2, signal.SIGKILL), (6, signal.SIGTERM)):
        process = start(*words)
        deadline = time.monotonic() + 300
        step = 0
        while step < target and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
            if (broken / "checkpoints" / "last.pt").is_file():
                step = load_checkpoint(broken / "checkpoints" / "last.pt")["state"]["step"]
        process.send_signal(sent)
        code, said = process.wait(60), process.communicate()[1].decode()
        assert code == (-signal.SIGKILL if sent == signal.SIGKILL else TERMINATED), said
        if sent == signal.SIGTERM:
            assert f"go on with --resume {broken}" in " ".join(said.split()) and "Traceback" not in said
        killed_at.append(load_checkpoint(broken / "checkpoints" / "last.pt")["state"]["step"])
        assert target <= killed_at[-1] < 10
        words = ["--resume", str(broken)]
    resumed = start(*words)
    assert resumed.wait(300) == 0, resumed.communicate()[1].decode()
    assert_same_runs(whole, broken)
    assert (whole / "best.safetensors").is_file() and (broken / "best.safetensors").is_file()


def test_a_run_in_parts_equals_one_in_a_piece(data: Path, tmp_path: Path) -> None:
    """--stop in the middle of a row of metrics, of the ramp, and at the end of the burn-in."""
    train(config(data, tmp_path / "whole", steps=6, burn_in=0.5))
    outcome = train(config(data, tmp_path / "parts", steps=6, burn_in=0.5, stop=3))
    assert outcome.step == 3 and not outcome.finished
    assert load_config(tmp_path / "parts" / "config.yaml").stop is None  # the settings are those of the whole run
    for stop in (4, None):
        given = config(data, tmp_path / "parts", steps=6, burn_in=0.5, stop=stop, workers=2)
        outcome = train(given, resume=tmp_path / "parts")
    assert outcome.finished and outcome.step == 6
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_run_goes_on_where_its_data_have_moved(data: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train(config(data, first))
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(data, here)
    moving = config(here, second)
    train(replace(moving, stop=4))
    here.rename(there)
    moved = config(there, second)
    with pytest.raises(DataError, match="here"):
        sedet.train(resume=second)
    sedet.train(resume=second, **{name: getattr(moved, name) for name in PLACES})
    assert_same_runs(first, second)
    places = {name: getattr(moved, name) for name in PLACES}
    assert load_config(second / "config.yaml") == replace(load_config(first / "config.yaml"), **places, out=str(second))


def test_other_data_are_not_moved_data(data: Path, tmp_path: Path) -> None:
    train(config(data, tmp_path / "run", stop=4))
    other = tiny.dataset(tmp_path / "other", val=1, labeled=3)
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match="when this run began"):
        sedet.train(resume=tmp_path / "run", labeled=config(other, tmp_path).labeled)
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    "given",
    [
        {"method": "sed"},
        {"method": "sed", "half_size": False},
        {"method": "pseco", "half_size": False, "detector": "faster_rcnn", "pseco": PseCoConfig(threshold=0.1)},
    ],
)
def test_a_shared_burn_in_equals_ones_own(data: Path, tmp_path: Path, given: dict[str, Any]) -> None:
    """Also where the burn-in has no use for P2 and the method has."""
    train(config(data, tmp_path / "first", **given | {"method": "supervised", "unlabeled": (), "stop": 3}))
    train(config(data, tmp_path / "second", **given, start=str(tmp_path / "first"), stop=4))
    train(config(data, tmp_path / "own", **given, stop=4))
    one, two = (load_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("second", "own"))
    assert same(one["student"], two["student"]) and same(one["optimizer"], two["optimizer"])


def test_a_kill_at_the_end_of_the_burn_in_does_not_lose_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the step's two files it comes before."""
    honest = loop.save
    for spared in (0, 1):
        out = tmp_path / str(spared)
        saved: list[str] = []

        def save(training: Any, name: str, spared: int = spared, saved: list[str] = saved) -> None:
            if training.state.step == 3 and len(saved) == spared:
                raise KeyboardInterrupt
            if training.state.step == 3:
                saved.append(name)
            honest(training, name)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "save", save)
            with pytest.raises(KeyboardInterrupt):
                train(config(data, out))
        train(config(data, out), resume=out)
        assert load_checkpoint(out / "checkpoints" / "burn_in.pt")["state"]["step"] == 3


def test_a_shared_burn_in_is_no_place_to_stop(data: Path, tmp_path: Path) -> None:
    """Nothing would be trained, and the folder could not be resumed."""
    train(config(data, tmp_path / "first", method="supervised", unlabeled=(), stop=3))
    with pytest.raises(ConfigError, match="stop: with --start the run begins at step 3"):
        train(config(data, tmp_path / "second", start=str(tmp_path / "first"), stop=3))
    assert not (tmp_path / "second").exists()


def test_checkpoints_that_do_not_belong(data: Path, tmp_path: Path) -> None:
    train(config(data, tmp_path / "run", stop=2))
    file = tmp_path / "run" / "checkpoints" / "last.pt"
    saved = load_checkpoint(file)
    for change in (
        {"student": {}},
        {"state": {"step": 1, "unknown": 2}},
        {"optimizer": {"state": {}, "param_groups": []}},
        {"state": None},
        {"facts": {"data": None}},
        {"facts": 3},
    ):
        torch.save({**saved, **change}, file)
        with pytest.raises(CheckpointError, match=r"last\.pt"):
            train(config(data, tmp_path / "run"), resume=tmp_path / "run")
    torch.save({"sedet_checkpoint": 1}, file)
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        train(config(data, tmp_path / "run"), resume=tmp_path / "run")
    file.unlink()
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        train(config(data, tmp_path / "run"), resume=tmp_path / "run")
