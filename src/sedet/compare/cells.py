"""What is compared: cells of (method, labelled percent, fold, seed), and the settings of their trainings."""

from __future__ import annotations

import itertools
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sedet import settings
from sedet.catalog import METHODS
from sedet.compare.variants import parse_method
from sedet.config import TrainConfig
from sedet.data.clean import clean
from sedet.data.duplicates import glances, repeated, same_pictures
from sedet.data.formats import align_classes, read_table
from sedet.data.layout import absolute
from sedet.data.sources import unlabeled_pool
from sedet.data.split import check_listable, split_shots, split_table
from sedet.data.table import AnnotationTable
from sedet.data.write import write_coco, write_text
from sedet.errors import ConfigError, DataError, ImageError
from sedet.training import plan

OWN = (
    *("labeled", "unlabeled", "val", "images", "val_images", "out", "method", "seed"),
    *("start", "stop", "guard", "init", "patience"),
)
"""Settings that the comparison itself decides."""
ALL = 100.0
"""The percent of the cells that are trained on all labels."""


@dataclass(frozen=True, order=True)
class Cell:
    """One training to compare.

    Attributes:
        percent: labelled share of the images; 100: all of them. 0 where ``shots`` says how many.
        fold: which draw of the labelled images; seed: of the training.
        shots: labelled images of each class, or 0.
        ceiling: whether it is there to show what all labels bring.
        variant: settings of its method that the others of the comparison do not have, or "" (variants.py).
    """

    percent: float
    fold: int
    seed: int
    method: str
    shots: int = 0
    ceiling: bool = False
    variant: str = ""

    @property
    def name(self) -> str:
        return f"{self.part}-{self.method}" + (f"@{self.variant}" if self.variant else "")

    @property
    def label(self) -> str:
        """The method as it is asked for, with its settings."""
        return self.method + (f":{self.variant}" if self.variant else "")

    @property
    def part(self) -> str:
        """The cells that share a burn-in."""
        return f"{self.data}-s{self.seed}"

    @property
    def data(self) -> str:
        return f"k{self.shots}-f{self.fold}" if self.shots else f"p{self.percent:g}-f{self.fold}"

    @staticmethod
    def from_name(name: str) -> Cell | None:
        """The cell of a ``name``, or None where it is none; its name does not tell whether it is the ceiling."""
        pattern = r"(?:p(\d+(?:\.\d+)?(?:e[+-]\d+)?)|k(\d+))-f(\d+)-s(\d+)-([^@]+)(?:@(.+))?"
        found = re.fullmatch(pattern, name)
        if found is None or found[5] not in METHODS:
            return None
        cell = Cell(
            float(found[1] or 0), int(found[3]), int(found[4]), found[5], int(found[2] or 0), variant=found[6] or ""
        )
        return cell if cell.name == name else None

    @property
    def labels(self) -> str:
        """How many labels, for people."""
        return f"{self.shots} a class" if self.shots else "all" if self.percent == ALL else f"{self.percent:g} %"


@dataclass(frozen=True)
class Comparison:
    """All that is asked for.

    Attributes:
        data, val: labelled data to draw from, and to judge by; images, val_images: their folders, or None.
        unlabeled: more unlabelled images: folders, list files, globs; unlabeled_data: labelled data whose images join
            the pool without their labels, or None.
        settings: of every training.
        out: the folder of the comparison.
    """

    data: str
    val: str
    images: str | None
    val_images: str | None
    settings: TrainConfig
    out: Path
    cells: tuple[Cell, ...]
    unlabeled: tuple[str, ...] = ()
    unlabeled_data: str | None = None


def make_cells(
    methods: Sequence[str],
    percents: Sequence[float],
    folds: Sequence[int],
    seeds: Sequence[int],
    ceiling: bool,
    shots: Sequence[int] = (),
    more_images: bool = False,
    shared: TrainConfig | None = None,
) -> tuple[Cell, ...]:
    """The cells in the order they are run: the ceiling last, for it costs the most and tells of no method.

    Args:
        methods: names, each with settings of its own at choice: ``dense-teacher:share=0.1``.
        shots: numbers of labelled images of each class; they take the place of ``percents``.
        more_images: whether there are unlabelled images besides those of the data, so that all labels may be used.
        shared: the settings of every training; default: the defaults.

    Raises:
        ConfigError: an unknown method, or a percent, fold or seed out of range.
    """
    asked = [parse_method(text, shared or TrainConfig()) for text in methods]
    if shots:
        percents = ()
    # no more digits than names have: a cell read back from its name is then equal to itself
    percents = [float(f"{percent:g}") for percent in percents]
    for percent in percents:
        if not (0 < percent < ALL or (percent == ALL and more_images)):
            raise ConfigError(f"percents must lie between 0 and 100, not {percent:g} (100 is --ceiling)")
    for name, values, least in (("folds", folds, 1), ("seeds", seeds, 0), ("shots", shots, 1)):
        if any(value < least for value in values):
            raise ConfigError(f"{name} must be {least} or more")
    shares = [(0.0, k) for k in shots] + [(percent, 0) for percent in percents]
    for name, given in (("methods", methods), ("percents", shares), ("folds", folds), ("seeds", seeds)):
        if not given:
            raise ConfigError(f"no {name} to compare")
    every = itertools.product(seeds, folds, shares, asked)
    cells = [Cell(percent, fold, seed, name, k, variant=own) for seed, fold, (percent, k), (name, own) in every]
    if ceiling and ALL not in percents:
        cells += [Cell(ALL, 1, seed, "supervised", ceiling=True) for seed in seeds]
    return tuple(dict.fromkeys(cells))


def shared_settings(config: TrainConfig, overrides: Sequence[str]) -> TrainConfig:
    """The settings of every training, from a file of settings and ``KEY=VALUE`` words.

    Raises:
        ConfigError: an unknown or malformed setting, or one that the comparison decides.
    """
    import yaml

    tree: dict[str, Any] = {}
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"--set takes KEY=VALUE, such as image_size=320, not '{word}'")
        *groups, leaf = key.strip().split(".")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {word}: {group} is a setting, no group of them")
        try:
            inner[leaf] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {word}: '{value}' cannot be read as a value") from error
    for name in OWN:
        if name in tree:
            raise ConfigError(f"--set {name}: the comparison itself decides this for each of its trainings")
    return settings.validate(settings.from_dict(tree, config))


@dataclass(frozen=True)
class Pool:
    """What labels are drawn from, and what is judged by.

    Attributes:
        table, val: with the same classes, without broken boxes.
        more: images that join those of ``table`` in the pool.
        left_out: images of the data that val shows, or that are copies of others.
    """

    table: AnnotationTable
    val: AnnotationTable
    more: tuple[Path, ...]
    left_out: int

    @property
    def paths(self) -> list[Path]:
        """Absolute: all that train without labels. Labelled images are among them, without their labels."""
        return [absolute(path) for path in (*(entry.path for entry in self.table.images), *self.more)]


def read_pool(comparison: Comparison) -> Pool:
    """Read the data, without what val shows and without copies, so that the ceiling has what trains elsewhere.

    Raises:
        DataError: data that cannot be read, a class that they do not have, no image to draw, an image name that fits
            on no line, or val that no training could be judged by.
    """
    table = read_table(comparison.data, comparison.images, "train")
    chosen = comparison.settings.classes
    table = clean(table.with_classes(chosen) if chosen else table)[0]
    val = clean(align_classes(read_table(comparison.val, comparison.val_images, "val"), table.classes))[0]
    _check_val(val)
    paths = [entry.path for entry in table.images]
    shown = same_pictures(paths, [entry.path for entry in val.images])
    kept = [i for i, (a, b) in enumerate(zip(shown, repeated(paths), strict=True)) if a is None and b is None]
    if not kept:
        raise DataError("every image is among those to judge by too", comparison.data, "Give --val other images")
    pool = Pool(table.subset(kept), val, _more_images(comparison, val), len(table) - len(kept))
    check_listable(pool.paths)
    return pool


def _check_val(val: AnnotationTable) -> None:
    """Meet before any training what would end each of them when it is judged."""
    if not val.class_counts().sum():
        raise DataError("val has no box of a class to learn", val.source, "Check the classes' names")
    # a header may be good and the pixels damaged; looking for copies decodes all of val anyway
    broken = [seen for seen in glances([entry.path for entry in val.images]) if isinstance(seen, ImageError)]
    if broken:
        more = f" (and {len(broken) - 1} more of val)" if len(broken) > 1 else ""
        todo = "Every score is over all of val: replace them or take them out; sedet check lists them"
        raise DataError(f"{broken[0].what}{more}", broken[0].where, todo)


def _more_images(comparison: Comparison, val: AnnotationTable) -> tuple[Path, ...]:
    more = unlabeled_pool(comparison.unlabeled, None, val).paths if comparison.unlabeled else ()
    if comparison.unlabeled_data is None:
        return more
    paths = [entry.path for entry in read_table(comparison.unlabeled_data, None, "train").images]
    shown = same_pictures(paths, [entry.path for entry in val.images])
    return (*more, *(path for path, match in zip(paths, shown, strict=True) if match is None))


def write_data(comparison: Comparison, pool: Pool) -> dict[str, tuple[int, int]]:
    """Write the labelled part of each percent and fold, the lists of unlabelled images and val; what is there stays.

    Returns:
        Labelled and unlabelled images of each, by ``Cell.data``.

    Raises:
        ConfigError: a labelled part that is there is damaged.
    """
    folder, table = comparison.out / "data", pool.table
    if not (folder / "val.json").is_file():
        write_coco(pool.val, folder / "val.json")
    paths = pool.paths
    listed = "".join(f"{path}\n" for path in paths)
    counts = {}
    for name, cell in {cell.data: cell for cell in comparison.cells}.items():
        part, images = folder / name / "labeled.json", folder / name / "pool.txt"
        if images.is_file() and part.is_file():  # the list is written last
            labeled = len(table) if cell.percent == ALL else _images_in(part)
            if images.read_text(encoding="utf-8", errors="surrogateescape") != listed:  # the data were moved
                write_text(images, listed, errors="surrogateescape")
        else:
            labeled = _draw(cell, table, part)
            write_text(images, listed, errors="surrogateescape")
        counts[name] = (labeled, len(paths))
    return counts


def _draw(cell: Cell, table: AnnotationTable, path: Path) -> int:
    split = split_shots(table, cell.shots, cell.fold) if cell.shots else split_table(table, cell.percent, cell.fold)
    write_coco(table.subset(split.labeled), path)
    return len(split.labeled)


def _images_in(path: Path) -> int:
    try:
        return len(json.loads(path.read_text(encoding="utf-8"))["images"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged: remove it, and the same command draws it again") from error


def complete(
    comparison: Comparison, counts: dict[str, tuple[int, int]], table: AnnotationTable
) -> dict[str, TrainConfig]:
    """Settings of each part of the data with rate, batch, steps filled in, by ``Cell.data``.

    All methods of a part have the same; the ceiling is as long as the longest of the others.
    """
    device = plan.resolve_device(comparison.settings)
    side = int(statistics.median(max(e.width, e.height) for e in table.images))
    found = {}
    for name, (labeled, pool) in counts.items():
        base = replace(comparison.settings, method="sed")
        found[name] = plan.resolve(base, device, labeled, side, None, pool)
    ceiling = next((cell.data for cell in comparison.cells if cell.ceiling), None)
    others = [config.steps or 0 for name, config in found.items() if name != ceiling]
    if ceiling is not None and others and comparison.settings.steps is None:
        longest = max(found.values(), key=lambda c: (c.steps or 0) if c is not found[ceiling] else 0)
        keys = {"steps": longest.steps, "eval_every": longest.eval_every, "save_every": longest.save_every}
        found[ceiling] = replace(found[ceiling], **keys)  # type: ignore[arg-type]
    return found
