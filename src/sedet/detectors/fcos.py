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
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from sedet.data.batch import Targets
from sedet.detectors.backbones import Backbone, group_norm
from sedet.detectors.dense import centers_inside, final_detections, flatten_map, grid_points
from sedet.detectors.normalizer import process_mean
from sedet.detectors.pyramid import Pyramid
from sedet.detectors.regions import FULL_LEVELS, Detections, Regions

PAIRS_AT_ONCE = 4_000_000
"""Locations times objects that are compared at once, in all images: about 150 MB."""


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
        index = self.assign_all(regions, targets)
        positive = index >= 0
        count = process_mean(positive.sum().float(), least=1.0)

        # Gathered everywhere: on a GPU picking the positives would wait for it.
        own = index.clamp(min=0)
        boxes = _padded([t.boxes for t in targets]).gather(1, own[..., None].expand(-1, -1, 4))
        labels = torch.where(positive, _padded([t.labels for t in targets]).gather(1, own), classes)
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

    @torch.no_grad()
    def assign_all(self, regions: Regions, targets: Sequence[Targets]) -> Tensor:
        """FCOS assignment: which object each location answers for.

        A location is positive for an object if it lies in the box and within ``center_radius`` strides of the
        box centre, and the farthest side lies in the level's range; of several objects the smallest wins.

        Args:
            targets: one an image, in pixels of the regions' view.

        Returns:
            int64 [batch, regions]: the object's index in its image, -1 background, -2 ignored.
        """
        # As many images at once as memory allows: each alone would start the same operations over and over.
        most = max(max(len(t.boxes), len(t.ignore)) for t in targets)
        together = max(1, PAIRS_AT_ONCE // max(1, len(regions) * most))
        parts = [slice(i, i + together) for i in range(0, len(targets), together)]
        return torch.cat([self._assign(regions, regions.valid[part], targets[part]) for part in parts])

    def assign(self, regions: Regions, image: int, target: Targets) -> Tensor:
        """:meth:`assign_all` of one image, int64 [regions]."""
        return self._assign(regions, regions.valid[image : image + 1], [target])[0]

    @torch.no_grad()
    def _assign(self, regions: Regions, valid: Tensor, targets: Sequence[Targets]) -> Tensor:
        points, strides = regions.points[:, None], regions.strides[:, None]
        # Boxes of no size fill up the images with fewer objects: no point lies in them.
        boxes, ignore = (_padded(b)[:, None] for b in ([t.boxes for t in targets], [t.ignore for t in targets]))
        index = torch.where(centers_inside(regions.points, ignore).any(dim=-1), -2, -1)

        before, after = points - boxes[..., :2], boxes[..., 2:] - points  # [images, regions, objects, 2]
        farthest = torch.maximum(before, after).amax(dim=-1)
        inside = torch.minimum(before, after).amin(dim=-1) > 0
        off = (points - (boxes[..., :2] + boxes[..., 2:]) / 2).abs().amax(dim=-1)
        high = self.spec.level_range * strides
        low = torch.where(strides == strides.amin(), 0.0, high / 2)
        high = torch.where(strides == strides.amax(), torch.inf, high)
        match = inside & (off < self.spec.center_radius * strides) & (farthest >= low) & (farthest < high)
        area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
        best, chosen = torch.where(match, area, torch.inf).min(dim=-1)
        return torch.where(valid, torch.where(best.isfinite(), chosen, index), -2)

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


def _padded(given: Sequence[Tensor]) -> Tensor:
    """[images, most rows of one and at least 1, ...]: the tensors one below the other, filled up with zeros."""
    rows = pad_sequence(list(given), batch_first=True)
    return rows if rows.shape[1] else rows.new_zeros((len(rows), 1, *rows.shape[2:]))


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """Target of the quality logit: sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)), [n] in 0..1."""
    low, high = points - boxes[:, :2], boxes[:, 2:] - points
    ratio = torch.minimum(low, high).clamp(min=0) / torch.maximum(low, high).clamp(min=1e-6)
    return ratio.prod(dim=-1).sqrt()
