"""The problems of data, found before training: one line each, with the file and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sedet.data.clean import Level, Problem, clean
from sedet.data.duplicates import glances, repeated, same_pictures
from sedet.data.formats import read_table
from sedet.data.images import probe
from sedet.data.sources import unlabeled_pool
from sedet.data.split import MIN_HOLDOUT, few_to_judge, holdout
from sedet.data.table import AnnotationTable
from sedet.errors import DataError, DataErrors, ImageError, SedetError
from sedet.text import printable

FEW_BOXES = 10
"""A class with fewer boxes than this is warned of."""
TINY_BOX = 4.0
"""Pixels; boxes with a shorter side are counted as tiny."""
TINY_IMAGE = 32
"""Pixels; images with a shorter side are warned of."""
DARK = 16
"""An image whose brightest value (of 255) is below this looks black."""

_LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found.

    Attributes:
        facts: lines that say what the data are (counts, classes, sizes).
        problems: errors first, then warnings, then notes.
    """

    facts: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether training would start."""
        return not any(p.level == "error" for p in self.problems)

    def count(self, level: Level) -> int:
        return sum(p.level == level for p in self.problems)

    def lines(self, limit: int | None = None) -> list[str]:
        """The report, one line a problem; with ``limit``, so many of each level and a count of the rest."""
        lines = list(self.facts)
        for level in _LEVELS:
            these = [p for p in self.problems if p.level == level]
            lines += [str(p) for p in these[:limit]]
            if limit is not None and len(these) > limit:
                lines.append(f"{level}: {len(these) - limit} more like these; sedet check lists them all")
        numbers = [(self.count(level), level) for level in ("error", "warning")]
        counts = ", ".join(f"{n} {level}{'' if n == 1 else 's'}" for n, level in numbers)
        lines.append(f"{counts}: training would {'start' if self.ok else 'not start'}")
        return [printable(line) for line in lines]


def check_data(
    labeled: str | Path,
    unlabeled: Sequence[str] = (),
    val: str | Path | None = None,
    classes: Sequence[str] = (),
    fast: bool = False,
    images: str | Path | None = None,
    val_images: str | Path | None = None,
) -> Report:
    """Look for everything that would stop or harm a training. Raises nothing of what data can be.

    An error is what stops training; a warning is what it goes on with (it skips an image, drops a box); a
    note is worth knowing. The full check decodes every image and compares pictures; the fast one reads
    headers and compares bytes.

    Args:
        labeled, val: as ``read_table``; unlabeled: as ``find_images``; images, val_images: folders of the
            images.
        classes: classes to learn; default all of the labelled data.
        fast: nothing is decoded; training looks for near-duplicates of val, too.
    """
    facts: list[str] = []
    problems: list[Problem] = []
    whole = table = _read(labeled, images, "train", problems)
    if whole is not None and classes:
        try:
            table = whole.with_classes(classes)
        except SedetError as error:
            problems.append(_problem(error, labeled))
            table = None
    if table is not None:
        table, found = clean(table)
        problems += found
        facts += _facts("labelled", table)
    judged = None if val is None else _read(val, val_images, "val", problems)
    if judged is not None:
        judged, found = clean(judged)
        problems += found
        if whole is not None and table is not None:
            judged = without_left_out(judged, whole, table)
        facts += _facts("val", judged)
    problems += table_problems(table, judged, fast)
    if val is None and table is not None:
        parts = holdout(table, near=not fast)
        judged = parts[1] if parts is not None else None
        problems.append(_without_val(table, judged))
    if judged is not None and (few := few_to_judge(len(judged))) is not None:
        problems.append(Problem("note", judged.source, few, "Give more with --val"))
    if unlabeled:
        _unlabeled(unlabeled, table, judged, fast, facts, problems)
    problems.sort(key=lambda p: _LEVELS.index(p.level))
    return Report(tuple(facts), tuple(problems))


def without_left_out(val: AnnotationTable, whole: AnnotationTable, learnt: AnnotationTable) -> AnnotationTable:
    """Val without the classes that the user left out on purpose: they need no warning each.

    Args:
        whole: the labelled data with all classes; learnt: with those to learn.
    """
    left_out = set(whole.classes) - set(learnt.classes)
    return val.with_classes([name for name in val.classes if name not in left_out])


def table_problems(table: AnnotationTable | None, val: AnnotationTable | None, fast: bool) -> list[Problem]:
    """The problems of cleaned tables: each one's own, and those between the two. None where there is none."""
    problems: list[Problem] = []
    if table is not None:
        problems += _classes(table) + _objects(table) + _pictures(table, "labelled", fast) + _repeats(table, fast)
    if val is not None:
        problems += _objects(val) + _pictures(val, "val", fast) + _repeats(val, fast, "val")
    if table is not None and val is not None:
        problems += _between(table, val, fast)
    return problems


def header_problems(paths: Sequence[Path]) -> list[Problem | None]:
    """For each unlabelled image what its header says against it, or None. Nothing is decoded."""
    return [_header(path) for path in paths]


def _read(source: str | Path, images: str | Path | None, split: str, problems: list[Problem]) -> AnnotationTable | None:
    try:
        return read_table(source, images, split)
    except SedetError as error:
        problems += [_problem(e, source) for e in (error.found if isinstance(error, DataErrors) else [error])]
        return None


def _problem(error: SedetError, source: object) -> Problem:
    if isinstance(error, DataError):
        where = source if error.where is None else error.where
        return Problem("error", str(where), error.what, error.todo or "Mend it")
    return Problem("error", str(source), str(error), "Mend it")


def _facts(what: str, table: AnnotationTable) -> list[str]:
    counts = table.class_counts()
    with_objects = sum(bool((~o.ignored).any()) for o in table.objects)
    lines = [
        f"{what}: {len(table)} images ({len(table) - with_objects} without objects), {int(counts.sum())} boxes, "
        f"{len(table.classes)} classes; {table.source}"
    ]
    order = np.argsort(-counts, kind="stable")
    shown = ", ".join(f"{table.classes[i]} {counts[i]}" for i in order[:20])
    lines.append(f"  boxes: {shown}" + (", ..." if len(order) > 20 else ""))
    if len(table):
        sides = np.array([[e.width, e.height] for e in table.images])
        low, high = sides.min(axis=0), sides.max(axis=0)
        lines.append(f"  images: {low[0]}-{high[0]} px wide, {low[1]}-{high[1]} px high")
    boxes = [o.boxes[~o.ignored] for o in table.objects]
    if counts.sum():
        b = np.concatenate(boxes)
        side = np.sqrt((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]))
        low5, middle, high95 = np.percentile(side, [5, 50, 95])
        lines.append(
            f"  box sizes (root of the area): 5 % up to {low5:.0f}, half up to {middle:.0f}, 95 % up to {high95:.0f} px"
        )
    return lines


def _classes(table: AnnotationTable) -> list[Problem]:
    problems = []
    if not len(table):
        problems.append(Problem("error", table.source, "no usable image is left", "Mend the images or give others"))
    counts = table.class_counts()
    if not counts.sum():
        problems.append(
            Problem("error", table.source, "there are no boxes at all", "Label some images, or check the classes")
        )
        return problems
    for name, count in zip(table.classes, counts, strict=True):
        if count == 0:
            problems.append(
                Problem(
                    "warning", table.source, f"class '{name}' has no boxes", "Label some, or leave it out (--classes)"
                )
            )
        elif count < FEW_BOXES:
            problems.append(
                Problem(
                    "warning",
                    table.source,
                    f"class '{name}' has only {count} box{'' if count == 1 else 'es'}",
                    "Expect little of it, or label more",
                )
            )
    return problems


def _objects(table: AnnotationTable) -> list[Problem]:
    """Boxes that stand twice, and tiny ones."""
    problems = []
    tiny = total = 0
    for entry, o in zip(table.images, table.objects, strict=True):
        total += len(o)
        if len(o) == 0:
            continue
        tiny += int(((o.boxes[:, 2:] - o.boxes[:, :2]).min(axis=1) < TINY_BOX).sum())
        rows = np.column_stack([o.boxes, o.labels])
        twice = len(rows) - len(np.unique(rows, axis=0))
        if twice:
            problems.append(
                Problem("warning", str(entry.path), f"{twice} boxes stand twice", "Remove the repeated annotations")
            )
    if tiny:
        problems.append(
            Problem(
                "note",
                table.source,
                f"{tiny} of {total} boxes have a side under {TINY_BOX:g} px",
                "They are hard to learn: use larger images if there are any",
            )
        )
    return problems


def _pictures(table: AnnotationTable, what: str, fast: bool) -> list[Problem]:
    problems = [
        Problem("warning", str(e.path), f"the image is tiny ({e.width}x{e.height})", "Check that it is a photo")
        for e in table.images
        if min(e.width, e.height) < TINY_IMAGE
    ]
    if fast:
        return problems
    broken = _decoded([e.path for e in table.images])
    problems += [p for p in broken if p is not None]
    if len(table) and sum(p is not None and p.level == "warning" for p in broken) == len(table):
        problems.append(Problem("error", table.source, f"none of the {what} images can be read", "Replace the images"))
    return problems


def _decoded(paths: Sequence[Path]) -> list[Problem | None]:
    """Decode every image; what cannot be is skipped in training."""
    problems: list[Problem | None] = []
    for path, seen in zip(paths, glances(paths), strict=True):
        if isinstance(seen, ImageError):
            problems.append(_skipped(path, seen))
        elif seen.peak < DARK:
            todo = "Stretch its values if they use only a part of 16 bits"
            problems.append(Problem("note", str(path), "the image is nearly black", todo))
        else:
            problems.append(None)
    return problems


def _skipped(path: Path, error: ImageError) -> Problem:
    return Problem("warning", str(path), f"{error.what}; it is skipped", error.todo or "Replace it")


def _repeats(table: AnnotationTable, fast: bool, what: str = "labelled") -> list[Problem]:
    paths = [e.path for e in table.images]
    problems = []
    for path, match in zip(paths, repeated(paths, near=not fast), strict=True):
        if match is not None:
            other = paths[match.index]
            how = "is listed twice" if other == path else "is a copy of" if match.exact else "looks the same as"
            text = f"the {what} image {how}" + ("" if other == path else f" {other}")
            problems.append(Problem("warning", str(path), text, "Remove one, or its labels count twice"))
    return problems


def _between(table: AnnotationTable, val: AnnotationTable, fast: bool) -> list[Problem]:
    """What is wrong between the labels to learn from and those to judge by."""
    problems = []
    paths, references = [e.path for e in val.images], [e.path for e in table.images]
    for path, match in zip(paths, same_pictures(paths, references, near=not fast), strict=True):
        if match is not None:
            how = "is also labelled for training" if match.exact else "looks the same as a training image"
            problems.append(
                Problem(
                    "warning",
                    str(path),
                    f"the val image {how} ({references[match.index]})",
                    "Remove it from one of them, or the score on val is too good",
                )
            )
    if not val.class_counts().sum():
        problems.append(Problem("error", val.source, "val has no boxes at all", "Give labelled data for val"))
        return problems
    counts = dict(zip(val.classes, val.class_counts(), strict=True))
    for name, count in counts.items():
        if name not in table.classes and count:
            problems.append(
                Problem(
                    "warning",
                    val.source,
                    f"class '{name}' ({count} boxes) is not among the classes to learn",
                    "It is not judged; check the spelling, or label it",
                )
            )
    if not set(table.classes) & {name for name, count in counts.items() if count}:
        problems.append(Problem("error", val.source, "val has no box of a class to learn", "Check the classes' names"))
        return problems
    for name, count in zip(table.classes, table.class_counts(), strict=True):
        if count and not counts.get(name, 0):
            problems.append(
                Problem(
                    "warning",
                    val.source,
                    f"class '{name}' has no boxes in val",
                    "Add images of it to val, or it is not judged",
                )
            )
    return problems


def _without_val(table: AnnotationTable, val: AnnotationTable | None) -> Problem:
    """What becomes of it that no val was given; ``val`` is what would be set aside."""
    if val is None:
        return Problem(
            "warning",
            table.source,
            f"there is no val, and fewer than {MIN_HOLDOUT} labelled images to take it from",
            "The last teacher would be taken unjudged: give --val, or label more",
        )
    return Problem(
        "note",
        table.source,
        f"there is no val: {len(val)} of {len(table)} labelled images would be set aside for it",
        "Give --val to choose them",
    )


def _unlabeled(
    sources: Sequence[str],
    table: AnnotationTable | None,
    val: AnnotationTable | None,
    fast: bool,
    facts: list[str],
    problems: list[Problem],
) -> None:
    try:
        pool = unlabeled_pool(sources, table, val, near=not fast)
        paths = list(pool.paths)
        facts.append(f"unlabelled: {pool.summary()}")
    except SedetError as error:
        problems.append(_problem(error, ", ".join(sources)))
        return
    broken = header_problems(paths) if fast else _decoded(paths)
    problems += [p for p in broken if p is not None]
    lost = sum(p is not None and p.level == "warning" for p in broken)
    if lost:
        facts[-1] += f"; {len(paths) - lost} of them can be read"
    copies = (
        []
        if fast
        else [path for path, match in zip(paths, repeated(paths, near=True), strict=True) if match is not None]
    )
    if copies:
        what = (
            f"{len(copies)} of {len(paths)} unlabelled images look the same as another of them, the first: {copies[0]}"
        )
        problems.append(Problem("note", ", ".join(sources), what, "Leave them out if each is to count once"))
    if paths and sum(p is not None and p.level == "warning" for p in broken) == len(paths):
        problems.append(
            Problem("error", ", ".join(sources), "none of the unlabelled images can be read", "Give others")
        )


def _header(path: Path) -> Problem | None:
    try:
        header = probe(path)
    except OSError:
        return Problem("warning", str(path), "the image is gone; it is skipped", "Check the path")
    if isinstance(header, ImageError):
        return _skipped(path, header)
    return None
