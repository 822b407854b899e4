"""``sedet label``: label folders of any size, shard by shard, then rank and export."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from sedet.detectors.regions import Detections
from sedet.errors import ConfigError, DataError, ImageError
from sedet.files import unwritable
from sedet.labeling.exports import How, check_exports, check_room, write_exports
from sedet.labeling.facts import FORMAT, agree, recorded, settings_of
from sedet.labeling.listing import list_digest, parts, read_list, stream_names, write_list
from sedet.labeling.look import look
from sedet.labeling.measures import disagreement, uncertainty
from sedet.labeling.options import LOCAL_FILES
from sedet.labeling.parts import write_whole
from sedet.labeling.progress import progress as show_progress
from sedet.labeling.ranking import rank_images
from sedet.labeling.shards import Box, Record, read_records, shard_file, write_shard
from sedet.predict import rescaled
from sedet.predictor import Predictor, batches, check_score, load
from sedet.stream import read_ahead, read_file

FLOOR = 0.05
"""Detections from this score on (or from the cut, if that is lower) count for the ranking."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelSummary:
    """What ``label`` did.

    Attributes:
        out: the folder.
        images: images listed.
        labeled: of them those with a label by now, by any process.
        fresh: images labelled by this call.
        boxes: boxes in all labels; None while shards are missing.
        skipped: images that could not be read; None as above.
        seconds: time taken for the fresh ones.
        shards: files there will be.
        finished: files there are.
        ranked: whether ranking.csv was written.
        exports: what was written for other tools.
        notes: what an export could not hold.
    """

    out: Path
    images: int
    labeled: int
    fresh: int
    boxes: int | None
    skipped: int | None
    seconds: float
    shards: int
    finished: int
    ranked: bool
    exports: tuple[Path, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        rate = f" ({self.seconds:.1f} s, {self.fresh / self.seconds:.1f} images/s)" if self.fresh else ""
        if self.boxes is None:
            return (
                f"{self.fresh} images labelled{rate}; {self.finished} of {self.shards} shards are finished. "
                "When all are, the same command without --shard ranks and exports"
            )
        skipped = f", {self.skipped} unreadable and skipped" if self.skipped else ""
        before = f", {self.labeled - self.fresh} of them before" if self.labeled > self.fresh else ""
        lines = [f"{self.boxes} boxes in {self.images} images{before}{skipped}{rate}, in {self.out}"]
        if self.ranked:
            lines.append(f"ranking: {self.out / 'ranking.csv'}")
        if self.exports:
            lines.append("exports: " + ", ".join(str(path) for path in self.exports))
        return "\n".join([*lines, *self.notes])


def label(
    detector: str | Path,
    sources: str | Sequence[str],
    out: str | Path = "labels",
    format: str | Sequence[str] = "coco",
    score: float | None = None,
    max_detections: int = 100,
    top: int | None = None,
    rank: bool = True,
    student: str | Path | None = None,
    shard: str | None = None,
    shard_size: int = 500,
    image_url: str | None = None,
    copy: bool = False,
    batch: int = 8,
    workers: int = 2,
    device: str = "auto",
    progress: bool = False,
) -> LabelSummary:
    """Label images and rank them by how much a human label would help.

    ``out`` holds ``label.json`` (what labelled what), ``images.txt`` (the images, a JSON string a line), and
    ``shards``, JSON lines as of ``sedet predict --format jsonl``. Finished shards are skipped by a later call, so
    that an interrupted one goes on; other settings are refused. An image that cannot be read is reported (a log
    warning), kept as such in its shard, and left out of everything else. Memory does not grow with the number of
    images, but for some 160 bytes an image for the ranking, and the names of the largest folder.

    Args:
        detector: detector file, or a run's folder.
        sources: images, folders (recursive), list files or globs.
        out: folder to write to: new, empty, or the one of an earlier call with the same settings.
        format: exports, of coco, yolo, voc, label-studio, cvat; see ``sedet.labeling.exports``.
        score: lowest score of a box that is kept. Default: the detector's own.
        max_detections: most boxes an image, best first.
        top: export only the images that are ranked first.
        rank: measure and rank; see ``sedet.labeling.measures`` and ``sedet.labeling.ranking``.
        student: student to compare the detector with. Default: ``student.safetensors`` beside it, if it is there.
        shard: ``k/n``, label only every n-th shard from the k-th on, and write no exports.
        shard_size: images a shard.
        image_url: what stands before an image's name in Label Studio tasks. Default: its local file storage, whose
            document root is the parent of the images' folder.
        copy: copy the images into the exports that hold them (coco, yolo, voc) in place of linking to them.
        batch: images at a time.
        workers: threads that decode images.
        device: as for ``load``.
        progress: tell of the progress on stderr.

    Raises:
        ConfigError: a setting is out of range, or ``out`` holds something else, or labels of other settings.
        SedetError: the detector or a source is not usable.
        OSError: a file cannot be written (``filename`` names it).
    """
    out = Path(out)
    formats = check_exports(format)
    share = _share(shard)
    _check_numbers(score, top, rank, max_detections, shard_size)
    sources = [sources] if isinstance(sources, str) else [str(source) for source in sources]
    if not sources:
        raise ConfigError("nothing to label: name images, folders, list files or globs after the detector")
    settings = settings_of(Path(detector), sources, score, max_detections, rank, student, shard_size)
    known = recorded(out)
    if known is not None:
        agree(known, settings, out)
    if image_url is None:  # a storage must not be the document root itself: that is the folder's parent
        image_url = f"{LOCAL_FILES}{quote(os.fsencode(Path(settings['root']).name))}/"
    how = How(top, image_url, copy)
    check_room(out, formats, how)
    if (reason := unwritable(out / "label.json")) is not None:
        raise ConfigError(f"{out} cannot be written: {reason}. Give --out another place")
    predictor = load(detector, device)
    pupil = _student(settings["student"], device, predictor) if rank else None
    listing = out / "images.txt"
    if not listing.exists():
        write_list(listing, stream_names(sources, Path(settings["root"])))
    count, digest = list_digest(read_list(listing))
    if known is None:
        facts = {**settings, "classes": list(predictor.classes), "category_ids": list(predictor.category_ids)}
        facts |= {"score": predictor.score if score is None else score, "asked_score": score}
        facts |= {"format": FORMAT, "detector_file": str(detector), "images": count}
        write_whole(out / "label.json", (json.dumps(facts, indent=1) + "\n").encode("ascii"))
        known = facts
    else:
        found, now = list_digest(stream_names(sources, Path(settings["root"])))
        if now != digest:
            log.warning(
                "the sources hold %d images by now, %d were listed in %s: those are labelled. For others, "
                "give another --out", found, count, listing,
            )  # fmt: skip
    labeler = _Labeler(predictor, pupil, Path(settings["root"]), known["score"], max_detections, rank)
    shards = -(-count // shard_size)
    fresh, seconds = _label_shards(labeler, out, listing, count, shard_size, share, batch, workers, progress)
    finished = sum(shard_file(out, n).exists() for n in range(shards))
    done = min(count, finished * shard_size)
    if share != (1, 1) or finished < shards:
        return LabelSummary(out, count, done, fresh, None, None, seconds, shards, finished, False, (), ())
    return _finish(out, known, shards, shard_size, count, fresh, seconds, formats, rank, how)


def _finish(
    out: Path,
    facts: dict[str, Any],
    shards: int,
    shard_size: int,
    count: int,
    fresh: int,
    seconds: float,
    formats: tuple[str, ...],
    rank: bool,
    how: How,
) -> LabelSummary:
    classes = tuple(facts["classes"])
    boxes = skipped = 0
    first: str | None = None
    for record in read_records(out, shards, len(classes)):
        boxes += len(record.boxes)
        if record.error is not None:
            skipped, first = skipped + 1, first or record.error
    if skipped == count:
        raise DataError(f"none of the {count} images can be read. The first: {first}", out, "Give other images")
    chosen = rank_images(out, shards, shard_size, classes, how.top) if rank else None
    written, notes = write_exports(out, facts, shards, formats, chosen if how.top is not None else None, how)
    return LabelSummary(
        out, count, count, fresh, boxes, skipped, seconds, shards, shards, rank, tuple(written), tuple(notes)
    )


def _label_shards(
    labeler: _Labeler,
    out: Path,
    listing: Path,
    count: int,
    shard_size: int,
    share: tuple[int, int],
    batch: int,
    workers: int,
    progress: bool,
) -> tuple[int, float]:
    """Label the shards of this process that are not there yet; images and seconds."""
    own = [n for n in range(-(-count // shard_size)) if n % share[1] == share[0] - 1]
    sizes = {n: min(shard_size, count - n * shard_size) for n in own}
    missing = {n for n in own if not shard_file(out, n).exists()}
    total = sum(sizes.values())
    before = total - sum(sizes[n] for n in missing)
    start, fresh = time.perf_counter(), 0
    with show_progress(progress and bool(missing), total, before) as advance:
        for number, names in parts(read_list(listing), shard_size):
            if number not in missing:
                continue
            records, features = [], []
            for record, feature in labeler.label(names, batch, workers):
                records.append(record)
                features.append(feature)
                advance(1)
            wide = max((len(f) for f in features if f is not None), default=0)
            table = np.zeros((len(records), wide), dtype=np.float16)
            for row, feature in enumerate(features):
                if feature is not None:
                    table[row] = feature
            write_shard(out, number, records, labeler.predictor.classes, table if labeler.rank else None)
            fresh += len(records)
    return fresh, time.perf_counter() - start


class _Labeler:
    """Labels images of one root.

    Args:
        student: the detector to compare with, or None.
        score: lowest score of a box that is kept.
    """

    def __init__(
        self, predictor: Predictor, student: Predictor | None, root: Path, score: float, most: int, rank: bool
    ) -> None:
        self.predictor, self.student, self.root = predictor, student, root
        self.score, self.most, self.rank = score, most, rank

    def label(
        self, names: Sequence[str], batch: int, workers: int
    ) -> Iterator[tuple[Record, np.ndarray[Any, np.dtype[np.float32]] | None]]:
        """Records of images in their order, with their features."""
        max_side = 2 * self.predictor.image_size  # as evaluations read them, so that scores agree
        floor = min(FLOOR, self.score) if self.rank else self.score
        read = read_ahead(names, lambda name: read_file(self.root / name, max_side), workers, 2 * batch)
        for part in batches(read, batch):
            good = [decoded[0] for _, decoded in part if not isinstance(decoded, ImageError)]
            looks = iter(look(self.predictor, good, floor, self.most, self.rank) if good else [])
            pupils = iter(self.student.detect(good, floor, self.most) if good and self.student else [None] * len(good))
            for name, decoded in part:
                if isinstance(decoded, ImageError):
                    log.warning("skipped: %s", decoded)
                    yield Record(name, error=f"{decoded.what}. {decoded.todo}"), None
                    continue
                seen, pupil = next(looks), next(pupils)
                measures = {}
                if self.rank:
                    scores = seen.full.scores.numpy().astype(np.float64)
                    measures["uncertainty"] = uncertainty(scores, self.score)
                    if pupil is not None:
                        measures["teacher_student"] = disagreement(seen.full, pupil)
                    if seen.half is not None:
                        measures["scale"] = disagreement(seen.full, seen.half)
                yield Record(name, *decoded[1], self._boxes(seen.full, *decoded), measures), seen.features

    def _boxes(self, found: Detections, pixels: Any, size: tuple[int, int]) -> tuple[Box, ...]:
        result = self.predictor.result(rescaled(found, pixels, size), size, None)
        rows = zip(result.boxes.tolist(), result.scores.tolist(), result.labels.tolist(), strict=True)
        return tuple(
            Box((x1, y1, x2, y2), score, label)
            for (x1, y1, x2, y2), score, label in rows
            if score >= self.score and x2 > x1 and y2 > y1
        )


def _student(path: str | None, device: str, predictor: Predictor) -> Predictor | None:
    if path is None:
        return None
    pupil = load(path, device)
    if pupil.classes != predictor.classes:
        raise ConfigError(f"{path} knows other classes than the detector: give its own student, or leave --student out")
    return pupil


def _share(shard: str | None) -> tuple[int, int]:
    """(k, n) of ``k/n``; (1, 1) for all."""
    if shard is None:
        return 1, 1
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard.strip())
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"--shard must be as 2/8 (the second of eight), not '{shard}'")
    return int(found[1]), int(found[2])


def _check_numbers(score: float | None, top: int | None, rank: bool, most: int, shard_size: int) -> None:
    if score is not None:
        check_score(score)
    for flag, value in (("top", top), ("max-detections", most), ("shard-size", shard_size)):
        if value is not None and value < 1:
            raise ConfigError(f"--{flag} must be 1 or more, not {value}")
    if top is not None and not rank:
        raise ConfigError("--top needs the ranking: leave --no-rank out")
