"""Flags of ``sedet analyze``. Nothing heavy is imported here: the help reads it."""

from __future__ import annotations

from dataclasses import dataclass, field

from sedet.flags import POSITIONAL


@dataclass(frozen=True)
class AnalyzeOptions:
    """Measure what makes learning from a detector's own answers hard, on labelled data: numbers and plots.

    Lost objects, boxes that lie badly, sizes, imbalance; calibration of the scores, and the kinds of errors.

    sedet analyze runs/first --data data/val.json
    """

    detector: str = field(metadata=POSITIONAL)
    """Detector file (best.safetensors of a run), or the run's folder."""
    data: str
    """Labelled data: COCO JSON, Pascal VOC folder or YOLO data.yaml."""
    images: str | None = None
    """Folder of the images, where the annotations' own paths do not lead to them."""
    split: str = "val"
    """Part of the data to measure on, where a folder or data.yaml holds several."""
    unlabeled: tuple[str, ...] = ()
    """Unlabelled images whose pseudo labels the report shows: folders (recursive), list files (.txt) or globs.
    Default: those of the images measured on."""
    classes: tuple[str, ...] = ()
    """Measure on these classes alone. Default: all."""
    out: str = "analysis"
    """Folder to write to. Must be new or empty."""
    batch: int = 8
    """Images at a time."""
    device: str = "auto"
    """auto, cpu, cuda, or mps (untested)."""
