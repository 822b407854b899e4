"""RetinaNet: the same losses and detections as torchvision's with the same weights, and what is our own."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet as TheirRetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import generalized_box_iou_loss

import sedet
from sedet.config import ModelConfig, SEDConfig
from sedet.detectors.backbones import Backbone
from sedet.detectors.build import freeze_unused, rebuild_detector
from sedet.detectors.file import load_detector, save_detector
from sedet.detectors.regions import FULL_LEVELS, HALF_LEVELS, Regions
from sedet.detectors.retinanet import RetinaNet, RetinaNetSpec
from sedet.errors import CheckpointError
from sedet.methods.method import Progress
from sedet.methods.sed import SED
from sedet.training.run import train
from tests import tiny

SIDE = 128


def network(classes: int = 3, seed: int = 0, torchvision_anchors: bool = False) -> RetinaNet:
    """From scratch, few channels, its answers spread as training would."""
    torch.manual_seed(seed)
    spec = RetinaNetSpec(classes, tiny.BACKBONE, 8, 4, torchvision_anchors=torchvision_anchors, pretrained_norm=False)
    model = RetinaNet(spec, Backbone(tiny.BACKBONE, "none"))
    with torch.no_grad():
        model.classification_head.cls_logits.weight.mul_(20)
        model.classification_head.cls_logits.bias.zero_()
        model.regression_head.bbox_reg.weight.mul_(10)
    return model


class Features(nn.Module):
    """Our backbone and pyramid, as torchvision's detectors want them."""

    def __init__(self, ours: RetinaNet) -> None:
        super().__init__()
        self.ours, self.out_channels = ours, ours.spec.neck_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        content = torch.tensor([[images.shape[-1], images.shape[-2]]] * len(images))
        maps = self.ours.fpn(self.ours.backbone(images, content), FULL_LEVELS)
        return OrderedDict((str(i), m) for i, m in enumerate(maps))


def theirs(ours: RetinaNet) -> TheirRetinaNet:
    sides = (32, 64, 128, 256, 512)
    sizes = tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in sides)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    head = RetinaNetHead(ours.spec.neck_channels, 9, ours.spec.classes)
    head.classification_head, head.regression_head = ours.classification_head, ours.regression_head
    plain = {"min_size": SIDE, "max_size": SIDE, "image_mean": [0.0] * 3, "image_std": [1.0] * 3, "size_divisible": 1}
    return TheirRetinaNet(
        Features(ours), ours.spec.classes, anchor_generator=anchors, head=head, score_thresh=0.05, **plain
    )


def test_losses_and_gradients_equal_torchvisions() -> None:
    ours = network(torchvision_anchors=True)
    images = torch.rand(3, 3, SIDE, SIDE)
    content = torch.tensor([[SIDE, SIDE]] * 3)
    rows = [
        tiny.targets((0, 10, 10, 60, 90), (2, 40, 30, 120, 120), (1, 5, 5, 14, 12)),
        tiny.targets(),
        tiny.targets((1, 64, 0, 128, 40)),
    ]
    mine = ours.loss(ours(images, content), rows)
    model = theirs(ours).train()
    model.transform.training = False
    wanted = model(list(images), [{"boxes": t.boxes, "labels": t.labels} for t in rows])
    torch.testing.assert_close(mine["class"], wanted["classification"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine["box"], wanted["bbox_regression"], rtol=1e-5, atol=1e-5)
    parameters = list(ours.parameters())
    got = torch.autograd.grad(mine["class"] + mine["box"], parameters, allow_unused=True)
    want = torch.autograd.grad(sum(wanted.values()), parameters, allow_unused=True)
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_detections_equal_torchvisions() -> None:
    ours = network(torchvision_anchors=True, seed=3).eval()
    with torch.no_grad():  # no box is moved out of the image: torchvision keeps what is left of those, an edge
        ours.regression_head.bbox_reg.weight.div_(10)
    images, content = torch.rand(2, 3, SIDE, SIDE), torch.tensor([[SIDE, SIDE]] * 2)
    with torch.no_grad():
        found = ours.detect(ours(images, content), content, score_threshold=0.05, max_detections=300)
        wanted = theirs(ours).eval()(list(images))
    for mine, their in zip(found, wanted, strict=True):
        assert 10 < len(mine) == len(their["scores"])
        torch.testing.assert_close(mine.scores, their["scores"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mine.boxes, their["boxes"], rtol=1e-5, atol=1e-3)
        assert torch.equal(mine.labels, their["labels"])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 192)])
def test_both_sizes_pair_anchor_by_anchor(height: int, width: int) -> None:
    model = network().eval()
    size = torch.tensor([[width, height], [width // 2, 34]])
    images = torch.rand(2, 3, height, width)
    with torch.no_grad():
        full, half = model(images, size), model(images[..., ::2, ::2], size // 2, HALF_LEVELS)
    assert len(full) == len(half) == 9 * sum(-(-height // 2**n) * -(-width // 2**n) for n in FULL_LEVELS)
    assert full.anchors is not None and half.anchors is not None
    torch.testing.assert_close(half.anchors * 2, full.anchors, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(half.points * 2, full.points)
    assert torch.equal(half.strides * 2, full.strides) and torch.equal(half.valid, full.valid)
    assert full.per_cell == half.per_cell == 9


def test_ignored_boxes_and_padding_teach_nothing() -> None:
    model = network()
    images, content = torch.rand(1, 3, SIDE, SIDE), torch.tensor([[SIDE, 64]])
    regions = model(images, content)
    target = tiny.targets((0, 8, 8, 60, 60), ignore=[[70, 0, 128, 64]])
    index = model.assign(regions, 0, target)
    assert (index >= 0).any() and (index[~regions.valid[0]] == -2).all()
    inside = (regions.points[:, 0] > 70) & (regions.points[:, 0] < 128) & (regions.points[:, 1] < 64)
    assert (index[inside & (regions.points[:, 1] > 0)] != -1).all()

    losses = model.loss(regions, [target])
    hidden = (index == -2)[None, :, None]
    changed = replace(regions, logits=torch.where(hidden, 9.0, regions.logits))
    assert torch.equal(model.loss(changed, [target])["class"], losses["class"])


def test_no_objects_and_one_class() -> None:
    model = network(classes=1)
    regions = model(torch.rand(2, 3, 64, 64), torch.tensor([[64, 64], [2, 2]]))
    losses = model.loss(regions, [tiny.targets(), tiny.targets()])
    assert float(losses["box"].detach()) == 0 and float(losses["class"].detach()) > 0
    (losses["class"] + losses["box"]).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_its_file_brings_it_back(tmp_path: Path) -> None:
    model = network().eval()
    save_detector(tmp_path / "d.safetensors", model, ("a", "b", "c"), 64, {})
    loaded = load_detector(tmp_path / "d.safetensors").model
    images, content = torch.rand(1, 3, 64, 64), torch.tensor([[64, 64]])
    with torch.no_grad():
        assert torch.equal(loaded(images, content).boxes, model(images, content).boxes)
    for changes in ({"neck_channels": 10**9}, {"detector": "yolo"}, {"detector": ["fcos"]}, {"level_range": 8.0}):
        with pytest.raises(CheckpointError):
            rebuild_detector({**model.spec.to_dict(), **changes}, tmp_path)


# --- with the methods ---------------------------------------------------------------------------------------


def step(model: RetinaNet, teacher: RetinaNet, config: SEDConfig) -> dict[str, Tensor]:
    given = tiny.batch([(64, 48), (40, 64)], seed=1, labels=[tiny.targets((0, 4, 4, 40, 36)), tiny.targets()])
    more = tiny.batch([(64, 48), (40, 64)], seed=2)
    return SED(config).losses(model, teacher, given, more, Progress(100, 5, 10))


@pytest.mark.parametrize("targets", ["soft", "hard"])
def test_a_step_of_sed(targets: Any) -> None:
    model, teacher = network(seed=1), network(seed=2).eval().requires_grad_(False)
    config = replace(SEDConfig(box_weight=1.0, quality_weight=1.0, threshold=0.3), targets=targets)
    losses = step(model, teacher, config)
    for key in ("sup_class", "sup_box", "distill_class", "distill_box", "scale_class", "scale_box"):
        assert float(losses[key].detach()) > 0, key
    assert float(losses["distill_quality"]) == 0
    sum(losses.values(), torch.zeros(())).backward()
    freeze_unused(model, half_size=True)
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_teachers_boxes_are_the_students_goal() -> None:
    """Distilling the boxes alone moves the student's boxes towards the teacher's."""
    model, teacher = network(seed=1), network(seed=2).eval().requires_grad_(False)
    config = SEDConfig(class_weight=0.0, box_weight=1.0, three_sizes=False)
    optimizer = torch.optim.Adam(model.regression_head.parameters(), 3e-3)
    more = tiny.batch([(64, 64)], seed=2)
    given = tiny.batch([(64, 64)], seed=1, labels=[tiny.targets()])

    def distance() -> float:
        with torch.no_grad():
            a = model(more.strong.float() / 255, more.content).boxes
            b = teacher(more.strong.float() / 255, more.content).boxes
            return float(generalized_box_iou_loss(a, b, reduction="mean"))

    before = distance()
    for _ in range(20):
        optimizer.zero_grad()
        losses = SED(config).losses(model, teacher, given, tiny.one_size(more), Progress(100, 5, 10))
        losses["distill_box"].backward()
        optimizer.step()
    assert distance() < before - 0.05


def test_a_training_with_it_and_from_it(tmp_path: Path) -> None:
    data = tiny.dataset(tmp_path / "data")
    config = tiny.config(data, tmp_path / "run", detector="retinanet", model=ModelConfig(8, 1))
    outcome = train(config)
    assert outcome.finished and outcome.detector is not None
    loaded = load_detector(outcome.detector)
    assert isinstance(loaded.model, RetinaNet) and len(loaded.model.classification_head.conv) == 1
    result = sedet.load(outcome.detector).predict(str(data / "val" / "val0.png"), score=0.0)
    assert len(result) > 0
    again = train(
        replace(config, backbone=None, init=str(outcome.detector), classes=("blue", "red"), out=str(tmp_path / "b"))
    )
    assert again.detector is not None and load_detector(again.detector).classes == ("blue", "red")
    assert "2 of 2 class rows" in (tmp_path / "b" / "train.log").read_text()


def test_class_rows_go_to_their_names(tmp_path: Path) -> None:
    from sedet.detectors.warm_start import read_warm_start, warm_detector

    model = network(classes=2)
    save_detector(tmp_path / "d.safetensors", model, ("red", "blue"), 64, {})
    warm = warm_detector(read_warm_start(tmp_path / "d.safetensors"), ("new", "blue", "red"), tiny.MODEL)
    images, content = torch.rand(1, 3, 64, 64), torch.tensor([[64, 64]])
    with torch.no_grad():
        old: Regions = model.eval()(images, content)
        new: Regions = warm.eval()(images, content)
    torch.testing.assert_close(new.logits[..., [2, 1]], old.logits)
    assert torch.equal(new.boxes, old.boxes)
