"""Use a detector on many images, and write its detections down."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from PIL import Image

from sedet.data.sources import find_images
from sedet.detectors.regions import Detections
from sedet.errors import ConfigError, DataError, ImageError
from sedet.outputs import (
    Item,
    Pictures,
    Writer,
    check_formats,
    check_new,
    open_writers,
    output_names,
    write_text,
)
from sedet.predictor import Pixels, batches, check_most, check_score, load
from sedet.stream import images as read_images
from sedet.stream import video_frames
from sedet.tiles import TiledPredictor
from sedet.video import find_videos, is_video

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
        with progress_bar(progress, None if videos else len(paths)) as advance:
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


def _picture(pixels: Pixels, found: Detections, classes: Sequence[str]) -> Image.Image:
    from sedet.reporting.draw import draw_boxes

    return draw_boxes(pixels, found.boxes, found.labels, classes, found.scores)


@contextmanager
def progress_bar(show: bool, total: int | None) -> Iterator[Callable[[int], None]]:
    if not show:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("images", total=total)
        yield lambda n: progress.update(task, advance=n)
