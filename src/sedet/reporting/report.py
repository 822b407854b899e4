"""``report.html``: what a training came to, in one file that needs nothing else."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sedet.config import TrainConfig
from sedet.data.check import without_left_out
from sedet.data.clean import clean
from sedet.data.formats import align_classes, read_table
from sedet.data.sources import find_images
from sedet.data.split import holdout
from sedet.data.table import AnnotationTable
from sedet.errors import ConfigError, DataError, SedetError
from sedet.files import unwritable, write_atomically
from sedet.judge import agreed_classes, detect_table
from sedet.predictor import Predictor, load
from sedet.reporting import run_charts
from sedet.reporting.gallery import Budget, error_gallery
from sedet.reporting.judged import Judged, judge
from sedet.reporting.page import render
from sedet.reporting.pseudo_gallery import PseudoGallery, unlabeled_gallery
from sedet.reporting.run_folder import RunFolder, Score, Verdict, read_run, twin_of, verdict
from sedet.reporting.sections import (
    data_row,
    data_values,
    judged_values,
    maker_rows,
    pool_row,
    pseudo_values,
    setting_rows,
    trainer_rows,
)

REPORT = "report.html"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportData:
    """What a report shows of a run's data; None for what is not there.

    Attributes:
        labeled: what was learnt from; val: what is judged by, in the detector's classes; pool: unlabelled images.
        problems: why something is missing, a line each.
        foreign: ``val`` is not what the run was judged by while it trained.
    """

    labeled: AnnotationTable | None
    val: AnnotationTable | None
    pool: tuple[Path, ...] = ()
    problems: tuple[str, ...] = ()
    foreign: bool = False


def report(
    folder: str | Path,
    *,
    data: str | Path | None = None,
    images: str | Path | None = None,
    split: str | None = "val",
    twin: str | Path | None = None,
    out: str | Path | None = None,
    batch: int = 8,
    device: str = "auto",
    progress: bool = False,
) -> Path:
    """Make the report of a run folder, finished or not: one HTML file.

    Args:
        folder: what ``sedet train`` wrote.
        data: labelled data to judge by, in place of the run's own validation labels.
        images: folder of their images, where the annotations' own paths do not lead to them.
        split: part of ``data``, where it holds several. None: val.
        twin: run folder of the supervised twin (or for a twin, of the run with unlabelled images).
        out: file to write. Default: ``report.html`` in the folder; one that is there is replaced.
        batch: images at a time.
        device: as for ``sedet.load``.
        progress: show a progress bar on stderr.

    Returns:
        The file.

    Raises:
        SedetError: not a run folder; the data, the twin or the detector cannot be used. Nothing is written then.
        OSError: the file cannot be written.
    """
    run = read_run(folder)
    target = Path(out) if out is not None else run.path / REPORT
    if target.is_dir():
        raise ConfigError(f"{target} is a folder; --out takes the file to write, as report.html")
    if target.exists() and not _is_page(target):
        raise ConfigError(f"{target} is there already and is no HTML page; give --out another name")
    if (reason := unwritable(target)) is not None:
        raise ConfigError(f"{target} cannot be written: {reason}. Give --out another place")
    other = twin_of(run, twin)
    predictor = _predictor(run, device)
    if data is not None and predictor is None:
        raise ConfigError(f"{run.path} has no best.safetensors yet, so there is nothing to judge on {data}")
    found = read_report_data(run.config, predictor.classes if predictor is not None else ())
    if data is not None:
        assert predictor is not None
        table, _ = clean(agreed_classes(read_table(data, images, split or "val"), predictor.classes))
        if not len(table):
            raise DataError("there are no images to judge by", table.source, "Give labelled data")
        found = replace(found, val=table, foreign=True)
    write_report(run, found, predictor, target, twin=other, batch=batch, progress=progress)
    return target


def _is_page(path: Path) -> bool:
    """Such a file may be replaced; a detector or labels may not."""
    with path.open("rb") as file:
        return file.read(15).lower() in (b"", b"<!doctype html>")


def write_report(
    run: RunFolder,
    data: ReportData,
    predictor: Predictor | None,
    target: Path,
    *,
    twin: RunFolder | None = None,
    batch: int = 8,
    progress: bool = False,
) -> None:
    """Judge, draw and write the page of a run; the file is written whole or not at all."""
    budget = Budget()
    problems = list(data.problems)
    judged: Judged | None = None
    gallery = None
    pseudo: PseudoGallery | None = None
    if predictor is None:
        problems.append("There is no detector in this folder yet, so nothing is judged.")
    else:
        if data.val is not None and data.val.class_counts().sum():
            table, found = detect_table(predictor, data.val, batch=batch, progress=progress)
            if len(table):
                judged = judge(table, found, predictor.score)
                gallery = error_gallery(table, found, predictor.score, budget)
            if len(table) < len(data.val):
                problems.append(f"{len(data.val) - len(table)} images to judge by could not be read and are left out.")
        elif data.val is None:
            problems.append("There are no validation labels, so the detector's answers are not judged.")
        pseudo = unlabeled_gallery(predictor, data.pool, budget, "the shipped detector", batch)
    said = verdict(run, twin)
    values = judged_values(judged, gallery, None if data.foreign else run)
    if data.foreign and judged is not None:
        said = with_foreign(said, run.config, judged)
        values["few"] = values["few"] and f"{judged.table.source}: {values['few']}"
    page = render(
        "run.html",
        kind="Training run",
        title=run.path.name or str(run.path),
        subtitle=subtitle(run),
        verdict=said,
        finished=run.finished,
        problems=problems,
        training=run_charts.training_charts(run),
        **values,
        **pseudo_values(pseudo),
        **data_values(
            "What was learnt from and judged by",
            data_rows(data),
            None if data.labeled is None else run_charts.data_chart(data.labeled),
            run.log,
        ),
        left_out=budget.left_out,
        changed=setting_rows(run.config, changed=True),
        settings=setting_rows(run.config),
        environment=environment_rows(run, predictor),
    )
    write_atomically(target, page.encode("utf-8", "backslashreplace"), durable=False)


def read_report_data(config: TrainConfig, classes: Sequence[str]) -> ReportData:
    """The data of a run as its training read them. What cannot be read (it has moved) is told, and left out.

    Args:
        classes: the detector's; () where there is none.
    """
    problems: list[str] = []
    labeled = val = None
    pool: tuple[Path, ...] = ()
    whole: AnnotationTable | None = None
    try:
        whole = read_table(config.labeled, config.images, "train")
        labeled, _ = clean(whole.with_classes(config.classes) if config.classes else whole)
        if config.val is None and (parts := holdout(labeled, seed=config.seed)) is not None:
            labeled, val = parts
    except SedetError as error:
        problems.append(f"The labelled data cannot be read: {error}")
    try:
        if config.val is not None:
            val, _ = clean(read_table(config.val, config.val_images, "val"))
            if whole is not None and labeled is not None:
                val = without_left_out(val, whole, labeled)
        if val is not None and classes:
            val = align_classes(val, tuple(classes))
    except SedetError as error:
        val = None
        problems.append(f"The validation data cannot be read: {error}. Give others with --data")
    try:
        if config.unlabeled:
            pool = tuple(find_images(config.unlabeled))
    except SedetError as error:
        problems.append(f"The unlabelled images cannot be read: {error}")
    return ReportData(labeled, val, pool, tuple(problems))


def with_foreign(said: Verdict, config: TrainConfig, judged: Judged) -> Verdict:
    """A verdict with the AP on data that are not the run's own, and the name of those that are."""
    scores = (*said.scores, Score("Shipped, on other data", judged.metrics.ap, judged.table.source))
    val = config.val or f"the images held out of {config.labeled}"
    notes = (f"All but the score on other data are of the run's own validation images: {val}.", *said.notes)
    return replace(said, scores=scores, notes=notes if said.scores else said.notes)


def subtitle(run: RunFolder) -> str:
    config = run.config
    parts = [config.method, config.detector, config.backbone or "", f"{config.image_size} px"]
    return ", ".join([*(part for part in parts if part), f"{run.step} of {config.steps} steps", f"seed {config.seed}"])


def data_rows(data: ReportData) -> list[tuple[str, ...]]:
    """A row for each part of the data that is there."""
    judged_by = "judged by (not the run's own)" if data.foreign else "validation"
    parts = (("labelled", data.labeled), (judged_by, data.val))
    rows = [data_row(name, table) for name, table in parts if table is not None]
    return [*rows, pool_row("unlabelled", len(data.pool))] if data.pool else rows


def environment_rows(run: RunFolder, predictor: Predictor | None) -> list[tuple[str, str]]:
    """What it ran with, as the detector's file says, and what made this page."""
    asked = ("device", f"{run.config.device}, precision {run.config.precision or 'of the device'}")
    return [asked, *trainer_rows([run.shipped or {}]), *maker_rows(None if predictor is None else predictor.device)]


def _predictor(run: RunFolder, device: str) -> Predictor | None:
    return load(run.detector, device) if run.detector.is_file() else None
