"""Checkpoints: all that is needed to go on as if nothing had happened.

They hold tensors and primitives only, and are read by torch's weights-only reader, which runs nothing of a file.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import torch

from sedet.errors import CheckpointError, TrainingError
from sedet.files import write_atomically

FORMAT = 1
STATE = {"step": int, "sums": dict, "summed": int, "rows": list, "best_step": int, "since_best": int, "skipped": list}
"""What of a training's state is read, and of which type."""
DATA = {"classes": list, "labeled": int, "val": int, "unlabeled": int}
"""The same of what is remembered of its data."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write atomically: an interrupted write leaves the previous file.

    Raises:
        TrainingError: it cannot be written (full disk); the file before it stays.
        OSError: the same where there is no file before it.
    """
    buffer = io.BytesIO()
    torch.save({"sedet_checkpoint": FORMAT, **state}, buffer)
    try:
        write_atomically(path, buffer.getbuffer().tobytes())
    except OSError as error:
        if not path.is_file():
            raise
        raise TrainingError(
            f"{path} could not be written ({error.strerror}); the checkpoint before it is kept. "
            "Free some space, then go on with --resume"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        CheckpointError: missing, damaged, foreign, or of a newer version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint{_instead(path)}")
    try:
        with warnings.catch_warnings(action="ignore"):  # what it thinks of a foreign file's pickle protocol
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged files the reader raises nearly anything
        reason = f"{path}: damaged, or not a checkpoint ({type(error).__name__})"
        raise CheckpointError(f"{reason}{_instead(path)}") from error
    if not isinstance(state, dict) or "sedet_checkpoint" not in state:
        raise CheckpointError(f"{path}: not a checkpoint written by sedet")
    if not isinstance(state["sedet_checkpoint"], int):
        raise CheckpointError(f"{path}: damaged, its version is no number")
    if state["sedet_checkpoint"] > FORMAT:
        raise CheckpointError(f"{path}: written by a newer sedet; update to read it")
    return state


def _instead(path: Path) -> str:
    """What can be done without this checkpoint."""
    other = path.with_name("burn_in.pt")
    if path.name != other.name and other.is_file():
        return f". The end of its burn-in is still there: start a new run from it with --start {path.parent.parent}"
    return ". Start the run anew"


def read_saved(path: Path) -> dict[str, Any]:
    """A checkpoint that holds what is read before its weights.

    Raises:
        CheckpointError: missing, damaged or foreign.
    """
    saved = load_checkpoint(path)
    state: Any = saved.get("state")
    known: Any = saved.get("facts")
    whole = _holds(state, STATE) and state["step"] >= 0 and all(_holds(row, {"step": int}) for row in state["rows"])
    if known:  # of a training that could be gone on with from another folder
        whole = whole and _holds(known, {"data": dict, "spec": dict}) and _holds(known["data"], DATA)
    if not whole:
        raise CheckpointError(f"{path}: damaged, or not the checkpoint of a training")
    return saved


def _holds(given: Any, kinds: dict[str, type]) -> bool:
    return isinstance(given, dict) and all(isinstance(given.get(key), kind) for key, kind in kinds.items())
