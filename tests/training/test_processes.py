"""Two processes on the CPU train one step as one process with the joint batch does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sedet.config import MixPLConfig, PseCoConfig, SoftTeacherConfig, TrainConfig, UnbiasedTeacherConfig
from sedet.detectors.file import save_detector
from sedet.settings import save_config
from sedet.training.checkpoint import load_checkpoint
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]


def loopback() -> bool:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname()[:2], timeout=5).close()
    except OSError:
        return False
    return True


needs_loopback = pytest.mark.skipif(not loopback(), reason="processes cannot talk over 127.0.0.1 here")


def run(processes: int, config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Train as the command does and return the last checkpoint."""
    out = folder / f"run{processes}"
    save_config(config, folder / f"{processes}.yaml")
    words = ["-m", "sedet", "train", "--config", str(folder / f"{processes}.yaml"), "--out", str(out)]
    if processes > 1:
        words = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *words]
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=300,
        cwd=ROOT,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [p.name for p in folder.glob(f"run{processes}*")] == [out.name]
    return load_checkpoint(out / "checkpoints" / "last.pt")


def gradients(saved: dict[str, Any]) -> torch.Tensor:
    """All gradients of the first step: AdamW's first moment is a tenth of them."""
    state = saved["optimizer"]["state"]
    return torch.cat([10 * state[key]["exp_avg"].flatten() for key in sorted(state)])


@needs_loopback
@pytest.mark.parametrize(
    ("method", "confident"), [("sed", False), ("sed", True), ("unbiased-teacher", True), ("csd", True)]
)
def test_two_processes_have_the_gradients_of_one(tmp_path: Path, method: str, confident: bool) -> None:
    """The first update after the burn-in, unlabelled images and all; a fresh teacher sees next to nothing, so that
    the normalisers are at their floor, a confident one puts them far above."""
    data = tiny.dataset(tmp_path / "data", labeled=4, val=0)
    config = tiny.config(data, tmp_path / "unused", val=None, batch=4, steps=2, burn_in=0.0, stop=1, eval_every=9)
    config = replace(config, clip=0.0, method=method, unbiased_teacher=UnbiasedTeacherConfig(threshold=0.3))
    if confident:
        save_detector(tmp_path / "d.safetensors", tiny.detector(2, confident=True), ("red", "blue"), 64, {})
        config = replace(config, init=str(tmp_path / "d.safetensors"))
    one, two = run(1, config, tmp_path), run(2, config, tmp_path)
    assert one["state"]["step"] == two["state"]["step"] == 1
    want, got = gradients(one), gradients(two)
    assert want.norm() > 1e-3
    assert (got - want).norm() / want.norm() < 1e-4  # float32 sums in another order: about 1e-5 on some processors
    assert (got - want).abs().max() < 1e-6 + 1e-4 * want.abs().max()


@needs_loopback
@pytest.mark.parametrize(
    "given",
    [
        {"method": "sed"},
        {"method": "pseco", "detector": "faster_rcnn", "pseco": PseCoConfig(threshold=0.1)},
        {"method": "mixpl", "mixpl": MixPLConfig(threshold=0.01)},
        {"method": "soft-teacher", "detector": "faster_rcnn", "soft_teacher": SoftTeacherConfig(threshold=0.1)},
        {"method": "stac"},
        {"method": "dense-teacher"},
        {"method": "consistent-teacher"},
    ],
)
def test_two_processes_pass_from_the_burn_in_to_the_end(tmp_path: Path, given: dict[str, Any]) -> None:
    """With P2 idle in the burn-in or throughout, evaluation, and one process that writes."""
    data = tiny.dataset(tmp_path / "data", labeled=4, val=1)
    config = tiny.config(data, tmp_path / "unused", steps=3, burn_in=0.67, eval_every=9, half_size=False, **given)
    saved = run(2, config, tmp_path)
    assert saved["state"]["step"] == 3 and (tmp_path / "run2" / "best.safetensors").is_file()
    assert len((tmp_path / "run2" / "metrics.csv").read_text().splitlines()) == 4
