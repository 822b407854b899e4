"""Flags of ``sedet export``. Nothing heavy is imported here: the help reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sedet.flags import POSITIONAL

Format = Literal["onnx", "torch-export"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class ExportOptions:
    """Export a detector as one file with everything inside, from the image's bytes to the final boxes.

    The file is compared with PyTorch on real images before it is written: those of --data, whose AP is told too, or of
    --images; for a run's folder, the run's own val images. See docs/export.md for how it is used.

    sedet export runs/first --out detector.onnx
    """

    detector: str = field(metadata=POSITIONAL)
    """Detector file (best.safetensors of a run), or the run's folder."""
    out: str | None = None
    """File to write. Default: beside the detector, as best.onnx, best-fp16.onnx, best-int8.onnx or best.pt2."""
    format: Format = "onnx"
    """onnx: for ONNX Runtime and others. torch-export: for torch.export.load, without sedet."""
    precision: Precision = "fp32"
    """fp16 halves the file (for GPUs); int8 quarters it (convolutions only; onnx only; calibrated on --images)."""
    score: float | None = None
    """Lowest score of a detection if none is given at run time. Default: the best on the val images, else 0.3."""
    max_detections: int = 100
    """Most detections an image, best first."""
    images: tuple[str, ...] = ()
    """Images, folders, list files or globs to compare on, and for int8 to calibrate on (like those it will see)."""
    data: str | None = None
    """Labelled data to compare on, and to tell what the export costs in AP: COCO JSON, VOC folder or YOLO data.yaml."""
    data_images: str | None = None
    """Folder of that data's images, where the annotations' own paths do not lead to them."""
    split: str = "val"
    """Part of the data, where a folder or data.yaml holds several."""
    check: bool = True
    """Compare with PyTorch before writing; --no-check leaves it out."""
    overwrite: bool = False
    """Replace a file that is there."""
