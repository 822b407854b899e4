"""What an update of each method costs: differences of two runs, one line a method that fits the detector."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import cost
from sedet.config import TrainConfig

from .cells import INPUTS, cell


class Here:
    """Stands in for a process of its own."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def submit(self, call: Any, *given: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(call(*given))
        return done


def test_what_is_done_once_is_not_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[TrainConfig] = []

    def train(config: TrainConfig, folder: Path, _: str) -> dict[str, Any]:
        given.append(config)
        assert config.stop is not None
        return {"seconds": 7.0 + 0.5 * (config.stop - 300), "memory": config.stop}

    monkeypatch.setattr(cost, "finish_run", train)
    monkeypatch.setattr(cost, "ProcessPoolExecutor", Here)
    found = cost.timed(TrainConfig(method="stac"), tmp_path / "burn", 300, tmp_path)
    assert found == {"method": "stac", "seconds": 0.5, "memory": 350}
    assert [config.stop for config in given] == [310, 350] and given[0].out != given[1].out
    assert all(config.start == str(tmp_path / "burn") for config in given)


def test_every_method_of_the_detector_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[str] = []

    def timed(config: TrainConfig, start: Path, first: int, _: Path) -> dict[str, Any]:
        starts.append(str(start))
        assert first == 4 and config.threads == 1
        return {"method": config.method, "seconds": 1.0, "memory": 1}

    monkeypatch.setattr(cost, "timed", timed)
    monkeypatch.setattr(cost, "finish_run", lambda *_, **__: {})
    monkeypatch.setattr(cost, "cell_data", lambda *_: SimpleNamespace(inputs=INPUTS))
    found = cost.measure(cell(), tmp_path, tmp_path, {"threads": 1})
    names = [one["method"] for one in found]
    assert names[:2] == ["sed", "supervised"] and "mixpl" in names and "soft-teacher" not in names
    assert len(set(starts)) == 1, "one burn-in for all"
