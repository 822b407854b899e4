"""Runs the cells of a comparison, side by side where there are devices for it; what is done is never done again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sedet import settings
from sedet.catalog import METHODS
from sedet.compare.cells import Cell, Comparison, Pool, complete, write_data
from sedet.compare.table import load_rows, read_record, read_row
from sedet.compare.terms import check_rows, digests, keep_settings, planned, settle
from sedet.compare.variants import with_variant
from sedet.config import TrainConfig
from sedet.data.layout import absolute
from sedet.data.write import write_json
from sedet.signals import Terminated
from sedet.text import minutes
from sedet.training.unattended import is_locked


@dataclass
class Job:
    """One process: a burn-in, or a cell that starts from it.

    Attributes:
        name: for the terminal and its files; needs: the job that must be done before, or None.
        done: the file that is there once it is done.
        config: its settings; cell: None for a burn-in; labels: the digests of its data.
    """

    name: str
    needs: str | None
    done: Path
    config: TrainConfig
    cell: Cell | None
    labels: dict[str, str]


def make_jobs(comparison: Comparison, pool: Pool) -> list[Job]:
    """Everything there is to run, burn-ins before what starts from them. Writes the data and the settings.

    Burn-ins that no missing cell starts from are not among it.

    Raises:
        ConfigError: the folder holds a comparison with other settings or data, or what is there is damaged or was
            trained on other terms than what is missing would be.
        DataError: data that cannot be read.
    """
    labels = digests(pool)
    keep_settings(comparison, labels)
    rows = load_rows(comparison)
    parts = complete(comparison, write_data(comparison, pool), pool.table)
    folder = comparison.out.absolute()
    cells: list[Job] = []
    burn_ins: dict[str, Job] = {}
    for cell in comparison.cells:
        own = folder / "data" / cell.data
        config = replace(
            parts[cell.data],
            labeled=str(own / "labeled.json"),
            images=str(absolute(pool.table.root)),
            val=str(folder / "data" / "val.json"),
            val_images=str(absolute(pool.val.root)),
            seed=cell.seed,
            guard=False,
            patience=0,  # a run that ends early would not be as long as its row says
            start=None,
            stop=None,
            method="supervised",
            unlabeled=(),
        )
        burn = f"{cell.part}-burn-in"
        if cell not in rows and burn not in burn_ins:
            run = folder / "runs" / burn
            twin = replace(config, out=str(run))
            burn_ins[burn] = Job(burn, None, run.with_name(f"{burn}.json"), twin, None, labels)
        if group := METHODS[cell.method].group:
            given = with_variant(comparison.settings, cell.method, cell.variant)
            config = replace(config, **{group: getattr(given, group)})
        config = replace(
            config,
            out=str(folder / "runs" / cell.name),
            method=cell.method,  # type: ignore[arg-type]
            unlabeled=() if cell.method == "supervised" else (str(own / "pool.txt"),),
        )
        cells.append(Job(cell.name, burn, folder / "rows" / f"{cell.name}.json", config, cell, labels))
    missing = [job for job in cells if job.cell not in rows]
    check_rows(rows | {job.cell: planned(job.config, labels) for job in missing if job.cell}, comparison.out)
    for job in (*burn_ins.values(), *missing):
        settle(job.config)
    found: dict[str, Job] = {}
    for job in cells:
        if job.needs in burn_ins:
            found[job.needs] = burn_ins[job.needs]
        found[job.name] = job
    return list(found.values())


def is_done(job: Job) -> bool:
    """Whether a job's file says that it is finished.

    Raises:
        ConfigError: it is damaged.
    """
    if not job.done.is_file():
        return False
    return bool(read_row(job.done) if job.cell is not None else read_record(job.done).get("finished"))


def run_jobs(
    jobs: list[Job], out: Path, devices: list[str], threads: int | None, say: Callable[[str], None]
) -> list[str]:
    """Run what is not done yet, one job a device at a time. What another runner is at is waited for.

    Args:
        devices: "cpu", or indices of GPUs; the same may stand in it several times.
        threads: CPU threads of each job.

    Returns:
        The names of jobs that failed, and of those that need them.

    Raises:
        KeyboardInterrupt: the process was asked to end, by Ctrl-C or (Terminated) SIGTERM; its jobs are ended before.
    """
    waiting = [job for job in jobs if not is_done(job)]
    finished = {job.name for job in jobs if is_done(job)}
    total = len(waiting)
    failed: list[str] = []
    told: set[str] = set()
    running: dict[int, tuple[Job, subprocess.Popen[bytes], float]] = {}

    def is_ready(job: Job) -> bool:
        if job.needs is not None and job.needs not in finished:
            return False
        if not is_locked(job_file(job, out).with_suffix(".lock")):
            return True
        if job.name not in told:
            say(f"{job.name}: another runner is at it, its end is waited for")
            told.add(job.name)
        return False

    with noted_signals() as noted:
        try:
            while waiting or running:
                for slot, device in enumerate(devices):
                    ready = None if slot in running else next(filter(is_ready, waiting), None)
                    if ready is None:
                        continue
                    waiting.remove(ready)
                    if is_done(ready):
                        finished.add(ready.name)
                        say(f"{ready.name}: done by another runner{score(ready)}")
                        continue
                    say(f"{ready.name}: started on {device if device == 'cpu' else 'GPU ' + device}")
                    running[slot] = (ready, start(ready, out, device, threads), time.monotonic())
                for slot, (job, process, began) in list(running.items()):
                    code = process.poll()
                    if code is None:
                        continue
                    del running[slot]
                    spent = minutes(time.monotonic() - began)
                    if code == 0 and is_done(job):
                        finished.add(job.name)
                        number = total - len(waiting) - len(running) - len(failed)
                        say(f"{job.name}: done after {spent}{score(job)} ({number} of {total})")
                        continue
                    failed.append(job.name)
                    say(f"{job.name}: failed after {spent}: {last_line(log_file(job, out))}")
                    lost = [j for j in waiting if j.needs == job.name]
                    failed += [j.name for j in lost]
                    waiting = [j for j in waiting if j not in lost]
                if noted:
                    raise Terminated
                time.sleep(0.2)
        finally:
            for _, process, _ in running.values():
                process.terminate()  # it goes on from its last checkpoint
                process.wait()
    return failed


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """What SIGTERM is noted in, which otherwise would end this process and leave its jobs running."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only there can signals be caught
        yield noted
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGTERM, before)


def start(job: Job, out: Path, device: str, threads: int | None) -> subprocess.Popen[bytes]:
    """Start a job's process; what it prints goes to a log file."""
    gpu = device != "cpu"
    config = replace(job.config, device="cuda" if gpu else "cpu", threads=threads or job.config.threads)
    burn_in = None if job.needs is None else str(out.absolute() / "runs" / job.needs)
    task = {
        "config": settings.to_dict(config),
        "burn_in": burn_in,
        "row": None if job.cell is None else str(job.done),
        "detections": None if job.cell is None else str(job.done.with_suffix(".npz")),
        "cell": None if job.cell is None else {**facts(job.cell, config), "data": job.labels},
    }
    path = job_file(job, out)
    write_json(path, task)
    environment = dict(os.environ)
    if gpu:
        environment["CUDA_VISIBLE_DEVICES"] = visible(int(device), environment.get("CUDA_VISIBLE_DEVICES"))
    log_file(job, out).parent.mkdir(parents=True, exist_ok=True)
    with log_file(job, out).open("ab") as log:
        command = [sys.executable, "-m", "sedet.compare.cell", str(path)]
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )


def visible(index: int, ours: str | None) -> str:
    """What makes one GPU visible to a process: of those that this one sees, by what it was given them as."""
    return str(index) if ours is None else ours.split(",")[index].strip()


def facts(cell: Cell, config: TrainConfig) -> dict[str, Any]:
    """What a row says of its cell."""
    return {
        "method": cell.label,
        "labels": cell.labels,
        "percent": cell.percent,
        "shots": cell.shots,
        "fold": cell.fold,
        "seed": cell.seed,
        "ceiling": cell.ceiling,
        "detector": config.detector,
        "backbone": config.backbone,
        "image_size": config.image_size,
        "steps": config.steps,
        "batch": config.batch,
        "rate": config.rate,
    }


def score(job: Job) -> str:
    if job.cell is None:
        return ""
    ap = read_record(job.done)["ap"]
    return ", no AP" if ap is None else f", AP {ap:.1f}"


def job_file(job: Job, out: Path) -> Path:
    return out / "jobs" / f"{job.name}.json"


def log_file(job: Job, out: Path) -> Path:
    return out / "logs" / f"{job.name}.log"


def last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.is_file() else []
    return f"{lines[-1]} ({path})" if lines else f"see {path}"
