"""Checkpoints: round trips, atomic writes, and files that are damaged, foreign or hostile."""

from __future__ import annotations

import errno
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sedet.errors import CheckpointError, TrainingError
from sedet.files import write_atomically
from sedet.training import checkpoint
from sedet.training.checkpoint import load_checkpoint, save_checkpoint


def state() -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    return {
        "student": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": {"step": 3, "sums": {"a": 0.1}, "rows": [{"step": 1, "ap": 0.30000000000000004}], "best": None},
    }


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def test_round_trip(tmp_path: Path) -> None:
    before = state()
    save_checkpoint(tmp_path / "checkpoints" / "last.pt", before)
    after = load_checkpoint(tmp_path / "checkpoints" / "last.pt")
    assert all(equal(before[key], after[key]) for key in before)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["last.pt"]  # nothing left over


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_is_refused_without_running_it(tmp_path: Path) -> None:
    mark = tmp_path / "hacked"
    file = tmp_path / "last.pt"
    for write in (
        lambda: torch.save({"sedet_checkpoint": 1, "student": Evil(mark)}, file),
        lambda: torch.save({"sedet_checkpoint": 1, "x": Evil(mark)}, file, _use_new_zipfile_serialization=False),
        lambda: file.write_bytes(pickle.dumps({"sedet_checkpoint": 1, "x": Evil(mark)})),
    ):
        write()
        with pytest.raises(CheckpointError, match=r"last\.pt"), warnings.catch_warnings():
            warnings.simplefilter("error")  # the error is one line, with nothing of torch's before it
            load_checkpoint(file)
        assert not mark.exists()
    pickle.loads(file.read_bytes())  # the trap is a real one
    assert mark.exists()


def test_missing_foreign_and_newer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "last.pt")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path)
    for content in ({"model": torch.zeros(1)}, torch.zeros(3), [1, 2], "text"):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(CheckpointError, match="not a checkpoint written by sedet"):
            load_checkpoint(tmp_path / "other.pt")
    torch.save({"sedet_checkpoint": 99}, tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match="newer sedet"):
        load_checkpoint(tmp_path / "new.pt")
    torch.save({"sedet_checkpoint": "one"}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "odd.pt")


def test_damage_anywhere_is_an_error_of_one_line(tmp_path: Path) -> None:
    """Truncated at any place, overwritten by noise, or no checkpoint at all."""
    file = tmp_path / "last.pt"
    save_checkpoint(file, state())
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    broken = [whole[:n] for n in (0, 1, 10, 100, len(whole) // 2, len(whole) - 30)]
    for _ in range(60):
        start = int(rng.integers(0, len(whole) - 64))
        broken.append(whole[:start] + rng.bytes(64) + whole[start + 64 :])
    broken += [rng.bytes(n) for n in (1, 50, 5000)] + [b"\x80\x02" + rng.bytes(n) for n in range(2, 120)]
    broken += [b"sedet", b"{}", b"\x80\x04.", b"\x80\x02]q\x00.", whole + b"tail"]
    refused = 0
    for content in broken:
        file.write_bytes(content)
        try:
            load_checkpoint(file)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error) and "last.pt" in str(error)
    assert refused > 120


def test_an_interrupted_write_leaves_the_file_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "last.pt"
    save_checkpoint(file, {"state": {"step": 1}})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TrainingError, match=r"last\.pt could not be written \(No space left.*--resume"):
            save_checkpoint(file, {"state": {"step": 2}})
    assert load_checkpoint(file)["state"] == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    save_checkpoint(file, {"state": {"step": 2}})
    assert load_checkpoint(file)["state"] == {"step": 2}


def test_without_a_checkpoint_before_it_none_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        save_checkpoint(tmp_path / "last.pt", {"state": {"step": 0}})
    assert caught.value.filename == str(tmp_path / "last.pt") and list(tmp_path.iterdir()) == []


def test_writes_are_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At no time does the name lead to half a file."""
    target = tmp_path / "a" / "file"
    write_atomically(target, b"old")
    seen: list[bytes] = []
    sync = os.fsync

    def look(descriptor: int) -> None:
        seen.append(target.read_bytes())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    write_atomically(target, b"new" * 1000)
    assert seen == [b"old"] and target.read_bytes() == b"new" * 1000
    assert checkpoint.FORMAT == 1
