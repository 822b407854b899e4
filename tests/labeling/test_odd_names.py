"""File names that XML, or a path of another system, cannot hold: out to every tool's format and back."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sedet.data.formats import read_table
from sedet.labeling.changes import BoxChanges
from sedet.labeling.label import label
from sedet.labeling.merge import merge
from sedet.labeling.xml_names import from_xml, legal, to_xml
from sedet.predictor import Predictor
from tests.data.sets import write
from tests.labeling.test_merge import boxes_of
from tests.predict.scenes import save, scene

ODD = (
    b"caf\xe9.png",  # Latin-1
    b"a\x01\x7fb.png",
    "nb\xa0sp\u200b.png",
    "half\uffff.png",
    " ends .png",
    "tab\tnew\nline\r.png",
    "back\\slash.png",
    "c:drive.png",
    "q\"<&>'.png",
    "lit%FF.png",
    b"lit\xff.png",
    "lit%25FF.png",
    "per%20cent%.png",
)
"""File names that Linux allows."""
UNREAD = (" ends .png", "back\\slash.png", "c:drive.png")
"""Those that a COCO file cannot name: its paths are read as Windows writes them, too."""


@pytest.mark.skipif(sys.platform != "linux", reason="names that only Linux allows")
@pytest.mark.parametrize("name", ["coco", "yolo", "voc", "cvat", "label-studio"])
def test_odd_names_come_back(red: Predictor, detector: Path, tmp_path: Path, name: str) -> None:
    names = [os.fsdecode(odd) for odd in ODD if name != "coco" or odd not in UNREAD]
    for i, odd in enumerate(names):
        save(tmp_path / "photos" / odd, scene(box=(4 + i, 5, 40, 30)))
    labels = tmp_path / "labels"
    done = label(detector, [str(tmp_path / "photos")], labels, format=[name], rank=False, score=0.5, device="cpu")
    export = labels / name
    if name == "cvat":
        root = ElementTree.parse(export / "annotations.xml").getroot()
        assert len({image.get("name") for image in root.iter("image")}) == len(names)
        assert "names of 6 images, which are percent-encoded ('a%01" in done.notes[0]
    if name == "label-studio":
        tasks = json.loads((export / "tasks-00001.json").read_text())
        for one in tasks:
            one["annotations"] = [{"result": one["predictions"][0]["result"], "was_cancelled": False}]
        export = write(tmp_path / "export.json", tasks)
    merged = merge(None, export, tmp_path / "out", proposals=labels)
    assert merged.proposals == BoxChanges(kept=len(names)) and not merged.problems
    boxes = boxes_of(read_table(tmp_path / "out"))
    assert boxes == {odd: [("red box", [4 + i, 5, 40, 30])] for i, odd in enumerate(names)}


@pytest.mark.skipif(sys.platform != "linux", reason="names that only Linux allows")
@pytest.mark.parametrize("copy", [False, True])
def test_names_that_coco_cannot_tell_are_named(red: Predictor, detector: Path, tmp_path: Path, copy: bool) -> None:
    for name in (*UNREAD, "plain.png"):
        save(tmp_path / "photos" / name, scene())
    done = label(
        detector, [str(tmp_path / "photos")], tmp_path / "labels", format="coco", copy=copy, rank=False, device="cpu"
    )
    (note,) = done.notes
    assert note.startswith("coco: 3 file names with a backslash, a drive or spaces") and note.endswith(
        "' ends .png' ..."
    )


@pytest.mark.parametrize("text", ["a%25FF.png", "a%FF.png", "%", "%2525", "%0A.png", "\udce9%20", "\x00", "a%01"])
def test_names_in_xml_are_told_apart(text: str) -> None:
    assert from_xml(to_xml(text)) == text
    assert all(map(legal, to_xml(text) + to_xml("\ud800")))
    assert to_xml("a%20b%C3%A9.png") == "a%20b%C3%A9.png", "as a browser may have saved it"
