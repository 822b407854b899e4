"""Splits of labelled data: which images keep their labels, and what is held out to judge by."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import numpy as np
from numpy.typing import NDArray

from sedet.data.chance import generator
from sedet.data.duplicates import repeated
from sedet.data.images import is_image_name
from sedet.data.layout import absolute
from sedet.data.table import AnnotationTable
from sedet.data.write import write_coco, write_text
from sedet.errors import DataError

MIN_BOXES = 3
"""Boxes of each class that a labelled part holds at least, where there are so many."""
MIN_HOLDOUT = 30
"""Labelled images under which none are held out."""
FEW_TO_JUDGE = 30
"""Images to judge by under which a score says little."""


@dataclass(frozen=True, slots=True)
class Split:
    """Which images of a table keep their labels.

    Attributes:
        labeled, unlabeled: sorted indices into the table's images; together all of them, none in both.
        percent, fold, seed: what it was drawn from.
    """

    labeled: tuple[int, ...]
    unlabeled: tuple[int, ...]
    percent: float
    fold: int
    seed: int


def split_table(table: AnnotationTable, percent: float, fold: int, seed: int = 0) -> Split:
    """Draw the images that keep their labels, the same for whatever is done with them.

    The rule: (seed, fold) shuffles the images. A core is taken from that order: for each class, rarest first
    (by boxes, ties by index; crowd and difficult ones do not count), the earliest images that hold it,
    until the core has ``min(3, available)`` of its boxes. The labelled part is the core, then the shuffled
    rest, up to percent x images (rounded half up, at least 1); where the core alone is larger, it is the
    core. So the part of a smaller percent lies within that of a larger one, always.

    Raises:
        DataError: percent is not over 0 and at most 100, or there are no images.
    """
    if not 0 < percent <= 100:
        raise DataError(f"{percent:g} percent is no share", table.source, "Give more than 0 and at most 100")
    n = len(table)
    if n == 0:
        raise DataError("there are no images to split", table.source, "Give labelled data")
    order = [int(i) for i in generator(seed, "split", fold).permutation(n)]
    counts = box_counts(table)
    core: list[int] = []
    chosen: set[int] = set()
    held = np.zeros(len(table.classes), dtype=np.int64)
    for c in _rarest_first(counts):
        need = min(MIN_BOXES, int(counts[:, c].sum()))
        for i in order:
            if held[c] >= need:
                break
            if counts[i, c] and i not in chosen:
                core.append(i)
                chosen.add(i)
                held += counts[i]
    ranked = core + [i for i in order if i not in chosen]
    size = max(1, len(core), math.floor(n * percent / 100 + 0.5))
    return Split(tuple(sorted(ranked[:size])), tuple(sorted(ranked[size:])), float(percent), fold, seed)


def split_shots(table: AnnotationTable, shots: int, fold: int, seed: int = 0) -> Split:
    """Draw so many images of each class to keep their labels.

    The rule: (seed, fold) shuffles the images; for k = 1, 2, ... up to ``shots``, each class, rarest first, that is on
    fewer than k of the images chosen so far (and on more of all) gets the earliest image that holds it. So the part of
    fewer shots lies within that of more. Crowd and difficult boxes do not count; images hold other classes too, so a
    common class has more than ``shots``.

    Raises:
        DataError: no shots, or there are no images with boxes.
    """
    if shots < 1:
        raise DataError(f"{shots} images of each class are none", table.source, "Give at least 1")
    counts = box_counts(table)
    if not counts.any():
        raise DataError("there are no boxes to choose images by", table.source, "Give labelled data")
    order = generator(seed, "split", fold).permutation(len(table))
    holds = counts > 0
    queues = {c: iter(order[holds[order, c]].tolist()) for c in _rarest_first(counts)}
    held = np.zeros(len(table.classes), dtype=np.int64)
    chosen: set[int] = set()
    for k in range(1, shots + 1):
        for c, queue in queues.items():
            while held[c] < k:
                i = next((i for i in queue if i not in chosen), None)  # what was passed over stays chosen
                if i is None:
                    break
                chosen.add(i)
                held += holds[i]
    rest = sorted(set(range(len(table))) - chosen)
    return Split(tuple(sorted(chosen)), tuple(rest), 100 * len(chosen) / len(table), fold, seed)


def holdout(
    table: AnnotationTable, share: float = 0.2, seed: int = 0, near: bool = True
) -> tuple[AnnotationTable, AnnotationTable] | None:
    """Set a part of the labelled images aside to judge by: (train, val), or None under 30 images.

    Val gets round(share x images) images, at least one. Images are shuffled by the seed; for each class,
    rarest first, val takes the earliest image that holds it, then the earliest others, but never the last
    image that train has of a class. A class on a single image so stays in train. Images that show the same
    picture go together, all or none; so val may be a little smaller.

    Args:
        near: look for resized and re-encoded copies too, which decodes every image once (small).
    """
    n = len(table)
    if n < MIN_HOLDOUT:
        return None
    size = min(n - 1, max(1, math.floor(n * share + 0.5)))
    order = [int(i) for i in generator(seed, "holdout").permutation(n)]
    counts = box_counts(table)
    holds = counts > 0
    left = holds.sum(axis=0)
    copies = _copies([entry.path for entry in table.images], near)
    val: list[int] = []

    def take(i: int) -> bool:
        nonlocal left
        held = holds[copies[i]].sum(axis=0)
        if i in taken or len(val) + len(copies[i]) > size or ((held > 0) & (left <= held)).any():
            return False
        val.extend(copies[i])
        taken.update(copies[i])
        left = left - held
        return True

    taken: set[int] = set()
    for c in _rarest_first(counts):
        if not any(holds[i, c] for i in val):
            for i in order:
                if holds[i, c] and take(i):
                    break
    for i in order:
        take(i)
    if not val:
        return None
    return table.subset(i for i in range(n) if i not in taken), table.subset(sorted(val))


def few_to_judge(images: int) -> str | None:
    """A line that says so where a score on so many images says little."""
    if images >= FEW_TO_JUDGE:
        return None
    return f"Only {images} image{'' if images == 1 else 's'} to judge by: scores on so few are inconclusive"


def _copies(paths: Sequence[Path], near: bool) -> list[list[int]]:
    """For each image the indices of all that show the same picture, itself included."""
    groups: list[list[int]] = []
    for i, match in enumerate(repeated(paths, near)):
        groups.append([] if match is None else groups[match.index])
        groups[i].append(i)
    return groups


def box_counts(table: AnnotationTable) -> NDArray[np.int64]:
    """int64 [images, classes]: boxes of each class on each image, crowd and difficult ones left out."""
    counts = np.zeros((len(table), len(table.classes)), dtype=np.int64)
    for i, o in enumerate(table.objects):
        counts[i] = np.bincount(o.labels[~o.ignored], minlength=len(table.classes))
    return counts


def check_listable(paths: Iterable[Path]) -> None:
    """See to it that each path can stand in a list of images.

    Raises:
        DataError: one has a line break, or an ending that no list takes for an image's.
    """
    for path in paths:
        if str(path).splitlines() != [str(path)]:
            raise DataError(f"the image name {str(path)!r} does not fit on a line of a list", None, "Rename it")
        if not is_image_name(path):
            raise DataError("a list cannot hold an image that is hidden or has no image's ending", path, "Rename it")


def write_split(table: AnnotationTable, split: Split, out: Path) -> list[str]:
    """Write a split as a folder that ``sedet train`` takes.

    ``labeled.json`` (COCO) with image names relative to the table's root; ``images``, a link to that root, so
    that the names lead to files without a path out of the folder in the JSON; ``unlabeled.txt``, the other
    images' absolute paths and nothing else; ``report.txt`` and ``report.json`` with the class counts. Where
    links cannot be made, the images' folder goes to ``--images``, as the report says.

    Returns:
        The lines of the report.

    Raises:
        DataError: ``out`` is a file or a folder in use, or cannot be written, or an image's name has a line break;
            nothing is left half-written.
    """
    out = absolute(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError("the output folder is in use", out, "Name a new or empty one")
    check_listable(table.images[i].path for i in split.unlabeled)
    labeled = table.subset(split.labeled)
    temporary: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        write_coco(labeled, temporary / "labeled.json")
        unlabeled = "".join(f"{table.images[i].path}\n" for i in split.unlabeled)
        write_text(temporary / "unlabeled.txt", unlabeled, errors="surrogateescape")
        linked = True
        try:
            (temporary / "images").symlink_to(absolute(table.root), target_is_directory=True)
        except OSError:
            linked = False
        lines = _report(table, split, out, linked)
        write_text(temporary / "report.txt", "\n".join(lines) + "\n")
        write_text(temporary / "report.json", json.dumps(_report_data(table, split), indent=2) + "\n")
        temporary.chmod(0o755)
        if out.exists():
            out.rmdir()
        temporary.rename(out)
        temporary = None
    except OSError as error:
        raise DataError(
            f"cannot be written ({error.strerror})", out, "Check its permissions and the free space"
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return lines


def _report(table: AnnotationTable, split: Split, out: Path, linked: bool) -> list[str]:
    n = len(table)
    asked = max(1, math.floor(n * split.percent / 100 + 0.5))
    total, part = table.class_counts(), table.subset(split.labeled).class_counts()
    width = max((len(name) for name in table.classes), default=5)
    lines = [
        f"{len(split.labeled)} of {n} images labelled ({split.percent:g} %, fold {split.fold}, seed "
        f"{split.seed}), {len(split.unlabeled)} unlabelled; from {table.source}"
    ]
    if len(split.labeled) > asked:
        lines.append(f"{split.percent:g} % would be {asked} images; {MIN_BOXES} boxes of each class need more")
    lines.append(f"{'class':<{width}}  labelled boxes      all")
    for name, few, many in zip(table.classes, part, total, strict=True):
        lines.append(f"{name:<{width}}  {few:>14}  {many:>7}")
    command = f"sedet train --labeled {quote(str(out / 'labeled.json'))}"
    command += f" --unlabeled {quote(str(out / 'unlabeled.txt'))}" if split.unlabeled else " --method supervised"
    lines.append(f"Train: {command}" + ("" if linked else f" --images {quote(str(table.root))}"))
    return lines


def _report_data(table: AnnotationTable, split: Split) -> dict[str, object]:
    part = table.subset(split.labeled)
    return {
        "source": table.source,
        "images": len(table),
        "labeled_images": len(split.labeled),
        "unlabeled_images": len(split.unlabeled),
        "percent": split.percent,
        "fold": split.fold,
        "seed": split.seed,
        "min_boxes": MIN_BOXES,
        "classes": [
            {"name": name, "labeled_boxes": int(few), "all_boxes": int(many)}
            for name, few, many in zip(table.classes, part.class_counts(), table.class_counts(), strict=True)
        ],
    }


def _rarest_first(counts: NDArray[np.int64]) -> Sequence[int]:
    totals = counts.sum(axis=0)
    return [int(c) for c in np.argsort(totals, kind="stable") if totals[c]]
