"""Protocols of the field as files: from the raw public data to the table with one command each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sedet import settings
from sedet.config import TrainConfig
from sedet.errors import ConfigError

FOLDER = Path(__file__).parent
PATHS = ("data", "val", "images", "val_images", "unlabeled_data")
LISTS = ("methods", "percents", "shots", "folds", "seeds", "unlabeled")


@dataclass(frozen=True)
class Protocol:
    """A file of what to compare.

    Attributes:
        about: what it is, in a line.
        options: those of ``sedet compare``, paths complete.
        settings: of every training.
    """

    about: str
    options: dict[str, Any]
    settings: TrainConfig


def names() -> list[str]:
    """The protocols that come with the library."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_protocol(name: str, root: Path) -> Protocol:
    """Read a protocol.

    Args:
        name: one of :func:`names`, or a YAML file.
        root: the folder its paths are relative to.

    Raises:
        ConfigError: there is none, or it is broken; the line says where.
    """
    path = FOLDER / f"{name}.yaml" if name in names() else Path(name)
    if not path.is_file():
        raise ConfigError(f"there is no protocol '{name}'; there are: {', '.join(names())}, or a YAML file of yours")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        raise ConfigError(f"{path}{line}: no YAML file") from error
    known = {"about", "settings", "ceiling", *PATHS, *LISTS}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(f"{path}: a protocol is a map of {', '.join(sorted(known))}")
    for key in tree:
        if key not in known:
            near = settings.nearest(key, known)
            raise ConfigError(f"{path}: unknown key '{key}'" + (f". Did you mean '{near}'?" if near else ""))
    options: dict[str, Any] = {}
    for key, value in tree.items():
        if key in PATHS:
            options[key] = str(root / _text(value, path, key))
        elif key in LISTS:
            if not isinstance(value, list) or not value:
                raise ConfigError(f"{path}: {key} must be a list, not {str(value)[:40]!r}")
            options[key] = _numbers(value, path, key)
        elif key == "ceiling":
            if not isinstance(value, bool):
                raise ConfigError(f"{path}: ceiling must be true or false, not {str(value)[:40]!r}")
            options[key] = value
    if "unlabeled" in options:
        options["unlabeled"] = tuple(str(root / source) for source in options["unlabeled"])
    given = {} if tree.get("settings") is None else tree["settings"]
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: settings must be a map of settings, not {str(given)[:40]!r}")
    try:
        config = settings.from_dict(given)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return Protocol(str(tree.get("about", "")), options, config)


def _text(value: Any, path: Path, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{path}: {key} must be a path, not {str(value)[:40]!r}")
    return value


def _numbers(values: Sequence[Any], path: Path, key: str) -> tuple[Any, ...]:
    kinds: dict[str, type | tuple[type, ...]] = {"percents": (int, float), "methods": str, "unlabeled": str}
    kind = kinds.get(key, int)
    for value in values:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ConfigError(f"{path}: {key} cannot hold {str(value)[:40]!r}")
    return tuple(values)
