"""From decoded images to detections in their own pixels: the path that evaluation and prediction share.

They share what is below, not how files are read. Evaluation shrinks larger images to twice ``image_size`` when it reads
them, so that they are shrunk twice; prediction shrinks only those over ``predict.LARGEST_SIDE`` pixels when it reads
them. Scores of large images can differ a little between the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sedet.data.batch import pixels
from sedet.data.views import canvas_side, plain_view, stack_views
from sedet.detectors.build import Detector
from sedet.detectors.regions import Detections


@torch.inference_mode()
def detect(
    model: Detector,
    images: Sequence[NDArray[np.uint8]],
    image_size: int,
    score_threshold: float = 0.001,
    max_detections: int = 100,
) -> list[Detections]:
    """Detections of a few images, as one batch.

    Args:
        images: uint8 [height, width, 3] each, RGB, of any size.
        image_size: long side they are resized to, pixels.

    Returns:
        One an image; boxes xyxy in the pixels of the image given, on the CPU, best first.
    """
    if not images:
        return []
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    views = [plain_view(image, image_size) for image in images]
    stacked, content = stack_views(views, canvas_side(image_size))
    content = content.to(device)
    regions = model(pixels(stacked.to(device)), content)
    found = model.detect(regions, content, score_threshold, max_detections)
    model.train(was_training)
    results = []
    for view, detections in zip(views, found, strict=True):
        scale = torch.tensor([view.matrix[0, 0], view.matrix[1, 1]] * 2, dtype=torch.float32)
        boxes = detections.boxes.float().cpu() / scale
        results.append(Detections(boxes, detections.scores.float().cpu(), detections.labels.cpu()))
    return results
