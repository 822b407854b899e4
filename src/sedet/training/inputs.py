"""What a training reads: labelled data, val and the unlabelled pool, read once, checked and cleaned."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sedet.config import TrainConfig
from sedet.data.check import header_problems, table_problems, without_left_out
from sedet.data.clean import Problem, clean
from sedet.data.formats import align_classes, read_table
from sedet.data.layout import absolute
from sedet.data.sources import UnlabeledPool, unlabeled_pool
from sedet.data.split import few_to_judge, holdout
from sedet.data.table import AnnotationTable
from sedet.errors import ConfigError, DataError

SHOWN = 10
"""Warnings of the data check that are printed; train.log has all of them."""


@dataclass(frozen=True)
class TrainingData:
    """What a training reads.

    Attributes:
        labeled: what is learnt from; val: what is judged by, or None; pool: unlabelled images, or None.
        notes: what was done with the data, one line each.
        problems: warnings and notes of the check (it has no errors, else training would not start).
        unread: images that cannot be read, of each kind; they are not in ``labeled``, ``val`` and ``pool``.
    """

    labeled: AnnotationTable
    val: AnnotationTable | None
    pool: UnlabeledPool | None
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]
    unread: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What a checkpoint remembers of its data, so that it is not continued on other data."""
        return {
            "classes": list(self.labeled.classes),
            "labeled": len(self.labeled),
            "val": 0 if self.val is None else len(self.val),
            "unlabeled": 0 if self.pool is None else len(self.pool),
            "digest": table_digest(self.labeled),
        }


def read_data(config: TrainConfig) -> TrainingData:
    """Read, clean and check (the fast check of ``sedet check``: headers and equal files, no decoding).

    Raises:
        DataError: what would stop training; of several errors the first, with how many there are.
    """
    notes: list[str] = []
    whole = read_table(config.labeled, config.images, "train")
    labeled, problems = clean(whole.with_classes(config.classes) if config.classes else whole)
    unread = unreadable(whole, labeled)
    val: AnnotationTable | None = None
    if config.val is not None:
        whole_val = read_table(config.val, config.val_images, "val")
        val, more = clean(whole_val)
        unread += unreadable(whole_val, val)
        val = without_left_out(val, whole, labeled)
        problems += more
    problems += table_problems(labeled, val, fast=True)
    stop_at_errors(problems)
    if val is not None:
        val = align_classes(val, labeled.classes)
    elif (parts := holdout(labeled, seed=config.seed)) is not None:
        labeled, val = parts
        notes.append(f"No --val: {len(val)} of the labelled images are set aside to judge by, {len(labeled)} train.")
    else:
        notes.append(
            f"No --val, and {len(labeled)} labelled images are too few to set some aside: nothing is judged, and the "
            "last teacher is shipped. Give --val to know whether unlabelled images helped."
        )
    if val is not None and (few := few_to_judge(len(val))) is not None:
        notes.append(f"{few}.")
    pool: UnlabeledPool | None = None
    if config.method != "supervised":
        pool = unlabeled_pool(config.unlabeled, labeled, val, config.exclude_labeled)
        notes.append(pool.summary())
        broken = header_problems(pool.paths)
        readable = tuple(path for path, problem in zip(pool.paths, broken, strict=True) if problem is None)
        if not readable:
            raise DataError("none of the unlabelled images can be read", ", ".join(config.unlabeled), "Give others")
        if len(readable) < len(pool):
            problems += [p for p in broken if p is not None]
            notes.append(f"{len(pool) - len(readable)} unlabelled images left out: they cannot be read")
            unread += [str(path) for path, problem in zip(pool.paths, broken, strict=True) if problem is not None]
            pool = replace(pool, paths=readable)
    return TrainingData(labeled, val, pool, tuple(notes), tuple(problems), tuple(unread))


def unreadable(table: AnnotationTable, cleaned: AnnotationTable) -> list[str]:
    """Images that were left out for what their files are, not for what the annotations say of them."""
    kept = {entry.path for entry in cleaned.images}
    gone = [entry.path for entry in table.images if entry.path not in kept]
    return [str(path) for path, problem in zip(gone, header_problems(gone), strict=True) if problem is not None]


def stop_at_errors(problems: Sequence[Problem]) -> None:
    """Raise the first error among the problems of data."""
    errors = [p for p in problems if p.level == "error"]
    if errors:
        more = len(errors) - 1
        others = f" (and {more} more error{'' if more == 1 else 's'}: sedet check lists all)" if more else ""
        raise DataError(errors[0].message + others, errors[0].file, errors[0].todo)


def table_digest(table: AnnotationTable) -> str:
    """Names the images and objects of a table, wherever it lies."""
    told = hashlib.sha256()
    for entry, objects in zip(table.images, table.objects, strict=True):
        told.update(entry.name.encode("utf-8", "surrogateescape") + b"\0")
        for values in (objects.boxes, objects.labels, objects.crowd, objects.difficult):
            told.update(values.tobytes())
    return told.hexdigest()[:16]


def same_data(saved: dict[str, Any], now: dict[str, Any], config: TrainConfig) -> list[str]:
    """Compare the data of a checkpoint with what is there now; returns lines to say about harmless changes.

    Raises:
        ConfigError: the labelled data or val are others.
    """
    if saved["classes"] != now["classes"]:
        gone = [name for name in saved["classes"] if name not in now["classes"]]
        new = [name for name in now["classes"] if name not in saved["classes"]]
        how = "; ".join(f"{what}: {', '.join(names)}" for what, names in (("gone", gone), ("new", new)) if names)
        raise ConfigError(
            f"the classes of {config.labeled} have changed since this run began ({how or 'their order'}): put the "
            "data back to resume it, or start a new run"
        )
    for key, what in (("labeled", "labelled images"), ("val", "validation images")):
        if saved[key] != now[key]:
            where = config.labeled if key == "labeled" or config.val is None else config.val
            raise ConfigError(
                f"{where} gave {saved[key]} {what} when this run began, {now[key]} now: put the data back to resume "
                "it, or start a new run"
            )
    if saved.get("digest", now["digest"]) != now["digest"]:
        raise ConfigError(
            f"the boxes or images of {config.labeled} have changed since this run began: put the data back to resume "
            "it, or start a new run"
        )
    if saved["unlabeled"] != now["unlabeled"]:
        return [
            f"There were {saved['unlabeled']} unlabelled images when this run began, {now['unlabeled']} now: it "
            "goes on with these, but not as if it had not been interrupted."
        ]
    return []


def absolute_paths(config: TrainConfig) -> TrainConfig:
    """The settings with absolute paths, so that they mean the same in every folder."""

    def path(value: str | None) -> str | None:
        return str(absolute(value)) if value else value

    return replace(
        config,
        labeled=str(absolute(config.labeled)),
        unlabeled=tuple(str(absolute(source)) for source in config.unlabeled),
        val=path(config.val),
        images=path(config.images),
        val_images=path(config.val_images),
        out=str(absolute(config.out)),
        weights=config.weights if config.weights in ("auto", "none") else str(absolute(config.weights)),
        init=path(config.init),
        start=path(config.start),
    )
