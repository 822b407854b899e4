"""The package as users import it: a small public surface, light, with the names of the flags."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import sedet
from sedet.config import SEDConfig, TrainConfig
from sedet.detectors import backbones
from sedet.errors import ConfigError
from sedet.settings import save_config

from .test_cli import Recorder, install
from .test_help import imported_by

ROOT = Path(__file__).parents[1]


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder("outcome")
    install(monkeypatch, "sedet.training.run", train=recorder)
    return recorder


def test_import_is_light() -> None:
    assert imported_by("import sedet; sedet.TrainConfig; sedet.train; dir(sedet)") == set()


def test_public_names() -> None:
    assert set(sedet.__all__) == set(dir(sedet))
    assert {"train", "load", "evaluate", "TrainConfig", "SEDConfig", "__version__"} <= set(sedet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = sedet.trian


@pytest.mark.parametrize("name", sorted(set(sedet._LAZY)))
def test_lazy_names_exist(name: str) -> None:
    assert callable(getattr(sedet, name))


def test_version_is_the_project_file_s() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sedet.__version__ == project["version"] == version("sedet")


@pytest.mark.parametrize("extra", ["export", "supervision", "video", "weights"])
def test_what_the_errors_say_to_install_is_what_the_extra_brings(extra: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {re.split("[<>=]", package)[0] for package in extras[extra]}
    if extra == "weights":
        assert wanted <= set(backbones.WEIGHT_PACKAGES.values())
    else:
        source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
        assert wanted in [set(found.split()) for found in re.findall("pip install ([a-z ]+)", source)]


def test_nobody_is_told_to_install_sedet_from_an_index() -> None:
    """Its name there is anyone's to take."""
    places = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py")]
    told = re.compile("pip install [\"']?sedet")
    assert not [path for path in places if told.search(path.read_text(encoding="utf-8"))]


def test_the_quick_start_installs_what_its_export_needs() -> None:
    for page in ("README.md", "docs/index.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert re.search(r"^pip install .*\bexport\b", text, re.MULTILINE), page


def test_train_takes_the_names_of_the_flags(training: Recorder) -> None:
    result = sedet.train(labeled=Path("l.json"), unlabeled="photos", steps=5, sed={"gamma": 1})
    assert result == "outcome"
    expected = TrainConfig(labeled="l.json", unlabeled=("photos",), steps=5, sed=SEDConfig(gamma=1.0))
    assert training.calls == [((expected,), {"resume": None})]


def test_train_takes_a_config_and_changes_to_it(training: Recorder, tmp_path: Path) -> None:
    config = TrainConfig(labeled="l", unlabeled=("u",), seed=4)
    save_config(config, tmp_path / "c.yaml")
    for given in (config, tmp_path / "c.yaml", str(tmp_path / "c.yaml")):
        sedet.train(given, sed=SEDConfig(gamma=1.0))
    expected = TrainConfig(labeled="l", unlabeled=("u",), seed=4, sed=SEDConfig(gamma=1.0))
    assert [args for args, _ in training.calls] == [(expected,)] * 3


def test_train_resumes(training: Recorder, tmp_path: Path) -> None:
    save_config(TrainConfig(labeled="l", unlabeled=("u",), stop=3), tmp_path / "config.yaml")
    sedet.train(resume=tmp_path, threads=2)
    ((config,), kwargs), *_ = training.calls
    assert (config.stop, config.threads, kwargs) == (None, 2, {"resume": tmp_path})
    with pytest.raises(ConfigError, match="seed cannot change"):
        sedet.train(resume=tmp_path, seed=2)
    with pytest.raises(ConfigError, match="leave config out"):
        sedet.train(TrainConfig(), resume=tmp_path)


def test_train_refuses_what_the_command_refuses(training: Recorder) -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'labelled'\. Did you mean 'labeled'"):
        sedet.train(labelled="x")
    with pytest.raises(ConfigError, match="steps must be a whole number"):
        sedet.train(labeled="x", unlabeled="y", steps="many")
    with pytest.raises(ConfigError, match="no labelled data"):
        sedet.train(unlabeled="y")
    with pytest.raises(ConfigError, match="no unlabelled images"):
        sedet.train(labeled="x")
    with pytest.raises(ConfigError, match="warmup must be from 0 to 1"):
        sedet.train(TrainConfig(labeled="x", unlabeled=("y",), warmup=2.0))
    assert training.calls == []


def test_a_dict_is_no_config(training: Recorder) -> None:
    with pytest.raises(ConfigError, match=r"not a dict; settings go by name: train\(labeled=\.\.\.\)"):
        sedet.train({"labeled": "x"})  # type: ignore[arg-type]


def test_the_package_is_typed_and_the_command_is_declared() -> None:
    assert (ROOT / "src" / "sedet" / "py.typed").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["sedet"].partition(":")
    assert importlib.util.find_spec(module) is not None and function == "main"
