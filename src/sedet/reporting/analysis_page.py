"""``report.html`` of an analysis: what is wrong with a detector's answers, and what would mend most."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sedet import settings
from sedet.config import TrainConfig
from sedet.data.table import AnnotationTable
from sedet.detectors.regions import Detections
from sedet.errors import SedetError
from sedet.predictor import Predictor
from sedet.reporting.charts import Chart, Series, bars, lines
from sedet.reporting.gallery import Budget, error_gallery
from sedet.reporting.judged import Judged, judge
from sedet.reporting.page import render
from sedet.reporting.pseudo_gallery import judged_gallery, unlabeled_gallery
from sedet.reporting.run_charts import MOST_CLASSES, data_chart
from sedet.reporting.run_folder import Score
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

Facts = Mapping[str, Any]
SIZES = ("all", "small", "medium", "large")


def analysis_page(
    facts: Facts,
    lines_of: Sequence[tuple[str, Sequence[tuple[str, str]]]],
    predictor: Predictor,
    table: AnnotationTable,
    detections: Sequence[Detections],
    unlabeled: Sequence[Path] = (),
    batch: int = 8,
) -> bytes:
    """The page of an analysis, UTF-8.

    Args:
        facts: from :func:`sedet.evaluation.analysis.examined`.
        lines_of: the figures as they are printed: sections of names and values.
        table: what was measured on; detections: one entry an image, xyxy in pixels of the original image.
        unlabeled: images whose pseudo labels are shown. Default: those of the table.
        batch: of them at a time.
    """
    budget = Budget()
    judged = judge(table, detections, predictor.score)
    errors = error_gallery(table, detections, predictor.score, budget)
    if unlabeled:
        pseudo = unlabeled_gallery(predictor, unlabeled, budget, batch=batch)
    else:
        pseudo = judged_gallery(table, detections, predictor.score, budget)
    parts = [data_row("judged by", table)]
    if unlabeled:
        parts.append(pool_row("unlabelled", len(unlabeled)))
    config = _settings(predictor)
    page = render(
        "analysis.html",
        kind="Analysis of a detector",
        title=_named(str(facts["detector"])),
        subtitle=f"{facts['detector']}, {len(predictor.classes)} classes, {facts['image_size']} px",
        headline=_headline(facts, judged),
        scores=_scores(facts),
        notes=_notes(facts),
        **judged_values(judged, errors, what="Quality"),
        labels=_label_charts(facts),
        sizes=_size_charts(facts),
        balance=_balance_chart(facts),
        calibration=_calibration_chart(facts),
        **pseudo_values(pseudo, "None of the unlabelled images can be read."),
        **data_values("What the detector was measured on", parts, data_chart(table, "to judge by")),
        figures=[(title, rows) for title, rows in lines_of if title != "Notes"],
        changed=[] if config is None else setting_rows(config, changed=True),
        environment=_environment(facts, predictor),
        left_out=budget.left_out,
    )
    return page.encode("utf-8", "backslashreplace")


def _named(detector: str) -> str:
    """The name of the run that a detector's file is of."""
    path = Path(detector)
    return (path.absolute().parent if path.suffix == ".safetensors" else path).name or detector


def _headline(facts: Facts, judged: Judged) -> str:
    gains = {kind: gain for kind, gain in facts["errors"]["dap"].items() if not math.isnan(gain)}
    ap = "No AP can be told" if math.isnan(facts["ap"]) else f"{facts['ap']:.1f} AP"
    if not gains or max(gains.values()) < 0.05:
        return f"{ap}."
    worst = max(gains, key=lambda kind: gains[kind])
    told = {
        "localization": "badly placed boxes",
        "class": "wrong classes",
        "duplicate": "objects found twice",
        "background": "boxes where nothing is labelled",
        "both": "boxes of a wrong class and place",
        "missed": "missed objects",
    }[worst]
    return f"{ap}; {told} cost most: {gains[worst]:.1f} AP50."


def _scores(facts: Facts) -> list[Score]:
    """Figures in percent points, for the head of the page."""
    lost = facts["false_negatives"]
    at = lost["lost"]["all"][lost["thresholds"].index(0.5)]
    boxes, cut = facts["localization"], facts["score_cut"]
    return [
        Score("AP", facts["ap"], "COCO, IoU 0.50 to 0.95"),
        Score("AP50", facts["ap50"], "IoU 0.50"),
        Score("Objects lost", 100 * at, "percent, by labels cut at score 0.5"),
        Score("Mean IoU of boxes", 100 * boxes["mean_iou"], f"percent, from score {cut:g} on"),
        Score("Calibration error", 100 * facts["calibration"]["all"]["ece"], "percent, expected; 0 is perfect"),
    ]


def _notes(facts: Facts) -> list[str]:
    notes = []
    both, weights = facts["consistency"]["all"], facts["imbalance"]["weights"]
    if not math.isnan(both["iou"]):
        notes.append(
            f"At half size the scores of foreground regions change by {both['difference']:.2f} on average, and their "
            f"boxes have IoU {both['iou']:.2f} with those at full size."
        )
    if not math.isnan(weights["share_of_regions"]):
        notes.append(
            f"{100 * weights['share_of_regions']:.1f} % of all regions lie inside objects; re-weighting gives them "
            f"{100 * weights['share_of_weight']:.1f} % of the weight."
        )
    return [*notes, *(f"{note[:1].upper()}{note[1:]}." for note in facts["notes"])]


def _label_charts(facts: Facts) -> list[Chart]:
    """What hard pseudo labels lose, and how well they lie."""
    lost, boxes = facts["false_negatives"], facts["localization"]
    classes = sorted(lost["objects_by_class"], key=lambda name: -lost["objects_by_class"][name])[:MOST_CLASSES]
    charts = []
    for title, numbers, values, names in (
        ("Lost objects, by size", lost["objects_by_size"], lost["lost"], SIZES),
        ("Lost objects, by class", lost["objects_by_class"], lost["lost_by_class"], classes),
    ):
        series = [
            Series(f"{name} ({numbers[name]})", lost["thresholds"], values[name]) for name in names if numbers[name]
        ]
        charts.append(
            lines(
                title,
                series,
                x_label="score threshold of pseudo labels",
                y_label="lost, of all objects",
                description="Objects that no box of their class from the threshold on stands for; how many there are "
                "stands in brackets.",
                x_range=(0, 1),
                y_range=(0, 1.02),
                percent=True,
                table=False,
            )
        )
    rows = boxes["by_score"]
    middle = [(row["from"] + row["to"]) / 2 for row in rows]
    well = "–" if math.isnan(boxes["share_well"]) else f"{100 * boxes['share_well']:.0f} %"
    charts.append(
        lines(
            "How well boxes lie, by score",
            [
                Series("mean IoU", middle, [row["mean_iou"] for row in rows]),
                Series("share with IoU 0.75 or more", middle, [row["share_well"] for row in rows]),
            ],
            x_label="score",
            description=f"Of {boxes['boxes']} boxes from score {boxes['cut']:g} on, {well} have IoU 0.75 or more.",
            x_range=(0, 1),
            y_range=(0, 1.02),
            digits=2,
            marker=True,
        )
    )
    edges, counts = boxes["histogram"]["edges"], boxes["histogram"]["counts"]
    charts.append(
        bars(
            "Boxes by IoU",
            [f"{low:.2f} to {high:.2f}" for low, high in itertools.pairwise(edges)],
            [("boxes", [float(count) for count in counts])],
            x_label="boxes",
            description="IoU with the object of their class that they overlap most.",
            digits=0,
        )
    )
    return charts


def _size_charts(facts: Facts) -> list[Chart]:
    """What is found by the size of objects, and whether half size answers the same."""

    def side(row: Facts) -> str:
        return f"{row['from'] * facts['image_size']:.0f} to {row['to'] * facts['image_size']:.0f} px"

    found = [row for row in facts["sizes"] if row["objects"]]
    same = [row for row in facts["consistency"]["by_size"] if row["regions"]]
    charts = []
    if found:
        charts.append(
            bars(
                "Found, by size",
                [f"{side(row)} ({row['objects']})" for row in found],
                [
                    ("AP", [row["ap"] for row in found]),
                    ("recall, %", [100 * row["recall"] for row in found]),
                    (f"recall from {facts['score_cut']:g}, %", [100 * row["recall_cut"] for row in found]),
                ],
                x_label=f"percent; sides at {facts['image_size']} px (objects)",
                description="Recall at IoU 0.5, of all boxes and of those from the score to cut at.",
            )
        )
    if same:
        stage = " The first stage's, whatever the class." if facts["first_stage"] else ""
        charts.append(
            bars(
                "Full and half size, by size",
                [f"{side(row)} ({row['regions']})" for row in same],
                [
                    ("score changes by", [row["difference"] for row in same]),
                    ("IoU of the boxes", [row["iou"] for row in same]),
                ],
                x_label="0 to 1 (foreground regions)",
                description=f"How far the answers at both sizes are apart at regions of objects.{stage}",
                digits=2,
            )
        )
    return charts


def _balance_chart(facts: Facts) -> Chart:
    """Foreground against background by pyramid level."""
    rows, images = facts["imbalance"]["levels"], max(1, facts["images"])
    shares = [
        100 * row["foreground"] / total if (total := row["foreground"] + row["background"]) else math.nan
        for row in rows
    ]
    return bars(
        "Foreground, by level",
        [f"{row['level']} ({row['foreground'] / images:.1f} an image)" for row in rows],
        [("foreground", shares)],
        x_label="percent of the level's regions",
        description=f"Objects without any region: {facts['imbalance']['objects_without_foreground']}.",
        digits=2,
    )


def _calibration_chart(facts: Facts) -> Chart:
    found = facts["calibration"]["all"]
    rows = [row for row in found["bins"] if row["detections"]]
    error = found["ece"]
    return lines(
        "Are scores what they say?",
        [
            Series("right, of the detections", [r["mean_score"] for r in rows], [r["precision"] for r in rows]),
            Series("as the score says", [0, 1], [0, 1]),
        ],
        x_label="mean score",
        description="Below the diagonal the detector is too sure, above it not sure enough. "
        + ("" if math.isnan(error) else f"Expected calibration error {error:.3f}."),
        x_range=(0, 1),
        y_range=(0, 1.02),
        digits=2,
        marker=True,
        table=False,
    )


def _settings(predictor: Predictor) -> TrainConfig | None:
    """The settings of the training, as the detector's file has them; None where they cannot be read."""
    told = predictor.metadata.get("config")
    try:
        return settings.from_dict(told) if isinstance(told, Mapping) else None
    except SedetError:
        return None


def _environment(facts: Facts, predictor: Predictor) -> list[tuple[str, str]]:
    rows = [("detector", str(facts["detector"])), ("data", str(facts["data"]))]
    return [*rows, *trainer_rows([predictor.metadata]), *maker_rows(predictor.device)]
