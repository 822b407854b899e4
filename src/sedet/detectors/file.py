"""Detector files: plain safetensors weights with everything needed to predict in their metadata. Never unpickled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sedet.detectors.build import Detector, rebuild_detector
from sedet.errors import CheckpointError
from sedet.files import write_atomically

DEFAULT_SCORE = 0.3
"""Where a file says of no better one: the score from which on a detection is shown or written."""

FORMAT = 1
"""Version of the metadata. Files of a newer version are refused."""


@dataclass(frozen=True)
class LoadedDetector:
    """A detector as read from its file.

    Attributes:
        model: in evaluation mode, on the device asked for.
        classes: class names, in label order.
        image_size: long side it was trained at, pixels.
        metadata: everything else the file says (settings, scores, versions).
    """

    model: Detector
    classes: tuple[str, ...]
    image_size: int
    metadata: dict[str, Any]

    @property
    def score(self) -> float:
        """The score to cut at: the best on the val images of its training, or DEFAULT_SCORE."""
        metrics = self.metadata.get("metrics")
        found = metrics.get("best_score") if isinstance(metrics, dict) else None
        return float(found) if isinstance(found, (int, float)) and 0 <= found <= 1 else DEFAULT_SCORE

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The id of each class in the labels it was trained on; 1, 2, ... where the file does not say."""
        found = self.metadata.get("category_ids")
        ids = tuple(i for i in found if type(i) is int) if isinstance(found, list) else ()
        if len(ids) == len(self.classes) == len(set(ids)):
            return ids
        return tuple(range(1, len(self.classes) + 1))


def save_detector(
    path: Path, model: Detector, classes: tuple[str, ...], image_size: int, extra: dict[str, Any]
) -> None:
    """Write a detector file, atomically.

    Args:
        extra: JSON-able facts to carry along: settings, scores, versions.
    """
    facts = {
        "format": FORMAT,
        "spec": model.spec.to_dict(),
        "classes": list(classes),
        "image_size": image_size,
        **extra,
    }
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    write_atomically(path, save(state, metadata={"sedet": json.dumps(facts)}))


def detector_file(path: Path | str) -> Path:
    """The file that is meant: of a run's folder the one it shipped."""
    path = Path(path)
    return path / "best.safetensors" if path.is_dir() else path


def load_detector(path: Path | str, device: torch.device | str = "cpu") -> LoadedDetector:
    """Read a detector file.

    Raises:
        CheckpointError: the file is missing, damaged (also: weights that are not finite), or not written by sedet.
    """
    path = detector_file(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such detector file. Training writes RUN/best.safetensors")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            state = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a detector file that can be read ({str(error).splitlines()[0]}). "
            "Give a best.safetensors written by sedet"
        ) from error
    if "sedet" not in metadata:
        raise CheckpointError(f"{path}: a safetensors file, but not a detector written by sedet")
    try:
        facts = json.loads(metadata["sedet"])
        version, spec = int(facts["format"]), dict(facts["spec"])
        classes, image_size = tuple(map(str, facts["classes"])), int(facts["image_size"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path}: its description is damaged ({type(error).__name__}: {error})") from error
    if version > FORMAT:
        raise CheckpointError(f"{path}: written by a newer sedet (format {version}); update to read it")
    if not 0 < image_size <= 16_384:
        raise CheckpointError(f"{path}: its description is damaged (image_size {image_size})")
    model = rebuild_detector(spec, path)
    if len(classes) != model.spec.classes:
        raise CheckpointError(f"{path}: its description is damaged ({len(classes)} classes for {model.spec.classes})")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{path}: the weights do not fit their description ({first})") from error
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():  # else it would find nothing, and not say why
            raise CheckpointError(
                f"{path}: the weights are damaged ('{name}' is not finite). Copy the file again from where it was "
                "trained, or train again, with a lower --rate if the losses grew"
            )
    model.requires_grad_(False)
    model.eval().to(device)
    return LoadedDetector(model, classes, image_size, facts)
