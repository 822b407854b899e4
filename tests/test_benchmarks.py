"""The benchmarks: cells share what they may share, rows say what they are of, and the rules of evidence hold."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sedet
from benchmarks import run as command
from benchmarks.compare import compare, identity, joint_bootstrap, load_comparisons, wanted
from benchmarks.inputs import cell_data, judged_table, original_size, part_table
from benchmarks.measure import Busy, Setting, locked, measure
from benchmarks.pack import pack
from benchmarks.pages import fill, readme_parts
from benchmarks.plan import RECIPES, VARIANTS, Cell, Inputs, Job, expand, load_cells, load_recipe, make_job
from benchmarks.provenance import Provenance, code_digests, provenance
from benchmarks.rows import (
    RESULTS,
    best_variant,
    load_detections,
    load_results,
    read_openings,
    save_detections,
)
from benchmarks.tables import render
from sedet.data.formats import read_table
from sedet.errors import ConfigError
from sedet.evaluation.bootstrap import paired_bootstrap
from sedet.training import loop
from sedet.training import run as training
from sedet.training.pictures import Album
from tests.data.sets import SHARED, coco, voc, yolo
from tests.evaluation.cases import random_case

ROOT = Path(__file__).resolve().parents[1]
INPUTS = Inputs("l.json", "images", ("pool.txt",), "dev.json", "images", "digest")
COMMIT = "c" * 40


def cell(**changes: Any) -> Cell:
    usual: dict[str, Any] = {"dataset": "vehicles", "percent": 50.0, "fold": 1, "method": "sed", "variant": "default"}
    return Cell(**{**usual, "seed": 0, "recipe": "tiny", "split": "dev", **changes})


def job(length: float | None = None, extra: dict[str, Any] | None = None, **changes: Any) -> Job:
    c = cell(**changes)
    return make_job(c, load_recipe(c.recipe, c.dataset), INPUTS, extra, length)


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["demo", "cpu", "gpu", "gpu-r50", "tiny"])
def test_methods_and_lengths_share_one_burn_in(recipe: str) -> None:
    jobs = [job(recipe=recipe), job(recipe=recipe, variant="2x"), job(recipe=recipe, variant="hard-0.5")]
    jobs += [job(recipe=recipe, method="supervised", variant=v) for v in ("default", "2x", "4x")]
    assert len({j.burn_in_id for j in jobs}) == 1
    assert len({j.config_id for j in jobs}) == len(jobs)


@pytest.mark.parametrize("method", sorted(VARIANTS))
def test_no_variant_is_another_one(method: str) -> None:
    found = [job(method=method, variant=v, length=1.5 if v == "wallclock" else None) for v in VARIANTS[method]]
    assert len({j.config_id for j in found}) == len(found)


def test_without_half_size_labels_each_has_its_own_burn_in() -> None:
    ids = {job().burn_in_id, job(method="supervised", variant="no-half").burn_in_id}
    assert len(ids | {job(variant="no-half-labeled").burn_in_id}) == 3
    # the level that SED's half-size views need must be trained from the start
    assert job(variant="no-half-labeled").burn_in.method == "sed"


def test_the_twin_differs_in_the_method_alone() -> None:
    sed, twin = job().config, job(method="supervised").config
    assert replace(sed, method="supervised", unlabeled=()) == twin
    assert not twin.guard and not twin.patience and twin.ema_decay is not None


@pytest.mark.parametrize("recipe", ["cpu", "gpu", "tiny"])
@pytest.mark.parametrize("times", [2, 4])
def test_longer_runs_keep_burn_in_ramp_and_warmup(recipe: str, times: int) -> None:
    one, more = job(method="supervised", recipe=recipe), job(method="supervised", variant=f"{times}x", recipe=recipe)
    a, b = one.config, more.config
    assert a.steps and b.steps and a.burn_in and b.burn_in and a.eval_every and b.eval_every
    assert b.steps - more.burn_in_steps == times * (a.steps - one.burn_in_steps)
    assert round(b.burn_in * b.steps) == more.burn_in_steps == one.burn_in_steps == round(a.burn_in * a.steps)
    assert b.ramp * b.steps == pytest.approx(a.ramp * a.steps)
    assert b.warmup * b.steps == pytest.approx(a.warmup * a.steps)


def test_what_changes_no_number_changes_no_name() -> None:
    recipe = load_recipe("tiny", "vehicles")
    moved = replace(INPUTS, labeled="/elsewhere/l.json", val="/elsewhere/dev.json")
    assert make_job(cell(), recipe, moved).config_id == job().config_id
    assert make_job(cell(), recipe, replace(INPUTS, digest="other")).config_id != job().config_id
    slower = replace(recipe, settings={**recipe.settings, "rate": 5e-4})
    assert make_job(cell(), slower, INPUTS).config_id != job().config_id


def test_variants_of_ones_own() -> None:
    tried = job(variant="gamma-1", extra={"sed.gamma": 1.0})
    assert tried.config.sed.gamma == 1 and tried.settings == {"sed.gamma": 1.0}
    with pytest.raises(ConfigError, match="no variant 'gamma-1'"):
        job(variant="gamma-1")
    with pytest.raises(ConfigError, match="another name"):
        job(extra={"sed.gamma": 1.0})
    with pytest.raises(ConfigError, match=r"sed\.gamma"):
        job(variant="x", extra={"sed.gama": 1.0})


def test_every_listed_cell_can_be_made() -> None:
    for path in sorted((ROOT / "benchmarks" / "cells").glob("*.yaml")):
        cells = load_cells([path])
        assert cells and len(set(cells)) == len(cells)
        for c in cells:
            length = 1.5 if c.variant == "wallclock" else None
            assert make_job(c, load_recipe(c.recipe, c.dataset), INPUTS, None, length).config.steps


def test_lists_of_cells(tmp_path: Path) -> None:
    cells = expand({"dataset": "bccd", "method": ["supervised", "sed"], "seed": [0, 1]})
    assert [(c.method, c.seed) for c in cells] == [("supervised", 0), ("sed", 0), ("supervised", 1), ("sed", 1)]
    (tmp_path / "c.yaml").write_text("[{dataset: bccd, seed: [0, 1]}, {dataset: bccd, seed: 0}]")
    assert len(load_cells([tmp_path / "c.yaml"])) == 2
    assert [c.seed for c in load_cells([tmp_path / "c.yaml"], {"seed": [7]})] == [7]
    with pytest.raises(ConfigError, match="sed0"):
        expand({"dataset": "bccd", "sed0": 1})
    with pytest.raises(ConfigError, match="no data set 'coco'"):
        expand({"dataset": "coco"})
    with pytest.raises(ConfigError, match="no recipe 'cpus'"):
        load_recipe("cpus", "bccd", RECIPES)


# --- provenance ---------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed tree that looks like this one."""
    root = tmp_path / "tree"
    (root / "src" / "sedet").mkdir(parents=True)
    (root / "benchmarks" / "results").mkdir(parents=True)
    (root / "src" / "sedet" / "__init__.py").write_text("")
    (root / "benchmarks" / "run.py").write_text("")
    (root / ".gitignore").write_text("runs/\n")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        who = ["-c", "user.name=x", "-c", "user.email=x@x.invalid"]
        subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)
    monkeypatch.setattr(sedet, "__file__", str(root / "src" / "sedet" / "__init__.py"))
    return root


def test_a_clean_tree_gives_its_commit(tree: Path, tmp_path: Path) -> None:
    (tree / "runs").mkdir()
    (tree / "runs" / "x.pt").write_text("ignored")
    (tree / "benchmarks" / "results" / "row.json").write_text("rows are written while cells run")
    found = provenance(tmp_path, root=tree)
    head = subprocess.run(["git", "-C", str(tree), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert found == Provenance(head.stdout.strip(), ())


@pytest.mark.parametrize("change", ["src/sedet/__init__.py", "src/sedet/new.py", "notes.txt"])
def test_a_dirty_tree_is_refused(tree: Path, tmp_path: Path, change: str) -> None:
    (tree / change).write_text("changed")
    with pytest.raises(ConfigError, match=change.replace(".", r"\.")):
        provenance(tmp_path, root=tree)
    found = provenance(tmp_path, allow_dirty=True, root=tree)
    assert found.commit.endswith("-dirty") and not found.for_tables


def test_without_history_the_manifest_answers_for_the_code(tree: Path, tmp_path: Path) -> None:
    manifest = {"commit": COMMIT, "code": code_digests(tree)}
    (tree / ".git").rename(tmp_path / "gone")
    with pytest.raises(ConfigError, match="no git history"):
        provenance(tmp_path, root=tree)
    (tmp_path / "commit.json").write_text(json.dumps(manifest))
    assert provenance(tmp_path, root=tree) == Provenance(COMMIT, ())
    (tree / "src" / "sedet" / "more.py").write_text("")
    with pytest.raises(ConfigError, match=r"src/sedet/more\.py"):
        provenance(tmp_path, root=tree)


def test_another_package_s_commit_is_not_taken(tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sedet, "__file__", str(tmp_path / "site" / "sedet" / "__init__.py"))
    with pytest.raises(ConfigError, match="its commit is another's"):
        provenance(tmp_path, root=tree)


# --- measuring ----------------------------------------------------------------------------------------------


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
    with pytest.raises(ConfigError, match="other settings or data"):
        measure(cell(method="supervised"), changed)
    measure(cell(method="supervised"), replace(changed, replace_rows=True))
    result = json.loads((setting.results / f"{cell(method='supervised').name}.json").read_text())
    assert result["config"]["rate"] == 2e-3


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


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the data sets in {SHARED}")
def test_the_real_sets_have_what_cells_need() -> None:
    table = part_table("coco-people", "dev", SHARED)
    assert len(table) == 300 and len(table.classes) == 18
    for name, images in (("bccd", 72), ("vehicles", 63)):
        val = judged_table(cell(dataset=name, split="val"), SHARED, Path())
        assert len(val) == images and val.classes == part_table(name, "pool", SHARED).classes


# --- comparisons, tables, pages -----------------------------------------------------------------------------


def test_detections_come_back_as_they_were(tmp_path: Path) -> None:
    _, detections = random_case(3)
    save_detections(tmp_path / "d.npz", detections)
    for a, b in zip(detections, load_detections(tmp_path / "d.npz"), strict=True):
        assert torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores) and torch.equal(a.labels, b.labels)


def test_joint_bootstrap_of_one_pair_is_the_paired_one() -> None:
    table, first = random_case(0)
    second = [replace(d, boxes=d.boxes + 3) for d in first]
    expected = paired_bootstrap(table, first, second, draws=50)
    found = joint_bootstrap([(table, first, second)], draws=50)
    assert found is not None and [found[k] for k in ("difference", "low", "high")] == [round(v, 3) for v in expected]
    twice = joint_bootstrap([(table, first, second), (table, second, first)], draws=50)
    assert twice is not None and twice["difference"] == pytest.approx(0) and twice["low"] == pytest.approx(0, abs=1e-9)


def row(ap: float, **changes: Any) -> dict[str, Any]:
    usual = {
        "dataset": "coco-people", "percent": 10.0, "fold": 1, "seed": 0, "recipe": "cpu", "split": "dev",
        "method": "supervised", "variant": "default", "teacher": True, "trial": False, "trials": 2,
        "ap50": 2 * ap, "ap75": ap, "ap_small": ap / 2, "ap_medium": ap, "ap_large": None,
        "labeled_images": 170, "unlabeled_images": 1700, "steps": 100, "burn_in_steps": 30, "image_size": 192,
        "backbone": "b", "burn_in_ap": 5.0, "seconds": 900.0, "burn_in_seconds": 300.0, "device": "cpu",
        "machine": {"processor": "p", "cores": 2, "threads": 2}, "commit": COMMIT, "versions": {"torch": "2"},
        "per_class": {"cat": {"ap": ap, "ap50": ap, "boxes": 9}}, "config_id": "c0ffee", "time": "2030-01-01T00:00:00Z",
    }  # fmt: skip
    return {**usual, "ap": ap, **changes}


def result(ap: float, **changes: Any) -> dict[str, Any]:
    teacher = row(ap, **changes)
    curve = [{"step": s, "teacher_ap": ap, "student_ap": ap - 1} for s in (50, 100)]
    return {"rows": [teacher, {**teacher, "teacher": False, "ap": ap - 1}], "curve": curve, "settings": {}}


def test_gains_count_over_the_best_twin_on_dev() -> None:
    results = [result(10), result(12, variant="2x"), result(30, percent=100.0), result(18, method="sed")]
    results += [result(40, variant="mine", trial=True)]
    assert best_variant([r["rows"][0] for r in results], dataset="coco-people", percent=10.0) != "mine"
    text = render(results, [], [])
    assert "AP +6.0" in text and "33 %" in text and "One seed, not conclusive" in text
    assert "2 times the updates (best on dev)" in text

    # chosen on dev, also where val would choose another
    on_val = [result(20, split="val"), result(11, variant="2x", split="val"), result(21, method="sed", split="val")]
    text = render(results + on_val, [], [])
    assert "judged on val" in text and "AP +10.0" in text


def test_several_seeds_give_mean_and_spread() -> None:
    results = [result(10 + s, seed=s) for s in range(3)] + [result(14 + 2 * s, seed=s, method="sed") for s in range(3)]
    results += [result(90, seed=9, method="sed")]  # without its twin it counts for no gain
    text = render(results, [], [])
    assert "+5.0 ± 1.0" in text and "Ahead in 3 of 3 runs (+4.0, +5.0, +6.0)" in text and "not conclusive" not in text


def test_intervals_and_openings_are_shown() -> None:
    group = {"dataset": "coco-people", "percent": 10.0, "recipe": "cpu", "split": "dev"}
    values = {m: {"difference": 4, "low": 1.26, "high": 6.5, "each": [4]} for m in ("ap", "ap50")}
    sides = [result(10)["rows"][0]], [result(14, method="sed")["rows"][0]]
    made = {**identity(*sides), "metrics": values}
    assert made["first"] == ["supervised", "default"] and all(made[key] == value for key, value in group.items())
    opening = {"cell": "x", "config_id": "y", "commit": COMMIT, "time": "2030-01-01T00:00:00Z", "reason": "the table"}
    text = render([result(10), result(14, method="sed")], [made], [opening])
    assert "[+1.3, +6.5]" in text and "the table" in text
    # rows measured anew, and further seeds, are not those it was worked out from
    anew = [result(10), result(14, method="sed", config_id="other")]
    more = [result(10), result(14, method="sed"), result(11, seed=1), result(13, method="sed", seed=1)]
    for results in (anew, more):
        assert "+6.5" not in render(results, [made], [])
    assert "No rows yet" in render([], [], [])


def test_marks_are_filled_once_and_again() -> None:
    page = "a <!-- generated: time --> b\n\n<!-- generated: table -->\n\nend\n"
    once = fill(page, {"time": "5 min", "table": "| x |", "absent": "y"})
    assert "a <!-- generated: time --> 5 min <!-- end: time --> b" in once and "\n\n| x |\n\n" in once
    assert fill(once, {"time": "5 min", "table": "| x |"}) == once
    assert "6 min" in fill(once, {"time": "6 min"}) and "5 min" not in fill(once, {"time": "6 min"})
    parts = readme_parts([result(10), result(14, method="sed")], [])
    assert "one seed, not conclusive" in parts["results-table"] and "+4.0" in parts["results-table"]


def test_rows_of_a_dirty_tree_are_not_for_tables(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(result(10, commit=f"{COMMIT}-dirty")))
    assert load_results(tmp_path) == []


@pytest.mark.skipif(not list(RESULTS.glob("*.json")), reason="no results yet")
def test_the_results_page_is_up_to_date() -> None:
    text = render(load_results(), load_comparisons(), read_openings())
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == text, "run: python benchmarks/tables.py"
