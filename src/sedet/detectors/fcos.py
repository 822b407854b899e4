"""FCOS (Tian et al., ICCV 2019) on the shared pyramid: a dense, anchor-free detector with a centerness logit.

The head's modules are torchvision's; its forward is ours: one sigmoid a class without a background logit, and box
sides by softplus in units of the stride (a ReLU there can die and never learn again).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from sedet.data.batch import Targets
from sedet.detectors.backbones import Backbone, group_norm
from sedet.detectors.dense import centers_inside, final_detections, flatten_map, grid_points
from sedet.detectors.normalizer import process_mean
from sedet.detectors.pyramid import Pyramid
from sedet.detectors.regions import FULL_LEVELS, Detections, Regions


@dataclass(frozen=True)
class FCOSSpec:
    """All that is needed to build the network again; saved inside detector files."""

    classes: int
    backbone: str
    neck_channels: int = 256
    head_convs: int = 4
    level_range: float = 8.0
    center_radius: float = 1.5
    neck_norm: bool = True
    pretrained_norm: bool = True

    def to_dict(self) -> dict[str, Any]:
        return {"detector": "fcos", **asdict(self)}


class FCOS(nn.Module):
    """Images in, Regions out; loss from Targets; Detections from Regions. Knows nothing of teachers."""

    def __init__(self, spec: FCOSSpec, backbone: Backbone) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        channels = spec.neck_channels
        self.fpn = Pyramid(backbone.channels, channels, norm=spec.neck_norm)
        self.classification_head = FCOSClassificationHead(
            channels, 1, spec.classes, num_convs=spec.head_convs, norm_layer=group_norm
        )
        self.regression_head = FCOSRegressionHead(channels, 1, num_convs=spec.head_convs, norm_layer=group_norm)
        for tower in (self.classification_head.conv, self.regression_head.conv):
            for module in tower:
                if isinstance(module, nn.Conv2d):
                    # torchvision's deviation of 0.01 is for thousands of SGD steps; before a GroupNorm it makes
                    # Adam's steps as large as the weights themselves, and learning several times slower.
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, content: Tensor, levels: Sequence[int] = FULL_LEVELS) -> Regions:
        """Raw answers at every location.

        Args:
            images: float [batch, 3, height, width], RGB in 0..1, padded at the right and the bottom.
            content: int64 [batch, 2], width and height of the unpadded part, pixels.
            levels: pyramid levels; FULL_LEVELS, or HALF_LEVELS for a half-size view.
        """
        maps = self.fpn(self.backbone(images, content), levels)
        logits, sides, quality, points, strides = [], [], [], [], []
        for level, feature in zip(levels, maps, strict=True):
            stride = float(2**level)
            head, box_head = self.classification_head, self.regression_head
            logits.append(flatten_map(head.cls_logits(head.conv(feature)), self.spec.classes))
            tower = box_head.conv(feature)
            sides.append(F.softplus(flatten_map(box_head.bbox_reg(tower), 4).float()) * stride)
            quality.append(flatten_map(box_head.bbox_ctrness(tower), 1))
            grid = grid_points(feature.shape[-2], feature.shape[-1], stride, feature.device)
            points.append(grid)
            strides.append(grid.new_full((len(grid),), stride))
        all_points = torch.cat(points)
        distances = torch.cat(sides, dim=1)
        boxes = torch.cat([all_points - distances[..., :2], all_points + distances[..., 2:]], dim=-1)
        return Regions(
            logits=torch.cat(logits, dim=1).float(),
            boxes=boxes,
            quality=torch.cat(quality, dim=1).squeeze(-1).float(),
            points=all_points,
            strides=torch.cat(strides),
            valid=(all_points[None] < content[:, None, :]).all(dim=-1),
        )

    def loss(self, regions: Regions, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Supervised FCOS losses: focal class loss, GIoU box loss, centerness; each over the number of positives.

        Args:
            regions: of the labelled views.
            targets: one an image, in pixels of the same view. Empty ones are fine.

        Returns:
            ``class``, ``box``, ``quality``: scalars. Positives are counted over all processes.
        """
        classes = regions.logits.shape[-1]
        matched = [self.assign(regions, i, t) for i, t in enumerate(targets)]
        index = torch.stack([m[0] for m in matched])  # [batch, regions]: object, -1 background, -2 ignored
        positive = index >= 0
        count = process_mean(positive.sum().float(), least=1.0)

        boxes = torch.zeros_like(regions.boxes)
        labels = torch.full_like(index, classes)
        for i, target in enumerate(targets):
            if len(target.labels):
                own = index[i].clamp(min=0)  # gathered everywhere: on a GPU picking the positives would wait for it
                boxes[i] = target.boxes[own]
                labels[i] = torch.where(positive[i], target.labels[own], classes)
        one_hot = (labels[..., None] == torch.arange(classes, device=labels.device)).to(regions.logits.dtype)
        use = ((index > -2) & regions.valid).nonzero(as_tuple=True)
        focal = sigmoid_focal_loss(regions.logits[use], one_hot[use], alpha=0.25, gamma=2.0, reduction="sum")

        found = positive.nonzero(as_tuple=True)
        wanted = boxes[found]
        giou = generalized_box_iou_loss(regions.boxes[found], wanted, reduction="sum")
        assert regions.quality is not None
        quality = F.binary_cross_entropy_with_logits(
            regions.quality[found], centerness(regions.points[found[1]], wanted), reduction="sum"
        )
        return {"class": focal / count, "box": giou / count, "quality": quality / count}

    def assign(self, regions: Regions, image: int, target: Targets) -> tuple[Tensor, Tensor]:
        """FCOS assignment of one image: which object each location answers for.

        A location is positive for an object if it lies in the box and within ``center_radius`` strides of the
        box centre, and the farthest side lies in the level's range; of several objects the smallest wins.

        Returns:
            int64 [regions]: the object's index, -1 background, -2 ignored; and bool [regions], positives.
        """
        count = len(regions)
        points, strides = regions.points, regions.strides
        index = torch.full((count,), -1, dtype=torch.int64, device=points.device)
        if len(target.ignore):
            index = torch.where(centers_inside(points, target.ignore).any(dim=1), -2, index)
        if len(target.labels):
            boxes = target.boxes
            sides = torch.cat([points[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - points[:, None]], dim=-1)
            centers = (boxes[:, :2] + boxes[:, 2:]) / 2
            near = (points[:, None] - centers[None]).abs().amax(dim=-1) < self.spec.center_radius * strides[:, None]
            high = self.spec.level_range * strides
            low = torch.where(strides == strides.min(), torch.zeros_like(high), high / 2)
            high = torch.where(strides == strides.max(), torch.full_like(high, torch.inf), high)
            farthest = sides.amax(dim=-1)
            match = near & (sides.amin(dim=-1) > 0) & (farthest >= low[:, None]) & (farthest < high[:, None])
            area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            cost = torch.where(match, area[None].expand_as(match), torch.inf)
            best, chosen = cost.min(dim=1)
            index = torch.where(best.isfinite(), chosen, index)
        index = torch.where(regions.valid[image], index, -2)
        return index, index >= 0

    @torch.no_grad()
    def detect(
        self,
        regions: Regions,
        content: Tensor,
        score_threshold: float = 0.001,
        max_detections: int = 100,
        nms_threshold: float = 0.6,
        candidates: int = 1000,
    ) -> list[Detections]:
        """Detections of each view, in its pixels, clipped to its content; score = sqrt(class * centerness).

        Args:
            content: int64 [batch, 2], width and height of each view's content.
            candidates: class scores kept before non-maximum suppression.
        """
        assert regions.quality is not None
        scores = (regions.logits.sigmoid() * regions.quality.sigmoid()[..., None]).sqrt()
        scores = scores * regions.valid[..., None]
        return final_detections(
            scores, regions.boxes, content, score_threshold, max_detections, nms_threshold, candidates
        )


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """Target of the quality logit: sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)), [n] in 0..1."""
    low, high = points - boxes[:, :2], boxes[:, 2:] - points
    ratio = torch.minimum(low, high).clamp(min=0) / torch.maximum(low, high).clamp(min=1e-6)
    return ratio.prod(dim=-1).sqrt()
