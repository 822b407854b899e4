"""Hard pseudo labels: the teacher's detections on unlabelled images, taken as if they were labels."""

from __future__ import annotations

import torch

from sedet.data.batch import Batch, Targets
from sedet.data.views import erased_share
from sedet.detectors.build import Detector
from sedet.detectors.regions import Regions


@torch.no_grad()
def pseudo_labels(
    teacher: Detector, answer: Regions, batch: Batch, threshold: float, erase_limit: float
) -> list[Targets]:
    """Hard labels, the ablation of self-distillation: the teacher's boxes (after NMS) of at least ``threshold``."""
    found = teacher.detect(answer, batch.content, score_threshold=threshold)
    labels = []
    for detections, erased in zip(found, batch.erased, strict=True):
        used = erased[(erased[:, 2:] > erased[:, :2]).all(dim=1)]
        gone = erased_share(detections.boxes, used) > erase_limit
        labels.append(Targets(detections.boxes[~gone], detections.labels[~gone], detections.boxes[gone]))
    return labels
