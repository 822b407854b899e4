"""Settings: strict names, types and ranges; YAML in and out; the same from flags, files and Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sedet import settings
from sedet.config import ModelConfig, SEDConfig, TrainConfig, ViewConfig
from sedet.errors import ConfigError

EVERYTHING_CHANGED = TrainConfig(
    labeled="data/train set.json",
    unlabeled=("photos: #1", "no", "[x]", "line\nbreak", "é"),
    val="null",
    classes=("yes", "1", "1e-3", "~", ""),
    out="...",
    exclude_labeled=True,
    method="supervised",
    precision="32",
    rate=1e-5,
    steps=10_000,
    burn_in=0.0,
    guard=False,
    model=ModelConfig(neck_channels=64),
    views=ViewConfig(scale_min=1.0, scale_max=1.0, erase=False),
    sed=SEDConfig(reweight="none", gamma=0.5, temperature=0.1, targets="hard"),
)


def write(folder: Path, text: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("config", [TrainConfig(), EVERYTHING_CHANGED])
def test_saved_settings_read_back_equal(config: TrainConfig, tmp_path: Path) -> None:
    settings.save_config(config, tmp_path / "config.yaml")
    assert settings.load_config(tmp_path / "config.yaml") == config
    assert settings.from_dict(settings.to_dict(config)) == config
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]  # no temporary file is left


def test_saved_settings_are_complete_and_plain_yaml(tmp_path: Path) -> None:
    settings.save_config(EVERYTHING_CHANGED, tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == settings.to_dict(EVERYTHING_CHANGED)
    assert "# Exponent of the discrepancy weight." in text


def test_every_setting_has_a_text_and_every_number_a_range() -> None:
    for group in (TrainConfig, ModelConfig, ViewConfig, SEDConfig):
        missing = [n for n, hint in settings.hints(group).items() if not settings.is_group(hint)]
        assert [n for n in missing if n not in settings.field_docs(group)] == []
    ranged = f"{settings.SHARES} {settings.POSITIVE} {settings.LEAST_SIDE} {settings.NOT_NEGATIVE}".split()
    assert len(set(ranged)) == len(ranged)
    numeric = {
        name
        for name, hint in settings.names(TrainConfig).items()
        if hint in (int, float) or str(hint) in ("int | None", "float | None")
    }
    assert set(ranged) == numeric


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path, "steps: 7\nsed:\n  gamma: 1\n")
    base = TrainConfig(seed=3, sed=SEDConfig(weight=4.0))
    assert settings.load_config(path, base) == TrainConfig(seed=3, steps=7, sed=SEDConfig(weight=4.0, gamma=1.0))


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert settings.load_config(write(tmp_path, "# nothing yet\n")) == TrainConfig()


def test_exponents_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    assert isinstance(yaml.safe_load("1e-3"), str)  # the trap
    config = settings.load_config(write(tmp_path, "rate: 1e-3\nsed: {gamma: 2}\nprecision: 32\n"))
    assert (config.rate, config.sed.gamma, config.precision) == (1e-3, 2.0, "32")
    assert type(config.sed.gamma) is float


def test_dotted_names_and_group_dataclasses() -> None:
    expected = TrainConfig(sed=SEDConfig(gamma=1.0, weight=3.0))
    assert settings.from_dict({"sed.gamma": 1, "sed.weight": 3}) == expected
    assert settings.from_dict({"sed": SEDConfig(gamma=1.0), "sed.weight": 3}) == expected
    assert settings.from_dict({"sed": {"gamma": 1.0, "weight": "3"}}) == expected


def test_one_path_is_a_list_of_one() -> None:
    config = settings.from_dict({"unlabeled": "photos", "labeled": Path("a") / "b.json", "classes": ["a", 1]})
    assert (config.unlabeled, config.labeled, config.classes) == (("photos",), "a/b.json", ("a", "1"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sed.gama": 1}, "unknown setting 'sed.gama'. Did you mean 'sed.gamma'?"),
        ({"sed": {"gama": 1}}, "unknown setting 'sed.gama'. Did you mean 'sed.gamma'?"),
        ({"gamma": 1}, "unknown setting 'gamma'. Did you mean 'sed.gamma'?"),
        ({"lr": 1}, "unknown setting 'lr'. Did you mean 'rate'?"),
        ({"unlabelled": "x"}, "unknown setting 'unlabelled'. Did you mean 'unlabeled'?"),
        ({"steps.x": 1}, "unknown setting 'steps.x'"),
        ({"zzzz": 1}, "unknown setting 'zzzz'. 'sedet train --help' lists all settings"),
        ({1: 1}, "unknown setting '1'"),
        ({"batch": "four"}, "batch must be a whole number, not 'four'"),
        ({"batch": 4.5}, "batch must be a whole number, not 4.5"),
        ({"batch": True}, "batch must be a whole number, not True"),
        ({"batch": []}, "batch must be a whole number, not []"),
        ({"rate": "fast"}, "rate must be a number, not 'fast'"),
        ({"rate": False}, "rate must be a number, not False"),
        ({"seed": None}, "seed must be a whole number, not None"),
        ({"guard": "yes"}, "guard must be true or false, not 'yes'"),
        ({"guard": 1}, "guard must be true or false, not 1"),
        ({"weights": False}, "weights must be text (put it in quotes), not False"),
        ({"classes": [True]}, "classes must be text (put it in quotes), not True"),
        ({"classes": {"a": 1}}, "classes must be a list, not {'a': 1}"),
        ({"unlabeled": 3}, "unlabeled must be a list, not 3"),
        ({"method": "sedd"}, "method must be one of sed, ..., not 'sedd'. Did you mean 'sed'?"),
        ({"sed": 3}, "sed must be a group of settings"),
        ({"sed": ViewConfig()}, "sed must be a group of settings"),
        ({"sed": None}, "sed must be a group of settings"),
        ({"labeled": "x" * 500, "out": ["y" * 500]}, "out must be text (put it in quotes), not ['yyy"),
    ],
)
def test_wrong_names_and_types_are_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings.from_dict(data)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 160


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"warmup": 1.5}, "warmup must be from 0 to 1, not 1.5"),
        ({"sed.threshold": -0.1}, "sed.threshold must be from 0 to 1, not -0.1"),
        ({"burn_in": float("nan")}, "burn_in must be from 0 to 1, not nan"),
        ({"batch": 0}, "batch must be above 0, not 0"),
        ({"rate": float("inf")}, "rate must be above 0, not inf"),
        ({"image_size": -320}, "image_size must be at least 32, not -320"),
        ({"ratio": -1}, "ratio must be above 0, not -1.0"),
        ({"views": {"scale_min": 2.0}}, "views.scale_min (2.0) is above views.scale_max (1.4)"),
        ({"burn_in": 0.95, "ramp": 0.2}, "burn_in (0.95) and ramp (0.2) together exceed 1"),
        ({"classes": ["a", "b", "a"]}, "classes names 'a' twice"),
    ],
)
def test_values_out_of_range_are_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings.from_dict(data)
    assert str(caught.value).startswith(message)


def test_range_ends_are_allowed() -> None:
    settings.from_dict({"warmup": 0, "burn_in": 1, "ramp": 0, "clip": 0, "model.head_convs": 0})


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("seed: 1\nstep: 3\n", 2, "unknown setting 'step'. Did you mean 'steps'?"),
        ("seed: 1\n\nsed:\n  gama: 3\n", 4, "unknown setting 'sed.gama'"),
        ("seed: 1\nsed:\n  gamma: high\n", 3, "sed.gamma must be a number, not 'high'"),
        ("# rate\nwarmup: 2\n", 2, "warmup must be from 0 to 1, not 2.0"),
        ("seed: 1\nseed: 2\n", 2, "'seed' stands twice (first on line 1)"),
        ("sed:\n  gamma: 1\n  gamma: 2\n", 3, "'sed.gamma' stands twice (first on line 2)"),
        ("seed: 1\nrate: [1, 2\n", 3, "not valid YAML: "),
        ("seed: 1\n\trate: 2\n", 2, "not valid YAML: "),
        ("seed: !!python/object/apply:os.system ['true']\n", 1, "not valid YAML: "),
    ],
)
def test_errors_in_a_file_name_its_line(text: str, line: int, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        settings.load_config(path)
    assert str(caught.value).startswith(f"{path}, line {line}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["just words", "- a\n- b\n", "3", "? [a, b]\n: 1\n", "[" * 1500, "a: &a [*a]\n"])
def test_files_that_are_no_settings(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"my\.yaml"):
        settings.load_config(write(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        settings.load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="directory"):
        settings.load_config(tmp_path)
    (tmp_path / "binary").write_bytes(b"\x80\x81\xff\x00")
    with pytest.raises(ConfigError, match="not a text file"):
        settings.load_config(tmp_path / "binary")
    (tmp_path / "nul").write_bytes(b"seed: \x00")
    with pytest.raises(ConfigError, match="not valid YAML"):
        settings.load_config(tmp_path / "nul")
    (tmp_path / "huge").write_bytes(b"#" * (settings.MAX_CONFIG_BYTES + 1))
    with pytest.raises(ConfigError, match="too large"):
        settings.load_config(tmp_path / "huge")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    settings.save_config(TrainConfig(seed=1), path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        settings.save_config(TrainConfig(seed=2), path)
    monkeypatch.undo()
    assert settings.load_config(path).seed == 1
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]
