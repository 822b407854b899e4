"""Judge a detector by labelled data."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from json import dumps
from pathlib import Path

import torch

from sedet.data.clean import clean
from sedet.data.formats import read_table
from sedet.data.table import AnnotationTable
from sedet.detectors.file import detector_file
from sedet.detectors.regions import Detections
from sedet.errors import ConfigError, DataError, ImageError
from sedet.evaluation.coco import COCO_AREA_RANGES, Metrics, area_bounds, coco_metrics
from sedet.evaluation.pseudo_labels import best_score
from sedet.files import unwritable
from sedet.outputs import coco_result, write_text
from sedet.predict import progress_bar, rescaled
from sedet.predictor import Predictor, batches, check_place, check_score, load
from sedet.stream import read_ahead, read_file
from sedet.tiles import TiledPredictor

log = logging.getLogger(__name__)


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
    given = []
    if not isinstance(detector, Predictor):
        check_place(detector)
        given = [detector_file(detector)]
    _check_outputs(json, detections, given)
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
    with progress_bar(progress, len(entries)) as advance:
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


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
