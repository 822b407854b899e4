"""``sedet compare``: equal terms, nothing done twice, and a table that adds up."""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sedet.cli import main
from sedet.compare import command as compare_command
from sedet.compare.cells import Cell, Comparison, complete, make_cells, read_pool, shared_settings, write_data
from sedet.compare.table import cells_of
from sedet.compare.terms import keep_settings
from sedet.compare.work import make_jobs
from sedet.config import TrainConfig
from sedet.data.formats import read_table
from sedet.errors import ConfigError
from sedet.reporting import comparison_page
from sedet.settings import load_config, to_dict
from tests import tiny

SETTINGS = {
    "backbone": tiny.BACKBONE,
    "weights": "none",
    "image_size": 64,
    "batch": 2,
    "steps": 6,
    "burn_in": 0.5,
    "eval_every": 3,
    "device": "cpu",
    "threads": 1,
    "workers": 0,
    "report": False,  # takes longer than these trainings
    "model": {"neck_channels": 8, "head_convs": 1},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.dataset(tmp_path_factory.mktemp("data"), labeled=8)
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


def command(data: Path, out: Path, *more: str) -> list[str]:
    words = ["compare", str(data / "labeled.json"), "--val", str(data / "val.json"), "--out", str(out)]
    return [*words, "--config", str(data / "settings.yaml"), *more]


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("comparison") / "c"
    assert main(command(data, out, "--percents", "40", "--seeds", "0", "1", "--jobs", "2")) == 0
    return out


def test_every_cell_has_a_row_and_the_table_adds_up(finished: Path) -> None:
    names = sorted(p.name for p in (finished / "rows").glob("*.json"))
    assert names == [
        *(f"p100-f1-s{s}-supervised.json" for s in (0, 1)),
        *(f"p40-f1-s{s}-{m}.json" for s in (0, 1) for m in ("sed", "supervised")),
    ]
    rows = [json.loads((finished / "rows" / name).read_text()) for name in names]
    assert all(row["selection"] == "last teacher" and row["seconds"] > 0 and row["memory"] > 0 for row in rows)
    for name, row in zip(names, rows, strict=True):
        part = name.rsplit("-", 1)[0]
        burn, own = (json.loads((finished / "runs" / file).read_text()) for file in (f"{part}-burn-in.json", name))
        assert row["seconds"] == round(burn["seconds"] + own["seconds"], 1), "a cell costs what it shares too"
        assert row["burn_in_seconds"] == round(burn["seconds"], 1) and row["memory"] == own["memory"]
    table = json.loads((finished / "table.json").read_text())
    assert [(e["percent"], e["method"], e["runs"]) for e in table] == [
        (40, "supervised", 2),
        (40, "sed", 2),
        (100, "supervised", 2),
    ]
    sed = [row for row in rows if row["method"] == "sed"]
    assert table[1]["ap"] == pytest.approx(statistics.fmean(row["ap"] for row in sed))
    assert table[1]["ap_deviation"] == pytest.approx(statistics.stdev(row["ap"] for row in sed))
    with (finished / "table.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["supervised", "sed", "supervised"]
    assert (finished / "table.md").read_text().count("\n|") == 4
    assert (finished / "ap.svg").read_text().startswith("<?xml")
    page = (finished / "report.html").read_text()
    assert "With 40 % of the labels" in page and all(cell in page for cell in cells_of(table[1])[:3])
    assert all(f'id="{part}"' in page for part in ("verdict", "table", "quality", "errors", "runs", "settings"))


def test_a_report_that_fails_costs_no_table(
    finished: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> bytes:
        raise MemoryError("no room")

    monkeypatch.setattr(comparison_page, "comparison_page", fails)
    assert main(command(data, finished, "--percents", "40", "--methods", "supervised", "sed", "--seeds", "0", "1")) == 0
    said = capsys.readouterr().out
    assert "Warning: the report could not be made (MemoryError: no room)" in said and "table.md" in said


def test_all_methods_start_from_one_burn_in_on_the_same_data(finished: Path, data: Path) -> None:
    for seed in (0, 1):
        twin, sed = (
            load_config(finished / "runs" / f"p40-f1-s{seed}-{m}" / "config.yaml") for m in ("supervised", "sed")
        )
        assert twin.start == sed.start == str(finished / "runs" / f"p40-f1-s{seed}-burn-in")
        assert twin.labeled == sed.labeled and not sed.guard and sed.seed == seed
        assert replace(twin, method="sed", unlabeled=sed.unlabeled, out=sed.out) == sed
        assert not (finished / "runs" / f"p40-f1-s{seed}-sed" / "checkpoints" / "burn_in.pt").exists()
    pool = (finished / "data" / "p40-f1" / "pool.txt").read_text().splitlines()
    assert len(pool) == 8  # labelled ones stay in it, without their labels
    assert len(json.loads((finished / "data" / "p40-f1" / "labeled.json").read_text())["images"]) < 8


def test_what_is_done_is_not_done_again_and_more_can_be_added(finished: Path, data: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (finished / "rows").iterdir()}
    assert main(command(data, finished, "--percents", "40", "--methods", "supervised", "dense-teacher")) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    table = json.loads((finished / "table.json").read_text())
    assert [(e["method"], e["runs"]) for e in table] == [
        ("supervised", 2),  # all that is in the folder, whatever this command asked for
        ("dense-teacher", 1),
        ("sed", 2),
        ("supervised", 2),
    ]
    assert table[1]["gain"] is not None or table[1]["ap"] is None
    assert len(json.loads((finished / "rows.json").read_text())) == 7


def test_list_runs_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(data, tmp_path / "c", "--list")) == 0
    assert capsys.readouterr().out.split() == ["missing", "p10-f1-s0-supervised", "missing", "p10-f1-s0-sed", "missing",
                                               "p100-f1-s0-supervised"]  # fmt: skip
    assert not (tmp_path / "c").exists()


def test_an_interrupted_comparison_goes_on(data: Path, tmp_path: Path) -> None:
    """Its process is killed while a training runs; the same command finishes, with the same scores."""
    words = command(data, tmp_path / "c", "--percents", "40", "--no-ceiling", "--set", "save_every=1")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "sedet", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "burn-in: started" in process.stdout.readline()
    assert "done" in process.stdout.readline()
    process.terminate()
    assert process.wait(60) == 143
    assert "interrupted" in process.communicate()[1]
    assert main(words) == 0
    assert main(command(data, tmp_path / "d", "--percents", "40", "--no-ceiling", "--set", "save_every=1")) == 0
    for name in ("p40-f1-s0-sed.json", "p40-f1-s0-supervised.json"):
        one, two = (json.loads((tmp_path / c / "rows" / name).read_text()) for c in ("c", "d"))
        assert one["ap"] == two["ap"] and one["per_class"] == two["per_class"]


def test_a_training_that_fails_is_told_and_the_others_go_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c"
    out.mkdir()
    assert main(command(data, out, "--percents", "40", "--no-ceiling", "--methods", "supervised")) == 0
    (out / "runs" / "p40-f1-s0-sed").write_text("in the way")
    assert main(command(data, out, "--percents", "40", "--no-ceiling")) == 2
    told = capsys.readouterr()
    assert "p40-f1-s0-sed: failed" in told.out and "1 of the trainings failed (p40-f1-s0-sed)" in told.err
    assert "supervised" in (out / "table.md").read_text()


# --- what is asked for --------------------------------------------------------------------------------------------


def test_cells() -> None:
    found = make_cells(["supervised", "sed"], [10, 5], [1], [0], ceiling=True)
    assert [c.name for c in found] == [
        "p10-f1-s0-supervised",
        "p10-f1-s0-sed",
        "p5-f1-s0-supervised",
        "p5-f1-s0-sed",
        "p100-f1-s0-supervised",
    ]


def test_percents_have_no_more_digits_than_their_names() -> None:
    """Else a row that is there already is of another cell than those asked for now, and there is no gain over it."""
    third = make_cells(["sed"], [100 / 3, 33.33331], [1], [0], ceiling=False)
    assert [cell.name for cell in third] == ["p33.3333-f1-s0-sed"]
    assert Cell.from_name(third[0].name) == third[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((["sedd"], [10], [1], [0]), "there is no method 'sedd'. Did you mean 'sed'?"),
        ((["sed"], [100], [1], [0]), "percents must lie between 0 and 100, not 100"),
        ((["sed"], [99.9999999], [1], [0]), "percents must lie between 0 and 100, not 100"),
        ((["sed"], [0], [1], [0]), "percents must lie between 0 and 100, not 0"),
        ((["sed"], [10], [0], [0]), "folds must be 1 or more"),
        ((["sed"], [10], [1], [-1]), "seeds must be 0 or more"),
        ((["sed"], [], [1], [0]), "no percents to compare"),
    ],
)
def test_wrong_cells_are_told(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        make_cells(*given, ceiling=True)


def test_settings_from_words() -> None:
    found = shared_settings(TrainConfig(steps=10), ["image_size=320", "sed.gamma=2", "rate=1e-3", "views.flip=0"])
    assert (found.steps, found.image_size, found.sed.gamma, found.rate, found.views.flip) == (10, 320, 2.0, 1e-3, 0.0)
    for word, message in (
        ("image_size", "takes KEY=VALUE"),
        ("seed=1", "decides this"),
        ("sed.gama=1", "sed.gamma"),
        ("steps=[", "cannot be read"),
        ("steps.x=1", "steps"),
    ):
        with pytest.raises(ConfigError, match=message):
            shared_settings(TrainConfig(), [word])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "soft-teacher"], "soft-teacher is defined for the detector faster_rcnn, not for fcos"),
        (["--jobs", "0"], "--jobs must be 1 or more"),
        (["--set", "nothing=1"], "nothing"),
        (["--val", "nowhere.json"], "nowhere.json"),
        (["--val", "nowhere.json", "--list"], "nowhere.json"),
        (["--methods", "pseco", "--list"], "pseco is defined for the detector faster_rcnn, not for fcos"),
        (["--set", "backbone=resnet5"], "resnet5"),
        (["--set", "weights=nowhere.pth"], "nowhere.pth"),
        (["--set", "burn_in=0"], "a burn-in of 0 of 6 steps is none"),
        (["--set", "ratio=0.5", "accumulate=2"], "batch x ratio (1) must be a multiple"),
        (["--set", "steps=1"], "a burn-in of 0.5 of 1 steps is none"),
    ],
)
def test_mistakes_cost_a_line_and_nothing_else(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    base = command(data, tmp_path / "c")
    if "--val" in words:
        base = base[:2] + base[4:]
    assert main([*base, *words]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not (tmp_path / "c").exists()


def test_a_file_of_settings_goes_over_the_protocol_s(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[TrainConfig] = []
    monkeypatch.setattr(compare_command, "list_cells", lambda comparison: seen.append(comparison.settings))
    file = tmp_path / "mine.yaml"
    file.write_text("{image_size: 640, seed: 7, guard: false, labeled: l.json, method: csd}")
    words = ["compare", str(data / "labeled.json"), "--val", str(data / "val.json"), "--list"]
    assert main([*words, "--protocol", "coco-standard", "--config", str(file), "--set", "batch=4"]) == 0
    assert main([*words, "--protocol", "coco-standard", "--set", "image_size=640", "batch=4"]) == 0
    assert seen[0] == seen[1] and (seen[0].image_size, seen[0].batch, seen[0].backbone) == (640, 4, "resnet50")
    file.write_text("init: mine.safetensors")
    assert main([*words, "--config", str(file)]) == 2
    assert "mine.yaml: init: a comparison starts from" in capsys.readouterr().err
    protocol = tmp_path / "own.yaml"
    protocol.write_text("{about: x, data: d.json, val: v.json, settings: {init: mine.safetensors}}")
    file.write_text("steps: 4")
    assert main([*words, "--protocol", str(protocol), "--config", str(file)]) == 2
    assert "own.yaml: init: a comparison starts from" in capsys.readouterr().err


def test_own_data_beside_a_protocol_leave_its_folders_out(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Comparison] = []
    monkeypatch.setattr(compare_command, "run", lambda comparison, jobs: seen.append(comparison) or 0)
    words = ["compare", str(data / "labeled.json"), "--val", str(data / "val.json")]
    for name in ("coco-standard", "coco-additional", "voc"):
        assert main([*words, "--protocol", name, "--percents", "40"]) == 0
        told = seen[-1]
        assert (told.images, told.val_images, told.unlabeled, told.unlabeled_data) == (None, None, (), None)
        assert len(read_pool(told).table) == 8


def test_list_takes_a_split(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "voc"
    (folder / "ImageSets").mkdir(parents=True)
    assert main(["compare", f"{folder}:train", "--val", f"{folder}:val", "--list"]) == 0
    assert "missing" in capsys.readouterr().out


def comparison(data: Path, out: Path, **changes: Any) -> Comparison:
    base = shared_settings(load_config(data / "settings.yaml"), ())
    cells = make_cells(["supervised", "sed"], [20, 40], [1, 2], [0], ceiling=True)
    known = Comparison(str(data / "labeled.json"), str(data / "val.json"), None, None, base, out, cells)
    return replace(known, **changes)


def test_other_settings_or_a_foreign_folder_are_refused(data: Path, tmp_path: Path) -> None:
    one = comparison(data, tmp_path / "c")
    keep_settings(one)
    keep_settings(replace(one, settings=replace(one.settings, threads=2)))  # changes no number
    with pytest.raises(ConfigError, match=r"other settings \(sed.gamma\)"):
        keep_settings(replace(one, settings=replace(one.settings, sed=replace(one.settings.sed, gamma=3.0))))
    with pytest.raises(ConfigError, match=r"other settings \(val\)"):
        keep_settings(replace(one, val="else.json"))
    with pytest.raises(ConfigError, match="folder of the images"):
        keep_settings(replace(one, images=str(tmp_path)))
    (tmp_path / "c" / "comparison.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        keep_settings(one)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="is in use and holds no comparison"):
        keep_settings(comparison(data, tmp_path / "d"))


def test_labelled_parts_are_nested_and_val_is_kept_out(data: Path, tmp_path: Path) -> None:
    one = comparison(data, tmp_path / "c", val=str(data / "labeled.json"))
    with pytest.raises(Exception, match="every image is among those to judge by"):
        read_pool(one)
    one = comparison(data, tmp_path / "c")
    pool = read_pool(one)
    counts = write_data(one, pool)
    assert set(counts) == {"p20-f1", "p20-f2", "p40-f1", "p40-f2", "p100-f1"}
    few, more, every = (
        {i["file_name"] for i in json.loads((tmp_path / "c" / "data" / n / "labeled.json").read_text())["images"]}
        for n in ("p20-f1", "p40-f1", "p100-f1")
    )
    assert few <= more <= every and len(every) == 8
    again = read_table(tmp_path / "c" / "data" / "val.json", pool.val.root)
    assert [e.name for e in again.images] == [e.name for e in pool.val.images]


def test_the_ceiling_is_as_long_as_the_others(data: Path, tmp_path: Path) -> None:
    one = comparison(data, tmp_path / "c")
    one = replace(one, settings=replace(one.settings, steps=None))
    pool = read_pool(one)
    counts = {"p20-f1": (1000, 8000), "p40-f1": (4000, 8000), "p100-f1": (10, 8000)}
    found = complete(one, counts, pool.table)
    assert found["p100-f1"].steps == max(found["p20-f1"].steps or 0, found["p40-f1"].steps or 0)
    jobs = make_jobs(replace(one, settings=replace(one.settings, steps=6)), pool)
    assert {j.config.steps for j in jobs} == {6}
    assert all(to_dict(j.config)["guard"] is False for j in jobs)
    assert all(j.needs is None or j.needs in [k.name for k in jobs[:n]] for n, j in enumerate(jobs))
