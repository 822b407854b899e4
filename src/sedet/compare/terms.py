"""The equal terms of a comparison: what was asked for, and what each training came to, must not change under way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sedet import settings
from sedet.compare.cells import OWN, Cell, Comparison, Pool
from sedet.compare.variants import own_names
from sedet.config import TrainConfig
from sedet.data.write import write_json
from sedet.errors import ConfigError, SedetError
from sedet.training.inputs import absolute_paths, table_digest
from sedet.training.plan import sed_defaults

NOT_NUMBERS = ("device", "threads", "workers", "cache", "loggers", "report")
"""Settings that change no number by themselves, and may so differ when a comparison goes on."""
OF_PART = ("steps", "eval_every", "save_every")
"""Settings that may follow from the number of labels, and so differ between percents."""
FACTS = ("detector", "backbone", "image_size", "steps", "batch", "rate")
"""What rows from before ``settings`` was in them tell of theirs."""
SHOWN = 3
"""Differences that a message names."""


def terms(config: TrainConfig) -> dict[str, Any]:
    """The settings of a training that change its numbers, by dotted name, as JSON holds them.

    Method and seed are not among them, nor the places of the data, which their digests name.
    """
    found = settings.flat(absolute_paths(config))
    left_out = {*NOT_NUMBERS, *OWN}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in found
        if name.split(".")[0] not in left_out
    }


def digests(pool: Pool) -> dict[str, str]:
    """Name the content of the labels, of val and of the pool, wherever they lie.

    Pictures are named by their file's name and size: to read those of COCO anew on each call would take minutes.
    """
    told = hashlib.sha256()
    for path in (*(entry.path for entry in pool.table.images), *pool.more):
        size = path.stat().st_size if path.is_file() else -1
        told.update(f"{path.name}\0{size}\0".encode("utf-8", "surrogateescape"))
    return {"data": table_digest(pool.table), "val": table_digest(pool.val), "pool": told.hexdigest()[:16]}


def keep_settings(comparison: Comparison, labels: dict[str, str] | None = None) -> None:
    """Write down what all cells share, or compare it with what was written.

    Args:
        labels: :func:`digests`, so that other content under the same path is noticed. Where all are the same, the
            data may lie elsewhere.

    Raises:
        ConfigError: the folder holds a comparison with other settings or data, or something else.
    """
    path = comparison.out / "comparison.json"
    tree = settings.to_dict(comparison.settings)
    told: dict[str, Any] = {
        "data": str(Path(comparison.data).absolute()),
        "val": str(Path(comparison.val).absolute()),
        "unlabeled": [*comparison.unlabeled, *([comparison.unlabeled_data] if comparison.unlabeled_data else [])],
        "images": [comparison.images, comparison.val_images],
        "labels": labels,
        "settings": {key: value for key, value in tree.items() if key not in NOT_NUMBERS},
    }
    told = json.loads(json.dumps(told))
    if path.is_file():
        try:
            differing = _differing(json.loads(path.read_text(encoding="utf-8")), told)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} is damaged: remove it, or choose another --out") from error
        if differing:
            raise ConfigError(
                f"{comparison.out} holds a comparison with other settings ({', '.join(differing[:4])}): give the same "
                "ones to go on with it, or another --out"
            )
    elif comparison.out.exists() and any(comparison.out.iterdir()):
        raise ConfigError(f"{comparison.out} is in use and holds no comparison: choose another --out")
    else:
        write_json(path, told)


def _differing(before: dict[str, Any], told: dict[str, Any]) -> list[str]:
    old, new = before.get("labels") or {}, told["labels"] or {}
    found = []
    if "pool" not in old or old != new:  # else it is the same data, wherever it lies now
        found += [key for key in ("data", "val", "unlabeled") if before[key] != told[key]]
        if "images" in before and before["images"] != told["images"]:
            found.append("folder of the images")
    kinds = [key for key in old if key in new and old[key] != new[key]]
    found += ["content of the labels"] if {"data", "val"} & {*kinds} else []
    found += ["content of the unlabelled images"] if kinds == ["pool"] else []
    defaults = json.loads(json.dumps(settings.to_dict(TrainConfig())))
    now, then = (_filled(tree) for tree in (told["settings"], before["settings"]))
    names = [name for name in settings.names(TrainConfig) if name.split(".")[0] not in NOT_NUMBERS]
    return found + [name for name in names if _value(then, name, defaults) != _value(now, name, defaults)]


def _filled(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with what follows from others, so that what was written out before it did is the same."""
    sed = dict(tree.get("sed") or {})
    try:
        followed = settings.to_dict(sed_defaults(settings.from_dict({"sed": sed}).sed))
    except SedetError:  # of another version, or damaged: compared as it is
        return dict(tree)
    return {**tree, "sed": {**sed, **{key: followed[key] for key in ("student_view", "quality_weight")}}}


def _value(tree: Any, name: str, defaults: Any) -> Any:
    """A setting; its default where it is younger than the comparison."""
    for key in name.split("."):
        tree = tree.get(key, ...) if isinstance(tree, dict) else ...
        defaults = defaults[key]
    return defaults if tree is ... else tree


def planned(config: TrainConfig, labels: Mapping[str, str]) -> dict[str, Any]:
    """What the row of a training that is still to come will tell of its terms."""
    return {"settings": terms(config), "data": dict(labels), "versions": {"sedet": version("sedet")}, "planned": True}


def check_rows(rows: Mapping[Cell, Mapping[str, Any]], out: Path) -> None:
    """Refuse rows that were trained on other terms than the others of their table.

    Args:
        rows: those that are there, then those to come (:func:`planned`).

    Raises:
        ConfigError: two disagree; says in what.
    """
    first: dict[str, dict[str, tuple[Cell, Any]]] = {}
    for cell, row in rows.items():
        own = own_names(cell.method, cell.variant)
        now = {key: value for key, value in _told(row).items() if key not in own}
        for group, free in (("", OF_PART), (cell.data, ())):
            told = first.setdefault(group, {})
            for key, value in now.items():
                told.setdefault(key, (cell, value))
            wrong = [key for key in now if key not in free and now[key] != told[key][1]]
            if wrong:
                other = told[wrong[0]][0]
                wrong = [key for key in wrong if told[key][0] is other]
                before = {key: value for key, (_, value) in told.items()}
                verb, todo = "was", "remove the rows and runs that do not belong from it"
                if row.get("planned"):
                    verb, todo = "would be", "give the same settings, device, data and version, or another --out"
                raise ConfigError(
                    f"{out}: {cell.name} {verb} trained with {shown(wrong, now)}, but {other.name} with "
                    f"{shown(wrong, before)}; one table takes equal terms: {todo}"
                )


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    given = row.get("settings") or {key: row[key] for key in FACTS if key in row}
    known = {**given, **{f"content of {name}": digest for name, digest in (row.get("data") or {}).items()}}
    sedet = (row.get("versions") or {}).get("sedet")
    return known if sedet is None else {**known, "sedet": str(sedet).partition("+")[0]}


def shown(names: list[str], values: Mapping[str, Any]) -> str:
    """A few settings for a message."""
    more = ", ..." if len(names) > SHOWN else ""
    texts = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in (values[name] for name in names[:SHOWN]))
    return ", ".join(f"{name} {text}" for name, text in zip(names, texts, strict=False)) + more


def settle(config: TrainConfig) -> None:
    """See to it that a run folder that was begun can be gone on with.

    Where the comparison was moved, its settings are given the places of today, by which what starts from it is
    checked.

    Args:
        config: complete settings of the run, as they are now.

    Raises:
        ConfigError: it was begun on other terms.
    """
    file = Path(config.out) / "config.yaml"
    if not file.is_file():
        return
    begun = settings.load_config(file)
    now, before = terms(config), terms(begun)
    wrong = [name for name in now if now[name] != before[name]]
    if wrong:
        raise ConfigError(
            f"{config.out} was begun with {shown(wrong, before)}, and would go on with {shown(wrong, now)}: give the "
            "same settings and device, or remove it and what lies beside it under its name"
        )
    mine = absolute_paths(config)
    places = {name: getattr(mine, name) for name in ("labeled", "val", "images", "val_images", "out")}
    if any(getattr(begun, name) != value for name, value in places.items()):
        settings.save_config(settings.from_dict(places, begun), file)
