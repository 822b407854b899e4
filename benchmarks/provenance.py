"""What a row was measured with: the commit of a clean tree, versions, and the machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import sedet
from sedet.errors import ConfigError
from sedet.origin import device_name, processor_name

ROOT = Path(__file__).resolve().parents[1]

OUTPUTS = ("benchmarks/results",)
"""Where rows are written while cells run; all else must be as committed."""

CODE = ("src/sedet", "benchmarks")
MANIFEST = "commit.json"
"""Beside packed data: the commit, and digests of its code, for a machine that has the files but not the history."""


@dataclass(frozen=True)
class Provenance:
    """The commit, with ``-dirty`` where the tree differs from it, and what differs."""

    commit: str
    changed: tuple[str, ...]

    @property
    def for_tables(self) -> bool:
        return not self.changed


def provenance(data: Path, allow_dirty: bool = False, root: Path = ROOT) -> Provenance:
    """The commit this program runs from.

    Args:
        data: the data folder; where the code is the one that its commit.json is of, or there is no git history, that
            file says which commit it is. (A copied tree may have a history that ends before it.)

    Raises:
        ConfigError: the tree is not as committed (untracked files count) and that is not allowed, or there is
            nothing to tell the commit from.
    """
    own = Path(sedet.__file__).resolve().parent
    if own != (root / "src" / "sedet").resolve():
        raise ConfigError(f"the sedet in use is {own}, not that of {root}: its commit is another's")
    manifest = data / MANIFEST
    if manifest.is_file() and not _differs(manifest, root):
        return Provenance(str(json.loads(manifest.read_text(encoding="utf-8"))["commit"]), ())
    if (root / ".git").exists() and (not manifest.is_file() or _has_history(root)):
        commit = _git(root, "rev-parse", "HEAD").strip()
        excluded = [f":(exclude){folder}" for folder in OUTPUTS]
        status = _git(root, "status", "--porcelain", "--untracked-files=all", "--", ".", *excluded)
        changed = tuple(line[3:] for line in status.splitlines())
    elif manifest.is_file():
        commit, changed = str(json.loads(manifest.read_text(encoding="utf-8"))["commit"]), _differs(manifest, root)
    else:
        raise ConfigError(f"{root} has no git history and {data} no {MANIFEST}: the commit cannot be told")
    if changed and not allow_dirty:
        listing = ", ".join(changed[:5]) + (", ..." if len(changed) > 5 else "")
        raise ConfigError(
            f"the tree is not as committed ({len(changed)} files: {listing}): commit or remove them; "
            "--allow-dirty measures all the same, and marks the row as not for tables"
        )
    return Provenance(commit + ("-dirty" if changed else ""), changed)


def code_digests(root: Path = ROOT) -> dict[str, str]:
    """SHA-256 of every file of the code that computes rows, by path."""
    files = [
        file
        for folder in CODE
        for file in sorted((root / folder).rglob("*"))
        if file.suffix in (".py", ".yaml") and not any(file.is_relative_to(root / o) for o in OUTPUTS)
    ]
    return {f.relative_to(root).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def _differs(manifest: Path, root: Path) -> tuple[str, ...]:
    """Files of the code that are not those that the manifest is of."""
    saved, now = json.loads(manifest.read_text(encoding="utf-8"))["code"], code_digests(root)
    return tuple(sorted(k for k in {*now, *saved} if now.get(k) != saved.get(k)))


def _has_history(root: Path) -> bool:
    """Whether git is there and answers: a copied tree may have neither."""
    try:
        return bool(_git(root, "rev-parse", "HEAD").strip())
    except ConfigError:
        return False


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"git cannot say what {root} was built from ({error})") from error
    return done.stdout


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("sedet", "torch", "torchvision", "timm", "lightning-fabric", "faster-coco-eval", "numpy", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = sedet.__version__ if name == "sedet" else "unknown"
    return found


def machine(device: str) -> dict[str, Any]:
    """The machine: processor, cores that may be used, threads, and the GPU if one is used."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found: dict[str, Any] = {"processor": processor_name(), "cores": cores, "threads": torch.get_num_threads()}
    if device == "cuda":
        found["gpu"] = device_name(torch.device(device))
    return found
