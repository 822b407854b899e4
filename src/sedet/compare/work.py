"""Runs the cells of a comparison, side by side where there are devices for it; what is done is never done again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sedet import settings
from sedet.compare.cells import Cell, Comparison, Pool, complete, write_data
from sedet.compare.table import read_record
from sedet.config import TrainConfig
from sedet.data.layout import absolute
from sedet.data.write import write_json
from sedet.errors import ConfigError
from sedet.training.inputs import table_digest
from sedet.training.plan import minutes

NOT_NUMBERS = ("device", "threads", "workers", "cache", "loggers", "report")
"""Settings that change no number, and may so differ when a comparison goes on."""


@dataclass
class Job:
    """One process: a burn-in, or a cell that starts from it.

    Attributes:
        name: for the terminal and its files; needs: the job that must be done before, or None.
        done: the file that is there once it is done.
        config: its settings; cell: None for a burn-in.
    """

    name: str
    needs: str | None
    done: Path
    config: TrainConfig
    cell: Cell | None


def make_jobs(comparison: Comparison, pool: Pool) -> list[Job]:
    """Everything there is to run, burn-ins before what starts from them. Writes the data and the settings.

    Raises:
        ConfigError: the folder holds a comparison with other settings or data.
        DataError: data that cannot be read.
    """
    keep_settings(comparison, labels={"data": table_digest(pool.table), "val": table_digest(pool.val)})
    parts = complete(comparison, write_data(comparison, pool), pool.table)
    folder = comparison.out.absolute()
    jobs: dict[str, Job] = {}
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
            method=cell.method,  # type: ignore[arg-type]
            unlabeled=() if cell.method == "supervised" else (str(own / "pool.txt"),),
        )
        burn = f"{cell.part}-burn-in"
        if burn not in jobs:
            run = folder / "runs" / burn
            twin = replace(config, method="supervised", unlabeled=(), out=str(run))
            jobs[burn] = Job(burn, None, run.with_name(f"{burn}.json"), twin, None)
        config = replace(config, out=str(folder / "runs" / cell.name))
        jobs[cell.name] = Job(cell.name, burn, folder / "rows" / f"{cell.name}.json", config, cell)
    return list(jobs.values())


def keep_settings(comparison: Comparison, labels: dict[str, str] | None = None) -> None:
    """Write down what all cells share, or compare it with what was written.

    Args:
        labels: what names the content of the labels, so that others under the same path are noticed.
    """
    path = comparison.out / "comparison.json"
    tree = settings.to_dict(comparison.settings)
    told: dict[str, Any] = {
        "data": str(Path(comparison.data).absolute()),
        "val": str(Path(comparison.val).absolute()),
        "unlabeled": [*comparison.unlabeled, *([comparison.unlabeled_data] if comparison.unlabeled_data else [])],
        "images": [comparison.images, comparison.val_images],
        "labels": labels,
        "settings": {key: value for key, value in tree.items() if key not in NOT_NUMBERS},
    }
    told = json.loads(json.dumps(told))
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            differing = [key for key in ("data", "val", "unlabeled") if before[key] != told[key]]
            for key, name in (("images", "folder of the images"), ("labels", "content of the labels")):
                if key in before and before[key] != told[key]:  # comparisons from before these were kept
                    differing.append(name)
            names = settings.names(TrainConfig)
            differing += [n for n in names if _value(before["settings"], n) != _value(told["settings"], n)]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is damaged: remove it, or choose another --out") from error
        if differing:
            raise ConfigError(
                f"{comparison.out} holds a comparison with other settings ({', '.join(differing[:4])}): give the same "
                "ones to go on with it, or another --out"
            )
    elif comparison.out.exists() and any(comparison.out.iterdir()):
        raise ConfigError(f"{comparison.out} is in use and holds no comparison: choose another --out")
    else:
        write_json(path, told)


def _value(tree: Any, name: str) -> Any:
    for key in name.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def is_done(job: Job) -> bool:
    """Whether a job's file says that it is finished."""
    if not job.done.is_file():
        return False
    return job.cell is not None or bool(read_record(job.done).get("finished"))


def run_jobs(
    jobs: list[Job], out: Path, devices: list[str], threads: int | None, say: Callable[[str], None]
) -> list[str]:
    """Run what is not done yet, one job a device at a time.

    Args:
        devices: "cpu", or indices of GPUs; the same may stand in it several times.
        threads: CPU threads of each job.

    Returns:
        The names of jobs that failed, and of those that need them.
    """
    waiting = [job for job in jobs if not is_done(job)]
    finished = {job.name for job in jobs if is_done(job)}
    total = len(waiting)
    failed: list[str] = []
    running: dict[int, tuple[Job, subprocess.Popen[bytes], float]] = {}
    try:
        while waiting or running:
            for slot, device in enumerate(devices):
                ready = next((j for j in waiting if j.needs is None or j.needs in finished), None)
                if slot in running or ready is None:
                    continue
                waiting.remove(ready)
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
            time.sleep(0.2)
    finally:
        for _, process, _ in running.values():
            process.terminate()  # it goes on from its last checkpoint
            process.wait()
    return failed


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
        "cell": None if job.cell is None else facts(job.cell, config),
    }
    path = out / "jobs" / f"{job.name}.json"
    write_json(path, task)
    environment = dict(os.environ)
    if gpu:
        environment["CUDA_VISIBLE_DEVICES"] = device
    log_file(job, out).parent.mkdir(parents=True, exist_ok=True)
    with log_file(job, out).open("ab") as log:
        command = [sys.executable, "-m", "sedet.compare.cell", str(path)]
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )


def facts(cell: Cell, config: TrainConfig) -> dict[str, Any]:
    """What a row says of its cell."""
    return {
        "method": cell.method,
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


def log_file(job: Job, out: Path) -> Path:
    return out / "logs" / f"{job.name}.log"


def last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.is_file() else []
    return f"{lines[-1]} ({path})" if lines else f"see {path}"
