"""Faster R-CNN (Ren et al., NeurIPS 2015; with a pyramid, Lin et al., CVPR 2017): a detector of two stages.

The first (rpn.py) answers at every anchor whether there is an object; the second looks again at the boxes that it
proposes, the regions of interest (RoIs). Modules, sampling and losses are torchvision's, so that both agree when given
the same weights. Ours are the anchors and levels: P3..P7 (P2..P6 of a half-size view) with anchors in units of the
stride, and RoIs pooled from all levels but the last, one level lower where the view is half as large, so that both
sizes of an image pair region by region and RoI by RoI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import box_iou, roi_align

from sedet.data.batch import Targets
from sedet.detectors.anchors import RATIOS, decode, encode, grid_anchors
from sedet.detectors.backbones import Backbone
from sedet.detectors.dense import centers_inside, final_detections, flatten_map
from sedet.detectors.normalizer import process_mean
from sedet.detectors.pyramid import Pyramid
from sedet.detectors.regions import FULL_LEVELS, Detections, Regions
from sedet.detectors.rpn import BETA, propose, rpn_loss, sample

POSITIVE_IOU = 0.5
"""A RoI that overlaps an object at least this much answers for it; all others are background."""
POSITIVE_SHARE = 0.25
"""Most positives among the RoIs of an image that are learnt from."""
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
POOLED, SAMPLING_RATIO = 7, 2
ROI_STRIDES = 14.0
"""A RoI is pooled from the level of which its side is 14 to 28 strides (FPN: 224 px to P4), or the nearest there is."""


@dataclass(frozen=True)
class FasterRCNNSpec:
    """All that is needed to build the network again; saved inside detector files.

    Attributes:
        anchor_strides: side of an anchor's square, in strides of its level.
        roi_features: width of the second stage.
        proposals: RoIs an image that are looked at when detecting (twice as many are proposed when training).
        roi_samples: RoIs an image that are learnt from.
        torchvision_anchors: anchors rounded and laid as torchvision's; they do not pair between sizes.
    """

    classes: int
    backbone: str
    neck_channels: int = 256
    head_convs: int = 1
    neck_norm: bool = True
    pretrained_norm: bool = True
    anchor_strides: float = 4.0
    roi_features: int = 1024
    proposals: int = 1000
    roi_samples: int = 512
    torchvision_anchors: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {"detector": "faster_rcnn", **asdict(self)}


class FasterRCNN(nn.Module):
    """Images in, Regions of the first stage out; RoIs from them with ``look``; loss, and Detections, of both."""

    def __init__(self, spec: FasterRCNNSpec, backbone: Backbone) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        channels = spec.neck_channels
        self.fpn = Pyramid(backbone.channels, channels, norm=spec.neck_norm)
        self.rpn_head = RPNHead(channels, len(RATIOS), conv_depth=max(1, spec.head_convs))
        for module in self.rpn_head.conv.modules():
            if isinstance(module, nn.Conv2d):  # for the reason given in FCOS
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        self.box_head = TwoMLPHead(channels * POOLED**2, spec.roi_features)
        self.box_predictor = FastRCNNPredictor(spec.roi_features, spec.classes + 1)  # row 0 is the background
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, content: Tensor, levels: Sequence[int] = FULL_LEVELS) -> Regions:
        """The first stage's answers at every anchor, with the maps that the second looks at.

        Args:
            images: float [batch, 3, height, width], RGB in 0..1, padded at the right and the bottom.
            content: int64 [batch, 2], width and height of the unpadded part, pixels.
            levels: pyramid levels; FULL_LEVELS, or HALF_LEVELS for a half-size view.
        """
        maps = self.fpn(self.backbone(images, content), levels)
        logits, deltas, anchors, strides = [], [], [], []
        for level, feature in zip(levels, maps, strict=True):
            hidden = self.rpn_head.conv(feature)
            logits.append(flatten_map(self.rpn_head.cls_logits(hidden), 1))
            deltas.append(flatten_map(self.rpn_head.bbox_pred(hidden), 4))
            height, width = feature.shape[-2:]
            stride, scales = float(2**level), (self.spec.anchor_strides,)
            grid = grid_anchors(height, width, stride, scales, RATIOS, self.spec.torchvision_anchors, feature.device)
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
            per_cell=len(RATIOS),
            anchors=all_anchors,
            deltas=all_deltas,
            maps=tuple(maps),
            content=content,
        )

    def propose(self, regions: Regions) -> tuple[Tensor, Tensor]:
        """RoIs of each image, best first.

        Returns:
            float [batch, n, 4], xyxy pixels of the view, detached, and bool [batch, n], which rows are RoIs at all.
        """
        assert regions.content is not None
        found = propose(regions, regions.content, self.spec.proposals, self.spec.proposals)
        count = max(1, *(len(boxes) for boxes in found))
        rois = regions.boxes.new_zeros(len(found), count, 4)
        valid = torch.zeros(len(found), count, dtype=torch.bool, device=rois.device)
        for i, boxes in enumerate(found):
            rois[i, : len(boxes)], valid[i, : len(boxes)] = boxes, True
        return rois, valid

    def look(self, regions: Regions, rois: Tensor, valid: Tensor) -> Regions:
        """The second stage's answers at given RoIs: ``softmax`` logits, and the boxes of the best class of each.

        Args:
            regions: the first stage's answers on the view that is looked at.
            rois: float [batch, n, 4], xyxy pixels of that view; valid: bool [batch, n].
        """
        logits, deltas = (x.view(*rois.shape[:2], *x.shape[1:]) for x in self.second_stage(regions, list(rois)))
        answers = Regions(
            logits=logits,
            boxes=rois,
            quality=None,
            points=(rois[..., :2] + rois[..., 2:]) / 2,
            strides=2.0 ** self._level(regions, rois),
            valid=valid,
            anchors=rois,
            deltas=deltas,
            softmax=True,
        )
        return boxes_of(answers, logits[..., :-1].argmax(dim=-1))

    def loss(self, regions: Regions, targets: Sequence[Targets], focal_gamma: float = 0.0) -> dict[str, Tensor]:
        """Supervised losses of both stages. Anchors and RoIs to learn from are drawn with torch's generator.

        Args:
            regions: the first stage's, of the labelled views.
            targets: one an image, in pixels of the same view. Empty ones are fine.
            focal_gamma: the class loss of a RoI is weighed by (1 - p)^gamma, p the probability of its class.

        Returns:
            ``rpn_class``, ``rpn_box``, ``class``, ``box``: scalars.
        """
        proposals = self.candidates(regions)
        losses = rpn_loss(regions, targets)
        rois, indices = self.draw(proposals, targets)
        logits, deltas = self.second_stage(regions, rois)
        label = roi_labels(indices, targets, self.spec.classes)
        number = process_mean(logits.new_tensor(float(len(label))), least=1.0)
        losses["class"] = roi_class_terms(logits, label, focal_gamma).sum() / number
        losses["box"] = roi_box_terms(deltas, rois, indices, targets).sum() / number
        return losses

    def candidates(self, regions: Regions) -> list[Tensor]:
        """The boxes that RoIs to learn from are drawn out of: one image's proposals each, detached."""
        assert regions.content is not None
        return propose(regions, regions.content, 2 * self.spec.proposals, 2 * self.spec.proposals)

    def draw(self, proposals: Sequence[Tensor], targets: Sequence[Targets]) -> tuple[list[Tensor], list[Tensor]]:
        """RoIs to learn from, of each image's proposals and objects, drawn with torch's generator.

        Returns:
            The RoIs of each image, float [n, 4], and which object each answers for, int64 [n], -1 the background.
        """
        rois, indices = [], []
        for boxes, target in zip(proposals, targets, strict=True):
            boxes = torch.cat([boxes, target.boxes])
            index = assign_rois(boxes, target)
            chosen = torch.cat(sample(index, self.spec.roi_samples, POSITIVE_SHARE)).sort().values
            rois.append(boxes[chosen])
            indices.append(index[chosen])
        return rois, indices

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
        """Detections of each view, in its pixels, clipped to its content; the score is the class's probability.

        Args:
            regions: the first stage's answers.
            content: int64 [batch, 2], width and height of each view's content.
            candidates: class scores of an image kept before non-maximum suppression.
        """
        rois, valid = self.propose(regions)
        logits, deltas = self.second_stage(regions, list(rois))
        scores = logits.softmax(dim=-1)[:, :-1].view(*rois.shape[:2], -1) * valid[..., None]
        boxes = decode(deltas.view(*rois.shape[:2], -1, 4), rois[:, :, None], BOX_WEIGHTS)
        return final_detections(scores, boxes, content, score_threshold, max_detections, nms_threshold, candidates)

    def second_stage(self, regions: Regions, rois: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The second stage's answers at the RoIs of each image, those of all images one after the other.

        Returns:
            Logits, float [all RoIs, classes + 1], the background last, and deltas, float [all RoIs, classes, 4].
        """
        boxes = torch.cat(list(rois))
        image = torch.cat([roi.new_full((len(roi), 1), i) for i, roi in enumerate(rois)])
        level = self._level(regions, boxes)
        channels = self.spec.neck_channels
        pooled = boxes.new_zeros(len(boxes), channels, POOLED, POOLED)
        for stride, feature in zip(_strides(regions), regions.maps[:-1], strict=True):
            here = (2.0**level == stride).nonzero().squeeze(1)
            rows = torch.cat([image[here], boxes[here]], dim=1)
            part = roi_align(feature.float(), rows, POOLED, 1.0 / stride, SAMPLING_RATIO)
            pooled = pooled.index_copy(0, here, part)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        logits = torch.cat([logits[:, 1:], logits[:, :1]], dim=1)
        return logits.float(), deltas.float().unflatten(1, (-1, 4))[:, 1:]

    def _level(self, regions: Regions, rois: Tensor) -> Tensor:
        """The pyramid level that each RoI is pooled from, float [...]: the one of which it spans 14 to 28 strides."""
        strides = _strides(regions)
        side = (rois[..., 2:] - rois[..., :2]).clamp(min=0).prod(dim=-1).sqrt()
        level = torch.floor((side / ROI_STRIDES).clamp(min=1e-6).log2() + 1e-6)
        lowest, highest = (torch.tensor(s).log2().item() for s in (strides[0], strides[-1]))
        return level.clamp(lowest, highest)


def boxes_of(answers: Regions, classes: Tensor) -> Regions:
    """The second stage's answers with the boxes of given classes, int64 [batch, n]."""
    assert answers.anchors is not None and answers.deltas is not None
    chosen = answers.deltas.gather(2, classes[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
    return replace(answers, boxes=decode(chosen, answers.anchors, BOX_WEIGHTS))


def assign_rois(rois: Tensor, target: Targets) -> Tensor:
    """Which object each RoI answers for: its index, -1 background, -2 ignored (its centre in an ignored box)."""
    if len(target.boxes):
        best, index = box_iou(rois, target.boxes).max(dim=1)
        index = torch.where(best >= POSITIVE_IOU, index, -1)
    else:
        index = torch.full((len(rois),), -1, dtype=torch.int64, device=rois.device)
    if len(target.ignore):
        hidden = centers_inside((rois[:, :2] + rois[:, 2:]) / 2, target.ignore).any(dim=1)
        index = torch.where(hidden & (index < 0), -2, index)
    return index


def roi_labels(indices: Sequence[Tensor], targets: Sequence[Targets], classes: int) -> Tensor:
    """int64 [all RoIs]: the class of the object that each answers for; ``classes`` for the background."""
    pairs = zip(indices, targets, strict=True)
    return torch.cat([torch.where(index >= 0, padded(t.labels)[index], classes) for index, t in pairs])


def roi_class_terms(logits: Tensor, label: Tensor, focal_gamma: float = 0.0) -> Tensor:
    """Cross-entropy of each RoI, or its focal form (Lin et al., ICCV 2017), float [RoIs].

    Args:
        logits: float [RoIs, classes + 1], the background last; label: int64 [RoIs].
    """
    term = F.cross_entropy(logits, label, reduction="none")
    if not focal_gamma:
        return term
    missing = (1 - (-term).exp()).clamp(min=1e-6)  # at 0 the slope of a power below 1 is infinite
    return term * missing**focal_gamma


def roi_box_terms(
    deltas: Tensor, rois: Sequence[Tensor], indices: Sequence[Tensor], targets: Sequence[Targets]
) -> Tensor:
    """Smooth L1 of the deltas of each RoI that answers for an object, float [such RoIs], in their order.

    Args:
        deltas: float [all RoIs, classes, 4].
        rois, indices: of each image, as :meth:`FasterRCNN.draw` gives them.
    """
    label = roi_labels(indices, targets, deltas.shape[1])
    wanted = [encode(padded(t.boxes)[i], roi, BOX_WEIGHTS) for roi, i, t in zip(rois, indices, targets, strict=True)]
    row = (label < deltas.shape[1]).nonzero().squeeze(1)
    goal = torch.cat(wanted)[row]
    return F.smooth_l1_loss(deltas[row, label[row]], goal, beta=BETA, reduction="none").sum(dim=1)


def padded(rows: Tensor) -> Tensor:
    """The rows, or one of ones where there is none, so that they can be indexed with -1."""
    return rows if len(rows) else rows.new_ones((1, *rows.shape[1:]))


def _strides(regions: Regions) -> list[float]:
    """Strides of the levels that RoIs are pooled from: all but the last."""
    strides: list[float] = torch.unique_consecutive(regions.strides).tolist()
    return strides[:-1]
