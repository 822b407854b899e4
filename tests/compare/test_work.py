"""What a comparison runs: on equal terms, each thing once, and ended with the command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sedet.cli import main
from sedet.compare import cells, work
from sedet.compare.cells import read_pool, shared_settings, write_data
from sedet.compare.terms import digests, keep_settings, settle, terms
from sedet.compare.work import Job, make_jobs, run_jobs, visible
from sedet.config import TrainConfig
from sedet.data.write import write_json
from sedet.errors import ConfigError
from sedet.settings import load_config, save_config
from sedet.signals import Terminated
from sedet.training.unattended import locked
from tests.compare.test_compare import command, comparison
from tests.compare.test_compare import data as data  # the fixture
from tests.compare.test_table import put


def burn_in(out: Path) -> Job:
    return Job("b", None, out / "runs" / "b.json", TrainConfig(), None, {})


def test_sigterm_ends_the_trainings_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[bytes]] = []

    def start(*_: object) -> subprocess.Popen[bytes]:
        begun.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]))
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return begun[0]

    monkeypatch.setattr(work, "start", start)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated):
        run_jobs([burn_in(tmp_path)], tmp_path, ["cpu"], None, lambda _: None)
    assert begun[0].poll() is not None
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_another_runner_is_at_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one ends it: here nothing is started."""
    job, said = burn_in(tmp_path), []
    lock = locked(tmp_path / "jobs" / "b.lock", wait=False)
    lock.__enter__()

    def say(line: str) -> None:
        said.append(line)
        if "another runner is at it" in line:
            write_json(job.done, {"finished": True})
            lock.__exit__(None, None, None)

    monkeypatch.setattr(work, "start", lambda *_: pytest.fail("a job was started twice"))
    (tmp_path / "runs").mkdir()
    assert run_jobs([job], tmp_path, ["cpu", "cpu"], None, say) == []
    assert said == ["b: another runner is at it, its end is waited for", "b: done by another runner"]


def test_gpus_are_those_that_were_given() -> None:
    assert [visible(i, None) for i in (0, 1)] == ["0", "1"]
    assert [visible(i, "2, GPU-8932f937") for i in (0, 1)] == ["2", "GPU-8932f937"]


@pytest.fixture
def begun(data: Path, tmp_path: Path) -> Iterator[Any]:
    """A comparison without trainings, its pool and its jobs."""
    one = comparison(data, tmp_path / "c")
    pool = read_pool(one)
    yield one, pool, make_jobs(one, pool)


def test_a_run_is_never_shorter_than_its_row_says(data: Path, begun: Any) -> None:
    one, pool, _ = begun
    patient = replace(one, settings=replace(one.settings, patience=3, stop=2), out=one.out.with_name("d"))
    assert {(job.config.patience, job.config.stop) for job in make_jobs(patient, pool)} == {(0, None)}
    with pytest.raises(ConfigError, match="patience: the comparison itself decides"):
        shared_settings(one.settings, ["patience=3"])


def test_burn_ins_are_trained_for_what_is_missing_alone(begun: Any) -> None:
    one, pool, jobs = begun
    of = {job.cell: job for job in jobs if job.cell is not None}
    for cell in one.cells:
        if cell.data != "p40-f2" or cell.method == "supervised":
            own = {"settings": terms(of[cell].config), "data": digests(pool), "versions": {}}
            put(one.out, cell, pool.val, 0.5, **own)
    assert [job.name for job in make_jobs(one, pool) if job.cell is None] == ["p40-f2-s0-burn-in"]


def test_another_device_s_sizes_are_refused_before_any_training(begun: Any) -> None:
    """Rows of a CPU, and a GPU that takes larger batches."""
    one, pool, jobs = begun
    job = next(job for job in jobs if job.cell is not None)
    put(one.out, job.cell, pool.val, 0.5, settings=terms(job.config) | {"batch": 16, "backbone": "resnet50"})
    with pytest.raises(ConfigError, match=r"would be trained with backbone lcnet_035, batch 2, .*but .* batch 16"):
        make_jobs(one, pool)


def test_a_run_is_not_gone_on_with_on_other_terms(begun: Any) -> None:
    one, pool, jobs = begun
    folder = Path(jobs[0].config.out)
    folder.mkdir(parents=True)
    save_config(replace(jobs[0].config, batch=4, threads=9), folder / "config.yaml")
    with pytest.raises(ConfigError, match="was begun with batch 4, and would go on with batch 2"):
        make_jobs(one, pool)
    save_config(replace(jobs[0].config, threads=9, labeled="/before/labeled.json"), folder / "config.yaml")
    settle(jobs[0].config)
    assert load_config(folder / "config.yaml").labeled == jobs[0].config.labeled


def test_younger_settings_do_not_block_older_comparisons(data: Path, tmp_path: Path) -> None:
    one = comparison(data, tmp_path / "c")
    keep_settings(one)
    path = tmp_path / "c" / "comparison.json"
    told = json.loads(path.read_text())
    del told["settings"]["ratio"], told["settings"]["sed"]["gamma"], told["settings"]["mixpl"]
    path.write_text(json.dumps(told))
    keep_settings(one)
    with pytest.raises(ConfigError, match=r"other settings \(ratio\)"):
        keep_settings(replace(one, settings=replace(one.settings, ratio=2.0)))


def test_other_content_is_refused_and_the_same_may_lie_elsewhere(data: Path, tmp_path: Path) -> None:
    one = comparison(data, tmp_path / "c", unlabeled=(str(data / "unlabeled"),))
    pool = read_pool(one)
    told = digests(pool)
    assert told != digests(replace(pool, more=pool.more[1:])) and pool.more
    keep_settings(one, told)
    keep_settings(replace(one, val="moved.json", images="elsewhere"), told)
    with pytest.raises(ConfigError, match="content of the labels"):
        keep_settings(one, told | {"data": "others"})
    with pytest.raises(ConfigError, match=r"\(content of the unlabelled images\)"):
        keep_settings(one, told | {"pool": "others"})
    path = tmp_path / "c" / "comparison.json"
    path.write_text(path.read_text().replace('"pool"', '"other"'))  # of before the pool was named
    with pytest.raises(ConfigError, match="val"):
        keep_settings(replace(one, val="moved.json"), told)


def test_what_is_drawn_is_not_drawn_again(begun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, pool, _ = begun
    before = write_data(one, pool)
    monkeypatch.setattr(cells, "split_table", lambda *_: pytest.fail("drawn again"))
    assert write_data(one, pool) == before
    part = one.out / "data" / "p40-f1"
    listed = (part / "pool.txt").read_text()
    (part / "pool.txt").write_text("/before/1.png\n")
    write_data(one, pool)
    assert (part / "pool.txt").read_text() == listed
    (part / "labeled.json").write_text("{")
    with pytest.raises(ConfigError, match=r"labeled\.json is damaged: remove it"):
        write_data(one, pool)


def test_a_moved_comparison_takes_new_cells(data: Path, tmp_path: Path) -> None:
    words = ["--percents", "40", "--no-ceiling", "--methods", "supervised"]
    assert main(command(data, tmp_path / "c", *words)) == 0
    shutil.move(tmp_path / "c", tmp_path / "d")
    assert main(command(data, tmp_path / "d", *words, "sed")) == 0
    assert not (tmp_path / "c").exists()
    row = json.loads((tmp_path / "d" / "rows" / "p40-f1-s0-sed.json").read_text())
    assert row["settings"]["batch"] == 2 and set(row["data"]) == {"data", "val", "pool"}
