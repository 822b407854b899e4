"""A detector as one file for production: traced, checked against PyTorch on real images, written."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np

from sedet.data.formats import read_table
from sedet.data.images import read_image
from sedet.data.sources import find_images
from sedet.data.table import AnnotationTable
from sedet.data.views import plain_view
from sedet.detectors.file import detector_file
from sedet.detectors.regions import Detections
from sedet.errors import ConfigError, DataError, ImageError, SedetError
from sedet.evaluation.coco import coco_metrics
from sedet.exporting.agreement import RESIZED_TOLERANCES, TOLERANCES, Agreement, Tolerance, agreement
from sedet.exporting.formats import OPSET, finished, to_onnx, to_torch_export
from sedet.exporting.graph import Deployed
from sedet.exporting.options import Format, Precision
from sedet.exporting.quantize import CALIBRATION_IMAGES, quantized
from sedet.exporting.session import ExportedPredictor, OnnxSession, Session, TorchExportSession
from sedet.files import naming, unwritable, write_atomically
from sedet.judge import detect_table, to_judge
from sedet.predict import LARGEST_SIDE
from sedet.predictor import Pixels, Predictor, check_most, check_score, load
from sedet.reporting.report import ReportData, read_report_data
from sedet.settings import load_config

CHECK_IMAGES = 32
"""Images that both are compared on, at most."""
CHECK_SCORE = 0.05
"""Lowest score of the detections that are compared, whatever the file cuts at: a high cut would leave nothing."""
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}

log = logging.getLogger("sedet")


@dataclass(frozen=True)
class Exported:
    """What ``export`` did.

    Attributes:
        path: the file written.
        facts: what the file says of itself (its metadata).
        size: bytes.
        agreement: how its detections agree with PyTorch's on the same pixels; None without a check.
        resized: the same on the images as they are, which the file resizes itself.
        on: what it was checked on.
        seconds: an image in PyTorch and in the exported file, on this CPU; None without a check.
        ap: AP of PyTorch and of the exported file, percent points; None without labelled data.
    """

    path: Path
    facts: dict[str, Any]
    size: int
    agreement: Agreement | None
    resized: Agreement | None
    on: str
    seconds: tuple[float, float] | None
    ap: tuple[float, float] | None

    def __str__(self) -> str:
        f = self.facts
        what = f"ONNX, opset {f['opset']}" if f["format"] == "onnx" else "torch.export"
        classes = ", ".join(f"{i} {name}" for i, name in enumerate(f["classes"][:6]))
        more = f", ... {len(f['classes'])} in all" if len(f["classes"]) > 6 else ""
        lines = [
            f"Exported {self.path} ({what}, {f['precision']}, {self.size / 1e6:.1f} MB)",
            f"  in     images uint8 [batch, height, width, 3], RGB, any size; lowest score {f['score']:g}",
            f"  out    boxes [batch, {f['max_detections']}, 4] (xyxy, pixels of the images), scores, labels, count",
            f"  labels {classes}{more}",
        ]
        lines.append(f"  check  {self.on}" + (f", detections from score {CHECK_SCORE:g} on" if self.agreement else ""))
        if self.agreement and self.resized:
            lines += [f"         on the same pixels {self.agreement}", f"         on images as they are {self.resized}"]
        if self.seconds:
            before, after = (1000 * s for s in self.seconds)
            lines.append(f"  time   {after:.0f} ms an image, {before:.0f} in PyTorch (CPU, one image at a time)")
        if self.ap:
            lines.append(f"  AP     {self.ap[1]:.1f}, {self.ap[0]:.1f} in PyTorch ({self.ap[1] - self.ap[0]:+.1f})")
        elif f["precision"] != "fp32":
            lines.append("  AP     what it costs was not measured: give --data with labels to judge by")
        return "\n".join(lines)


def export(
    detector: str | Path,
    out: str | Path | None = None,
    format: Format = "onnx",
    precision: Precision = "fp32",
    score: float | None = None,
    max_detections: int = 100,
    images: str | Sequence[str] = (),
    data: str | Path | None = None,
    data_images: str | Path | None = None,
    split: str = "val",
    check: bool = True,
    overwrite: bool = False,
) -> Exported:
    """Export a detector as one file that holds everything from the image's bytes to the final boxes.

    The file takes uint8 images [batch, height, width, 3], RGB, and gives boxes float32 [batch, n, 4] (xyxy, pixels of
    the images), scores float32 [batch, n], labels int64 [batch, n] and count int64 [batch]; rows from ``count`` on are
    padding. An ONNX file has one more input, which need not be given: the lowest score.

    Args:
        detector: detector file, or a run's folder.
        out: file to write. Default: beside the detector, named by format and precision.
        format: onnx, for ONNX Runtime and others; or torch-export, for ``torch.export.load``.
        precision: fp32, fp16 (half the file) or int8 (a quarter of it; onnx only).
        score: lowest score of a detection if none is given at run time. Default: the detector's own.
        max_detections: most detections an image, best first.
        images: images, folders, list files or globs to compare on, and to calibrate int8 on.
        data: labelled data to compare on, and to tell what the export costs in AP.
        data_images: folder of that data's images, where the annotations' own paths do not lead to them.
        split: part of ``data``, where it holds several.
        check: compare with PyTorch before writing.
        overwrite: replace a file that is there.

    Returns:
        What was written, and how it agrees with PyTorch.

    Raises:
        SedetError: a package, the detector, images or data are not usable, or the exported detector does not say what
            the original says; nothing is written then.
    """
    sources = [images] if isinstance(images, str) else list(images)
    path = checked_options(detector, out, format, precision, score, max_detections, overwrite)
    if data is not None and not check:
        raise ConfigError("--data is read to compare with, which --no-check leaves out: leave out one of them")
    predictor = load(detector, "cpu")
    score = predictor.score if score is None else score
    table = read_table(data, images=data_images, split=split) if data is not None else None
    # What a smaller precision costs is told on the run's own val, wherever the images to compare on come from; int8 is
    # calibrated on its pool.
    uncalibrated = precision == "int8" and not sources
    wanted = uncalibrated or (table is None and (precision != "fp32" or (check and not sources)))
    own = run_data(Path(detector), predictor.classes) if wanted else ReportData(None, None)

    deployed = Deployed(predictor.model, predictor.image_size, score, max_detections, half=precision == "fp16")
    facts = facts_of(predictor, format, precision, score, max_detections)
    samples = calibration(find_images(sources) if sources else own.pool) if precision == "int8" else None
    session: Session
    if format == "onnx":
        model = to_onnx(deployed)
        if samples is not None:
            model = quantized(model, samples)
        content = finished(model, facts)
        session = OnnxSession(content)
    else:
        content = to_torch_export(deployed, facts)
        session = TorchExportSession(content)
    same, resized, seconds, ap, on = None, None, None, None, "not compared with PyTorch"
    if check:
        exported = ExportedPredictor(predictor, session)
        if table is not None:
            on, seen = str(table.source), first(of_table(table))
        elif sources:
            on, seen = ", ".join(sources), first(readable(find_images(sources)))
        else:
            on, seen, table = own_images(own, predictor.image_size)
        on = f"{len(seen)} image{'' if len(seen) == 1 else 's'} of {on}"
        shrunk = [plain_view(image, predictor.image_size).image.permute(1, 2, 0).numpy() for image in seen]
        same, _ = compared(predictor, exported, shrunk, CHECK_SCORE, max_detections)
        judge(same, TOLERANCES.get(precision), "on the same pixels", on)
        resized, seconds = compared(predictor, exported, seen, CHECK_SCORE, max_detections)
        judge(resized, RESIZED_TOLERANCES.get(precision), "on images as they are", on)
        if precision != "fp32" and table is None:
            table = own.val
        if table is not None and table.class_counts().sum():
            table, found = detect_table(predictor, to_judge(table, predictor.classes), batch=1)
            _, again = detect_table(exported, table, batch=1)  # warnings about the data were given above
            ap = (coco_metrics(table, found).ap, coco_metrics(table, again).ap)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    return Exported(path, facts, len(content), same, resized, on, seconds, ap)


def checked_options(
    detector: str | Path,
    out: str | Path | None,
    format: str,
    precision: str,
    score: float | None,
    max_detections: int,
    overwrite: bool,
) -> Path:
    """The file to write.

    Raises:
        ConfigError: a setting is not possible, or the file is there already.
    """
    for value, known, flag in ((format, get_args(Format), "format"), (precision, get_args(Precision), "precision")):
        if value not in known:
            raise ConfigError(f"{flag} must be one of {', '.join(known)}, not '{value}'")
    if format != "onnx" and precision == "int8":
        raise ConfigError("int8 is made by ONNX Runtime: use it with the format onnx")
    if score is not None:
        check_score(score)
    check_most(max_detections)
    name = "best" if precision == "fp32" else f"best-{precision}"
    place = Path(detector) if Path(detector).is_dir() else Path(detector).parent
    path = Path(out) if out is not None else place / f"{name}{SUFFIXES[format]}"
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give --out the name of a file, as {path / name}{SUFFIXES[format]}")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} is there already; give --overwrite to replace it, or another --out")
    if (reason := unwritable(path, detector_file(detector))) is not None:
        raise ConfigError(f"{path} cannot be written: {reason}. Give --out another place")
    return path


def facts_of(predictor: Predictor, format: str, precision: str, score: float, most: int) -> dict[str, Any]:
    """What the file says of itself."""
    import sedet

    return {
        "sedet": sedet.__version__,
        "format": format,
        "opset": OPSET if format == "onnx" else None,
        "precision": precision,
        "detector": predictor.model.spec.to_dict()["detector"],
        "classes": list(predictor.classes),
        "category_ids": list(predictor.category_ids),
        "image_size": predictor.image_size,
        "score": score,
        "max_detections": most,
    }


def run_data(detector: Path, classes: Sequence[str]) -> ReportData:
    """The run's own data, as far as its config.yaml is there and leads to them."""
    file = (detector if detector.is_dir() else detector.parent) / "config.yaml"
    if not file.is_file():
        return ReportData(None, None)
    try:
        return read_report_data(load_config(file), classes)
    except SedetError as error:
        return ReportData(None, None, problems=(str(error),))


def own_images(own: ReportData, image_size: int) -> tuple[str, list[Pixels], AnnotationTable | None]:
    """What to check on if nothing is given: what it is, images, and labels to judge by.

    The run's val images, or those held out for them; else its unlabelled ones; else those learnt from.
    """
    if own.val is not None and (seen := first(of_table(own.val))):
        return f"the run's val ({own.val.source})", seen, own.val
    for problem in own.problems:
        log.warning("%s", problem)
    if seen := first(readable(own.pool)):
        return "the run's unlabelled ones", seen, None
    if own.labeled is not None and (seen := first(of_table(own.labeled))):
        return f"the run's labelled ones ({own.labeled.source})", seen, None
    log.warning("No image of the run can be read: the export is compared on noise, which says little. Give --images")
    return "noise (give --images or --data)", list(noise(image_size)), None


def first(images: Iterable[Pixels]) -> list[Pixels]:
    return list(islice(images, CHECK_IMAGES))


def of_table(table: AnnotationTable) -> Iterator[Pixels]:
    return readable([e.path for e in table.images], [e.use_exif for e in table.images])


def calibration(paths: Sequence[Path]) -> Iterator[Pixels]:
    """Images to calibrate on, spread evenly over the files.

    Raises:
        ConfigError: there are no files.
        DataError: none of the images can be read.
    """
    if not paths:
        raise ConfigError("int8 needs images to calibrate on, like those it will see: give --images FOLDER")
    picked = paths[:: max(1, len(paths) // CALIBRATION_IMAGES)]
    if next(readable(picked), None) is None:
        raise DataError("no image can be read", picked[0].parent, "Give --images a folder of images")
    return islice(readable(picked), CALIBRATION_IMAGES)


def readable(paths: Sequence[Path], use_exif: Sequence[bool] | None = None) -> Iterator[Pixels]:
    """Decoded images, without those that cannot be read."""
    for i, path in enumerate(paths):
        try:
            yield read_image(path, use_exif=use_exif is None or use_exif[i], max_side=LARGEST_SIDE)
        except ImageError:
            continue


def noise(image_size: int) -> Iterator[Pixels]:
    """Images that no detector was made for: better than nothing."""
    rng = np.random.default_rng(0)
    for width, height in ((1.0, 0.75), (0.6, 1.0), (2.0, 1.5), (0.3, 0.3)):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        sides = (max(1, round(image_size * height)), max(1, round(image_size * width)))
        rows, columns = (np.arange(side) * 8 // side for side in sides)
        yield np.ascontiguousarray(coarse[rows][:, columns])


def compared(
    original: Predictor, exported: Predictor, images: Sequence[Pixels], score: float, most: int
) -> tuple[Agreement, tuple[float, float]]:
    """How both agree, and the seconds each takes an image.

    Raises:
        DataError: there are no images.
    """
    if not images:
        raise DataError("there is no image to compare on", None, "Give --images a folder, or --no-check")
    found: list[list[Detections]] = []
    seconds = []
    for predictor in (original, exported):
        predictor.detect(images[:1], score, most)  # the first is slow
        start = time.perf_counter()
        found.append([predictor.detect([image], score, most)[0] for image in images])
        seconds.append((time.perf_counter() - start) / len(images))
    return agreement(found[0], found[1], score, most), (seconds[0], seconds[1])


def judge(found: Agreement, tolerance: Tolerance | None, how: str, on: str) -> None:
    """
    Args:
        tolerance: None allows any difference, but not that nothing was compared.

    Raises:
        SedetError: nothing was compared, or the detections differ by more than is allowed.
    """
    if not found.detections:
        raise SedetError(
            f"nothing was compared: no detection is sure enough ({CHECK_SCORE:g}) {how}, on {on}. Nothing was written; "
            "give --images or --data with objects in them, or --no-check to write it all the same"
        )
    if tolerance is not None and not found.within(tolerance):
        raise SedetError(
            f"the exported detector does not say what the original says {how}: {found}. Allowed are "
            f"{tolerance.missing:.0%} without a counterpart and a difference of {tolerance.score:g}. Nothing was "
            "written; --no-check writes it all the same. Please report it with your versions of torch and onnxscript"
        )
