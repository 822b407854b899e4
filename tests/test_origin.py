"""What is said of where numbers come from."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sedet import origin


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout that holds this module alone, and nothing yet."""
    module = tmp_path / "own" / "src" / "sedet" / "origin.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    monkeypatch.setattr(origin, "__file__", str(module))
    for name, value in (("GIT_AUTHOR", "a"), ("GIT_COMMITTER", "a")):
        monkeypatch.setenv(f"{name}_NAME", value)
        monkeypatch.setenv(f"{name}_EMAIL", value)
    origin.commit.cache_clear()
    yield tmp_path / "own"
    origin.commit.cache_clear()


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_of_a_checkout_and_whether_files_differ_from_it(checkout: Path) -> None:
    (checkout / "pyproject.toml").write_text("")
    git(checkout, "init", "-q")
    assert origin.commit() is None, "there is none yet"
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "one")
    git(checkout, "tag", "v1")
    origin.commit.cache_clear()
    head = git(checkout, "rev-parse", "HEAD")
    assert origin.commit() == head
    (checkout / "pyproject.toml").write_text("other")
    origin.commit.cache_clear()
    assert origin.commit() == f"{head}-dirty"


def test_a_package_inside_another_checkout_has_no_commit(checkout: Path) -> None:
    git(checkout.parent, "init", "-q")
    (checkout / "pyproject.toml").write_text("")
    git(checkout.parent, "add", ".")
    git(checkout.parent, "commit", "-qm", "somebody else's")
    assert origin.commit() is None


def test_the_processor_has_a_name() -> None:
    assert origin.device_name(torch.device("cpu")) == origin.processor_name() != ""
