"""A tiny training without pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from sedet.config import TrainConfig
from sedet.training.pictures import Album
from tests.training.runs import data


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setattr(Album, "_draw", lambda *_: None)  # pictures take longer than these trainings
    return data(tmp_path)
