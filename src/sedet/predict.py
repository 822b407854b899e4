"""Use a detector on many images: write its detections down, or judge them by labelled data."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from json import dumps
from pathlib import Path

import torch
from PIL import Image

from sedet.data.clean import clean
from sedet.data.formats import read_table
from sedet.data.sources import find_images
from sedet.data.table import AnnotationTable
from sedet.detectors.regions import Detections
from sedet.errors import ConfigError, DataError, ImageError
from sedet.evaluation.coco import COCO_AREA_RANGES, Metrics, area_bounds, coco_metrics
from sedet.evaluation.pseudo_labels import best_score
from sedet.files import unwritable
from sedet.outputs import (
    Item,
    Pictures,
    Writer,
    check_formats,
    check_new,
    coco_result,
    open_writers,
    output_names,
    write_text,
)
from sedet.predictor import Pixels, Predictor, Result, batches, check_most, check_place, check_score, load
from sedet.stream import images as read_images
from sedet.stream import read_ahead, read_file, video_frames
from sedet.tiles import TiledPredictor
from sedet.video import find_videos, is_video

__all__ = [
    "PredictSummary",
    "Predictor",
    "Result",
    "agreed_classes",
    "detect_table",
    "evaluate",
    "load",
    "predict_sources",
]

LARGEST_SIDE = 4096
"""Files with a longer side are shrunk to it when read, so that memory stays within bounds."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictSummary:
    """What ``predict_sources`` did.

    Attributes:
        images: images predicted on, the frames of videos among them.
        detections: detections written; score: the lowest of them could have had.
        skipped: what was wrong with each image that could not be read.
        seconds: time taken, without loading the detector.
        files: what was written.
        frames: how many of the images were frames of videos.
    """

    images: int
    detections: int
    score: float
    skipped: tuple[str, ...]
    seconds: float
    files: tuple[Path, ...]
    frames: int = 0

    def __str__(self) -> str:
        each = 1000 * self.seconds / max(1, self.images)
        rate = f", {self.images / self.seconds:.1f} images/s" if self.images >= self.seconds > 0 else ""
        skipped = f", {len(self.skipped)} unreadable and skipped" if self.skipped else ""
        places = ", ".join(str(path) for path in self.files)
        still = self.images - self.frames
        seen = _counted([(still, "image"), (self.frames, "frame")])
        return (
            f"{self.detections} detections in {seen or 'no images'}, score {self.score:g} and more{skipped} "
            f"({self.seconds:.1f} s, {each:.{int(each < 10)}f} ms an image{rate}), written to {places}"
        )


def predict_sources(
    detector: str | Path,
    sources: str | Path | Sequence[str | Path],
    out: str | Path = "predictions",
    format: str | Sequence[str] = "jsonl",
    draw: bool = False,
    score: float | None = None,
    batch: int = 8,
    device: str = "auto",
    max_detections: int = 100,
    tiles: int | None = None,
    tile_overlap: float = 0.2,
    tile_whole: bool = True,
    every: int = 1,
    workers: int = 2,
    progress: bool = False,
) -> PredictSummary:
    """Find objects in files and write them down. Memory does not grow with the number of images or frames.

    An image or video that cannot be read is reported (a log warning), skipped, counted, and listed in ``skipped.txt``.

    Args:
        detector: detector file.
        sources: images, folders (recursive), list files or globs; and video files or globs of them (``clips/*.mp4``).
        out: folder to write to, new or empty.
        format: one or several of jsonl, csv, coco, yolo; see ``sedet.outputs``.
        draw: write pictures of the detections too; of a video a video.
        score: lowest score of a detection that is written. Default: the detector's own, see ``Predictor.score``.
        batch: images at a time.
        device: as for ``load``.
        max_detections: most detections an image, best first (of an image in tiles: a tile).
        tiles: look at images with a longer side in tiles of this side, pixels; see ``sedet.tiles.TiledPredictor``.
        tile_overlap: share of a tile that it has in common with the next.
        tile_whole: look at the whole image too.
        every: of a video every n-th frame.
        workers: threads that decode images.
        progress: show a progress bar on stderr.

    Raises:
        SedetError: a source, the detector, a format or the folder is not usable, or no image could be read;
            nothing is written then.
        OSError: a file cannot be written (``filename`` names it); what was made is removed.
    """
    out, formats = Path(out), check_formats(format)
    if score is not None:
        check_score(score)
    check_most(max_detections)
    check_new(out)
    if every < 1:
        raise ConfigError(f"every must be 1 or more, not {every}")
    named = [str(source) for source in ([sources] if isinstance(sources, str | Path) else sources)]
    predictor = load(detector, device)
    if tiles is not None:
        predictor = TiledPredictor(predictor, tiles, tile_overlap, tile_whole)
    score = predictor.score if score is None else score
    videos = find_videos([source for source in named if is_video(source)])
    others = [source for source in named if not is_video(source)]
    paths = find_images(others) if others else []
    if not paths and not videos:
        raise DataError("no images were found", ", ".join(named), "Give images, folders, lists or globs")
    names = output_names([*paths, *videos])
    at_once = 1 if predictor.full_size else batch  # images in full size may fill the memory
    largest = None if predictor.full_size else LARGEST_SIDE

    start, images, of_videos, count = time.perf_counter(), 0, 0, 0
    skipped: list[str] = []
    writers: list[Writer] = []
    pictures: Pictures | None = None
    try:
        with _bar(progress, None if videos else len(paths)) as advance:
            stream = chain(
                read_images(paths, names[: len(paths)], largest, workers, 2 * at_once),
                video_frames(videos, names[len(paths) :], every),
            )
            for part in batches(enumerate(stream), at_once):
                good = []
                for index, picture in part:
                    if isinstance(picture.read, ImageError):
                        log.warning("skipped: %s", picture.read)
                        skipped.append(str(picture.read))
                    else:
                        good.append((index, picture, *picture.read))
                found = predictor.detect([pixels for _, _, pixels, _ in good], score, max_detections) if good else []
                if good and not writers:
                    # Only now, so that a run in which nothing can be read leaves nothing behind.
                    out.mkdir(parents=True, exist_ok=True)
                    writers.extend(open_writers(formats, out, predictor.classes, predictor.category_ids))
                    pictures = Pictures(out, every) if draw else None
                for (index, picture, pixels, size), detections in zip(good, found, strict=True):
                    result = predictor.result(rescaled(detections, pixels, size), size, picture.path)
                    item = Item(index, picture.name, picture.stem, result, picture.moment)
                    for writer in writers:
                        writer.add(item)
                    if pictures is not None:
                        pictures.add(item, _picture(pixels, detections, predictor.classes))
                    images, count = images + 1, count + len(result)
                    of_videos += picture.moment is not None
                advance(len(part))
        if not images:
            if len(names) == 1:
                raise DataError(skipped[0])
            counts = _counted([(len(paths), "image"), (len(videos), "video")])
            raise DataError(f"none of the {counts} can be read. The first: {skipped[0]}", ", ".join(named))
        files = [path for writer in writers for path in writer.finish()]
        if pictures is not None:
            pictures.finish()
            files.append(pictures.folder)
        if skipped:
            write_text(out / "skipped.txt", "".join(" ".join(line.split()) + "\n" for line in skipped))
            files.append(out / "skipped.txt")
    except BaseException:
        for writer in writers:  # so that the same folder can be given again
            writer.discard()
        if pictures is not None:
            pictures.discard()
        raise
    return PredictSummary(images, count, score, tuple(skipped), time.perf_counter() - start, tuple(files), of_videos)


def evaluate(
    detector: str | Path | Predictor,
    data: str | Path | AnnotationTable,
    *,
    images: str | Path | None = None,
    split: str | None = "val",
    classes: str | Sequence[str] = (),
    batch: int = 8,
    device: str = "auto",
    score_threshold: float = 0.001,
    area_ranges: tuple[float, float] = COCO_AREA_RANGES,
    json: str | Path | None = None,
    detections: str | Path | None = None,
    tiles: int | None = None,
    tile_overlap: float = 0.2,
    tile_whole: bool = True,
    progress: bool = False,
) -> Metrics:
    """Judge a detector by COCO's metrics on labelled data.

    Args:
        detector: detector file, or one that is loaded.
        data: labelled data (COCO JSON, VOC, YOLO; file or folder), or a table.
        images: folder of the images, where the annotations' own paths do not lead to them.
        split: part to judge on, where the data hold several. None: val.
        classes: judge by these classes, or this one, alone. Default: all; the detector must know each that has objects.
        batch: images at a time.
        device: as for ``load``.
        score_threshold: lowest score that counts.
        area_ranges: sides in original pixels that part small, medium and large objects.
        json: file to write the metrics to.
        detections: file to write the detections to: a COCO results list with the image and category ids of the data.
            Image ids are positions from 0 where the data's are not all whole numbers, or digits, that differ.
        tiles: as of ``predict_sources``.
        tile_overlap: the same.
        tile_whole: the same.
        progress: show a progress bar on stderr.

    Raises:
        SedetError: data or detector cannot be read, their classes do not agree, or a setting is out of range.
    """
    check_score(score_threshold, "score_threshold")
    area_bounds(area_ranges)  # for its checks: that of the metrics comes after all detections
    if isinstance(detector, Predictor):
        _check_outputs(json, detections, ())
    else:
        check_place(detector)
        _check_outputs(json, detections, (Path(detector), Path(detector) / "best.safetensors"))
    table = data if isinstance(data, AnnotationTable) else read_table(data, images=images, split=split or "val")
    _check_outputs(json, detections, (Path(table.source),))
    predictor = detector if isinstance(detector, Predictor) else load(detector, device)
    if tiles is not None:
        predictor = TiledPredictor(predictor, tiles, tile_overlap, tile_whole)
    table = to_judge(table, predictor.classes, classes)
    table, found = detect_table(predictor, table, batch=batch, score_threshold=score_threshold, progress=progress)
    metrics = replace(coco_metrics(table, found, area_ranges), best_score=best_score(table, found))
    if json is not None:
        write_text(Path(json), dumps(metrics.to_dict(), indent=2, allow_nan=False) + "\n")
    if detections is not None:
        write_text(Path(detections), ",\n".join(_result_lines(table, found)).join(("[\n", "\n]\n")))
    return metrics


def _check_outputs(json: str | Path | None, detections: str | Path | None, read: Sequence[Path]) -> None:
    for flag, file in (("json", json), ("detections", detections)):
        if file is not None and Path(file).is_dir():
            raise ConfigError(f"{file} is a folder; give --{flag} the name of a file")
        if file is not None and (reason := unwritable(Path(file), *read)) is not None:
            raise ConfigError(f"{file} cannot be written: {reason}. Give --{flag} another place")
    if json is not None and detections is not None and Path(json).resolve() == Path(detections).resolve():
        raise ConfigError("--json and --detections name the same file")  # the second would replace the first


def to_judge(table: AnnotationTable, known: Sequence[str], picked: str | Sequence[str] = ()) -> AnnotationTable:
    """What of a table can be judged by, in the detector's classes; what was left out or mended is told in warnings.

    Args:
        known, picked: as of ``agreed_classes``.

    Raises:
        DataError: classes do not agree, or no images or boxes are left.
    """
    table, problems = clean(agreed_classes(table, known, picked))
    for problem in problems[:10]:
        log.warning("%s", problem.text)
    if len(problems) > 10:
        log.warning("and %d more problems; 'sedet check' lists them", len(problems) - 10)
    if not len(table):
        raise DataError("there are no images to judge by", table.source, "Give labelled data")
    if not table.class_counts().sum():
        raise DataError("there are no boxes to judge by", table.source, "Give labelled data, or check --classes")
    return table


def _result_lines(table: AnnotationTable, found: Sequence[Detections]) -> Iterator[str]:
    for image, one in zip(table.images, found, strict=True):
        for box, label, score in zip(one.boxes.tolist(), one.labels.tolist(), one.scores.tolist(), strict=True):
            yield dumps(coco_result(image.id, table.category_ids[label], box, score), allow_nan=False)


def detect_table(
    predictor: Predictor,
    table: AnnotationTable,
    *,
    batch: int = 8,
    score_threshold: float = 0.001,
    max_detections: int = 100,
    workers: int = 2,
    progress: bool = False,
) -> tuple[AnnotationTable, list[Detections]]:
    """Detections of a table's images, to be judged by it.

    Args:
        table: its classes are some of the detector's; detections of others are left out.

    Returns:
        The table without the images that could not be read (each is reported), and one entry an image of it:
        xyxy in original pixels, labels into the table's classes.
    """
    label_of = {name: i for i, name in enumerate(table.classes)}
    mapping = torch.tensor([label_of.get(name, -1) for name in predictor.classes], dtype=torch.int64)
    kept: list[int] = []
    found: list[Detections] = []
    entries = list(enumerate(table.images))
    # As evaluations during training read them, so that scores agree.
    max_side = None if predictor.full_size else 2 * predictor.image_size
    with _bar(progress, len(entries)) as advance:
        read = read_ahead(entries, lambda e: read_file(e[1].path, max_side, e[1].use_exif), workers, 2 * batch)
        for part in batches(read, batch):
            good = []
            for (index, _), decoded in part:
                if isinstance(decoded, ImageError):
                    log.warning("left out of the evaluation: %s", decoded)
                else:
                    good.append((index, *decoded))
            answers = predictor.detect([g[1] for g in good], score_threshold, max_detections) if good else []
            for (index, pixels, size), answer in zip(good, answers, strict=True):
                answer = rescaled(answer, pixels, size)
                labels = mapping[answer.labels]
                keep = labels >= 0
                kept.append(index)
                found.append(Detections(answer.boxes[keep], answer.scores[keep], labels[keep]))
            advance(len(part))
    return table.subset(kept), found


def agreed_classes(table: AnnotationTable, known: Sequence[str], picked: str | Sequence[str] = ()) -> AnnotationTable:
    """The table in the detector's classes, matched by name.

    Classes that the data do not hold are left out: they cannot be judged. Classes of the data without objects
    need not be known.

    Args:
        known: the detector's classes.
        picked: judge by these, or this one, alone.

    Raises:
        DataError: there are objects of a class that the detector does not know, no class in common, or a
            picked class that one of them lacks.
    """
    picked = (picked,) if isinstance(picked, str) else picked
    for name in picked:
        if name not in known:
            raise DataError(f"the detector does not know the class '{name}'", None, f"It knows: {_listed(known)}")
    if picked:
        return table.with_classes(picked)
    counts = table.class_counts()
    shared = [name for name in known if name in table.classes]
    absent = [name for name in known if name not in table.classes]
    unknown = [name for name, n in zip(table.classes, counts, strict=True) if n and name not in known]
    if unknown or not shared:
        todo = (
            f"To judge by the classes both have, add --classes {shlex.join(shared)}"
            if shared
            else f"The detector knows: {_listed(known)}"
        )
        lacks = f" (and lacks {_listed(absent)})" if absent and shared else ""
        raise DataError(
            f"it has classes the detector does not know: {_listed(unknown or table.classes)}{lacks}",
            table.source,
            todo,
        )
    if absent:
        log.warning("%s has no class %s: not judged", table.source, _listed(absent))
    return table.with_classes(shared)


def rescaled(found: Detections, pixels: Pixels, size: tuple[int, int]) -> Detections:
    """Boxes in pixels of an image that was shrunk when read, in those of the original (width, height)."""
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return found
    scale = torch.tensor([size[0] / width, size[1] / height] * 2, dtype=torch.float32)
    return replace(found, boxes=found.boxes * scale)


def _counted(counts: Sequence[tuple[int, str]]) -> str:
    """1 image and 2 videos: what there is any of."""
    return " and ".join(f"{n} {kind}{'' if n == 1 else 's'}" for n, kind in counts if n)


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _picture(pixels: Pixels, found: Detections, classes: Sequence[str]) -> Image.Image:
    from sedet.reporting.draw import draw_boxes

    return draw_boxes(pixels, found.boxes, found.labels, classes, found.scores)


@contextmanager
def _bar(show: bool, total: int | None) -> Iterator[Callable[[int], None]]:
    if not show:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("images", total=total)
        yield lambda n: progress.update(task, advance=n)
