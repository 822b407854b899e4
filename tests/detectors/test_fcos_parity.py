"""FCOS: the same losses, gradients and detections as torchvision's, from the same answers at the same locations.

What our network does otherwise stays outside: softplus in place of a ReLU for the distances, which dies under AdamW,
and locations at the middle of a stride; and a location just as far from a side as where two levels meet has a level
with us, and none there.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS as TheirFCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator

from sedet.detectors.fcos import FCOS
from sedet.detectors.regions import Regions
from tests import tiny
from tests.detectors.test_fcos import answers

SIDE, CLASSES = 256, 3


@pytest.fixture(scope="module")
def ours() -> FCOS:
    model = tiny.detector(CLASSES)
    model.spec = replace(model.spec, level_range=8.0, center_radius=1.5)  # torchvision's
    return model


def theirs() -> TheirFCOS:
    body = nn.Identity()
    body.out_channels = 32  # type: ignore[assignment]
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
    return TheirFCOS(body, CLASSES, anchor_generator=anchors, score_thresh=0.05, topk_candidates=1000)


def as_theirs(regions: Regions) -> tuple[dict[str, Tensor], Tensor, list[int]]:
    """Outputs of a head, anchors [regions, 4] and their number on each level."""
    strides = regions.strides[:, None]
    low, high = regions.points - regions.boxes[..., :2], regions.boxes[..., 2:] - regions.points
    assert regions.quality is not None
    head = {
        "cls_logits": regions.logits,
        "bbox_regression": torch.cat([low, high], dim=-1) / strides,
        "bbox_ctrness": regions.quality[..., None],
    }
    anchors = torch.cat([regions.points - strides / 2, regions.points + strides / 2], dim=-1)
    return head, anchors, [int((regions.strides == stride).sum()) for stride in regions.strides.unique()]


def test_losses_and_gradients_equal_torchvisions(ours: FCOS) -> None:
    regions = answers([(SIDE, SIDE)] * 3, SIDE, classes=CLASSES, seed=1)
    given = [t.requires_grad_() for t in (regions.logits, regions.boxes, regions.quality) if t is not None]
    rows = [
        tiny.targets((0, 10, 11, 60, 93), (2, 41, 30, 121, 119), (1, 5, 6, 17, 15), (0, 3, 5, 250, 241)),
        tiny.targets(),
        tiny.targets((1, 65, 2, 127, 41), (2, 66, 3, 126, 42)),  # one within the other
    ]
    mine = ours.loss(regions, rows)
    assert float(mine["box"].detach()) > 0
    head, anchors, counts = as_theirs(regions)
    wanted = theirs().compute_loss([{"boxes": t.boxes, "labels": t.labels} for t in rows], head, [anchors] * 3, counts)
    for name, their in (("class", "classification"), ("box", "bbox_regression"), ("quality", "bbox_ctrness")):
        torch.testing.assert_close(mine[name], wanted[their], rtol=1e-5, atol=1e-5)
    got = torch.autograd.grad(sum(mine.values()), given, retain_graph=True)
    for a, b in zip(got, torch.autograd.grad(sum(wanted.values()), given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_an_image_without_objects_alone(ours: FCOS) -> None:
    regions = answers([(SIDE, SIDE)], SIDE, classes=CLASSES, seed=2)
    head, anchors, counts = as_theirs(regions)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    wanted = theirs().compute_loss([empty], head, [anchors], counts)
    mine = ours.loss(regions, [tiny.targets()])
    torch.testing.assert_close(mine["class"], wanted["classification"], rtol=1e-5, atol=1e-5)
    assert float(mine["box"]) == float(wanted["bbox_regression"]) == float(mine["quality"]) == 0


def test_detections_equal_torchvisions(ours: FCOS) -> None:
    regions = answers([(SIDE, SIDE)] * 2, SIDE, classes=CLASSES, seed=3)
    content = torch.tensor([[SIDE, SIDE]] * 2)
    found = ours.detect(regions, content, score_threshold=0.05, max_detections=100, nms_threshold=0.6, candidates=9999)
    head, anchors, counts = as_theirs(regions)
    model = theirs()
    model.topk_candidates = 9999  # we keep the best of all levels, torchvision of each
    split = {name: list(value.split(counts, dim=1)) for name, value in head.items()}
    wanted = model.postprocess_detections(split, [list(anchors.split(counts))] * 2, [(SIDE, SIDE)] * 2)
    for mine, their in zip(found, wanted, strict=True):
        assert len(mine) == len(their["scores"]) == 100
        torch.testing.assert_close(mine.scores, their["scores"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mine.boxes, their["boxes"], rtol=1e-5, atol=1e-3)
        assert torch.equal(mine.labels, their["labels"])
