"""Plans and provenance: cells share what they may share, and rows say which code they are of."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import sedet
from benchmarks import run as command
from benchmarks.measure import Setting, state
from benchmarks.plan import RECIPES, VARIANTS, Cell, expand, load_cells, load_recipe, make_job
from benchmarks.provenance import Provenance, code_digests, provenance
from benchmarks.rows import RESULTS, load_rows
from sedet.errors import ConfigError

from .cells import COMMIT, INPUTS, ROOT, cell, job

DATA = ROOT.parent / "shared" / "data"

# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["demo-hold", "demo-long", "demo", "cpu", "gpu", "gpu-r50", "tiny"])
def test_methods_and_lengths_share_one_burn_in(recipe: str) -> None:
    jobs = [job(recipe=recipe), job(recipe=recipe, variant="2x"), job(recipe=recipe, variant="hard-0.5")]
    jobs += [job(recipe=recipe, method="supervised", variant=v) for v in ("default", "2x", "4x")]
    assert len({j.burn_in_id for j in jobs}) == 1
    assert len({j.config_id for j in jobs}) == len(jobs)


@pytest.mark.parametrize("method", sorted(VARIANTS))
def test_no_variant_is_another_one(method: str) -> None:
    """In one recipe at least: a part may be off in the one and on in the other."""

    def ids(variant: str) -> tuple[str, ...]:
        length = 1.5 if variant == "wallclock" else None
        recipes = ("tiny", "cpu-few", "demo", "demo-hold")
        return tuple(job(recipe=r, method=method, variant=variant, length=length).config_id for r in recipes)

    assert len({ids(v) for v in VARIANTS[method]}) == len(VARIANTS[method])


def test_without_half_size_labels_each_has_its_own_burn_in() -> None:
    ids = {job().burn_in_id, job(method="supervised", variant="no-half").burn_in_id}
    assert len(ids | {job(variant="no-half-labeled").burn_in_id}) == 3
    # the level that SED's half-size views need must be trained from the start
    assert job(variant="no-half-labeled").burn_in.method == "sed"


def test_the_twin_differs_in_the_method_alone() -> None:
    sed, twin = job().config, job(method="supervised").config
    assert replace(sed, method="supervised", unlabeled=(), sed=twin.sed) == twin
    assert twin.sed.student_view is None and sed.sed.student_view == "strong", "only SED's own are filled in"
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


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the data sets are not at {DATA}")
def test_every_row_is_still_of_the_settings_its_name_says(tmp_path: Path) -> None:
    """A new setting or a changed recipe must not turn measured rows into those of another configuration."""
    where = Setting(DATA, tmp_path, RESULTS, Provenance(COMMIT, ()), RECIPES)
    # the length of wallclock follows from times, which other machines and loads change
    rows = [row for row in load_rows() if row["variant"] != "wallclock"]
    cells = dict.fromkeys(Cell(**{key: row[key] for key in command.KEYS}) for row in rows)
    assert cells and [c.name for c in cells if state(c, where) != "done"] == []


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


def test_a_manifest_of_this_code_answers_whatever_the_history(tree: Path, tmp_path: Path) -> None:
    """A tree that was copied with a history that ends before it."""
    (tree / "src" / "sedet" / "more.py").write_text("")
    (tmp_path / "commit.json").write_text(json.dumps({"commit": COMMIT, "code": code_digests(tree)}))
    assert provenance(tmp_path, root=tree) == Provenance(COMMIT, ())
    (tree / "src" / "sedet" / "more.py").write_text("changed")
    with pytest.raises(ConfigError, match=r"src/sedet/more\.py"):
        provenance(tmp_path, root=tree)


def test_another_package_s_commit_is_not_taken(tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sedet, "__file__", str(tmp_path / "site" / "sedet" / "__init__.py"))
    with pytest.raises(ConfigError, match="its commit is another's"):
        provenance(tmp_path, root=tree)


def test_a_list_may_be_given_in_parts() -> None:
    flags = ["--set", "sed.overlay=0", "--set", "sed.gamma=2", "x=1", "--seed", "0", "1", "--seed", "2"]
    given = command.parser().parse_args(flags)
    assert given.set == ["sed.overlay=0", "sed.gamma=2", "x=1"] and given.seed == [0, 1, 2]
    assert command.parser().parse_args([]).set == []
