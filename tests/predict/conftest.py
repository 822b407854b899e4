"""The predictor that most tests use instead of running a network."""

from __future__ import annotations

import pytest
import torch

from sedet.detectors.file import LoadedDetector
from sedet.predictor import Predictor

from .scenes import CLASSES, find_red


@pytest.fixture
def red(monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """A predictor that finds red rectangles; ``load`` of any path gives it too."""
    loaded = LoadedDetector(None, CLASSES, 64, {})  # type: ignore[arg-type]
    monkeypatch.setattr("sedet.predictor.detect", find_red)
    monkeypatch.setattr("sedet.predictor.load_detector", lambda path, device: loaded)
    return Predictor(loaded, torch.device("cpu"))
