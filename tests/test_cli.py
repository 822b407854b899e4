"""The command: what it refuses and how, exit codes and precedence.

Trainings and predictions are replaced by recorders: their own tests run them.
"""

from __future__ import annotations

import errno
import importlib
import json
import logging
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sedet import cli, flags, settings
from sedet.cli import main
from sedet.config import SEDConfig, TrainConfig
from sedet.errors import DataError
from tests.data.sets import coco

DATA = ["--labeled", "l.json", "--unlabeled", "photos"]


class Recorder:
    """Stands in for a function; keeps its calls and answers with ``answer``."""

    def __init__(self, answer: object = None) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.answer = answer

    def __call__(self, *args: Any, **kwargs: Any) -> object:
        self.calls.append((args, kwargs))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def install(patch: pytest.MonkeyPatch, name: str, **members: object) -> None:
    """Put a module of ``members`` in the place of module ``name``."""
    module = types.ModuleType(name)
    for key, value in members.items():
        setattr(module, key, value)
    patch.setitem(sys.modules, name, module)
    package, _, child = name.rpartition(".")
    patch.setattr(importlib.import_module(package), child, module, raising=False)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recorder:
    """Records what would be trained; the current folder is a temporary one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEDET_DEBUG", raising=False)
    recorder = Recorder()
    install(monkeypatch, "sedet.training.run", train=recorder)
    return recorder


def error_of(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    """Run the command, which must fail with ``code``, print nothing else and one line of error."""
    assert cli.main(argv) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sedet: error: ") and captured.err.count("\n") == 1, captured.err
    return captured.err[len("sedet: error: ") : -1]


def trained(recorder: Recorder) -> TrainConfig:
    ((config,), _), *others = recorder.calls
    assert not others and isinstance(config, TrainConfig)
    return config


# --- train: names, types, precedence ------------------------------------------------------------------------


def test_flags_reach_the_training(training: Recorder) -> None:
    argv = [
        "train",
        *DATA,
        "more photos",
        "--classes",
        "car",
        "dog",
        "--sed.gamma",
        "1e-3",
        "--image_size=320",
    ]
    assert cli.main([*argv, "--no-guard", "--sed.no-scale", "--exclude-labeled", "--rate", "1e-3"]) == 0
    assert trained(training) == TrainConfig(
        labeled="l.json",
        unlabeled=("photos", "more photos"),
        classes=("car", "dog"),
        image_size=320,
        guard=False,
        exclude_labeled=True,
        rate=1e-3,
        sed=SEDConfig(gamma=1e-3, scale=False),
    )
    assert training.calls[0][1] == {"resume": None}


def test_flags_win_over_the_file_and_the_file_over_the_defaults(training: Recorder, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("steps: 5\nseed: 6\nguard: false\nsed: {gamma: 7, weight: 8}\n")
    assert cli.main(["train", "--seed", "1", *DATA, "--config", "my.yaml", "--sed.gamma", "2", "--guard"]) == 0
    expected = TrainConfig(
        labeled="l.json",
        unlabeled=("photos",),
        steps=5,
        seed=1,
        guard=True,
        sed=SEDConfig(gamma=2.0, weight=8.0),
    )
    assert trained(training) == expected


def test_a_saved_run_can_be_run_again(training: Recorder, tmp_path: Path) -> None:
    first = TrainConfig(labeled="l.json", unlabeled=("a", "b"), rate=1e-5, sed=SEDConfig(reweight="none"))
    settings.save_config(first, tmp_path / "config.yaml")
    assert cli.main(["train", "--config=config.yaml"]) == 0
    assert trained(training) == first


def test_every_setting_is_a_flag() -> None:
    known = flags.flags_of(cli.TrainOptions)
    assert set(known) == set(settings.names(TrainConfig)) | {"config", "resume"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--labled", "x"], "unknown flag --labled. Did you mean --labeled?"),
        (["--sed.gama=2"], "unknown flag --sed.gama. Did you mean --sed.gamma?"),
        (["--gamma", "2"], "unknown flag --gamma. Did you mean --sed.gamma?"),
        (["--epochs", "3"], "unknown flag --epochs. sedet counts updates, not epochs: give --steps"),
        (["--lr", "2"], "unknown flag --lr. Did you mean --rate?"),
        (["--no-sed.scale"], "unknown flag --no-sed.scale. Did you mean --sed.no-scale?"),
        (["--no-gaurd"], "unknown flag --no-gaurd. Did you mean --no-guard?"),
        (["--qqqq"], "unknown flag --qqqq. See --help"),
        (["--batch", "x"], "--batch must be a whole number, not 'x'"),
        (["--batch=1.5"], "--batch must be a whole number, not '1.5'"),
        (["--batch"], "--batch needs a value"),
        (["--val", "--out", "x"], "--val needs a value"),
        (["--rate", "fast"], "--rate must be a number, not 'fast'"),
        (["--guard", "False"], "--guard takes no value: write --guard or --no-guard"),
        (["--sed.scale", "no"], "--sed.scale takes no value: write --sed.scale or --sed.no-scale"),
        (["--method", "sedd"], "--method must be one of sed, ..., not 'sedd'. Did you mean 'sed'?"),
        (["stray"], "unexpected argument: stray"),
        (["--labeled", "a", "b"], "unexpected 'b' after --labeled a"),
        (["--guard", "b"], "unexpected 'b' after --guard"),
        (["-x"], "unexpected argument: -x"),
        (["--unlabeled", "a", "--unlabeled", "b"], "--unlabeled is given twice"),
        (["--labeled", "a", "--classes"], "--classes needs at least one value"),
        (["--unlabeled", "--labeled", "a"], "--unlabeled needs at least one value"),
        (["--labeled", "x", "--unlabeled", "y", "--warmup", "2"], "warmup must be from 0 to 1, not 2.0"),
        (["--labeled", "x", "--unlabeled", "y", "--rate", "nan"], "rate must be above 0, not nan"),
        ([], "no labelled data: --labeled"),
        (["--labeled", "x"], "no unlabelled images: --unlabeled"),
        (["--config", "absent.yaml"], "absent.yaml: cannot read the settings: No such file"),
        (["--config"], "--config needs a value"),
        (["--resume"], "--resume needs a value"),
    ],
)
def test_wrong_flags_are_named(
    argv: list[str], message: str, training: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(capsys, "train", *argv).startswith(message)
    assert training.calls == []


def test_the_file_of_settings_is_named_with_its_line(
    training: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.yaml").write_text("seed: 1\nsed:\n  gama: 2\n")
    message = error_of(capsys, "train", *DATA, "--config", "my.yaml")
    assert message == "my.yaml, line 3: unknown setting 'sed.gama'. Did you mean 'sed.gamma'?"


def test_supervised_needs_no_unlabelled_images(training: Recorder) -> None:
    assert cli.main(["train", "--labeled", "x", "--method", "supervised"]) == 0
    assert trained(training).method == "supervised"


# --- train: resume ------------------------------------------------------------------------------------------


def test_resume_takes_the_saved_settings(training: Recorder, tmp_path: Path) -> None:
    saved = TrainConfig(labeled="l", unlabeled=("u",), out="elsewhere", stop=10, workers=3, sed=SEDConfig(gamma=1))
    (tmp_path / "run").mkdir()
    settings.save_config(saved, tmp_path / "run" / "config.yaml")
    assert cli.main(["train", "--resume", "run", "--threads", "1", "--device=cpu"]) == 0
    config = trained(training)
    # The stop was for the first part; the folder is the one named now.
    assert (config.stop, config.out) == (None, "run")
    assert (config.threads, config.device, config.workers, config.sed.gamma) == (1, "cpu", 3, 1.0)
    assert training.calls[0][1] == {"resume": Path("run")}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--seed", "1"], "seed cannot change when a run is resumed (only device, "),
        (["--sed.no-scale"], "sed.scale cannot change when a run is resumed"),
        (["--steps", "9", "--threads", "1"], "steps cannot change when a run is resumed"),
        (["--config", "x.yaml"], "--resume continues a run with its own settings"),
        (["--stop", "0"], "stop must be above 0"),
    ],
)
def test_resume_refuses_other_settings(
    argv: list[str], message: str, training: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    settings.save_config(TrainConfig(labeled="l", unlabeled=("u",)), tmp_path / "run" / "config.yaml")
    assert error_of(capsys, "train", "--resume", "run", *argv).startswith(message)
    assert training.calls == []


def test_resume_of_no_run(training: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no such folder" in error_of(capsys, "train", "--resume", "absent")
    assert "it has no config.yaml" in error_of(capsys, "train", "--resume", str(tmp_path))


# --- the other commands -------------------------------------------------------------------------------------


def test_predict_passes_its_flags(training: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder("2 detections")
    install(monkeypatch, "sedet.predict", predict_sources=recorder)
    assert (
        cli.main(["predict", "d.safetensors", "a.jpg", "b/", "--format", "csv", "coco", "--draw", "--score=0.5"]) == 0
    )
    (args, kwargs), *_ = recorder.calls
    assert args == ("d.safetensors", ("a.jpg", "b/"))
    assert (kwargs["format"], kwargs["draw"], kwargs["score"]) == (("csv", "coco"), True, 0.5)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["predict"], "sedet predict needs DETECTOR SOURCES"),
        (["predict", "d"], "nothing to predict on"),
        (["predict", "d", "a", "--draw", "b"], "unexpected argument: b"),
        (
            ["predict", "d", "a", "--format", "xml"],
            "--format must be one of jsonl, csv, coco, yolo, not 'xml'",
        ),
        (["predict", "d", "a", "--score", "2"], "--score must be from 0 to 1, not 2"),
        (["predict", "d", "a", "--batch", "0"], "--batch must be 1 or more, not 0"),
        (["eval", "d"], "sedet eval needs DETECTOR DATA"),
        (["split", "x"], "sedet split needs DATA --out"),
        (["split", "x", "--out", "o", "--percent", "ten"], "--percent must be a number, not 'ten'"),
        (["check"], "sedet check needs DATA"),
        (["demo", "here"], "unexpected argument: here"),
        (["demo", "--sed", "1"], "unknown flag --sed. Did you mean --seed?"),
        (["trian"], "unknown command 'trian'. Did you mean 'sedet train'?"),
        (["xyz"], "unknown command 'xyz'. Commands: demo, check, train"),
        (["--verson"], "unknown flag '--verson'"),
    ],
)
def test_wrong_words_are_named(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, *argv).startswith(message)


def test_eval_prints_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder(types.SimpleNamespace(table=lambda: "AP 50.0"))
    install(monkeypatch, "sedet.judge", evaluate=recorder)
    assert cli.main(["eval", "d.safetensors", "v.json", "--json", "m.json", "--classes", "car", "dog"]) == 0
    assert capsys.readouterr().out == "AP 50.0\n"
    (args, kwargs), *_ = recorder.calls
    assert args == ("d.safetensors", "v.json")
    assert (kwargs["json"], kwargs["classes"], kwargs["split"]) == ("m.json", ("car", "dog"), "val")


def test_split_writes_and_reports(training: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    names = [f"{i}.png" for i in range(10)]
    for i, name in enumerate(names):
        Image.new("RGB", (32, 32), (i * 20, 0, 0)).save(tmp_path / "images" / name)
    coco = {
        "images": [{"id": i, "file_name": name, "width": 32, "height": 32} for i, name in enumerate(names)],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 7, "bbox": [1, 2, 20, 10], "area": 200, "iscrowd": 0}
            for i in range(10)
        ],
        "categories": [{"id": 7, "name": "car"}],
    }
    (tmp_path / "l.json").write_text(json.dumps(coco))
    argv = ["split", "l.json", "--images", "images", "--percent", "30", "--out", "s"]
    assert cli.main(argv) == 0
    assert "car" in capsys.readouterr().out
    labeled = json.loads((tmp_path / "s" / "labeled.json").read_text())["images"]
    unlabeled = (tmp_path / "s" / "unlabeled.txt").read_text().split()
    assert (len(labeled), len(unlabeled)) == (3, 7)
    assert "s" in error_of(capsys, *argv)  # the folder is in use now
    assert error_of(capsys, "split", "absent.json", "--out", "t").startswith(str(tmp_path / "absent.json"))


def test_warnings_are_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("sedet")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    cli.show_warnings()
    cli.show_warnings()
    logging.getLogger("sedet.predict").warning("skipped: %s", "a\x1b.jpg")
    assert capsys.readouterr().err == "sedet: warning: skipped: a\\x1b.jpg\n"


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 2)])
def test_check_tells_whether_training_would_start(
    ok: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = types.SimpleNamespace(ok=ok, lines=lambda: ["first", "second"])
    recorder = Recorder(report)
    install(monkeypatch, "sedet.data.check", check_data=recorder)
    assert cli.main(["check", "l.json", "--unlabeled", "u", "v", "--val", "w"]) == code
    assert capsys.readouterr().out == "first\nsecond\n"
    assert recorder.calls[0][1]["unlabeled"] == ("u", "v")


def test_the_demo_takes_a_free_folder(training: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recorder = Recorder()
    install(monkeypatch, "sedet.demo.run", run_demo=recorder)
    (tmp_path / "sedet-demo").mkdir()
    assert cli.main(["demo", "--seed", "3"]) == 0
    assert cli.main(["demo", "--out", "sedet-demo"]) == 0
    assert [call[0] for call in recorder.calls] == [(Path("sedet-demo-2"),), (Path("sedet-demo"),)]
    assert recorder.calls[0][1]["seed"] == 3


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DataError("box 3 has no area", "a.json", "Remove it"), "a.json: box 3 has no area. Remove it"),
        (OSError(errno.ENOSPC, "No space left on device", "x.pt"), "the disk is full while writing x.pt. "),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full. Free some space, then run"),
        (MemoryError(), "out of memory. Lower --batch"),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), "runs: Permission denied"),
    ],
)
def test_errors_that_the_user_can_mend_are_one_line(
    error: Exception, message: str, training: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    training.answer = error
    assert error_of(capsys, "train", *DATA).startswith(message)


def test_names_from_outside_can_not_steer_the_terminal(training: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    training.answer = DataError("no", "evil\n\x1b[31mname\x07\u202e.jpg")
    assert error_of(capsys, "train", *DATA) == r"evil \x1b[31mname\x07\u202e.jpg: no"


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_debug_shows_the_traceback_too(
    how: str, training: Recorder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    training.answer = DataError("broken", "a.json")
    argv = ["train", *DATA]
    if how == "flag":
        argv = ["--debug", *argv]
    else:
        monkeypatch.setenv("SEDET_DEBUG", "1")
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error and error.endswith("sedet: error: a.json: broken\n")


@pytest.mark.parametrize("error", [ValueError("odd"), OSError(errno.EIO, "I/O error", "x"), ModuleNotFoundError("x")])
def test_a_bug_keeps_its_traceback(error: Exception, training: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    training.answer = error
    assert cli.main(["train", *DATA]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and "this is a bug in sedet" in lines[-1]


def test_interruption_is_one_line(training: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    training.answer = KeyboardInterrupt()
    assert cli.main(["train", *DATA]) == 130
    captured = capsys.readouterr()
    assert captured.err == "sedet: interrupted\n" and captured.out == ""


def test_split_by_shots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = coco(tmp_path / "d", [[(3, [4, 4, 20, 20])], [(3, [4, 4, 20, 20])], [(7, [4, 4, 20, 20])]])
    assert main(["split", str(file), "--shots", "1", "--out", str(tmp_path / "s")]) == 0
    assert capsys.readouterr().out.startswith("2 of 3 images labelled")
    assert main(["split", str(file), "--shots", "0", "--out", str(tmp_path / "t")]) == 2
