"""The whole analysis of one detector on labelled data: numbers, a table to print, and plots."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedet.data.clean import clean
from sedet.data.formats import read_table
from sedet.data.sources import find_images
from sedet.data.table import AnnotationTable
from sedet.detectors.faster_rcnn import FasterRCNN
from sedet.detectors.fcos import FCOS
from sedet.detectors.regions import Detections
from sedet.errors import ConfigError, DataError
from sedet.evaluation import challenges
from sedet.evaluation.calibration import calibration
from sedet.evaluation.challenge_plots import plots, share
from sedet.evaluation.coco import coco_metrics
from sedet.evaluation.errors import ERRORS, error_breakdown
from sedet.evaluation.pairs import pair
from sedet.evaluation.two_sizes import measure
from sedet.files import unwritable, write_atomically
from sedet.judge import agreed_classes, detect_table
from sedet.outputs import check_new
from sedet.predictor import Predictor, load
from sedet.text import printable

if TYPE_CHECKING:
    from rich.table import Table

log = logging.getLogger(__name__)

NUMBERS, REPORT = "analysis.json", "report.html"


@dataclass(frozen=True)
class Analysis:
    """What was measured.

    Attributes:
        facts: everything, by question; plain values, nan where there was nothing to measure by.
        files: what was written.
    """

    facts: dict[str, Any]
    files: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON: nan becomes None."""
        plain: dict[str, Any] = _plain(self.facts)
        return plain

    def table(self) -> Table:
        """A rich table: the figures that matter most, by question."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=escape(printable(self.facts["detector"])), show_header=False)
        table.add_column("")
        table.add_column("", justify="right")
        for title, rows in _lines(self.facts):
            table.add_section()
            table.add_row(escape(title), "", style="bold")
            for name, value in rows:
                table.add_row("  " + escape(printable(name)), value)
        return table


def analyze(
    detector: str | Path | Predictor,
    data: str | Path | AnnotationTable,
    *,
    images: str | Path | None = None,
    split: str | None = "val",
    unlabeled: str | Path | Sequence[str | Path] = (),
    classes: Sequence[str] = (),
    out: str | Path | None = None,
    batch: int = 8,
    device: str = "auto",
    progress: bool = False,
) -> Analysis:
    """Measure what makes learning from a detector's own answers hard.

    Args:
        detector: detector file, a run's folder, or one that is loaded.
        data: labelled data (COCO JSON, VOC, YOLO; file or folder), or a table.
        images: folder of the images, where the annotations' own paths do not lead to them.
        split: part to measure on, where the data hold several. None: val.
        unlabeled: unlabelled images whose pseudo labels the report shows: folders, list files or globs. Default: those
            of the images measured on.
        classes: measure on these classes alone. Default: all; the detector must know each that has objects.
        out: folder to write ``analysis.json``, plots and ``report.html`` to, new or empty. None: nothing is written.
        batch: images at a time.
        device: as for ``sedet.load``.
        progress: show a progress bar on stderr.

    Raises:
        SedetError: data or detector cannot be read or used, or the folder is in use; nothing is written then.
        OSError: a file cannot be written; what was made is removed.
    """
    if out is not None:
        check_new(Path(out))
        if (reason := unwritable(Path(out))) is not None:
            raise ConfigError(f"{out} cannot be written: {reason}. Give --out another place")
    table = data if isinstance(data, AnnotationTable) else read_table(data, images=images, split=split or "val")
    sources = [unlabeled] if isinstance(unlabeled, (str, Path)) else unlabeled
    pool = find_images([str(source) for source in sources])
    predictor = detector if isinstance(detector, Predictor) else load(detector, device)
    table, problems = clean(agreed_classes(table, predictor.classes, classes))
    for problem in problems[:10]:
        log.warning("%s", problem.text)
    if len(problems) > 10:
        log.warning("and %d more problems; 'sedet check' lists them", len(problems) - 10)
    if not len(table):
        raise DataError("there are no images to measure on", table.source, "Give labelled data")
    if not table.class_counts().sum():
        raise DataError("there are no boxes to measure by", table.source, "Give labelled data, or check --classes")
    named = str(detector) if isinstance(detector, (str, Path)) else repr(detector)
    table, found = _detected(predictor, table, batch, progress)
    facts = examined(predictor, table, found, named, progress)
    files = () if out is None else _write(Path(out), facts, predictor, table, found, pool, batch)
    return Analysis(facts, files)


def measured(
    predictor: Predictor, table: AnnotationTable, named: str, batch: int = 8, progress: bool = False
) -> dict[str, Any]:
    """Every figure, of a table in classes that the detector knows.

    Raises:
        DataError: none of the images can be read.
    """
    table, found = _detected(predictor, table, batch, progress)
    return examined(predictor, table, found, named, progress)


def _detected(
    predictor: Predictor, table: AnnotationTable, batch: int, progress: bool
) -> tuple[AnnotationTable, list[Detections]]:
    """The images that can be read, and what is found on each."""
    total = len(table)
    table, found = detect_table(predictor, table, batch=batch, progress=progress)
    if not len(table):
        raise DataError(f"none of the {total} images can be read", table.source, "Check the image files")
    return table, found


def examined(
    predictor: Predictor, table: AnnotationTable, found: Sequence[Detections], named: str, progress: bool = False
) -> dict[str, Any]:
    """Every figure of what was found: one entry an image of the table, xyxy in pixels of the original image."""
    from rich.console import Console
    from rich.progress import Progress

    cut, model = predictor.score, predictor.model
    with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task("both sizes", total=len(table))
        sizes = measure(predictor, table, lambda n: bar.advance(task, n))
    pairs = pair(table, found)
    metrics = coco_metrics(table, found)
    notes = []
    if isinstance(model, FasterRCNN):
        notes.append("consistency and imbalance are of the first stage: whether there is an object, whatever its class")
    if not isinstance(model, FCOS) and model.spec.torchvision_anchors:
        notes.append("the anchors are torchvision's, which are rounded: full and half size pair only roughly")
    if _never_halved(predictor.metadata.get("config")):
        notes.append("the detector was never trained at half size: its lowest level there means nothing")
    return {
        "detector": named,
        "data": table.source,
        "images": len(table),
        "objects": int(table.class_counts().sum()),
        "image_size": predictor.image_size,
        "score_cut": cut,
        "first_stage": isinstance(model, FasterRCNN),
        "notes": notes,
        "ap": metrics.ap,
        "ap50": metrics.ap50,
        "false_negatives": challenges.false_negatives(table, pairs),
        "localization": challenges.localization(pairs, cut),
        "sizes": challenges.by_object_size(table, found, cut),
        "consistency": sizes.consistency(),
        "imbalance": {
            "levels": sizes.levels(),
            "objects_without_foreground": sizes.unassigned,
            "weights": sizes.weights(),
            **challenges.class_frequencies(table),
        },
        "calibration": {"all": calibration(pairs), "from_cut": calibration(pairs, cut)},
        "errors": error_breakdown(table, found, cut),
    }


def _never_halved(config: object) -> bool:
    """Whether the settings of a training say that no view of half size was learnt from."""
    if not isinstance(config, Mapping) or config.get("half_size") is not False:
        return False
    sed = config.get("sed")
    return not (config.get("method") == "sed" and isinstance(sed, Mapping) and sed.get("scale"))


def _write(
    out: Path,
    facts: dict[str, Any],
    predictor: Predictor,
    table: AnnotationTable,
    found: Sequence[Detections],
    pool: Sequence[Path],
    batch: int,
) -> tuple[Path, ...]:
    """The numbers, the plots and the report; if one cannot be written, none stays."""
    from sedet.reporting.analysis_page import analysis_page

    numbers = json.dumps(_plain(facts), indent=2, allow_nan=False) + "\n"
    page = analysis_page(facts, _lines(facts), predictor, table, found, pool, batch)
    contents = {NUMBERS: numbers.encode(), **plots(facts), REPORT: page}
    files = [out / name for name in contents]
    try:
        for file, content in zip(files, contents.values(), strict=True):
            write_atomically(file, content, durable=False)
    except BaseException:
        for file in files:
            with suppress(OSError):
                file.unlink(missing_ok=True)
        raise
    return tuple(files)


def _plain(value: Any) -> Any:
    """For JSON: nan becomes None, and numbers are rounded to six places."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _lines(facts: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the table shows: sections of names and values."""
    lost, boxes, cut = facts["false_negatives"], facts["localization"], facts["score_cut"]
    both, weights = facts["consistency"]["all"], facts["imbalance"]["weights"]
    sections: list[tuple[str, list[tuple[str, str]]]] = []
    judged = f"{facts['images']} images, {facts['objects']} objects"
    sections.append((judged, [("AP, AP50", f"{_show(facts['ap'], 1)}, {_show(facts['ap50'], 1)}")]))
    rows = []
    for row in lost["hard"]:
        known = f"recall {_percent(row['recall'])}, precision {_percent(row['precision'])}"
        rows.append((f"score {row['threshold']:g}: {row['lost_objects']} lost", known))
    for name in ("small", "medium", "large"):
        at = lost["lost"][name][lost["thresholds"].index(0.5)]
        rows.append((f"lost at 0.5, {name}", f"{_percent(at)} of {lost['objects_by_size'][name]}"))
    sections.append(("False negatives of hard pseudo labels", rows))
    rows = [("mean IoU of pseudo boxes", f"{_show(boxes['mean_iou'])} ({boxes['boxes']} boxes)")]
    rows.append(("IoU 0.75 and more; under 0.5", f"{_percent(boxes['share_well'])}; {_percent(boxes['share_poor'])}"))
    sections.append((f"Localization, from score {cut:g} on", rows))
    rows = []
    for row in facts["sizes"]:
        if row["objects"]:
            name = f"AP, {share(row['from'])}-{share(row['to'])} % of the long side"
            rows.append((name, f"{_show(row['ap'], 1)} ({row['objects']} objects)"))
    rows.append(("|p full - p half|, foreground regions", _show(both["difference"])))
    rows.append(("IoU of the boxes at both sizes", _show(both["iou"])))
    sections.append(("Sizes", rows))
    rows = []
    for row in facts["imbalance"]["levels"]:
        ratio = "–" if math.isnan(row["background_per_foreground"]) else f"1 : {row['background_per_foreground']:.0f}"
        rows.append((f"foreground : background {row['level']}", f"{ratio} ({row['foreground']})"))
    rows.append(("objects without any foreground", str(facts["imbalance"]["objects_without_foreground"])))
    shares = f"{_percent(weights['share_of_regions'], 1)} -> {_percent(weights['share_of_weight'], 1)}"
    rows.append(("inside objects: of regions -> of weight", shares))
    rows.append(("most to least frequent class", f"{_show(facts['imbalance']['most_to_least'], 1)} : 1"))
    sections.append(("Imbalance", rows))
    rows = [
        ("expected calibration error", _show(facts["calibration"]["all"]["ece"], 3)),
        (f"the same from score {cut:g} on", _show(facts["calibration"]["from_cut"]["ece"], 3)),
    ]
    sections.append(("Calibration", rows))
    errors, rows = facts["errors"], []
    for name in ERRORS:
        rows.append((name, f"{errors['counts_from_cut'][name]} (AP50 +{_show(errors['dap'][name], 1)} if mended)"))
    sections.append((f"Errors, counted from score {cut:g} on", rows))
    if facts["notes"]:
        sections.append(("Notes", [(note, "") for note in facts["notes"]]))
    return sections


def _show(value: float, places: int = 2) -> str:
    return "–" if math.isnan(value) else f"{value:.{places}f}"


def _percent(share: float, places: int = 0) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.{places}f} %"
