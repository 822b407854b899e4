"""Measuring: rows of a cell, interruptions, the rules of evidence, and the data they rest on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import measure as measuring
from benchmarks import run as command
from benchmarks.compare import compare, wanted
from benchmarks.inputs import cell_data, judged_table, original_size, part_table
from benchmarks.measure import Setting, measure, state
from benchmarks.pack import pack
from benchmarks.plan import RECIPES, Cell
from benchmarks.provenance import Provenance
from benchmarks.rows import load_results, read_openings
from sedet.data.formats import read_table
from sedet.errors import ConfigError
from sedet.evaluation.stored import load_detections
from sedet.training import loop
from sedet.training import run as training
from sedet.training.pictures import Album
from sedet.training.unattended import Busy, locked
from tests.data.sets import SHARED, coco, voc, yolo

from .cells import COMMIT, cell


@pytest.fixture(autouse=True, scope="module")
def no_pictures() -> Iterator[None]:
    """Half of the time of a tiny run would go into its pictures."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("watch", "finish"):
            patch.setattr(Album, name, lambda *_: None)
        yield


def tiny_setting(folder: Path) -> Setting:
    """Tiny vehicles: three images in the pool, one to judge by."""
    names = "train: train/images\nval: valid/images\ntest: valid/images\nnames: [cat, dog]\n"
    yolo(folder / "data" / "vehicles", names)
    return Setting(
        data=folder / "data",
        work=folder / "work",
        results=folder / "results",
        provenance=Provenance(COMMIT, ()),
        recipes=RECIPES,
        on_machine={"device": "cpu", "threads": torch.get_num_threads()},
    )


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return tiny_setting(tmp_path)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """A cell that was measured without an interruption."""
    done = tiny_setting(tmp_path_factory.mktemp("whole"))
    measure(cell(), done)
    return done


REQUIRED = (
    "dataset, percent, fold, seed, method, variant, detector, backbone, image_size, steps, labeled_images, "
    "unlabeled_images, ap, ap50, ap75, ap_small, ap_medium, ap_large, teacher, selection, trials, seconds, device, "
    "commit, versions, split, per_class, burn_in_ap, machine, time"
)


def test_a_cell_gives_two_rows(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    train = training.train

    def counted(config: Any, resume: Path | None = None) -> Any:
        trained.append(Path(config.out).name)
        return train(config, resume)

    monkeypatch.setattr(training, "train", counted)
    for method in ("supervised", "sed"):
        measure(cell(method=method), setting)
    assert len(trained) == 3 and "burn-in" in trained[0]  # one burn-in for both

    result = json.loads((setting.results / f"{cell().name}.json").read_text())
    assert [(r["teacher"], r["selection"]) for r in result["rows"]] == [(True, "last teacher"), (False, "last student")]
    for row in result["rows"]:
        assert set(REQUIRED.split(", ")) <= set(row)
        assert (row["labeled_images"], row["unlabeled_images"], row["commit"]) == (2, 3, COMMIT)
        assert row["steps"] == 8 and row["seconds"] >= row["burn_in_seconds"] > 0
    assert [p["step"] for p in result["curve"]] == [4, 8]
    assert set(result["losses"]) >= {"sup_class", "distill_class", "scale_class"}

    assert "done before" in measure(cell(), setting)
    assert len(trained) == 3
    assert [q["threshold"] for q in result["labels"]] == [0.3, 0.4, 0.5, 0.6, 0.7]

    # twins of other lengths take the same burn-in
    for variant, steps in (("2x", 12), ("wallclock", None)):
        longer = cell(method="supervised", variant=variant)
        measure(longer, setting)
        row = json.loads((setting.results / f"{longer.name}.json").read_text())["rows"][0]
        assert steps is None or row["steps"] == steps
        (setting.results / f"{longer.name}.json").unlink()
    assert len(trained) == 5

    rows = [row for r in load_results(setting.results) for row in r["rows"]]
    ((first, second),) = wanted(rows)
    assert [first[0]["method"], second[0]["method"]] == ["supervised", "sed"]
    made = compare(first, second, setting.data, setting.work)
    assert made is not None and made["metrics"]["ap"]["difference"] == pytest.approx(
        second[0]["ap"] - first[0]["ap"], abs=0.01
    )


def test_changed_settings_do_not_pass_for_done(setting: Setting, tmp_path: Path) -> None:
    measure(cell(method="supervised"), setting)
    recipes = tmp_path / "recipes.yaml"
    recipes.write_text(RECIPES.read_text().replace("rate: 1.0e-3\n    steps: 8", "rate: 2.0e-3\n    steps: 8"))
    changed = replace(setting, recipes=recipes)
    twin = cell(method="supervised")
    assert [state(twin, setting), state(twin, changed), state(cell(), setting)] == ["done", "other", "missing"]
    assert state(twin, replace(setting, data=tmp_path / "nowhere")) == "done?"
    with pytest.raises(ConfigError, match="other settings or data"):
        measure(cell(method="supervised"), changed)
    measure(cell(method="supervised"), replace(changed, replace_rows=True))
    result = json.loads((setting.results / f"{cell(method='supervised').name}.json").read_text())
    assert result["config"]["rate"] == 2e-3


def test_rows_of_a_changed_tree_do_not_pass_for_done(setting: Setting) -> None:
    file = setting.results / f"{cell(method='supervised').name}.json"
    measure(cell(method="supervised"), setting)
    result = json.loads(file.read_text())
    for row in result["rows"]:
        row["commit"] += "-dirty"
    file.write_text(json.dumps(result))
    assert "done before" not in measure(cell(method="supervised"), setting)
    assert not json.loads(file.read_text())["rows"][0]["commit"].endswith("-dirty")


def test_recipes_of_no_commit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--dataset", "bccd", "--recipes", str(tmp_path / "mine.yaml")]
    assert command.main(argv) == 2
    assert "mine.yaml is in none" in capsys.readouterr().err


class Killed(BaseException):
    """Ends a run where it stands, as a signal does."""


# before the first checkpoint, between the two files that end the burn-in, before and at the end of the training
@pytest.mark.parametrize("after", [1, 3, 5])
def test_an_interrupted_cell_goes_on(
    measured: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, after: int
) -> None:
    whole = json.loads((measured.results / f"{cell().name}.json").read_text())

    broken = replace(measured, work=tmp_path / "again", results=tmp_path / "again-results")
    saves, save = 0, loop.save

    def interrupted(t: Any, name: str) -> None:
        nonlocal saves
        saves += 1
        if saves == after:
            raise Killed
        save(t, name)

    monkeypatch.setattr(loop, "save", interrupted)
    with pytest.raises(Killed):
        measure(cell(), broken)
    assert not list(broken.results.glob("*.json"))
    measure(cell(), broken)
    again = json.loads((broken.results / f"{cell().name}.json").read_text())
    for a, b in zip(whole["rows"], again["rows"], strict=True):
        assert a["ap"] == b["ap"] and a["per_class"] == b["per_class"]
    assert whole["curve"] == again["curve"] and whole["losses"] == again["losses"]
    one, other = (sorted(s.work.glob("detections/*teacher.npz"))[0] for s in (measured, broken))
    for x, y in zip(load_detections(one), load_detections(other), strict=True):
        assert torch.equal(x.boxes, y.boxes) and torch.equal(x.scores, y.scores)


def test_val_is_opened_with_a_reason_and_once(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = cell(method="supervised", split="val")
    with pytest.raises(ConfigError, match="--reason"):
        measure(opened, setting)
    with pytest.raises(ConfigError, match="clean tree"):
        measure(opened, replace(setting, reason="x", provenance=Provenance("c-dirty", ("x.py",))))
    with pytest.raises(ConfigError, match="frozen"):
        measure(replace(opened, variant="mine"), replace(setting, reason="x", extra={"rate": 0.1}))
    assert not read_openings(setting.results)

    measure(replace(opened, split="dev"), setting)
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("judging on val trains nothing"))
    measure(opened, replace(setting, reason="the table"))
    assert "done before" in measure(opened, replace(setting, reason="again"))
    (entry,) = read_openings(setting.results)
    assert entry["reason"] == "the table" and entry["cell"] == opened.name and entry["commit"] == COMMIT


def test_one_runner_a_run(tmp_path: Path) -> None:
    with locked(tmp_path / "a.lock", wait=False), pytest.raises(Busy), locked(tmp_path / "a.lock", wait=False):
        pass


def test_runners_side_by_side_wait_last(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another runner is at comes last, and is waited for: otherwise all would stand in line for one burn-in."""
    busy, free = cell(method="sed"), cell(method="supervised", seed=1)
    asked: list[tuple[str, bool]] = []

    def one(c: Cell, _: Setting, wait: bool = True) -> str:
        asked.append((c.name, wait))
        if c == busy and not wait:
            raise Busy("another runner is at its burn-in")
        return "measured"

    monkeypatch.setattr(command, "measure", one)
    assert command.work_through([busy, free], setting, None) == 0
    assert asked == [(busy.name, False), (free.name, False), (busy.name, True)]


def test_a_cell_or_burn_in_that_another_runner_is_at(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def train(_: object, folder: Path, __: str, wait: bool = False) -> dict[str, object]:
        started.append(folder.name)
        raise Busy("begun") if not wait else AssertionError("waited")

    monkeypatch.setattr(measuring, "finish_run", train)
    with pytest.raises(Busy, match="begun"):
        measure(cell(), setting, wait=False)
    assert len(started) == 1 and "burn-in" in started[0]
    monkeypatch.setattr(measuring, "is_locked", lambda path: "burn-in" not in path.name)
    with pytest.raises(Busy, match="another runner"):
        measure(cell(), setting)
    assert len(started) == 1


def test_what_makes_no_cell(setting: Setting) -> None:
    with pytest.raises(ConfigError, match="ceiling"):
        measure(cell(percent=100.0), setting)
    with pytest.raises(ConfigError, match="first"):
        measure(cell(method="supervised", variant="wallclock"), setting)
    with pytest.raises(ConfigError, match="one set to judge by"):
        measure(cell(dataset="demo", split="val"), replace(setting, reason="x"))


def test_the_command_names_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command.main([]) == 2
    assert "--dataset" in capsys.readouterr().err
    assert command.main(["--dataset", "bccd", "--method", "sed", "--list", "--results", str(tmp_path)]) == 0
    assert "missing bccd-10-f1-sed-default-s0-cpu-dev" in capsys.readouterr().out


# --- data ---------------------------------------------------------------------------------------------------


def test_the_ceiling_has_the_pool_s_labels_and_no_judged_image(setting: Setting) -> None:
    images = setting.data / "vehicles"
    judged = (images / "valid" / "images" / "3.png").read_bytes()
    (images / "train" / "images" / "leak.png").write_bytes(judged)
    few = cell_data(cell(), setting.data, setting.work)
    every = cell_data(cell(percent=100.0, method="supervised"), setting.data, setting.work)
    assert (few.labeled, few.pool, few.left_out) == (2, 3, 1)
    assert (every.labeled, every.pool) == (3, 3)
    listed = {Path(line).name for line in Path(few.inputs.unlabeled[0]).read_text().splitlines()}
    labelled = json.loads(Path(every.inputs.labeled).read_text())["images"]
    assert listed == {Path(i["file_name"]).name for i in labelled} == {"0.png", "1.png", "2.png"}


def test_packed_data_judge_in_original_pixels(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "pack"
    boxes = [[(3, (10.0, 12.0, 20.0, 16.0))], [(7, (0.0, 0.0, 64.0, 48.0))]]
    for part, seed in (("pool", 0), ("dev", 10), ("val", 20)):
        file = f"instances_{part}.json"
        coco(data / "coco-people", boxes, images=part, file=file, seed=seed, size=(64, 48))
    voc(data / "bccd", {"train": [0], "val": [1], "test": [2]})
    pack(data, out, ["coco-people", "bccd"], 32, 90)

    for name, images in (("coco-people/instances_dev.json", "coco-people/dev"), ("bccd:val", None)):
        before, after = (read_table(str(d / name), d / images if images else None) for d in (data, out))
        assert after.classes == before.classes and [i.name for i in after.images] == [i.name for i in before.images]
        assert max(after.images[0].width, after.images[0].height) == 32
        back = original_size(after, out)
        for a, b in zip(before.images, back.images, strict=True):
            assert (a.width, a.height) == (b.width, b.height)
        for old, new in zip(before.objects, back.objects, strict=True):
            np.testing.assert_allclose(old.boxes, new.boxes, atol=0.05)
            np.testing.assert_array_equal(old.labels, new.labels)
    assert original_size(before, data) is before
    with pytest.raises(ConfigError, match="in use"):
        pack(data, out, ["bccd"], 32, 90)


def test_val_as_thumbnails_is_compared_with_and_never_judged_by(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "pack"
    for part, seed in (("pool", 0), ("dev", 10), ("val", 20)):
        file = f"instances_{part}.json"
        coco(data / "coco-people", [[]], images=part, file=file, seed=seed, size=(300, 200))
    pack(data, out, ["coco-people"], 280, 90, judged=False)
    for part, side in (("pool", 280), ("dev", 280), ("val", 128)):
        (image,) = read_table(str(out / "coco-people" / f"instances_{part}.json"), out / "coco-people" / part).images
        assert image.width == side
    with pytest.raises(ConfigError, match="thumbnails of val"):
        judged_table(cell(dataset="coco-people", split="val"), out, tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the data sets in {SHARED}")
def test_the_real_sets_have_what_cells_need() -> None:
    table = part_table("coco-people", "dev", SHARED)
    assert len(table) == 300 and len(table.classes) == 18
    for name, images in (("bccd", 72), ("vehicles", 63)):
        val = judged_table(cell(dataset=name, split="val"), SHARED, Path())
        assert len(val) == images and val.classes == part_table(name, "pool", SHARED).classes
