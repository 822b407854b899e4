"""The quick start as a reader types it: every command a process of its own, nothing replaced, from images to ONNX."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.docs.test_pages import ROOT, blocks

SHORT = (
    "--backbone lcnet_035 --weights none --image-size 64 --batch 8 --steps 120 --rate 0.003 --eval-every 60 "
    "--model.neck-channels 32 --model.head-convs 1 --device cpu --threads 1 --workers 0"
)
"""What makes a training of seconds of it."""


def photos(folder: Path, count: int, seed: int) -> list[list[int]]:
    """Photographs of one red box each; returns x, y, width and height of the boxes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    boxes = []
    for i in range(count):
        pixels = rng.integers(40, 90, (96, 128, 3), dtype=np.uint8)
        width, height = rng.integers(24, 48, 2)
        x, y = int(rng.integers(0, 128 - width)), int(rng.integers(0, 96 - height))
        pixels[y : y + height, x : x + width] = (220, 30, 30)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
        boxes.append([x, y, int(width), int(height)])
    return boxes


def labelled(data: Path, name: str, count: int, seed: int) -> None:
    boxes = photos(data / name, count, seed)
    content = {
        "categories": [{"id": 1, "name": "box"}],
        "images": [{"id": i, "file_name": f"{name}/{i:03d}.png", "width": 128, "height": 96} for i in range(count)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, box in enumerate(boxes)
        ],
    }
    (data / f"{name}.json").write_text(json.dumps(content))


def test_from_a_folder_to_an_onnx_file(tmp_path: Path) -> None:
    for name, count, seed in (("train", 12, 0), ("val", 10, 1), ("test", 10, 2)):
        labelled(tmp_path / "data", name, count, seed)
    photos(tmp_path / "photos", 16, 3)
    photos(tmp_path / "new-photos", 3, 4)
    Image.open(tmp_path / "new-photos" / "000.png").save(tmp_path / "street.jpg")

    def ran(*words: str) -> str:
        known = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=known, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    lines = [line for block in blocks(ROOT / "docs" / "index.md", "sh") for line in block.splitlines()]
    typed = [shlex.split(line) for line in lines if line.startswith("sedet ")]
    assert [words[1] for words in typed] == ["check", "train", "train", "report", "train", "eval", "predict", "export"]
    said = {}
    for words in typed:
        more = shlex.split(SHORT) if words[1] == "train" and "--resume" not in words else []
        said[words[1]] = ran("-m", "sedet", *words[1:], *more)
    run = tmp_path / "runs" / "first"
    assert "Last teacher against last teacher" in (run / "report.html").read_text(encoding="utf-8")
    assert (run / "report.html").is_file() and (run / "best.safetensors").is_file()
    assert "AP" in said["eval"]
    found = json.loads((tmp_path / "predictions" / "predictions.coco.json").read_text())
    assert {one["image_id"] for one in found} <= {1, 2, 3} and len(found) >= 2, "the new photos have their boxes"
    assert "agree" in said["export"] or "same" in said["export"], said["export"]

    (tmp_path / "use.py").write_text(blocks(ROOT / "docs" / "export.md", "python")[1])
    best = ran("use.py").splitlines()[0].split()
    assert best[0] == "box" and float(best[1]) > 0.3
