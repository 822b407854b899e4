"""How a training ends: what is shipped, what it says of it, and what an interruption says."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sedet
from sedet.api import resumed
from sedet.config import TrainConfig
from sedet.detectors.build import Detector
from sedet.detectors.file import load_detector
from sedet.errors import CheckpointError, SedetError
from sedet.training import loop, plan
from sedet.training.run import train
from sedet.training.runlog import RunLog
from sedet.training.validate import Judge
from tests.training.runs import data, judged, snapshot, supervised

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
