"""Unlabelled images: found in folders, lists and globs, and kept apart from the images that judge."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sedet.data.duplicates import repeated, same_pictures
from sedet.data.images import is_image_name
from sedet.data.layout import absolute, is_file, is_run_folder, list_images
from sedet.data.table import AnnotationTable
from sedet.errors import DataError

_ANNOTATIONS = (".json", ".xml", ".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class UnlabeledPool:
    """The images that train without labels.

    Attributes:
        paths: absolute, sorted.
        left_out_val: images left out because they show what a validation image shows (equal or
            near-duplicate).
        left_out_labeled: images left out because they are labelled ones (only if that was asked for).
        duplicates: images left out because an earlier file has the same bytes.
        found: images found before anything was left out.
        runs: run folders below the sources, none of whose images were looked at.
    """

    paths: tuple[Path, ...]
    left_out_val: int
    left_out_labeled: int
    duplicates: int
    found: int
    runs: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def summary(self) -> str:
        """One line: how many images there are, and why some were left out."""
        parts = [
            f"{count} left out: {why}"
            for count, why in (
                (self.left_out_val, "they show what a validation image shows"),
                (self.left_out_labeled, "they are labelled"),
                (self.duplicates, "copies of another file"),
            )
            if count
        ]
        if self.runs:
            parts.append(f"{self.runs} run folder{'' if self.runs == 1 else 's'} skipped: pictures of a training")
        return "; ".join([f"{len(self.paths)} unlabelled images of {self.found} found", *parts])


def find_images(sources: Sequence[str], runs: set[Path] | None = None) -> list[Path]:
    """Image files of folders (with all folders below), list files and globs.

    A list file (.txt) names one image a line, relative to the list's own folder or absolute; empty lines and
    lines that begin with # are skipped. Image endings count in any case. Hidden files and folders and other
    files are skipped, and so are run folders below a folder or glob, unless named themselves. No annotation is
    ever read.

    Args:
        runs: gets the run folders that were skipped.

    Returns:
        Absolute paths, sorted, each file once (also where two paths lead to one file).

    Raises:
        DataError: a source is missing, holds no image, is an annotation file, or a listed image does not
            exist.
    """
    found: list[Path] = []
    runs = set() if runs is None else runs
    for source in sources:
        found.extend(_find(str(source), runs))
    seen: set[str] = set()
    unique = []
    for path in sorted(found):
        real = os.path.realpath(path)
        if real not in seen:
            seen.add(real)
            unique.append(path)
    return unique


def unlabeled_pool(
    sources: Sequence[str],
    labeled: AnnotationTable | None,
    val: AnnotationTable | None,
    exclude_labeled: bool = False,
    near: bool = True,
) -> UnlabeledPool:
    """The unlabelled images to train on.

    Images of ``val`` are left out, whether the same file, a copy, or (with ``near``) a near-duplicate. Labelled
    images stay, without their labels, unless ``exclude_labeled``. Of files with equal bytes the first stays.

    Raises:
        DataError: as ``find_images``; or nothing is left.
    """
    runs: set[Path] = set()
    found = find_images(sources, runs)
    copies = repeated(found)
    paths = [path for path, match in zip(found, copies, strict=True) if match is None]
    duplicates = len(found) - len(paths)
    paths, left_out_val = _without(paths, val, near)
    paths, left_out_labeled = _without(paths, labeled if exclude_labeled else None, near)
    pool = UnlabeledPool(tuple(paths), left_out_val, left_out_labeled, duplicates, len(found), len(runs))
    if sources and not paths:
        raise DataError(f"no unlabelled image is left ({pool.summary()})", ", ".join(sources), "Give other images")
    return pool


def _without(paths: list[Path], table: AnnotationTable | None, near: bool) -> tuple[list[Path], int]:
    if table is None or not len(table):
        return paths, 0
    references = [entry.path for entry in table.images if entry.path.is_file()]
    matches = same_pictures(paths, references, near)
    kept = [path for path, match in zip(paths, matches, strict=True) if match is None]
    return kept, len(paths) - len(kept)


def _find(source: str, runs: set[Path]) -> list[Path]:
    if not source.strip():
        raise DataError("an empty name is given for unlabelled images", None, "Give a folder, a list or a glob")
    path = absolute(source)
    if os.path.isdir(path):  # noqa: PTH112  (false, not an error, for names too long)
        names = list_images(path, runs)
        if not names:
            raise DataError("there are no images in this folder", path, "Give a folder that holds images")
        return [path / name for name in names]
    if is_file(path):
        return _file(path)
    if any(c in source for c in "*?["):
        matched = [absolute(name) for name in glob.glob(str(Path(source).expanduser()), recursive=True)]  # noqa: PTH207
        fixed = source[: min(source.find(c) for c in "*?[" if c in source)]
        above = set(absolute(fixed or ".").parents) | {absolute(fixed or ".")}
        old = {f for f in {q for p in matched for q in (p, *p.parents)} - above if is_run_folder(f)}
        runs |= old
        matched = [p for p in matched if p not in old and not old.intersection(p.parents)]
        files = [p for p in matched if p.is_file() and is_image_name(p)]
        for folder in (p for p in matched if p.is_dir() and not p.name.startswith(".")):
            files.extend(folder / name for name in list_images(folder, runs))
        if not files:
            raise DataError("no image fits this pattern", source, "Check the pattern")
        return files
    raise DataError("there is no such file or folder", path, "Give a folder of images, a list (.txt) or a glob")


def _file(path: Path) -> list[Path]:
    suffix = path.suffix.lower()
    if suffix in _ANNOTATIONS:
        raise DataError(
            "unlabelled data are images; annotations are never read for them",
            path,
            "Give the folder of the images, a list of them (.txt) or a glob",
        )
    if suffix == ".txt":
        return _listed(path)
    if is_image_name(path):
        return [path]
    raise DataError("this is no image and no list of images", path, "Give a folder, a list (.txt) or a glob")


def _listed(file: Path) -> list[Path]:
    try:
        # names of files may hold bytes that are no UTF-8
        lines = file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError:
        raise DataError("this list cannot be read as text", file, "Write one image path a line") from None
    found, missing = [], []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        path = absolute(file.parent / text)
        if not is_file(path) and any("\udc80" <= c <= "\udcff" for c in text):
            raise DataError("this list cannot be read as text (UTF-8)", file, "Write one image path a line")
        if "\0" in text:
            raise DataError("this is no path", f"{file}, line {number}", "Write one image path a line")
        if not is_file(path):
            missing.append((number, path))
        elif not is_image_name(path):
            raise DataError(f"{path.name!r} is no image", f"{file}, line {number}", "Write image paths only")
        else:
            found.append(path)
    if missing:
        number, path = missing[0]
        raise DataError(
            f"{len(missing)} listed images do not exist, the first in line {number}: {path}",
            file,
            "Paths are relative to the list's own folder",
        )
    if not found:
        raise DataError("this list is empty", file, "Write one image path a line")
    return found
