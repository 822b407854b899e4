"""How much memory decoded images may take."""

from __future__ import annotations

from pathlib import Path

import pytest

from sedet.training import memory

GIB = 2**30


def test_a_quarter_of_what_is_free_at_most_sixteen_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, cache in ((8 * GIB, 2.0), (2 * GIB, 0.5), (1024 * GIB, 16.0), (None, 2.0), (0, 0.0)):
        monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
        assert memory.cache_limit(None) == cache
        assert memory.cache_limit(3.0) == 3.0 and memory.cache_limit(0.0) == 0.0


def test_a_container_has_less_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, used = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(memory, "CGROUPS", ((str(limit), str(used)),))
    machine = memory.free_memory()
    used.write_text("1024\n")
    limit.write_text("max\n")
    assert memory.free_memory() is not None or machine is None
    limit.write_text("5120\n")
    assert memory.free_memory() == 4096
    limit.write_text("512\n")
    assert memory.free_memory() == 0
