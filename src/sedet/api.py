"""``sedet.train``: a training from Python, with the names of the flags."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedet import settings as config_io
from sedet.config import TrainConfig
from sedet.errors import ConfigError

if TYPE_CHECKING:
    from sedet.training.verdict import Outcome

# What may differ when a run is continued: nothing that changes its numbers. The data must be the same ones.
RESUME_SETTINGS = ("device", "workers", "threads", "cache", "stop", *config_io.PLACES)


def train(
    config: TrainConfig | Path | str | None = None, *, resume: Path | str | None = None, **settings: Any
) -> Outcome:
    """Train a detector; the same as ``sedet train`` with the flags ``settings``.

    Args:
        config: settings to start from: a TrainConfig or a YAML file. Default: the defaults.
        resume: a run folder to continue with its own settings; only device, workers, threads, cache and stop may
            be given beside it, and where its data have moved to (labeled, images, unlabeled, val, val_images).
        settings: any field of TrainConfig, over ``config``. Groups are dicts (``sed={"gamma": 1.0}``) or
            their dataclasses (``sed=SEDConfig(gamma=1.0)``).

    Returns:
        What came of it: the run folder, the shipped detector and its scores.

    Raises:
        ConfigError: an unknown name (names the nearest), a wrong type, a value out of range, missing data.
        SedetError: anything else a user can mend, in data, files or memory.
    """
    if resume is not None:
        if config is not None:
            raise ConfigError("resume continues a run with its own settings: leave config out")
        final = config_io.from_dict(settings, resumed(Path(resume), settings))
    else:
        if not isinstance(config, TrainConfig | str | Path | None):
            raise ConfigError(
                f"config must be a TrainConfig or a YAML file, not a {type(config).__name__}; "
                "settings go by name: train(labeled=...), or train(**settings)"
            )
        base = config if isinstance(config, TrainConfig | None) else config_io.load_config(config)
        final = complete(config_io.from_dict(settings, base))

    from sedet.training import run

    return run.train(final, resume=Path(resume) if resume is not None else None)


def complete(config: TrainConfig) -> TrainConfig:
    """Check that a training has the data its method needs, and ranges; the config itself is returned."""
    if not config.labeled:
        raise ConfigError("no labelled data: --labeled takes a COCO JSON, a VOC folder or a YOLO data.yaml")
    if config.method != "supervised" and not config.unlabeled:
        raise ConfigError(
            "no unlabelled images: --unlabeled takes a folder, a list file or a glob; "
            "to train on the labels alone, add --method supervised"
        )
    return config_io.validate(config)


def resumed(run: Path, changed: Iterable[str]) -> TrainConfig:
    """The settings saved in a run folder, to continue it with; ``changed`` names what will be given anew."""
    saved = run / "config.yaml"
    if not saved.is_file():
        state = "it has no config.yaml" if run.is_dir() else "there is no such folder"
        raise ConfigError(f"{run} is not a run folder to resume: {state}")
    for name in changed:
        if name not in RESUME_SETTINGS:
            raise ConfigError(
                f"{name} cannot change when a run is resumed (only {', '.join(RESUME_SETTINGS)} can); "
                f"to train with other settings, start a new run: --config {saved} --out NEW_FOLDER"
            )
    # A stop belongs to the part of the run it was given for, and the folder may have moved.
    return replace(config_io.load_config(saved), stop=None, out=str(run))
