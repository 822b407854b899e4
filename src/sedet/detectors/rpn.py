"""Faster R-CNN's first stage (Ren et al., NeurIPS 2015): what may be an object, of whatever class.

Its matching, sampling, losses and choice of proposals are torchvision's, so that both agree when given the same
weights; the anchors are our own, in units of the stride, so that they pair between the sizes of an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from sedet.data.batch import Targets
from sedet.detectors.anchors import encode, match_anchors
from sedet.detectors.dense import centers_inside, level_slices
from sedet.detectors.normalizer import process_mean
from sedet.detectors.regions import Regions

POSITIVE_IOU, BACKGROUND_IOU = 0.7, 0.3
SAMPLES, POSITIVE_SHARE = 256, 0.5
"""Anchors an image that are learnt from, and the most of them that may be positive."""
NMS_IOU, LEAST_SIDE = 0.7, 1e-3
BETA = 1 / 9
"""Where smooth L1 turns from square to line, in deltas."""


def sample(index: Tensor, count: int, positive_share: float) -> tuple[Tensor, Tensor]:
    """Draw regions to learn from, with torch's generator.

    Args:
        index: int64 [regions]: an object's index, -1 background, -2 ignored.
        count: how many to draw; background fills up what positives leave.

    Returns:
        Positions of the positives and of the background, int64; drawn in torchvision's order.
    """
    positive, background = (index >= 0).nonzero().squeeze(1), (index == -1).nonzero().squeeze(1)
    positives = min(len(positive), int(count * positive_share))
    first = positive[torch.randperm(len(positive), device=index.device)[:positives]]
    backgrounds = min(len(background), count - positives)
    return first, background[torch.randperm(len(background), device=index.device)[:backgrounds]]


def assign_anchors(regions: Regions, image: int, target: Targets) -> Tensor:
    """Which object each anchor of one image answers for.

    Returns:
        int64 [regions]: the object's index, -1 background, -2 ignored (between the two IoUs; in padding; its centre
        in an ignored box).
    """
    assert regions.anchors is not None
    valid = regions.valid[image]
    index = match_anchors(regions.anchors, target.boxes, POSITIVE_IOU, BACKGROUND_IOU, usable=valid)
    if len(target.ignore):
        hidden = centers_inside(regions.points, target.ignore).any(dim=1)
        index = torch.where(hidden & (index < 0), -2, index)
    return torch.where(valid, index, -2)


def rpn_loss(regions: Regions, targets: Sequence[Targets]) -> dict[str, Tensor]:
    """Is there an object, and its box: ``rpn_class`` and ``rpn_box``, over all drawn anchors of the batch."""
    assert regions.anchors is not None and regions.deltas is not None
    logits, wanted_logits, box = [], [], []
    for i, target in enumerate(targets):
        index = assign_anchors(regions, i, target)
        positive, background = sample(index, SAMPLES, POSITIVE_SHARE)
        logits += [regions.logits[i, positive, 0], regions.logits[i, background, 0]]
        wanted_logits += [torch.ones_like(logits[-2]), torch.zeros_like(logits[-1])]
        wanted = encode(target.boxes[index[positive]], regions.anchors[positive])
        box.append(F.smooth_l1_loss(regions.deltas[i, positive], wanted, beta=BETA, reduction="sum"))
    given, right = torch.cat(logits), torch.cat(wanted_logits)
    number = process_mean(given.new_tensor(float(len(given))), least=1.0)
    objectness = F.binary_cross_entropy_with_logits(given, right, reduction="sum") / number
    return {"rpn_class": objectness, "rpn_box": torch.stack(box).sum() / number}


@torch.no_grad()
def propose(regions: Regions, content: Tensor, before: int, after: int) -> list[Tensor]:
    """The boxes of each image that most look like an object, float [at most ``after``, 4], best first, detached.

    Args:
        content: int64 [batch, 2], width and height of each view's content; boxes are clipped to it.
        before: anchors of a level that are kept before non-maximum suppression.
    """
    levels = level_slices(regions)
    scores = torch.where(regions.valid, regions.logits[..., 0].sigmoid(), -1.0).detach()
    found = []
    for i in range(len(scores)):
        top = [scores[i, level].topk(min(before, level.stop - level.start)).indices + level.start for level in levels]
        kept = torch.cat(top)
        level_of = torch.cat([torch.full_like(indices, n) for n, indices in enumerate(top)])
        boxes = clip_boxes_to_image(regions.boxes[i, kept].detach(), (int(content[i, 1]), int(content[i, 0])))
        usable = (boxes[:, 2:] - boxes[:, :2] >= LEAST_SIDE).all(dim=1) & (scores[i, kept] >= 0)
        boxes, score, level_of = boxes[usable], scores[i, kept][usable], level_of[usable]
        found.append(boxes[batched_nms(boxes, score, level_of, NMS_IOU)[:after]])
    return found
