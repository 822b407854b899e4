"""Trainings of which many are run one after the other: each is finished once, whatever interrupts it.

Beside a run folder NAME, ``NAME.json`` keeps times and says when it is finished, and ``NAME.lock`` keeps a second
process away. After an interruption a run continues from its last checkpoint.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sedet.config import TrainConfig
from sedet.data.write import write_json
from sedet.detectors.file import load_detector, save_detector
from sedet.errors import ConfigError
from sedet.training import run
from sedet.training.checkpoint import load_checkpoint
from sedet.training.loop import LAST_FILE
from sedet.training.plan import resolve_device
from sedet.training.probe import peak_memory

try:
    import fcntl
except ImportError:  # Windows: nothing keeps a second process away
    fcntl = None  # type: ignore[assignment]


class Busy(ConfigError):
    """Another process is at this training."""


def finish_run(config: TrainConfig, folder: Path, stamp: str, wait: bool = False) -> dict[str, Any]:
    """Train to the end, or go on with what an interruption left.

    Args:
        stamp: what to note as having trained it (a commit, a version).
        wait: for another process that trains it now, instead of giving up.

    Returns:
        The run's record: ``seconds``, ``commits``, ``rows`` (metrics by step), ``labels_alone``,
        ``memory`` (peak bytes, or None).

    Raises:
        Busy: another process trains it.
        SedetError: anything a user can mend.
    """
    path = folder.with_name(f"{folder.name}.json")
    last = folder / "checkpoints" / LAST_FILE
    with locked(folder.with_name(f"{folder.name}.lock"), wait):
        record: dict[str, Any] = {"seconds": 0.0, "commits": [], "started": None, "finished": False}
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
        if record["finished"]:
            return record
        if record["started"] is not None and last.is_file():
            # the time up to the checkpoint it goes on from; what was lost after it is trained again
            record["seconds"] += max(0.0, last.stat().st_mtime - record["started"])
        if not last.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            record |= {"seconds": 0.0, "commits": []}
        if stamp not in record["commits"]:
            record["commits"].append(stamp)
        record["started"] = time.time()
        write_json(path, record)
        outcome = run.train(config, resume=folder if last.is_file() else None)
        record["seconds"] += time.time() - record["started"]
        record["memory"] = peak_memory(torch.device(resolve_device(config)))
        if config.stop is None and not outcome.finished:
            raise ConfigError(f"{folder} stopped at step {outcome.step}")
        saved = load_checkpoint(last)
        record |= {"rows": saved["state"]["rows"], "labels_alone": saved["state"]["labels_alone"]}
        if config.stop is None:
            loaded = load_detector(folder)
            loaded.model.load_state_dict(saved["student"])
            save_detector(folder / "student.safetensors", loaded.model, loaded.classes, loaded.image_size, {})
        record |= {"started": None, "finished": True}
        write_json(path, record)
        record = json.loads(path.read_text(encoding="utf-8"))  # as a later call will find it
        last.unlink()  # large, and no longer needed
        return record


@contextmanager
def locked(path: Path, wait: bool) -> Iterator[None]:
    """Hold a file's lock; it goes away with the process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Busy(f"another runner is at {path.stem}") from None
        yield


def is_locked(path: Path) -> bool:
    """Whether another process holds a file's lock now."""
    if not path.is_file():
        return False
    try:
        with locked(path, wait=False):
            return False
    except Busy:
        return True
