"""Methods with settings of their own in a comparison: one burn-in, rows of their own, and effort that is counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sedet.cli import main
from sedet.compare.cells import Cell, make_cells, read_pool
from sedet.compare.table import caveats, summarize
from sedet.compare.terms import keep_settings
from sedet.compare.variants import own_names, parse_method, with_variant
from sedet.config import MixPLConfig, SEDConfig, TrainConfig
from sedet.errors import ConfigError
from sedet.settings import load_config
from sedet.training.plan import sed_defaults
from tests.compare.test_compare import command
from tests.compare.test_compare import data as data  # the fixture
from tests.compare.test_table import asked, put

LONG = [f"{name}=0.{'1' * 15}" for name in ("gamma", "weight", "class_weight", "box_weight", "box_share", "overlay")]


def replace_gain(entry: dict[str, Any]) -> dict[str, Any]:
    return entry | dict.fromkeys(("gain", "low", "high", "paired", "ahead"))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("sed", ("sed", "")),
        ("dense-teacher:share=0.1", ("dense-teacher", "share=0.1")),
        ("dense-teacher:dense_teacher.share=1e-1", ("dense-teacher", "share=0.1")),
        ("sed: scale=no , gamma=2", ("sed", "gamma=2.0,scale=false")),
        ("sed:gamma=1", ("sed", "")),  # what it has anyway
        ("sed:gamma=1,temperature=0.5", ("sed", "temperature=0.5")),
        ("sed:class_share_end=0.1", ("sed", "class_share_end=0.1")),
        ("csd:threshold=0.3", ("csd", "threshold=0.3")),
        ("sed:overlay=1,student_view=weak", ("sed", "overlay=1.0")),  # which follows
        ("sed:overlay=1,student_view=strong", ("sed", "overlay=1.0,student_view=strong")),
        ("sed:student_view=strong,quality_weight=0", ("sed", "")),
        ("sed:box_weight=1,quality_weight=1", ("sed", "box_weight=1.0")),
    ],
)
def test_one_spelling(text: str, want: tuple[str, str]) -> None:
    assert parse_method(text, TrainConfig()) == want
    assert parse_method(":".join(filter(None, want)), TrainConfig()) == want


def test_what_the_comparison_has_anyway_is_left_out() -> None:
    shared = TrainConfig(sed=SEDConfig(gamma=2.0))
    assert parse_method("sed:gamma=2", shared) == ("sed", "")
    assert parse_method("sed:gamma=1", shared) == ("sed", "gamma=1.0")
    assert with_variant(shared, "sed", "gamma=1.0").sed == sed_defaults(SEDConfig())
    assert with_variant(shared, "sed", "") == replace(shared, sed=sed_defaults(shared.sed))
    shared = TrainConfig(mixpl=MixPLConfig(threshold=0.5))
    assert parse_method("mixpl:threshold=null", shared) == ("mixpl", "threshold=null")
    assert with_variant(shared, "mixpl", "threshold=null").mixpl.threshold is None
    shared = TrainConfig(sed=SEDConfig(student_view="weak"))
    for spelling in ("null", "strong"):
        assert parse_method(f"sed:student_view={spelling}", shared) == ("sed", "student_view=strong"), "one name"
    assert own_names("dense-teacher", "box_weight=0.0,share=0.1") == {"dense_teacher.box_weight", "dense_teacher.share"}
    assert own_names("supervised", "") == set()
    assert own_names("sed", "overlay=1.0") == {"sed.overlay", "sed.student_view"}, "and what follows"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sedd:gamma=2", "there is no method 'sedd'. Did you mean 'sed'?"),
        ("supervised:weight=2", "supervised has no settings of its own; --set changes those of all trainings"),
        ("sed:", "METHOD:KEY=VALUE"),
        ("sed:gamma", "'gamma' is no setting"),
        ("sed:gamma=", "'gamma=' is no setting"),
        ("sed:gamma=2,gamma=3", "gamma is given twice"),
        ("sed:gama=2", "gama"),
        ("sed:gamma=-2", "gamma"),
        ("sed:gamma=[", "cannot be read as a value"),
        ("sed:reweight=../x", "reweight"),
        ("sed:gamma=2:30", "'2:30' is no value"),
        ("sed:" + ",".join(LONG), "make no name of a file"),
    ],
)
def test_mistakes_are_told(
    text: str, says: str, capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_method(text, TrainConfig())
    assert says in str(caught.value)
    assert main(command(data, tmp_path / "c", "--methods", text)) == 2
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said and not (tmp_path / "c").exists()


def test_a_name_says_the_settings_and_is_read_again() -> None:
    cells = make_cells(["sed", "sed:gamma=1", "sed:gamma=2,scale=false"], [5], [1], [0], ceiling=False)
    assert [cell.name for cell in cells] == ["p5-f1-s0-sed", "p5-f1-s0-sed@gamma=2.0,scale=false"], "one is the other"
    assert cells[1].label == "sed:gamma=2.0,scale=false"
    assert Cell.from_name(cells[1].name) == cells[1]
    assert Cell.from_name("p5-f1-s0-sed@") is None


def test_settings_tried_are_counted(data: Path, tmp_path: Path) -> None:
    methods = ["supervised", "sed", "sed:gamma=2", "sed:scale=false", "mixpl"]
    one = asked(data, tmp_path, methods, seeds=2)
    val = read_pool(one).val
    for number, cell in enumerate(one.cells):
        put(tmp_path, cell, val, number / len(one.cells))
    entries = summarize(one, val, draws=20)
    assert [(e["method"], e["runs"], e["tried"]) for e in entries] == [
        ("supervised", 2, 1),
        ("sed", 2, 3),
        ("sed:gamma=2.0", 2, 3),
        ("sed:scale=false", 2, 3),
        ("mixpl", 2, 1),
        ("supervised", 2, 1),
    ]
    line = caveats(entries)[-1]
    assert (
        line.startswith("Settings tried on val: supervised 1, sed 3, mixpl 1.") and "give each method as many" in line
    )
    line = caveats([entry for entry in entries if entry["method"] != "mixpl"])[-1]
    assert "supervised 1, sed 3." in line and "as many" not in line and "other images" in line
    assert not any("Settings tried" in line for line in caveats([entries[0], entries[4]]))
    alone = caveats([replace_gain(entry) for entry in entries[1:4]])
    assert len(alone) == 1 and "sed 3" in alone[0], "also where there is no twin to gain over"


def test_rows_may_differ_in_their_own_settings_alone(data: Path, tmp_path: Path) -> None:
    one = asked(data, tmp_path, ["sed:gamma=2", "sed", "mixpl"])
    val = read_pool(one).val
    for cell, gamma, weight in zip(one.cells, (2.0, 1.0, 1.0, 1.0), (2.0, 2.0, 2.0, 2.0), strict=True):
        put(tmp_path, cell, val, 0.5, settings={"sed.gamma": gamma, "sed.weight": weight})
    assert len(summarize(one, val, draws=10)) == 4
    put(tmp_path, one.cells[0], val, 0.5, settings={"sed.gamma": 2.0, "sed.weight": 3.0})
    with pytest.raises(ConfigError, match=r"p40-f1-s0-sed was trained with sed\.weight 2, but p40-f1-s0-sed@gamma"):
        summarize(one, val, draws=10)
    put(tmp_path, one.cells[0], val, 0.5, settings={"sed.gamma": 2.0, "sed.weight": 2.0})
    put(tmp_path, one.cells[2], val, 0.5, settings={"sed.gamma": 9.0, "sed.weight": 2.0})
    with pytest.raises(ConfigError, match=r"mixpl was trained with sed\.gamma 9, but p40-f1-s0-sed with"):
        summarize(one, val, draws=10)


def test_what_was_written_out_before_it_followed_is_the_same(data: Path, tmp_path: Path) -> None:
    one = asked(data, tmp_path / "c")
    keep_settings(one)
    path = tmp_path / "c" / "comparison.json"
    told = json.loads(path.read_text())
    told["settings"]["sed"] |= {"student_view": "strong", "quality_weight": 0.0}
    path.write_text(json.dumps(told))
    keep_settings(one)
    told["settings"]["sed"] |= {"student_view": "weak"}
    path.write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=r"other settings \(sed\.student_view\)"):
        keep_settings(one)


def test_variants_are_trained_from_the_one_burn_in(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c"
    methods = ["supervised", "dense-teacher", "dense-teacher:share=0.5,class_weight=2"]
    assert main(command(data, out, "--percents", "37.5", "--no-ceiling", "--methods", *methods)) == 0
    name = "p37.5-f1-s0-dense-teacher@class_weight=2.0,share=0.5"
    own, plain = (load_config(out / "runs" / run / "config.yaml") for run in (name, "p37.5-f1-s0-dense-teacher"))
    assert (own.dense_teacher.share, own.dense_teacher.class_weight, plain.dense_teacher.share) == (0.5, 2.0, 0.01)
    assert own.start == plain.start == str(out / "runs" / "p37.5-f1-s0-burn-in")
    assert len([*(out / "runs").glob("*burn-in.json")]) == 1
    row = json.loads((out / "rows" / f"{name}.json").read_text())
    assert row["method"] == "dense-teacher:class_weight=2.0,share=0.5" and row["settings"]["dense_teacher.share"] == 0.5
    assert "| dense-teacher:class_weight=2.0,share=0.5 |" in (out / "table.md").read_text()
    assert f"runs/{name}/report.html" not in (out / "report.html").read_text()  # report: false
    assert row["method"] in (out / "report.html").read_text()
    # with another beside it: what is there stays, and the count goes up
    capsys.readouterr()
    before = (out / "rows" / f"{name}.json").stat().st_mtime_ns
    assert main(command(data, out, "--percents", "37.5", "--no-ceiling", "--methods", "sed:scale=false,overlay=1")) == 0
    sed = load_config(out / "runs" / "p37.5-f1-s0-sed@overlay=1.0,scale=false" / "config.yaml").sed
    assert (sed.scale, sed.overlay, sed.student_view) == (False, 1.0, "weak")
    assert (out / "rows" / f"{name}.json").stat().st_mtime_ns == before
    table = json.loads((out / "table.json").read_text())
    assert {entry["method"]: entry["tried"] for entry in table} == {
        "supervised": 1,
        "dense-teacher": 2,
        "dense-teacher:class_weight=2.0,share=0.5": 2,
        "sed:overlay=1.0,scale=false": 1,
    }
    assert "Settings tried on val: " in capsys.readouterr().out
