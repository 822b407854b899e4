"""Cells are run in this process, not in one each: starting Python and PyTorch for every one takes minutes in all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sedet.compare import cell, work
from sedet.training.pictures import Album


class Ended:
    """What a process is that has ended."""

    def __init__(self, code: int) -> None:
        self.code = code

    def poll(self) -> int:
        return self.code

    def terminate(self) -> None: ...

    def wait(self) -> int:
        return self.code


class InProcess:
    """Stands for ``subprocess``: runs a cell at once."""

    DEVNULL = STDOUT = None

    def Popen(self, command: list[str], **_: object) -> Ended:
        assert command[1:3] == ["-m", "sedet.compare.cell"]
        task = json.loads(Path(command[3]).read_text())
        code = cell.main(command[3:])
        if code:
            name = Path(command[3]).stem
            out = Path(task["config"]["out"]).parent.parent
            (out / "logs" / f"{name}.log").write_text("sedet: error: it failed\n")
        return Ended(code)


@pytest.fixture(scope="package", autouse=True)
def in_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "subprocess", InProcess())
        for name in ("watch", "finish"):  # half of the time of a tiny run would go into its pictures
            patch.setattr(Album, name, lambda *_: None)
        yield
