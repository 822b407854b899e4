"""What a report says of a detector, against numbers worked out by hand."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from sedet.config import TrainConfig
from sedet.data.table import AnnotationTable, Objects
from sedet.detectors.regions import Detections
from sedet.evaluation.pairs import pair
from sedet.reporting.charts import SIZE, bars
from sedet.reporting.judged import confusion_matrix, judge, most_confused
from sedet.reporting.run_charts import curve_charts
from sedet.reporting.run_folder import RunFolder, verdict
from sedet.reporting.sections import matrix_rows, sweep_rows
from tests.evaluation.cases import make_detections, make_table

A, B, C, D = [0, 0, 40, 40], [100, 0, 140, 40], [200, 0, 240, 40], [300, 0, 340, 40]


@pytest.fixture
def case() -> tuple[AnnotationTable, list[Detections]]:
    """Objects: two of class 0, one of class 1, one of class 2. Found: one right, one as another class, one nothing."""
    table = make_table([Objects.build([A, B, C, D], [0, 0, 1, 2])])
    boxes = [A, [102, 0, 142, 40], [0, 200, 40, 240], C]
    return table, [make_detections(boxes, [0.9, 0.8, 0.7, 0.2], [0, 1, 2, 1])]


def test_confusion_by_hand(case: tuple[AnnotationTable, list[Detections]]) -> None:
    table, found = case
    above = [Detections(found[0].boxes[:3], found[0].scores[:3], found[0].labels[:3])]
    counts = confusion_matrix(table, pair(table, above))
    assert counts.tolist() == [
        [1, 1, 0, 0],  # A is right; B was taken for class 1
        [0, 0, 0, 1],  # C was missed
        [0, 0, 0, 1],  # D was missed
        [0, 0, 1, 0],  # one detection where there is nothing
    ]
    assert most_confused(table, counts) == [("class 0", "class 1", 1)]


def test_a_detection_of_its_own_class_wins_over_a_nearer_one_of_another() -> None:
    table = make_table([Objects.build([A], [0])])
    found = [make_detections([A, [0, 0, 40, 30]], [0.9, 0.5], [1, 0])]
    assert confusion_matrix(table, pair(table, found)).tolist()[0] == [1, 0, 0, 0]


def test_ignored_objects_are_nowhere_in_the_confusion() -> None:
    table = make_table([Objects.build([A, B], [0, 0], difficult=[True, False])])
    found = [make_detections([A, B], [0.9, 0.8], [0, 0])]
    assert confusion_matrix(table, pair(table, found)).sum() == 1


def test_curves_and_best_score_by_hand(case: tuple[AnnotationTable, list[Detections]]) -> None:
    judged = judge(*case, cut=0.5)
    first, second, third = judged.classes
    assert (first.objects, first.score, first.precision, first.recall) == (2, pytest.approx(0.9), 1.0, 0.5)
    assert first.f1 == pytest.approx(2 / 3)
    # Class 1: a wrong one at 0.8, then the right one at 0.2: precision 1/2, recall 1.
    assert (second.precisions, second.recalls) == ((0.0, 0.5), (0.0, 1.0))
    assert second.score == pytest.approx(0.2) and second.f1 == pytest.approx(2 / 3)
    assert math.isnan(third.score) and third.precisions == (0.0,)
    assert judged.confusion.sum() == 5, "from the cut on alone"
    at = {row[0]: row for row in sweep_rows(judged)}
    assert at[0.5][1:] == [pytest.approx(1 / 3, abs=1e-4), 0.25, 3.0]
    rows = matrix_rows(judged)
    assert rows.columns == ("class 0", "class 1", "class 2", "missed")
    assert (
        [row[1] for row in rows.rows] == [2, 1, 1, 1]
        and rows.rows[-1][0] == "left over"
        and rows.rows[0][2][0] == (1, 0.5)
    )


def test_equal_scores_are_cut_together() -> None:
    table = make_table([Objects.build([A], [0])])
    judged = judge(table, [make_detections([A, B], [0.5, 0.5], [0, 0])], 0.3)
    assert judged.classes[0].precision == 0.5


def test_classes_without_detections_are_no_curves_and_the_caption_says_so() -> None:
    table = make_table([Objects.build([A, B, C, D], [0, 0, 0, 1])])
    curves = curve_charts(judge(table, [make_detections([D], [0.5], [1])], 0.3))
    assert "1 of 2 classes: those with the most objects and any detection." in curves[0].description


def test_the_label_below_bars_with_long_names_is_in_the_middle_of_the_drawing() -> None:
    drawn = bars("t", ["a very long name of a class (1)"], [("AP", [1.0])], x_label="below the bars").svg
    found = re.search(r"<text([^>]*)>below the bars</text>", drawn)
    assert found is not None and "middle" in found[1]
    place = re.search(r'(?: x="|translate\()([\d.]+)', found[1])
    assert place is not None and abs(float(place[1]) - 72 * SIZE[0] / 2) < 1


def test_nothing_found_at_all() -> None:
    judged = judge(make_table([Objects.build([A], [0])]), [make_detections([], [], [])], 0.3)
    assert judged.best is None and judged.classes[0].recalls == ()
    assert np.array_equal(judged.confusion[0], [0, 0, 0, 1])


def made(step: int = 4, ship: float | None = 15.0, shipped_step: int = 4, **changes: object) -> RunFolder:
    """A run whose teacher had 10 and its student 12.5 AP at the end of the burn-in, and 15 at the end."""
    config = TrainConfig(
        **{"labeled": "l", "unlabeled": ("u",), "val": "v", "steps": 4, "burn_in": 0.5, "guard": False} | changes  # type: ignore[arg-type]
    )
    rows = ({"step": 2.0, "teacher_ap": 10.0, "student_ap": 12.5}, {"step": 4.0, "teacher_ap": 15.0, "student_ap": 14})
    shipped = None if ship is None else {"step": shipped_step, "metrics": {"ap": ship}}
    return RunFolder(Path("run"), config, tuple(row for row in rows if row["step"] <= step), shipped)


def test_verdict_without_a_twin_does_not_thank_the_unlabelled_images() -> None:
    said = verdict(made())
    assert said.headline == "After the burn-in on labels alone the detector changed by +2.5 AP."
    assert said.gain is None and said.good is None
    assert [(s.name, s.ap) for s in said.scores] == [
        ("Labels alone", 12.5),
        ("With unlabelled images", 15.0),
        ("Shipped", 15.0),
    ]
    assert said.command.startswith("sedet train --config run/config.yaml --method supervised --start run --out")


def test_verdict_with_a_twin() -> None:
    twin = made(method="supervised")
    twin.rows[-1]["teacher_ap"] = 16.5
    said = verdict(made(), twin)
    assert said.headline == "Unlabelled images cost 1.5 AP." and said.good is False and said.gain == -1.5
    assert [s.ap for s in said.scores] == [16.5, 15.0, 15.0]
    twin.rows[-1]["teacher_ap"] = 13.0
    assert verdict(made(), twin).headline == "Unlabelled images added 2.0 AP."
    turned = verdict(twin, made())  # seen from the twin's folder
    assert (turned.headline, [s.ap for s in turned.scores][:2]) == ("Unlabelled images added 2.0 AP.", [13.0, 15.0])


def test_verdict_of_what_is_not_there_yet() -> None:
    half = verdict(made(step=2))
    assert half.headline == "Training on unlabelled images has not been judged yet."
    assert "sedet train --resume run" in half.notes[0]
    blind = RunFolder(Path("run"), TrainConfig(steps=4), ({"step": 4.0, "sup_class": 1.0},), None)
    assert verdict(blind).headline == "Nothing is known of this detector's quality: there are no validation labels."
    assert verdict(made(method="supervised")).headline == "The labels alone gave 15.0 AP."


def test_verdict_says_when_the_guard_shipped_the_labels_alone() -> None:
    said = verdict(made(guard=True, ship=15.5, shipped_step=2))
    assert said.notes[0].startswith("The guard ships the detector of the labels alone")
    assert said.scores[-1].where == "labels alone, step 2: no later teacher was better"


def test_an_ap_that_is_not_a_number_is_no_verdict() -> None:
    nan, config = math.nan, made().config
    rows = ({"step": 2.0, "teacher_ap": nan, "student_ap": nan}, {"step": 4.0, "teacher_ap": nan, "student_ap": nan})
    run = RunFolder(Path("run"), config, rows, {"step": 4, "metrics": {"ap": nan}})
    said = verdict(run)
    assert said.headline.endswith("the validation images show no object to find.") and not said.scores
    half = RunFolder(Path("run"), config, (rows[0], made().rows[1]), None)
    assert "nan" not in str(verdict(half)), "the end of the burn-in is not known"
