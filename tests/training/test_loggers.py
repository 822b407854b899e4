"""Metrics to other tools: what metrics.csv has, they have; nothing leaves the machine unasked."""

from __future__ import annotations

import csv
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sedet.config import TrainConfig
from sedet.errors import ConfigError
from sedet.training import loggers
from sedet.training.pictures import Album
from sedet.training.run import train
from tests.training import runs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("watch", "finish"):
        monkeypatch.setattr(Album, name, lambda *_: None)
    return runs.data(tmp_path)


def rows(config: TrainConfig, key: str) -> dict[int, float]:
    with (Path(config.out) / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row[key]) for row in csv.DictReader(file) if row[key] not in ("", "nan")}


def events(config: TrainConfig, tag: str) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(Path(config.out) / "tensorboard"))
    found.Reload()
    return {event.step: event.value for event in found.Scalars(tag)}


def test_tensorboard_has_what_the_csv_has_after_a_resume_too(config: TrainConfig) -> None:
    pytest.importorskip("tensorboard")
    train(replace(config, loggers=("tensorboard",), stop=3))
    train(replace(config, loggers=("tensorboard",)), resume=Path(config.out))
    for key, tag in (("sup_class", "sup/class"), ("teacher_ap50", "teacher/ap50")):
        wanted = rows(config, key)
        assert wanted and events(config, tag) == pytest.approx(wanted, rel=1e-5)


def test_wandb_runs_offline(config: TrainConfig) -> None:
    pytest.importorskip("wandb")
    train(replace(config, loggers=("wandb",)))
    assert list((Path(config.out) / "wandb").glob("offline-run-*/*.wandb"))


def test_mlflow_writes_into_the_run(config: TrainConfig) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    train(replace(config, loggers=("mlflow",)))
    client = MlflowClient(tracking_uri=(Path(config.out) / "mlflow").resolve().as_uri())
    experiment = client.get_experiment_by_name("sedet")
    (run,) = client.search_runs([experiment.experiment_id])
    found = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "sup_class")}
    assert found == pytest.approx(rows(config, "sup_class")) and run.data.params["sed.gamma"] == "1.0"
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("name", loggers.PACKAGES)
def test_a_missing_package_is_said_before_anything_is_written(
    name: str, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    package = loggers.PACKAGES[name]
    with pytest.raises(ConfigError, match=rf"--loggers {name}: its package is missing\. pip install {package}$"):
        train(replace(config, loggers=(name,)))
    assert not Path(config.out).exists()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [Requirement(text).name for text in extras[name]] == [package], "what the extra installs"


def test_values_that_cannot_be_drawn_are_left_out() -> None:
    assert loggers.finite({"a": 1.0, "b": float("nan"), "c": float("inf")}) == {"a": 1.0}
