"""``sedet merge``: corrected labels back into the labelled data, as a new set; what was given never changes."""

from __future__ import annotations

import csv
import difflib
import io
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from sedet.data.duplicates import same_pictures
from sedet.data.formats import align_classes, read_table
from sedet.data.frames import reframed
from sedet.data.layout import absolute
from sedet.data.table import AnnotationTable, ImageEntry, Objects
from sedet.data.write import write_coco, write_json, write_text
from sedet.errors import ConfigError, DataError
from sedet.files import unwritable
from sedet.labeling.changes import BoxChanges, compare, kept_pairs, matches
from sedet.labeling.corrections import Corrections, read_corrections
from sedet.labeling.facts import read_facts
from sedet.labeling.shards import Record, read_records
from sedet.outputs import check_new

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageChange:
    """What became of one corrected image.

    Attributes:
        image: its name in the result.
        state: added; replaced (it was labelled otherwise); or same (the labels agree).
        boxes: boxes it has now.
        proposals: its proposals against the correction; None without proposals for it.
        labels: its labels before against the correction; None for an added image.
    """

    image: str
    state: str
    boxes: int
    proposals: BoxChanges | None
    labels: BoxChanges | None


@dataclass(frozen=True)
class MergeSummary:
    """What ``merge`` did.

    Attributes:
        out: the new set's folder; ``labels.json`` in it is the data to train on.
        images: images in the new set.
        boxes: boxes in it.
        changes: one entry a corrected image.
        new_classes: classes that only the corrections had.
        unreviewed: images of the export that nobody has completed: not taken.
        problems: what could not be taken over, a line each.
    """

    out: Path
    images: int
    boxes: int
    changes: tuple[ImageChange, ...]
    new_classes: tuple[str, ...]
    unreviewed: int
    problems: tuple[str, ...]

    def count(self, state: str) -> int:
        return sum(change.state == state for change in self.changes)

    @property
    def proposals(self) -> BoxChanges:
        return sum((c.proposals for c in self.changes if c.proposals is not None), BoxChanges())

    @property
    def labels(self) -> BoxChanges:
        return sum((c.labels for c in self.changes if c.labels is not None), BoxChanges())

    def lines(self) -> list[str]:
        """For a terminal."""
        added, replaced, same = (self.count(state) for state in ("added", "replaced", "same"))
        lines = [f"{len(self.changes)} corrected images: {added} added, {replaced} replaced, {same} labelled so before"]
        if any(c.proposals is not None for c in self.changes):
            found = self.proposals
            all_before = found.kept + found.moved + found.relabelled + found.removed
            right = f" ({(found.kept + found.moved) / all_before:.0%} of {all_before} were right)" if all_before else ""
            lines.append(f"proposed boxes: {found}{right}")
        if any(c.labels is not None for c in self.changes):
            lines.append(f"labelled boxes: {self.labels}")
        if self.new_classes:
            lines.append(f"new classes: {', '.join(self.new_classes)}")
        if self.unreviewed:
            lines.append(f"{self.unreviewed} images of the export were not completed: not taken")
        if self.problems:
            count, what = len(self.problems), "problem" if len(self.problems) == 1 else "problems"
            lines.append(f"{count} {what}, in {self.out / 'problems.txt'}; the first: {self.problems[0]}")
        lines.append(f"{self.images} images, {self.boxes} boxes in {self.out / 'labels.json'}")
        return lines


def merge(
    labeled: str | Path | None,
    corrections: str | Path,
    out: str | Path,
    images: str | Path | None = None,
    labeled_images: str | Path | None = None,
    proposals: str | Path | None = None,
    rename: Sequence[str] = (),
    add_classes: bool = False,
    split: str = "train",
    copy: bool = False,
) -> MergeSummary:
    """Merge corrected labels into labelled data.

    ``out`` gets ``labels.json`` (COCO), ``images`` (links to the images, or copies), ``changes.csv`` (a row a
    corrected image), ``changes.json`` and, if there are any, ``problems.txt``. An image of both is the same file, or
    one of equal bytes; the correction counts. Crowd and difficult marks of boxes that were kept or moved stay, and
    the areas of outlines of those that were kept.
    Of several corrections of an image the one reviewed last counts, or the last in the file.

    Args:
        labeled: labelled data in any format; None or 'none' to start from the corrections.
        corrections: export of Label Studio (JSON), CVAT (XML or zip), COCO, YOLO or VOC; file or folder.
        out: folder to write to, new or empty.
        images: folder of the corrected images. Default: their own, or the folder that ``proposals`` was made of.
        labeled_images: folder of the images of ``labeled``, where its own paths do not lead to them.
        proposals: folder that ``sedet.label`` wrote, to compare with.
        rename: ``OLD=NEW``, classes of the corrections to take for others.
        add_classes: take over classes that the labelled data do not have.
        split: part of the labelled data, where they hold several.
        copy: copy images in place of linking.

    Raises:
        ConfigError: a malformed setting, or ``out`` is in use.
        DataError: data cannot be read, no image was reviewed, or there are new classes (names the nearest).
    """
    out = absolute(out)
    check_new(out)
    if (reason := unwritable(out)) is not None:
        raise ConfigError(f"{out} cannot be written: {reason}. Give --out another place")
    facts = read_facts(Path(proposals)) if proposals is not None else None
    root = Path(facts["root"]) if facts is not None else None
    if images is not None and not Path(images).is_dir():
        raise DataError("there is no such image folder", images, "Check --images")
    renames = _renames(rename)
    alone = labeled is None or str(labeled) == "none"
    table = None if alone else read_table(str(labeled), images=labeled_images, split=split)
    found = read_corrections(Path(corrections), None if images is None else absolute(images), root, renames)
    classes, ids = _classes(table, found.table, add_classes)
    corrected, problems = _once(align_classes(found.table, classes), found)
    before = {} if facts is None else _proposed(Path(str(proposals)), facts, corrected)
    merged, changes = _merged(table, corrected, classes, ids, before, facts)
    merged = _write(merged, changes, found, problems, out, copy)
    new = tuple(name for name in classes if table is not None and name not in table.classes)
    boxes = sum(len(o) for o in merged.objects)
    return MergeSummary(out, len(merged), boxes, tuple(changes), new, found.unreviewed, tuple(problems))


def _renames(pairs: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not equals or not old.strip() or not new.strip():
            raise ConfigError(f"--rename must be as OLD=NEW, not '{pair}'")
        found[old.strip()] = new.strip()
    return found


def _classes(
    table: AnnotationTable | None, corrected: AnnotationTable, add: bool
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Classes and ids of the result: those of the labels in their order, then new ones."""
    counts = corrected.class_counts()
    if table is None:
        return corrected.classes, tuple(range(1, len(corrected.classes) + 1))
    # A tool's export may list classes that nothing was labelled as: they are none to add.
    new = [name for name, n in zip(corrected.classes, counts, strict=True) if name not in table.classes and n > 0]
    if new and not add:
        folded = {name.casefold(): name for name in table.classes}
        near = folded.get(new[0].casefold()) or next(iter(difflib.get_close_matches(new[0], table.classes, n=1)), None)
        meant = f"If it is '{near}', add --rename '{new[0]}={near}'; " if near else ""
        raise DataError(
            f"it has classes that the labelled data do not have: {', '.join(new[:12])}",
            corrected.source,
            f"{meant}to take new classes over, add --add-classes",
        )
    start = max((0, *table.category_ids)) + 1
    return (*table.classes, *new), (*table.category_ids, *range(start, start + len(new)))


def _once(table: AnnotationTable, found: Corrections) -> tuple[AnnotationTable, list[str]]:
    """Each image once: of several corrections the latest."""
    problems = list(found.problems)
    place: dict[str, int] = {}
    for i, entry in enumerate(table.images):
        real = os.path.realpath(entry.path)
        if real in place:
            first = place[real]
            later = i if found.stamps[i] >= found.stamps[first] else first
            problems.append(f"{entry.name}: it is corrected more than once; the last correction counts")
            place[real] = later
        else:
            place[real] = i
    return table.subset(sorted(place.values())), problems


def _proposed(folder: Path, facts: dict[str, object], corrected: AnnotationTable) -> dict[str, Record]:
    """Proposals of the corrected images, by the image's real path; shard by shard."""
    root, reals = str(facts["root"]), {os.path.realpath(e.path) for e in corrected.images}
    bases = {os.path.basename(real) for real in reals}  # noqa: PTH119
    shards = len(list((folder / "shards").glob("*.jsonl")))
    classes = facts["classes"]
    assert isinstance(classes, list)
    found = {}
    for record in read_records(folder, shards, len(classes)):
        if record.error is None:
            path = Path(root, record.name)
            # A linked name may differ from that of its file; most names are told apart without the disk.
            if path.name in bases or path.is_symlink():
                real = os.path.realpath(path)
                if real in reals:
                    found[real] = record
    return found


def _merged(
    table: AnnotationTable | None,
    corrected: AnnotationTable,
    classes: tuple[str, ...],
    ids: tuple[int, ...],
    proposed: dict[str, Record],
    facts: dict[str, object] | None,
) -> tuple[AnnotationTable, list[ImageChange]]:
    """The new set, its images named anew, and what changed."""
    base = None if table is None else align_classes(table, classes)
    entries: list[ImageEntry] = [] if base is None else list(base.images)
    objects: list[Objects] = [] if base is None else list(base.objects)
    place = {os.path.realpath(entry.path): i for i, entry in enumerate(entries)}
    copies = same_pictures([e.path for e in corrected.images], [e.path for e in entries], near=False)
    changes, taken = [], {_folded(entry.name) for entry in entries}
    for entry, found, twin in zip(corrected.images, corrected.objects, copies, strict=True):
        real = os.path.realpath(entry.path)
        at = place.get(real, None if twin is None else twin.index)
        record = proposed.get(real)
        own = [classes[i] for i in found.labels]
        answer = None
        if record is not None and facts is not None:
            known = facts["classes"]
            assert isinstance(known, list)
            boxes = np.array([b.corners for b in record.boxes], dtype=np.float64).reshape(-1, 4)
            # Proposals are on the turned image; the tool may have shown the stored one.
            shown = reframed(boxes, entry.path, True, entry.use_exif)
            answer = compare(shown, [known[b.label] for b in record.boxes], found.boxes, own)
        if at is None:
            name = _free(_plain_name(entry.name), taken)
            entries.append(replace(entry, name=name))
            objects.append(found)
            place[real] = len(entries) - 1
            changes.append(ImageChange(name, "added", len(found), answer, None))
            continue
        # Of two frames no box would be found again, and its marks would go with it.
        there = reframed(objects[at].boxes, entry.path, entries[at].use_exif, entry.use_exif)
        old = replace(objects[at], boxes=there)
        told = compare(old.boxes, [classes[i] for i in old.labels], found.boxes, own)
        state = "replaced" if told.any else "same"
        if state == "replaced":
            objects[at] = _carried(old, found)
            entries[at] = replace(entries[at], width=entry.width, height=entry.height, use_exif=entry.use_exif)
        changes.append(ImageChange(entries[at].name, state, len(found), answer, told))
    if not _plain_ids(entries):
        entries = [replace(entry, id=i) for i, entry in enumerate(entries, start=1)]
    source = corrected.source
    return AnnotationTable(classes, tuple(entries), tuple(objects), source, ids, corrected.root), changes


def _plain_ids(entries: list[ImageEntry]) -> bool:
    return len({entry.id for entry in entries}) == len(entries)


def _carried(old: Objects, new: Objects) -> Objects:
    """What tools do not show stays with boxes that stay: crowd and difficult marks, and areas of outlines.

    An outline's area is that of a box which did not move. The boxes of both are in one frame. Tools that know boxes
    alone state the box's own area (COCO exports of CVAT, FiftyOne): it says nothing of an outline.
    """
    sides = new.boxes[:, 2:] - new.boxes[:, :2]
    unstated = np.isnan(new.outlines) | np.isclose(new.outlines, sides.prod(axis=1), rtol=0.01, atol=1)
    crowd, difficult, outlines = new.crowd.copy(), new.difficult.copy(), new.outlines.copy()
    pairs, _ = matches(old.boxes, [str(i) for i in old.labels], new.boxes, [str(i) for i in new.labels])
    for i, j in pairs:
        crowd[j] |= old.crowd[i]
        difficult[j] |= old.difficult[i]
    for i, j in kept_pairs(old.boxes, new.boxes, pairs):
        if unstated[j]:
            outlines[j] = old.outlines[i]
    return replace(new, crowd=crowd, difficult=difficult, outlines=outlines)


def _plain_name(name: str) -> str:
    """A name that every reader takes for the same: without drives, backslashes, or spaces at its ends."""
    return re.sub(r"^([A-Za-z]):", r"\1_", name.strip().replace("\\", "_"))


def _free(name: str, taken: set[str]) -> str:
    path, number, candidate = PurePosixPath(name), 2, name
    while _folded(candidate) in taken:
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}").as_posix()
        number += 1
    taken.add(_folded(candidate))
    return candidate


def _folded(name: str) -> str:
    return name.casefold()


def _write(
    table: AnnotationTable,
    changes: list[ImageChange],
    found: Corrections,
    problems: list[str],
    out: Path,
    copy: bool,
) -> AnnotationTable:
    """Write everything beside ``out``, and give it its name at the end."""
    temporary: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        for entry in table.images:
            _place(temporary / "images" / entry.name, Path(os.path.realpath(entry.path)), copy)
        table = replace(table, root=out / "images")
        write_coco(table, temporary / "labels.json")
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        kinds = list(asdict(BoxChanges()))
        rows.writerow(["image", "state", "boxes", *(f"proposed_{k}" for k in kinds), *(f"labelled_{k}" for k in kinds)])
        for c in changes:
            figures = [asdict(x).values() if x is not None else [""] * len(kinds) for x in (c.proposals, c.labels)]
            rows.writerow([c.image, c.state, c.boxes, *figures[0], *figures[1]])
        write_text(temporary / "changes.csv", text.getvalue())
        total = {"format": found.format, "unreviewed": found.unreviewed, "problems": problems}
        write_json(temporary / "changes.json", {**total, "changed": [asdict(c) for c in changes]})
        if problems:
            write_text(temporary / "problems.txt", "".join(" ".join(p.split()) + "\n" for p in problems))
        temporary.chmod(0o755)
        if out.exists():
            out.rmdir()
        temporary.rename(out)
        temporary = None
    except OSError as error:
        place = "Check its permissions and the free space"
        raise DataError(f"cannot be written ({error.strerror})", out, place) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return table


def _place(path: Path, target: Path, copy: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not copy:
        try:
            path.symlink_to(target)
            return
        except OSError:  # a file system without links
            pass
    if target.is_file():
        shutil.copyfile(target, path)
