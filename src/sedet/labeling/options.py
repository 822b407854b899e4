"""Flags of ``sedet label`` and ``sedet merge``. Nothing heavy is imported here: the help reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sedet.flags import POSITIONAL

Export = Literal["coco", "yolo", "voc", "label-studio", "cvat"]
LOCAL_FILES = "/data/local-files/?d="


@dataclass(frozen=True)
class LabelOptions:
    """Label folders of images of any size: a run can be interrupted, continued, and shared by several processes.

    Images are ranked by how much a human label would help (ranking.csv); exports with scores go to the annotation
    tools. The same command goes on where it stopped. See docs/labeling.md for the way there and back.

    sedet label runs/first photos/ --out labels --format coco label-studio --top 200
    """

    detector: str = field(metadata=POSITIONAL)
    """Detector file (best.safetensors of a run), or the run's folder."""
    sources: tuple[str, ...] = field(default=(), metadata=POSITIONAL)
    """Images, folders (recursive), list files (.txt) or globs."""
    out: str = "labels"
    """Folder to write to: new, empty, or that of the same command, which goes on there."""
    format: tuple[Export, ...] = ("coco",)
    """Exports to write, one or several."""
    score: float | None = None
    """Lowest score of a box that is written. Default: the detector's best on its val images, else 0.3."""
    max_detections: int = 100
    """Most boxes an image, best first."""
    top: int | None = None
    """Export only this many images: those whose labels would help most. Default: all."""
    rank: bool = True
    """Rank the images; without it labelling is faster."""
    student: str | None = None
    """Student to compare with. Default: student.safetensors beside the detector, where there is one."""
    shard: str | None = None
    """Label only a share of the images, as 2/8, beside other processes; the command without it writes the exports."""
    shard_size: int = 500
    """Images a file."""
    image_url: str | None = None
    """How Label Studio finds an image: what stands before its name. Default: its local file storage of the folder."""
    copy: bool = False
    """Copy the images into the exports that hold them (coco, yolo, voc) in place of linking to them."""
    batch: int = 8
    """Images at a time."""
    workers: int = 2
    """Threads that decode images."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, or mps (untested)."""


@dataclass(frozen=True)
class MergeOptions:
    """Take corrected labels back into the labelled data for the next round, and say what changed.

    The corrections are an export of Label Studio (JSON), CVAT (for images 1.1), COCO, YOLO or Pascal VOC; the format
    is recognised. The result is a new folder with labels.json (COCO) and its images; nothing that was given changes.

    sedet merge data/train.json export.json --images photos/ --proposals labels --out round-2
    """

    labeled: str = field(metadata=POSITIONAL)
    """Labelled data: COCO JSON, Pascal VOC folder or YOLO data.yaml; 'none' to start from the corrections alone."""
    corrections: str = field(metadata=POSITIONAL)
    """The corrected export: file or folder."""
    out: str
    """Folder to write to. Must be new or empty."""
    images: str | None = None
    """Folder of the corrected images. Default: the one of --proposals, else the corrections' own."""
    labeled_images: str | None = None
    """Folder of the images already labelled, where the annotations' own paths do not lead to them."""
    proposals: str | None = None
    """Folder that sedet label wrote: tells which of its boxes were kept, moved, relabelled, added or removed."""
    rename: tuple[str, ...] = ()
    """Classes of the corrections to take for others, as OLD=NEW."""
    add_classes: bool = False
    """Take over classes that the labelled data do not have; otherwise they are refused, as they may be typos."""
    split: str = "train"
    """Part of the labelled data, where a folder or data.yaml holds several."""
    copy: bool = False
    """Copy the images in place of linking to them."""
