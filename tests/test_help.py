"""The command's help and lists: what they show, and what they leave unimported."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from sedet import cli, flags
from sedet.catalog import DETECTORS, METHODS
from sedet.cli import main


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, (line, _) in cli.COMMANDS.items():
        assert name in text and line in text
    assert cli.main([]) == 2
    assert capsys.readouterr().err == text


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_each_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: sedet {name}" in text and f"\nsedet {name}" in text  # usage and an example
    assert "(default: None)" not in text and "doc" not in text.split()


def test_train_help_shows_every_setting_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help", "--config", "absent.yaml"]) == 0
    text = capsys.readouterr().out
    for flag in flags.flags_of(cli.TrainOptions).values():
        assert flag.on in text
    for group in ("model options", "views options", "sed options"):
        assert group in text


HEAVY = "torch torchvision timm lightning_fabric matplotlib numpy PIL rich tyro yaml faster_coco_eval"


def imported_by(code: str) -> set[str]:
    """Which of the heavy packages are imported once ``code`` has run in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint(*[m for m in {HEAVY.split()!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_imports_nothing_heavy() -> None:
    assert imported_by("from sedet.cli import main; assert main(['--help']) == 0") == set()
    assert imported_by("from sedet.cli import main; assert main(['train', '--help']) == 0") <= {"tyro"}


def test_a_closed_pipe_is_quiet() -> None:
    command = [sys.executable, "-m", "sedet", "--help"]
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(("name", "known"), [("methods", METHODS), ("detectors", DETECTORS)])
def test_what_there_is_is_listed_a_line_each(
    name: str, known: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(known)
    if name == "methods":
        assert all(line.endswith(f"[{', '.join(METHODS[line.split()[0]].detectors)}]") for line in lines)
    assert main([name, "--help"]) == 0 and f"sedet {name}" in capsys.readouterr().out
    assert main([name, "x"]) == 2 and "takes no arguments" in capsys.readouterr().err
