"""RetinaNet (Lin et al., ICCV 2017) on the shared pyramid: a dense detector with nine anchors a cell.

The head's modules, the assignment and the losses are torchvision's (its first version: L1 on the deltas), so that both
agree when given the same weights; the anchors are our own, because torchvision's are rounded and would not pair between
the sizes of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead
from torchvision.ops import sigmoid_focal_loss

from sedet.data.batch import Targets
from sedet.detectors.anchors import RATIOS, SCALES, decode, encode, grid_anchors, match_anchors
from sedet.detectors.backbones import Backbone, group_norm
from sedet.detectors.dense import centers_inside, final_detections, flatten_map, level_slices
from sedet.detectors.pyramid import Pyramid
from sedet.detectors.regions import FULL_LEVELS, Detections, Regions

POSITIVE_IOU, BACKGROUND_IOU = 0.5, 0.4
"""Anchors from the first IoU on answer for an object, those below the second for background, others for neither."""


@dataclass(frozen=True)
class RetinaNetSpec:
    """All that is needed to build the network again; saved inside detector files."""

    classes: int
    backbone: str
    neck_channels: int = 256
    head_convs: int = 4
    neck_norm: bool = True
    head_norm: bool = True
    pretrained_norm: bool = True
    torchvision_anchors: bool = False
    """Anchors rounded and laid as torchvision's are; they do not pair between the sizes of an image."""

    def to_dict(self) -> dict[str, Any]:
        return {"detector": "retinanet", **asdict(self)}


class RetinaNet(nn.Module):
    """Images in, Regions out; loss from Targets; Detections from Regions. Knows nothing of teachers."""

    def __init__(self, spec: RetinaNetSpec, backbone: Backbone) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        channels, self.anchors = spec.neck_channels, len(SCALES) * len(RATIOS)
        self.fpn = Pyramid(backbone.channels, channels, norm=spec.neck_norm)
        norm = group_norm if spec.head_norm else None
        self.classification_head = RetinaNetClassificationHead(channels, self.anchors, spec.classes, norm_layer=norm)
        self.regression_head = RetinaNetRegressionHead(channels, self.anchors, norm_layer=norm)
        for head in (self.classification_head, self.regression_head):
            head.conv = head.conv[: spec.head_convs]
            for module in head.conv.modules():
                if isinstance(module, nn.Conv2d):  # for the reason given in FCOS
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, content: Tensor, levels: Sequence[int] = FULL_LEVELS) -> Regions:
        """Raw answers at every anchor.

        Args:
            images: float [batch, 3, height, width], RGB in 0..1, padded at the right and the bottom.
            content: int64 [batch, 2], width and height of the unpadded part, pixels.
            levels: pyramid levels; FULL_LEVELS, or HALF_LEVELS for a half-size view.
        """
        maps = self.fpn(self.backbone(images, content), levels)
        logits, deltas, anchors, strides = [], [], [], []
        for level, feature in zip(levels, maps, strict=True):
            head, box_head = self.classification_head, self.regression_head
            logits.append(flatten_map(head.cls_logits(head.conv(feature)), self.spec.classes))
            deltas.append(flatten_map(box_head.bbox_reg(box_head.conv(feature)), 4))
            height, width = feature.shape[-2:]
            stride = float(2**level)
            grid = grid_anchors(height, width, stride, SCALES, RATIOS, self.spec.torchvision_anchors, feature.device)
            anchors.append(grid)
            strides.append(grid.new_full((len(grid),), stride))
        all_anchors, all_deltas = torch.cat(anchors), torch.cat(deltas, dim=1).float()
        points = (all_anchors[:, :2] + all_anchors[:, 2:]) / 2
        return Regions(
            logits=torch.cat(logits, dim=1).float(),
            boxes=decode(all_deltas, all_anchors),
            quality=None,
            points=points,
            strides=torch.cat(strides),
            valid=(points[None] < content[:, None, :]).all(dim=-1),
            per_cell=self.anchors,
            anchors=all_anchors,
            deltas=all_deltas,
        )

    def loss(self, regions: Regions, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Supervised losses: focal class loss and L1 on the deltas, each over an image's positives; mean of the images.

        Args:
            regions: of the labelled views.
            targets: one an image, in pixels of the same view. Empty ones are fine.

        Returns:
            ``class``, ``box``: scalars.
        """
        assert regions.anchors is not None and regions.deltas is not None
        classes = regions.logits.shape[-1]
        focal, box = [], []
        for i, target in enumerate(targets):
            index = self.assign(regions, i, target)
            positive, use = index >= 0, index > -2
            count = positive.sum().clamp(min=1)
            labels = torch.full_like(index, classes)
            labels[positive] = target.labels[index[positive]]
            one_hot = F.one_hot(labels, classes + 1)[:, :classes].to(regions.logits.dtype)
            term = sigmoid_focal_loss(regions.logits[i][use], one_hot[use], alpha=0.25, gamma=2.0, reduction="sum")
            focal.append(term / count)
            wanted = encode(target.boxes[index[positive]], regions.anchors[positive])
            box.append(F.l1_loss(regions.deltas[i][positive], wanted, reduction="sum") / count)
        return {"class": torch.stack(focal).mean(), "box": torch.stack(box).mean()}

    def assign(self, regions: Regions, image: int, target: Targets) -> Tensor:
        """Which object each anchor of one image answers for.

        Returns:
            int64 [regions]: the object's index, -1 background, -2 ignored (between the two IoUs; in padding; its
            centre in an ignored box).
        """
        assert regions.anchors is not None
        valid = regions.valid[image]
        index = match_anchors(regions.anchors, target.boxes, POSITIVE_IOU, BACKGROUND_IOU, usable=valid)
        if len(target.ignore):
            hidden = centers_inside(regions.points, target.ignore).any(dim=1)
            index = torch.where(hidden & (index < 0), -2, index)
        return torch.where(valid, index, -2)

    @torch.no_grad()
    def detect(
        self,
        regions: Regions,
        content: Tensor,
        score_threshold: float = 0.001,
        max_detections: int = 100,
        nms_threshold: float = 0.5,
        candidates: int = 1000,
    ) -> list[Detections]:
        """Detections of each view, in its pixels, clipped to its content; the score is the class's.

        Args:
            content: int64 [batch, 2], width and height of each view's content.
            candidates: class scores of a level kept before non-maximum suppression.
        """
        scores = regions.logits.sigmoid() * regions.valid[..., None]
        levels = level_slices(regions)
        return final_detections(
            scores, regions.boxes, content, score_threshold, max_detections, nms_threshold, candidates, levels
        )
