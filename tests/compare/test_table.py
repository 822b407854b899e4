"""The table of a comparison, from rows made by hand: sums, pairs, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sedet.compare.cells import Cell, Comparison, make_cells, read_pool
from sedet.compare.command import list_cells
from sedet.compare.table import caveats, cells_of, load_rows, markdown, read_record, summarize, write_tables
from sedet.config import TrainConfig
from sedet.data.table import AnnotationTable
from sedet.detectors.regions import Detections
from sedet.errors import ConfigError
from sedet.evaluation.bootstrap import paired_bootstrap
from sedet.evaluation.stored import save_detections
from tests import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.dataset(tmp_path_factory.mktemp("data"), labeled=8)


@pytest.fixture(scope="module")
def val(data: Path) -> AnnotationTable:
    return read_pool(asked(data, data)).val


def asked(data: Path, out: Path, methods: Sequence[str] = ("supervised", "sed"), seeds: int = 1) -> Comparison:
    cells = make_cells(methods, [40], [1], range(seeds), ceiling=True)
    return Comparison(str(data / "labeled.json"), str(data / "val.json"), None, None, TrainConfig(), out, cells)


def answers(val: AnnotationTable, share: float) -> list[Detections]:
    """So much of the objects of each image, found exactly."""
    found = []
    for objects in val.objects:
        count = round(share * len(objects))
        boxes, labels = torch.tensor(objects.boxes[:count]).float(), torch.tensor(objects.labels[:count]).long()
        found.append(Detections(boxes.reshape(-1, 4), torch.full((count,), 0.9), labels))
    return found


def put(out: Path, cell: Cell, val: AnnotationTable, share: float, **changes: Any) -> Path:
    """A row as a training would leave it."""
    figures = {"ap": 100 * share, "ap50": 100 * share, "seconds": 120.0, "memory": 2**30}
    row = dict.fromkeys(("ap75", "ap_small", "ap_medium", "ap_large", "burn_in_ap")) | figures
    row |= {"method": cell.method, "ceiling": cell.ceiling, "per_class": {}, "versions": {"sedet": "1.0"}, **changes}
    path = out / "rows" / f"{cell.name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(row))
    save_detections(path.with_suffix(".npz"), answers(val, share))
    return path


def test_gain_share_and_interval_by_hand(data: Path, val: AnnotationTable, tmp_path: Path) -> None:
    """Supervised finds nothing, the method all objects, the ceiling half of them."""
    one = asked(data, tmp_path)
    for cell, share in zip(one.cells, (0.0, 1.0, 0.5), strict=True):
        put(tmp_path, cell, val, share)
    twin, sed, ceiling = summarize(one, val, draws=50)
    want = paired_bootstrap(val, answers(val, 0.0), answers(val, 1.0), draws=50)
    assert (sed["gain"], sed["low"], sed["high"]) == pytest.approx((want.difference, want.low, want.high), abs=1e-3)
    assert sed["gain"] == pytest.approx(100) and sed["gap_share"] == pytest.approx(2.0)
    assert twin["gain"] is None and ceiling["gain"] is None and ceiling["ceiling"]
    assert cells_of(sed) == ["40 %", "sed", "100.0", "100.0", "-", "+100.0 [+100.0, +100.0]", "1 of 1", "200 %",
                             "1", "1", "2 min", "1.0 GiB"]  # fmt: skip
    assert markdown([twin]).splitlines()[2].startswith("| 40 % | supervised | 0.0 | 0.0 | - | - | - | - | 1 |")
    assert "not conclusive" in caveats([twin, sed])[0] and caveats([twin]) == []
    assert Cell(40, 1, 0, "sed").part == "p40-f1-s0"


def test_gains_are_paired_and_the_pairs_are_told(data: Path, val: AnnotationTable, tmp_path: Path) -> None:
    """Of three runs two have a twin: one gains all, one loses all."""
    one = asked(data, tmp_path, seeds=3)
    for cell in one.cells:
        shares = {"supervised": (0.0, 1.0, None), "sed": (1.0, 0.0, 1.0)}[cell.method]
        if not cell.ceiling and (share := shares[cell.seed]) is not None:
            put(tmp_path, cell, val, share)
    twin, sed = summarize(one, val, draws=50)
    assert (twin["runs"], sed["runs"], sed["paired"], sed["ahead"]) == (2, 3, 2, 1)
    assert sed["gain"] == pytest.approx(0) and sed["gain_deviation"] == pytest.approx(20_000**0.5)
    assert cells_of(sed)[5].startswith("+0.0 ± 141.4 [") and cells_of(sed)[6] == "1 of 2"
    write_tables(one, [twin, sed])
    text = (tmp_path / "table.md").read_text()
    assert "2 pairs of runs tell of that." in text and "more runs than pairs" in text


def test_the_interval_s_limits_are_always_told() -> None:
    for counts, line in (([1], "one run does not tell"), ([1, 3], "3 pairs of runs tell of that, and one is not"),
                         ([2, 5], "2 to 5 pairs of runs tell of that.")):  # fmt: skip
        assert line in caveats([{"method": "sed", "tried": 1, "paired": count, "runs": count} for count in counts])[0]


def test_all_rows_of_the_folder_are_in_the_table(data: Path, val: AnnotationTable, tmp_path: Path) -> None:
    for cell in asked(data, tmp_path, ("supervised", "sed", "csd")).cells:
        put(tmp_path, cell, val, 0.5)
    (tmp_path / "rows" / "notes.json").write_text("no row")
    later = asked(data, tmp_path, ("supervised", "sed"))
    later = replace(later, cells=tuple(c for c in later.cells if not c.ceiling))
    assert [(e["method"], e["ceiling"]) for e in summarize(later, val, draws=5)] == [
        ("supervised", False),
        ("sed", False),
        ("csd", False),
        ("supervised", True),
    ]


def test_whether_a_row_is_the_ceiling_is_said_by_the_command(data: Path, val: AnnotationTable, tmp_path: Path) -> None:
    one = asked(data, tmp_path)
    put(tmp_path, one.cells[-1], val, 0.5, ceiling=False)
    assert [e["ceiling"] for e in summarize(one, val, draws=5)] == [True]


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("p2.5-f1-s3-dense-teacher", Cell(2.5, 1, 3, "dense-teacher")),
        ("k10-f2-s0-sed", Cell(0, 2, 0, "sed", 10)),
        ("p10-f1-s0-burn-in", None),
        ("p1.2.3-f1-s0-sed", None),
        ("table", None),
    ],
)
def test_cells_are_known_by_their_names(name: str, cell: Cell | None) -> None:
    assert Cell.from_name(name) == cell


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"batch": 4}}, r"sed was trained with batch 4, but p40-f1-s0-supervised with batch 2"),
        ({"settings": {"steps": 9}}, "steps 9"),
        ({"data": {"pool": "b"}}, "content of pool b"),
        ({"versions": {"sedet": "2.0+g1"}}, "sedet 2.0, but"),
        ({"settings": {}, "backbone": "big"}, "backbone big"),  # of before rows had their settings
    ],
)
def test_rows_of_other_terms_are_refused(
    data: Path, val: AnnotationTable, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    one = asked(data, tmp_path)
    usual: dict[str, Any] = {"settings": {"batch": 2, "steps": 6, "backbone": "small"}, "data": {"pool": "a"}}
    for cell in one.cells:
        put(tmp_path, cell, val, 0.5, **usual)
    summarize(one, val, draws=5)
    put(tmp_path, one.cells[1], val, 0.5, **(usual | changes))
    with pytest.raises(ConfigError, match=message):
        summarize(one, val, draws=5)


def test_other_percents_may_take_other_steps(data: Path, val: AnnotationTable, tmp_path: Path) -> None:
    one = asked(data, tmp_path)
    for cell in one.cells:
        put(tmp_path, cell, val, 0.5, settings={"steps": 9 if cell.ceiling else 6})
    assert len(summarize(one, val, draws=5)) == 3


def cut(path: Path) -> None:
    file = path.with_suffix(".npz")
    file.write_bytes(file.read_bytes()[:-40])


def without_ap(path: Path) -> None:
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "ap"}))


def with_garbage(path: Path) -> None:
    data = bytearray(path.with_suffix(".npz").read_bytes())
    data[60:90] = bytes(30)
    path.with_suffix(".npz").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "listed"),
    [
        (lambda path: path.write_text("{"), "damaged"),
        (lambda path: path.write_text("[]"), "damaged"),
        (without_ap, "damaged"),
        (cut, "damaged"),
        (lambda path: path.with_suffix(".npz").unlink(), "damaged"),
        (with_garbage, "done"),  # seen where it is read whole
        (lambda path: save_detections(path.with_suffix(".npz"), answers_of_one()), "done"),
    ],
)
def test_damaged_results_are_named(
    data: Path,
    val: AnnotationTable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], object],
    listed: str,
) -> None:
    one = asked(data, tmp_path)
    for cell in one.cells:
        put(tmp_path, cell, val, 0.5)
    damage(tmp_path / "rows" / "p40-f1-s0-sed.json")
    with pytest.raises(ConfigError, match=r"p40-f1-s0-sed\.json is damaged \(.*\): remove it, and the same command"):
        summarize(one, val, draws=5)
    list_cells(one)
    assert capsys.readouterr().out.splitlines()[1].split() == [listed, "p40-f1-s0-sed"]


def answers_of_one() -> list[Detections]:
    return [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))]


def test_rows_may_lack_the_ceiling_mark(data: Path, val: AnnotationTable, tmp_path: Path) -> None:
    one = asked(data, tmp_path)
    path = put(tmp_path, one.cells[0], val, 0.5)
    row = read_record(path)
    del row["ceiling"]
    path.write_text(json.dumps(row))
    assert load_rows(one)[one.cells[0]]["ceiling"] is False
