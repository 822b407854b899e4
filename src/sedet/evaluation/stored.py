"""Detections of a set of images in a file, for comparisons made later."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sedet.detectors.regions import Detections
from sedet.files import write_atomically


def save_detections(path: Path, detections: Sequence[Detections]) -> None:
    """Boxes, scores and labels of every image, one after the other, compressed."""
    data = io.BytesIO()
    np.savez_compressed(
        data,
        counts=np.array([len(d) for d in detections], dtype=np.int32),
        boxes=torch.cat([d.boxes for d in detections]).numpy().astype(np.float32),
        scores=torch.cat([d.scores for d in detections]).numpy().astype(np.float32),
        labels=torch.cat([d.labels for d in detections]).numpy().astype(np.int16),
    )
    write_atomically(path, data.getvalue())


def load_detections(path: Path) -> list[Detections]:
    with np.load(path, allow_pickle=False) as saved:
        counts = saved["counts"].tolist()
        arrays = saved["boxes"], saved["scores"], saved["labels"].astype(np.int64)
        boxes, scores, labels = (torch.split(torch.from_numpy(a), counts) for a in arrays)
    return [Detections(*parts) for parts in zip(boxes, scores, labels, strict=True)]
