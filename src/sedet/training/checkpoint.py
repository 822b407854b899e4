"""Checkpoints: all that is needed to go on as if nothing had happened. Tensors and primitives only, never unpickled."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from sedet.detectors.file import write_atomically
from sedet.errors import CheckpointError, TrainingError

FORMAT = 1


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
        raise CheckpointError(f"{path}: there is no such checkpoint")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged files the reader raises nearly anything
        raise CheckpointError(f"{path}: damaged, or not a checkpoint ({type(error).__name__})") from error
    if not isinstance(state, dict) or "sedet_checkpoint" not in state:
        raise CheckpointError(f"{path}: not a checkpoint written by sedet")
    if not isinstance(state["sedet_checkpoint"], int):
        raise CheckpointError(f"{path}: damaged, its version is no number")
    if state["sedet_checkpoint"] > FORMAT:
        raise CheckpointError(f"{path}: written by a newer sedet; update to read it")
    return state
