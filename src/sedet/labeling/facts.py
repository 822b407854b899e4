"""``label.json``: what a folder was labelled with, so that nothing else goes on there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sedet.detectors.file import detector_file
from sedet.errors import CheckpointError, ConfigError
from sedet.labeling.listing import root_of
from sedet.labeling.look import FEATURES

FORMAT = 1
"""Version of the folder's layout; a newer one is refused."""


def settings_of(
    detector: Path,
    sources: list[str],
    score: float | None,
    most: int,
    rank: bool,
    student: str | Path | None,
    shard_size: int,
) -> dict[str, Any]:
    """What a later call must share with this one."""
    file = detector_file(detector)
    if not file.is_file():
        raise CheckpointError(f"{file}: there is no such detector file. Training writes RUN/best.safetensors")
    beside = file.with_name("student.safetensors")
    pupil = Path(student) if student is not None else beside if beside.is_file() and beside != file else None
    if pupil is not None and not pupil.is_file():
        raise CheckpointError(f"{pupil}: there is no such student. Training writes RUN/student.safetensors")
    return {
        "detector": _digest(file),
        "student": str(pupil) if rank and pupil else None,
        "student_digest": _digest(pupil) if rank and pupil else None,
        "asked_score": score,
        "max_detections": most,
        "rank": rank,
        "features": FEATURES,
        "shard_size": shard_size,
        "sources": [str(Path(source).absolute()) for source in sources],
        "root": str(root_of(sources)),
    }


_NAMED = {
    "detector": "another detector",
    "student_digest": "another student",
    "asked_score": "another --score",
    "max_detections": "another --max-detections",
    "rank": "the other --rank",
    "features": "another version of sedet",
    "shard_size": "another --shard-size",
    "sources": "other sources",
    "root": "other sources",
}


def agree(known: dict[str, Any], settings: dict[str, Any], out: Path) -> None:
    for key, what in _NAMED.items():
        if known.get(key) != settings[key]:
            said = "" if key in ("detector", "student_digest") else f" ({known.get(key)}, now {settings[key]})"
            raise ConfigError(
                f"{out} holds labels made with {what}{said}: go on with the same settings, or give --out a new folder"
            )


def recorded(out: Path) -> dict[str, Any] | None:
    """The settings of an earlier call, or None for a new folder."""
    if not out.exists():
        return None
    if out.is_dir() and all(f.name == "images.txt" or f.name.endswith(".part") for f in out.iterdir()):
        return None  # another process has begun, or one was interrupted at its beginning
    return read_facts(out)


def read_facts(folder: Path) -> dict[str, Any]:
    """The ``label.json`` of a folder that ``label`` wrote.

    Raises:
        ConfigError: it is none, damaged, or of a newer version.
    """
    file = folder / "label.json"
    if not file.is_file():
        state = "is no folder" if not folder.is_dir() else "holds files already, but no label.json"
        raise ConfigError(f"{folder} {state}: give a folder that sedet label wrote; new labels go to a new one")
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        version, classes, ids = int(facts["format"]), facts["classes"], facts["category_ids"]
        good = len(classes) == len(ids) and all(isinstance(name, str) for name in classes)
        good = good and isinstance(facts["root"], str) and isinstance(facts["score"], (int, float))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        good, version = False, FORMAT
    if not good:
        raise ConfigError(f"{file} is damaged: label the images again, to a new folder")
    if version > FORMAT:
        raise ConfigError(f"{file} was written by a newer sedet: update to read it")
    return dict(facts)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
