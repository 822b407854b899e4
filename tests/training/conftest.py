"""A tiny training without pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sedet.config import TrainConfig
from sedet.training.pictures import Album
from sedet.training.run import train
from tests.training.runs import data


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setattr(Album, "_draw", lambda *_: None)  # pictures take longer than these trainings
    return data(tmp_path)


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
