"""A process that is killed, at whatever moment: the next run of the same command makes what one run would have made."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sedet.errors import ConfigError
from sedet.labeling.label import label
from sedet.labeling.parts import clear_parts, write_whole
from sedet.predictor import Predictor

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link")
"""What Python tells of, before it does it, besides files opened to be written."""


def run(detector: Path, photos: Path, out: Path) -> None:
    image, formats = str(photos / "a.png"), ("coco", "yolo")
    label(detector, image, out, format=formats, rank=False, device="cpu", score=0.5, workers=1)


def tree(folder: Path) -> dict[str, bytes | str | None]:
    """What lies in a folder: the bytes of files, where links lead; None for folders."""
    found: dict[str, bytes | str | None] = {}
    for base, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(base) / name
            seen = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[path.relative_to(folder).as_posix()] = seen
    return found


def killed(work: Callable[[], None], folder: Path, after: int) -> bool:
    """Do the work in another process that dies after so many changes below the folder; whether it died."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = after

    def count(event: str, given: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(given[1], str) and "w" in given[1]
        if (writes or event in CHANGES) and str(folder) in "".join(str(x) for x in given[:2]):
            if left == 0:
                os._exit(9)  # nothing is tidied up, as when a process is killed
            left -= 1

    try:
        signal.alarm(60)  # a child that waits for a thread it has not got ends too
        torch.set_num_threads(1)
        sys.addaudithook(count)
        work()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_killed_at_each_moment(
    red: Predictor, detector: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the disk is not what is killed, and takes most of the time
    run(detector, photos, tmp_path / "whole")
    whole = tree(tmp_path / "whole")
    out, after = tmp_path / "out", 0
    while killed(lambda: run(detector, photos, out), out, after):
        run(detector, photos, out)
        found = tree(out)
        assert found.keys() == whole.keys(), f"killed before change {after}"
        assert found == whole, f"killed before change {after}"
        shutil.rmtree(out)
        after += 1
    assert after > 30 and tree(out) == whole, "the last one was not killed"


def test_parts_of_killed_processes_go(red: Predictor, detector: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(detector, photos, out)
    whole = tree(out)
    for name in (".images.txt.1.part", "shards/.000000.jsonl.1.part", ".exports.json.1.part", ".exports.lock"):
        (out / name).write_text("half")
    (out / ".coco.1.part").mkdir()
    (out / ".coco.1.part" / "annotations.part").write_text("half")
    run(detector, photos, out)
    assert tree(out) == whole
    (out / "shards" / ".000007.jsonl.1.part").write_text("of a shard that is still to come")
    clear_parts(out / "shards")
    assert (out / "shards" / ".000007.jsonl.1.part").exists()


def test_a_part_that_another_process_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes wrote the same shard; the one that was first has removed the other's part."""
    path, sync = tmp_path / "shard", os.fsync

    def swept(file: int) -> None:
        sync(file)
        clear_parts(tmp_path)

    monkeypatch.setattr(os, "fsync", swept)
    write_whole(path, b"first")
    write_whole(path, b"second")
    assert path.read_bytes() == b"first" and [f.name for f in tmp_path.iterdir()] == ["shard"]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_exports_are_written_by_one_process_at_a_time(
    red: Predictor, detector: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(detector, photos, out)
    shutil.rmtree(out / "coco")
    (out / ".coco.1.part").mkdir()
    hold = (
        "import sys; from pathlib import Path; from sedet.training.lock import sole\n"
        "with sole(Path(sys.argv[1]), ''): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(out / ".exports.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=r"out are being written by another process: wait"):
            run(detector, photos, out)
        assert (out / ".coco.1.part").exists()
        other.kill()
    run(detector, photos, out)
    assert (out / "coco" / "instances.json").exists() and not (out / ".coco.1.part").exists()


def test_an_export_of_unknown_origin_stays(red: Predictor, detector: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(detector, photos, out)
    (out / "exports.json").write_text("{")
    with pytest.raises(
        ConfigError, match=r"coco is there, but .*exports\.json does not say with what settings: move it away"
    ):
        run(detector, photos, out)
