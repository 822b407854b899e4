"""Datumaro, CVAT's own library for data sets, reads the CVAT export and writes one that is merged.

Slow, and only where SEDET_DATUMARO names the Python interpreter of an environment that has it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from sedet.data.formats import read_table
from sedet.labeling.changes import BoxChanges
from sedet.labeling.label import label
from sedet.labeling.merge import merge
from sedet.predictor import Predictor
from tests.labeling.test_merge import boxes_of

PYTHON = os.environ.get("SEDET_DATUMARO")
READ = """
import json, sys
from datumaro import Dataset
found = Dataset.import_from(sys.argv[1], "cvat")
names = [c.name for c in found.categories()[next(iter(found.categories()))]]
for item in found:
    for box in item.annotations:
        corners = [box.x, box.y, box.x + box.w, box.y + box.h]
        print(json.dumps([item.id, names[box.label], corners, box.attributes["score"]]))
found.export(sys.argv[2], "cvat")
"""

pytestmark = pytest.mark.skipif(not PYTHON, reason="SEDET_DATUMARO does not name an interpreter with Datumaro")


def test_there_and_back(red: Predictor, detector: Path, photos: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    label(detector, [str(photos)], labels, format="cvat", rank=False, score=0.5, device="cpu")
    (labels / "cvat" / "images").symlink_to(photos)  # where Datumaro looks for them
    back = tmp_path / "back"
    command = [str(PYTHON), "-c", READ, str(labels / "cvat"), str(back)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(json.loads(line) for line in done.stdout.splitlines()) == [
        ["a", "red box", [20, 10, 50, 30], "0.75000"],
        ["images/c d", "red box", [60, 10, 90, 35], "0.75000"],
        ["turned", "red box", [30, 20, 50, 50], "0.75000"],
    ]
    (written,) = back.rglob("*.xml")
    merged = merge(None, written, tmp_path / "out", proposals=labels)
    assert merged.proposals == BoxChanges(kept=3) and not merged.problems
    boxes = boxes_of(read_table(tmp_path / "out"))
    assert boxes["turned.png"] == [("red box", [30, 20, 50, 50])] and boxes["b.png"] == []
