"""The whole way as one module, without tracing it: against the detectors' own way, and part by part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as vf
from torch import Tensor
from torchvision.ops import box_iou

from sedet.config import ModelConfig
from sedet.detectors.backbones import Backbone
from sedet.detectors.build import Detector, build_detector
from sedet.detectors.folding import bake_norms
from sedet.detectors.inference import detect
from sedet.detectors.regions import Detections
from sedet.exporting.agreement import TOLERANCES, agreement
from sedet.exporting.graph import Deployed, resize_weights, suppress

KINDS = ("fcos", "retinanet", "faster_rcnn")


def network(kind: str, classes: int = 3) -> Detector:
    """A small detector whose answers are spread, as training would."""
    torch.manual_seed(0)
    model = build_detector(kind, "lcnet_035", classes, ModelConfig(neck_channels=8, head_convs=1), "none").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "cls_logits" in name or "cls_score" in name:
                parameter.mul_(20) if "weight" in name else parameter.zero_()
            elif "bbox" in name and "weight" in name:
                parameter.mul_(10)
    return model


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse[np.arange(height) * 9 // height][:, np.arange(width) * 9 // width])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(96, 128), (128, 64)])
def test_detections_are_the_detectors_own(kind: str, size: tuple[int, int]) -> None:
    """On images that need no resizing, where both see the same pixels."""
    model = network(kind)
    images = [picture(*size, seed) for seed in range(2)]
    boxes, scores, labels, count = Deployed(model, 128, 0.05, 40)(torch.from_numpy(np.stack(images)))
    wanted = detect(model, images, 128, 0.05, 40)
    assert sum(len(one.boxes) for one in wanted) > 20, "there is something to compare"
    for i, one in enumerate(wanted):
        number = int(count[i])
        assert number == len(one.boxes)
        torch.testing.assert_close(scores[i, :number], one.scores, rtol=0, atol=1e-5)
        overlap = box_iou(one.boxes, boxes[i, :number]) * (one.labels[:, None] == labels[i, :number])
        assert (overlap.amax(dim=1) > 0.999).all()
        assert (labels[i, number:] == -1).all() and not scores[i, number:].any() and not boxes[i, number:].any()


def test_half_precision_says_nearly_the_same() -> None:
    model, images = network("fcos"), [picture(48, 64, seed) for seed in range(3)]
    boxes, scores, labels, count = Deployed(model, 64, 0.25, 100, half=True)(torch.from_numpy(np.stack(images)))
    assert boxes.dtype == scores.dtype == torch.float32
    exported = [Detections(boxes[i, :n], scores[i, :n], labels[i, :n]) for i, n in enumerate(count.tolist())]
    found = agreement(detect(model, images, 64, 0.25, 100), exported, 0.25, 100)
    assert found.detections > 100 and found.within(TOLERANCES["fp16"]) and found.score > 0


@pytest.mark.parametrize("size", [(1, 1), (20, 200), (500, 40), (301, 223)])
def test_any_image_gives_boxes_inside_it(size: tuple[int, int]) -> None:
    deployed = Deployed(network("fcos"), 64, 0.05, 20)
    boxes, scores, _, count = deployed(torch.from_numpy(picture(*size))[None])
    assert boxes.shape == (1, 20, 4) and scores.shape == (1, 20) and int(count) > 0
    limit = torch.tensor([size[1], size[0]] * 2)
    assert (boxes >= 0).all() and (boxes <= limit).all()


def test_resized_images_are_the_views() -> None:
    image = picture(301, 223)
    canvas, content, original = Deployed(network("fcos"), 128, 0.05, 20).place(torch.from_numpy(image)[None])
    assert content.tolist() == [[94, 128]] and original.tolist() == [223, 301]
    resized = vf.resize(torch.from_numpy(image).permute(2, 0, 1), [128, 94], antialias=True)
    assert (canvas[0, :, :128, :94] * 255 - resized).abs().max() < 1e-3
    assert not canvas[0, :, :, 94:].any()


def test_no_detection_above_the_score() -> None:
    deployed = Deployed(network("fcos"), 64, 0.05, 20)
    deployed.score.fill_(1.0)
    boxes, scores, labels, count = deployed(torch.from_numpy(picture(64, 64))[None])
    assert int(count) == 0 and not boxes.any() and not scores.any() and (labels == -1).all()


def test_room_for_more_detections_than_there_are_answers() -> None:
    """At 64 px FCOS has 85 regions: 3 classes, 255 answers at most."""
    boxes, _, labels, count = Deployed(network("fcos"), 64, 0.0, 300)(torch.from_numpy(picture(64, 64))[None])
    assert boxes.shape == (1, 300, 4) and int(count) <= 255 and (labels[0, 255:] == -1).all()


@pytest.mark.parametrize(("before", "after"), [(10, 4), (7, 16), (5, 5), (1, 2), (640, 192)])
def test_resize_weights_are_those_of_pytorch(before: int, after: int) -> None:
    weights = resize_weights(torch.arange(before), torch.tensor(float(before)), torch.tensor(float(after)), 200)
    eye = torch.eye(before)[:, None, None, :]
    wanted = torch.nn.functional.interpolate(eye, size=(1, after), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(weights[:after], wanted[:, 0, 0].T, rtol=1e-4, atol=1e-5)
    assert not weights[after:].any()


def test_resize_weights_by_hand() -> None:
    """Half the size: a triangle two pixels to each side, at distances 0.5 and 1.5: 3/8 and 1/8; cut at the border."""
    weights = resize_weights(torch.arange(4), torch.tensor(4.0), torch.tensor(2.0), 3)
    wanted = torch.tensor([[3, 3, 1, 0], [0, 1, 3, 3], [0, 0, 0, 0]]) / 7
    torch.testing.assert_close(weights, wanted, rtol=0, atol=2**-15)


def naive(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for i in range(len(scores)):
        for j in scores[i].argsort(descending=True).tolist():
            if scores[i, j] <= 0:
                continue
            same = keep[i] & (groups[i] == groups[i, j])
            if not same.any() or float(box_iou(boxes[i, j][None], boxes[i, same]).max()) <= iou:
                keep[i, j] = True
    return keep


def test_suppression_is_that_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(3, 60, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 5 + torch.rand(3, 60, 2, generator=generator) * 30], dim=-1)
    scores = torch.rand(3, 60, generator=generator)
    scores[:, ::5] = 0
    groups = torch.randint(0, 3, (3, 60), generator=generator)
    kept = suppress(boxes, scores, groups, 3, 0.5)
    assert torch.equal(kept, naive(boxes, scores, groups, 0.5)) and 20 < int(kept.sum()) < 140


def test_baked_norms_change_no_feature() -> None:
    torch.manual_seed(0)
    backbone = Backbone("tf_efficientnet_lite0", "none", 0, pretrained_norm=True).eval()
    with torch.no_grad():
        for name, buffer in backbone.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                buffer.normal_()
    images, content = torch.rand(2, 3, 64, 128), torch.tensor([[128, 64], [100, 50]])
    with torch.no_grad():
        before = backbone(images, content)
        assert bake_norms(backbone.body) > 40
        after = backbone(images, content)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4 * float(a.abs().max()))


def test_the_detector_itself_is_left_as_it_was() -> None:
    model = network("fcos")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    Deployed(model, 64, 0.05, 20, half=True)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert next(model.parameters()).requires_grad
