"""Settings from YAML, plain dicts and back: strict about names, types and ranges.

The tree itself is ``config.py``. A setting's name is the same everywhere: ``sed.gamma`` is the flag
``--sed.gamma``, the key ``gamma`` under ``sed:`` in YAML, and ``sed={"gamma": ...}`` in Python.
Nothing heavy is imported here: the command's help reads this file.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import math
import os
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

from sedet.config import TrainConfig
from sedet.errors import ConfigError
from sedet.files import write_atomically

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")

MAX_CONFIG_BYTES = 1_000_000

# What the same thing is called elsewhere.
SYNONYMS = {
    "lr": "rate",
    "learning_rate": "rate",
    "batch_size": "batch",
    "imgsz": "image_size",
    "epochs": "steps",
    "iterations": "steps",
    "max_steps": "steps",
    "output": "out",
    "output_dir": "out",
    "train": "labeled",
    "data": "labeled",
    "model": "detector",
    "pretrained": "weights",
    "num_workers": "workers",
    "amp": "precision",
    "ema": "ema_decay",
    "lambda_u": "sed.weight",
    "lambda_s": "sed.scale_weight",
}

# Dotted names by the range of their values.
SHARES = """backbone_rate warmup burn_in ramp hold ema_decay ema_end
    views.flip views.vertical_flip views.jitter views.grey views.blur views.erase_limit
    sed.threshold sed.class_share sed.class_share_end sed.box_share sed.overlay
    dense_teacher.share stac.threshold unbiased_teacher.threshold soft_teacher.candidate_threshold
    soft_teacher.threshold pseco.threshold pseco.candidate_iou csd.ramp_down csd.threshold mixpl.threshold"""
POSITIVE = """batch ratio steps rate accumulate threads eval_every save_every stop
    model.neck_channels model.level_range model.proposals model.roi_samples model.center_radius
    views.scale_min views.scale_max sed.largest_zoom sed.temperature sed.sharpness soft_teacher.jitters pseco.candidates
    consistent_teacher.buffer consistent_teacher.candidates mixpl.cache"""
LEAST_SIDE = "image_size"  # below 32 px the half-size view has no pyramid
NOT_NEGATIVE = """weight_decay clip workers cache patience seed model.head_convs model.freeze_stages
    sed.gamma sed.box_gamma sed.weight sed.scale_weight sed.class_weight sed.box_weight sed.quality_weight
    dense_teacher.class_weight dense_teacher.box_weight dense_teacher.quality_weight
    stac.weight unbiased_teacher.weight unbiased_teacher.focal_gamma soft_teacher.weight soft_teacher.uncertainty
    soft_teacher.jitter pseco.weight csd.weight consistent_teacher.weight mixpl.weight mixpl.mosaic_weight"""


# --- the tree -----------------------------------------------------------------------------------------------

PLACES = ("labeled", "images", "unlabeled", "val", "val_images")
"""Settings of a training that say where its data lie."""


@cache
def hints(cls: type) -> dict[str, Any]:
    """The resolved type of each field of a dataclass, in the order of its fields."""
    resolved = typing.get_type_hints(cls, include_extras=True)
    return {field.name: resolved[field.name] for field in dataclasses.fields(cls)}


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstring that stands under each field of a dataclass; empty where the source cannot be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return {}
    assert isinstance(tree.body[0], ast.ClassDef)
    docs, body = {}, tree.body[0].body
    for field, text in itertools.pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            docs[field.target.id] = " ".join(text.value.value.split())
    return docs


def is_group(hint: Any) -> bool:
    """Whether a field holds a nested group of settings."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def names(cls: type, prefix: str = "") -> dict[str, Any]:
    """Every setting of a tree by its dotted name, groups left out, with its type."""
    found: dict[str, Any] = {}
    for name, hint in hints(cls).items():
        if is_group(hint):
            found |= names(hint, f"{prefix}{name}.")
        else:
            found[prefix + name] = hint
    return found


def meant(text: str, near: str) -> str:
    """What to say of an unknown name ``text`` (a flag or a key), spelled ``near`` where it is known."""
    if "epochs" in text and near.lstrip("-") == "steps":
        return f"sedet counts updates, not epochs: give {near}"
    return f"Did you mean {near if near.startswith('-') else repr(near)}?"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, or None."""
    known = list(known)
    if SYNONYMS.get(name) in known:
        return SYNONYMS[name]
    inner = [k for k in known if k.rpartition(".")[2] == name]  # "gamma" for "sed.gamma"
    close = difflib.get_close_matches(name, known, n=1)
    return (inner + close + [None])[0]


# --- values -------------------------------------------------------------------------------------------------


def coerce(key: str, value: object, hint: Any) -> Any:
    """``value`` as the type ``hint``, from YAML's or Python's types or from text.

    Text is accepted for numbers because YAML reads ``1e-3`` as text. Raises ConfigError naming key, value and
    expected type.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return coerce(key, value, args[0])
    if origin in (types.UnionType, Union):
        if value is None and type(None) in args:
            return None
        (hint,) = (a for a in args if a is not type(None))
        return coerce(key, value, hint)
    if origin is Literal:
        if not isinstance(value, bool) and str(value) in args:
            return str(value)
        near = nearest(str(value), args)
        # A long list would bury what was meant; 'sedet methods' and the help have it whole.
        shown = args if len(args) <= 6 or near is None else (near, "...")
        raise _mismatch(key, value, f"one of {', '.join(shown)}", near)
    if origin is tuple:
        parts = [value] if isinstance(value, str | os.PathLike) else value
        if isinstance(parts, list | tuple):
            return tuple(coerce(key, part, args[0]) for part in parts)
        raise _mismatch(key, value, "a list")
    if hint is bool:
        if isinstance(value, bool):
            return value
        raise _mismatch(key, value, "true or false")
    if hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
            return int(value)
        raise _mismatch(key, value, "a whole number")
    if hint is float:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                return float(value)
            except (ValueError, OverflowError):
                pass
        raise _mismatch(key, value, "a number")
    if hint is Path and isinstance(value, str | os.PathLike):
        return Path(value)
    if hint is str:
        if isinstance(value, str | os.PathLike):
            return os.fspath(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)  # a class or file named 1
        raise _mismatch(key, value, "text (put it in quotes)" if value is not None else "text")
    raise _mismatch(key, value, getattr(hint, "__name__", str(hint)))


def _mismatch(key: str, value: object, expected: str, near: str | None = None) -> ConfigError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return ConfigError(f"{key} must be {expected}, not {shown}" + (f". Did you mean '{near}'?" if near else ""))


def validate(config: TrainConfig) -> TrainConfig:
    """Check ranges and pairs of settings; the config itself is returned.

    Raises:
        ConfigError: names the setting, its value and what is allowed.
    """
    values = dict(flat(config))
    ranges: list[tuple[str, str, Callable[[float], bool]]] = [
        (SHARES, "from 0 to 1", lambda v: 0 <= v <= 1),
        (POSITIVE, "above 0", lambda v: v > 0),
        (LEAST_SIDE, "at least 32", lambda v: v >= 32),
        (NOT_NEGATIVE, "0 or more", lambda v: v >= 0),
    ]
    for keys, allowed, holds in ranges:
        for key in keys.split():
            value = values[key]
            if value is not None and not (math.isfinite(value) and holds(value)):
                raise ConfigError(f"{key} must be {allowed}, not {value}")
    if config.views.scale_min > config.views.scale_max:
        raise ConfigError(
            f"views.scale_min ({config.views.scale_min}) is above views.scale_max ({config.views.scale_max})"
        )
    if (config.burn_in or 0.0) + config.ramp > 1:
        raise ConfigError(f"burn_in ({config.burn_in}) and ramp ({config.ramp}) together exceed 1")
    for key in ("classes", "unlabeled"):
        items = values[key]
        if len(set(items)) != len(items):
            twice = next(item for item in items if items.count(item) > 1)
            raise ConfigError(f"{key} names '{twice}' twice; name each once")
    return config


def flat(config: DataclassInstance, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a tree: its dotted name and its value."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if is_group(type(value)):
            yield from flat(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


# --- dicts --------------------------------------------------------------------------------------------------


def to_dict(config: DataclassInstance) -> dict[str, Any]:
    """Nested plain dict of everything, tuples as lists: what YAML and JSON can hold."""
    out: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if is_group(type(value)):
            out[field.name] = to_dict(value)
        elif isinstance(value, tuple):
            out[field.name] = list(value)
        else:
            out[field.name] = value
    return out


def from_dict(
    data: Mapping[str, Any], base: TrainConfig | None = None, where: Callable[[str], str] = lambda key: ""
) -> TrainConfig:
    """The settings of ``data`` over those of ``base`` (default: the defaults), checked.

    Args:
        data: nested maps (or group dataclasses), or dotted names.
        where: gives the text that goes before an error about a key ("my.yaml, line 3: ").

    Raises:
        ConfigError: an unknown name (with the nearest known one), a value of a wrong type or out of range.
    """
    config = _merge(base or TrainConfig(), data, "", where)
    try:
        return validate(config)
    except ConfigError as error:
        # A range error starts with the key it is about, which `where` can place.
        raise ConfigError(where(str(error).split(" ", 1)[0]) + str(error)) from None


def _merge(base: Options, data: Mapping[str, Any], prefix: str, where: Callable[[str], str]) -> Options:
    known = hints(type(base))
    changes: dict[str, Any] = {}
    for raw, value in data.items():
        name, _, rest = str(raw).partition(".")
        key = f"{prefix}{raw}"
        if name not in known or (rest and not is_group(known[name])):
            near = nearest(key, names(TrainConfig))
            hint = meant(key, near) if near else "'sedet train --help' lists all settings"
            raise ConfigError(f"{where(key)}unknown setting '{key}'. {hint}")
        if is_group(known[name]):
            group = changes.get(name, getattr(base, name))
            part = {rest: value} if rest else value
            if isinstance(part, known[name]):
                changes[name] = part
            elif isinstance(part, Mapping):
                changes[name] = _merge(group, part, f"{prefix}{name}.", where)
            else:
                problem = _mismatch(key, part, "a group of settings ('name: value' lines below it)")
                raise ConfigError(f"{where(key)}{problem}")
        else:
            try:
                changes[name] = coerce(key, value, known[name])
            except ConfigError as error:
                raise ConfigError(f"{where(key)}{error}") from None
    return dataclasses.replace(base, **changes)


# --- YAML ---------------------------------------------------------------------------------------------------


def load_config(path: Path | str, base: TrainConfig | None = None) -> TrainConfig:
    """Read a YAML file of settings over ``base`` (default: the defaults).

    Raises:
        ConfigError: the file cannot be read or is not a YAML mapping; a name is unknown or stands twice; a
            value is of a wrong type or out of range. Names the file and the line.
    """
    import yaml

    path = Path(path)
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: too large for a file of settings")
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the settings: {error.strerror or error}. Give a YAML file, as a run's config.yaml"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file; --config takes a YAML file of settings") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"{path}: not valid YAML: {detail}") from None
    if data is None:
        data = {}
    if not isinstance(data, dict) or not isinstance(node, yaml.MappingNode | None):
        raise ConfigError(f"{path}: a file of settings holds 'name: value' lines, not a {type(data).__name__}")
    lines = _key_lines(node, path) if node is not None else {}

    def where(key: str) -> str:
        return f"{path}, line {lines[key]}: " if key in lines else f"{path}: "

    return from_dict(data, base, where)


def _key_lines(node: Any, path: Path, prefix: str = "") -> dict[str, int]:
    """The line of each key, two levels deep; refuses a key that stands twice (YAML would keep the last)."""
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = f"{prefix}{key_node.value}", key_node.start_mark.line + 1
        if key in lines:
            raise ConfigError(f"{path}, line {line}: '{key}' stands twice (first on line {lines[key]})")
        lines[key] = line
        if not prefix and value_node.id == "mapping":
            lines |= _key_lines(value_node, path, f"{key}.")
    return lines


def save_config(config: TrainConfig, path: Path | str) -> None:
    """Write every setting, with what it means, as YAML that ``--config`` reads. Atomic: never half a file."""
    header = "# Settings of a sedet training. To run it again: sedet train --config THIS_FILE --out NEW_FOLDER\n"
    write_atomically(Path(path), (header + "\n".join(_yaml_lines(config)) + "\n").encode())


def _yaml_lines(config: DataclassInstance, indent: str = "") -> Iterator[str]:
    import yaml

    docs = field_docs(type(config))
    for name in hints(type(config)):
        value = getattr(config, name)
        if is_group(type(value)):
            yield f"\n{indent}# {(type(value).__doc__ or name).strip()}"
            yield f"{indent}{name}:"
            yield from _yaml_lines(value, indent + "  ")
            continue
        if name in docs:
            yield from textwrap.wrap(docs[name], 106, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        plain = list(value) if isinstance(value, tuple) else value
        shown = yaml.safe_dump(plain, default_flow_style=True, width=math.inf, allow_unicode=True)
        yield f"{indent}{name}: {shown.removesuffix('...' + chr(10)).rstrip()}"
