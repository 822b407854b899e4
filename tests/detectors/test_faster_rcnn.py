"""Faster R-CNN: the same losses and detections as torchvision's with the same weights, and what is our own."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TheirFasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

import sedet
from sedet.config import ModelConfig
from sedet.detectors.backbones import Backbone
from sedet.detectors.build import rebuild_detector
from sedet.detectors.faster_rcnn import FasterRCNN, FasterRCNNSpec, assign_rois, boxes_of
from sedet.detectors.file import load_detector, save_detector
from sedet.detectors.regions import FULL_LEVELS, HALF_LEVELS, Regions
from sedet.detectors.rpn import assign_anchors, sample
from sedet.detectors.warm_start import read_warm_start, warm_detector
from sedet.errors import CheckpointError
from sedet.training.run import train
from tests import tiny

SIDE = 128
LEVELS = (2, 3, 4, 5, 6)
"""torchvision's level set: the same strides as ours for a half-size view."""


def network(classes: int = 3, seed: int = 0, torchvision_anchors: bool = False) -> FasterRCNN:
    """From scratch, few channels, its answers spread as training would."""
    torch.manual_seed(seed)
    spec = FasterRCNNSpec(
        classes,
        tiny.BACKBONE,
        8,
        pretrained_norm=False,
        anchor_strides=8.0 if torchvision_anchors else 4.0,
        roi_features=16,
        proposals=100,
        roi_samples=32,
        torchvision_anchors=torchvision_anchors,
    )
    model = FasterRCNN(spec, Backbone(tiny.BACKBONE, "none"))
    with torch.no_grad():
        model.rpn_head.cls_logits.weight.mul_(30)
        model.rpn_head.bbox_pred.weight.mul_(5)
        model.box_predictor.cls_score.weight.mul_(10)
    return model


class Features(nn.Module):
    """Our backbone and pyramid, as torchvision's detectors want them."""

    def __init__(self, ours: FasterRCNN) -> None:
        super().__init__()
        self.ours, self.out_channels = ours, ours.spec.neck_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        content = torch.tensor([[images.shape[-1], images.shape[-2]]] * len(images))
        maps = self.ours.fpn(self.ours.backbone(images, content), LEVELS)
        return OrderedDict((str(i), m) for i, m in enumerate(maps))


def theirs(ours: FasterRCNN) -> TheirFasterRCNN:
    spec = ours.spec
    model = TheirFasterRCNN(
        Features(ours),
        min_size=SIDE,
        max_size=SIDE,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        size_divisible=1,
        rpn_anchor_generator=AnchorGenerator(tuple((s,) for s in (32, 64, 128, 256, 512)), ((0.5, 1.0, 2.0),) * 5),
        rpn_head=ours.rpn_head,
        rpn_pre_nms_top_n_train=2 * spec.proposals,
        rpn_post_nms_top_n_train=2 * spec.proposals,
        rpn_pre_nms_top_n_test=spec.proposals,
        rpn_post_nms_top_n_test=spec.proposals,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2),
        box_head=ours.box_head,
        box_predictor=FastRCNNPredictor(spec.roi_features, spec.classes + 1),
        box_batch_size_per_image=spec.roi_samples,
        box_score_thresh=0.05,
    )
    model.roi_heads.box_predictor = ours.box_predictor
    return model


ROWS = (
    ((0, 10, 10, 60, 90), (2, 40, 30, 120, 120), (1, 5, 5, 14, 12)),
    (),
    ((1, 64, 0, 128, 40),),
)


def test_losses_and_gradients_equal_torchvisions() -> None:
    ours = network(torchvision_anchors=True)
    images, content = torch.rand(3, 3, SIDE, SIDE), torch.tensor([[SIDE, SIDE]] * 3)
    rows = [tiny.targets(*row) for row in ROWS]
    torch.manual_seed(5)
    mine = ours.loss(ours(images, content, LEVELS), rows)
    model = theirs(ours).train()
    model.transform.training = False
    torch.manual_seed(5)
    wanted = model(list(images), [{"boxes": t.boxes, "labels": t.labels + 1} for t in rows])
    names = {
        "rpn_class": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "class": "loss_classifier",
        "box": "loss_box_reg",
    }
    assert set(mine) == set(names)
    for name, their in names.items():
        assert float(wanted[their].detach()) > 0
        torch.testing.assert_close(mine[name], wanted[their], rtol=1e-5, atol=1e-5)
    parameters = list(ours.parameters())
    got = torch.autograd.grad(sum(mine.values(), torch.zeros(())), parameters, allow_unused=True)
    want = torch.autograd.grad(sum(wanted.values(), torch.zeros(())), parameters, allow_unused=True)
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_detections_equal_torchvisions() -> None:
    ours = network(torchvision_anchors=True, seed=3).eval()
    images, content = torch.rand(2, 3, SIDE, SIDE), torch.tensor([[SIDE, SIDE]] * 2)
    with torch.no_grad():
        found = ours.detect(ours(images, content, LEVELS), content, score_threshold=0.05)
        wanted = theirs(ours).eval()(list(images))
    for mine, their in zip(found, wanted, strict=True):
        assert 10 < len(mine) == len(their["scores"])
        torch.testing.assert_close(mine.scores, their["scores"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mine.boxes, their["boxes"], rtol=1e-5, atol=1e-3)
        assert torch.equal(mine.labels, their["labels"] - 1)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 192)])
def test_both_sizes_pair_anchor_by_anchor_and_roi_by_roi(height: int, width: int) -> None:
    model = network().eval()
    size = torch.tensor([[width, height], [width // 2, 34]])
    images = torch.rand(2, 3, height, width)
    with torch.no_grad():
        full, half = model(images, size), model(images[..., ::2, ::2], size // 2, HALF_LEVELS)
        rois, valid = model.propose(full)
        large, small = model.look(full, rois, valid), model.look(half, rois / 2, valid)
    assert len(full) == len(half) == 3 * sum(-(-height // 2**n) * -(-width // 2**n) for n in FULL_LEVELS)
    assert full.anchors is not None and half.anchors is not None
    torch.testing.assert_close(half.anchors * 2, full.anchors, rtol=1e-6, atol=1e-5)
    assert torch.equal(half.strides * 2, full.strides) and torch.equal(half.valid, full.valid)
    assert torch.equal(small.strides * 2, large.strides)
    torch.testing.assert_close(small.points * 2, large.points)
    assert large.logits.shape == (2, rois.shape[1], 4) and large.softmax and large.boxes.shape == rois.shape


def test_maps_that_are_equal_on_both_sizes_give_equal_answers() -> None:
    """The RoI of a half-size view sees the cells that the full view's RoI sees, one level lower."""
    model = network().eval()
    content = torch.tensor([[SIDE, SIDE]])
    with torch.no_grad():
        full = model(torch.rand(1, 3, SIDE, SIDE), content)
        half = model(torch.rand(1, 3, SIDE // 2, SIDE // 2), content // 2, HALF_LEVELS)
        paired = Regions(**{**{n: getattr(half, n) for n in half.__slots__}, "maps": full.maps})
        rois = torch.tensor([[[3.0, 5, 20, 30], [0, 0, 128, 128], [40, 8, 45, 126], [64, 64, 66, 66]]])
        valid = torch.ones(1, 4, dtype=torch.bool)
        large, small = model.look(full, rois, valid), model.look(paired, rois / 2, valid)
    assert torch.equal(large.logits, small.logits)
    torch.testing.assert_close(small.boxes * 2, large.boxes)


def test_boxes_are_those_of_the_class_asked_for() -> None:
    model = network().eval()
    content = torch.tensor([[SIDE, SIDE]])
    with torch.no_grad():
        regions = model(torch.rand(1, 3, SIDE, SIDE), content)
        rois, valid = model.propose(regions)
        best = model.look(regions, rois, valid)
        classes = best.logits[..., :-1].argmax(dim=-1)
        assert torch.equal(boxes_of(best, classes).boxes, best.boxes)
        other = boxes_of(best, (classes + 1) % 3)
    assert not torch.allclose(other.boxes, best.boxes) and torch.equal(other.logits, best.logits)
    torch.testing.assert_close(
        best.scores().sum(dim=-1) + best.logits.softmax(dim=-1)[..., -1], torch.ones(rois.shape[:2])
    )


def test_ignored_boxes_and_padding_teach_nothing() -> None:
    model = network()
    regions = model(torch.rand(1, 3, SIDE, SIDE), torch.tensor([[SIDE, 64]]))
    target = tiny.targets((0, 8, 8, 60, 60), ignore=[[70, 0, 128, 64]])
    index = assign_anchors(regions, 0, target)
    assert (index >= 0).any() and (index == -1).any() and (index[~regions.valid[0]] == -2).all()
    rois = torch.tensor([[8.0, 8, 58, 60], [80, 10, 120, 50], [0, 0, 20, 12], [8, 8, 60, 33.9]])
    assert assign_rois(rois, target).tolist() == [0, -2, -1, -1]
    assert assign_rois(rois, tiny.targets()).tolist() == [-1] * 4
    rois, _ = model.propose(regions)
    assert float(rois[..., 3].max()) <= 64  # clipped to the content


def test_samples_are_drawn_from_the_generator_alone() -> None:
    index = torch.tensor([-1] * 50 + [0] * 20 + [-2] * 30)
    torch.manual_seed(1)
    positive, background = sample(index, 16, 0.25)
    assert len(positive) == 4 and len(background) == 12
    assert (index[positive] >= 0).all() and (index[background] == -1).all()
    torch.manual_seed(1)
    assert torch.equal(sample(index, 16, 0.25)[0], positive)
    few = sample(torch.tensor([0, -1, -2]), 16, 0.25)
    assert [x.tolist() for x in few] == [[0], [1]]
    assert [len(x) for x in sample(torch.tensor([-2, -2]), 16, 0.25)] == [0, 0]


def test_both_stages_are_divided_by_what_all_processes_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another process drew more, the joint number is larger and the losses here are smaller, all of them."""
    model = network()
    given = tiny.batch([(64, 48), (40, 64)], labels=[tiny.targets((0, 4, 4, 40, 36)), tiny.targets((1, 2, 10, 30, 50))])
    assert given.targets is not None

    def losses() -> dict[str, Tensor]:
        torch.manual_seed(0)
        return model.loss(model(given.strong.float() / 255, given.content), given.targets)  # type: ignore[arg-type]

    alone = losses()
    for module in ("rpn", "faster_rcnn"):
        monkeypatch.setattr(f"sedet.detectors.{module}.process_mean", lambda value, least: 4 * value.clamp(min=least))
    joint = losses()
    for key, value in alone.items():
        assert value > 0 and float(joint[key].detach()) == pytest.approx(float(value) / 4, rel=1e-5), key


@pytest.mark.parametrize("size", [[64, 64], [2, 2]])
def test_no_objects_and_one_class(size: list[int]) -> None:
    model = network(classes=1)
    regions = model(torch.rand(2, 3, 64, 64), torch.tensor([[64, 64], size]))
    losses = model.loss(regions, [tiny.targets(), tiny.targets()])
    assert float(losses["box"].detach()) == float(losses["rpn_box"].detach()) == 0
    assert float(losses["class"].detach()) > 0
    sum(losses.values(), torch.zeros(())).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert all(len(d) <= 100 for d in model.eval().detect(regions, torch.tensor([[64, 64], size])))


def test_its_file_brings_it_back(tmp_path: Path) -> None:
    model = network().eval()
    save_detector(tmp_path / "d.safetensors", model, ("a", "b", "c"), 64, {})
    loaded = load_detector(tmp_path / "d.safetensors").model
    images, content = torch.rand(1, 3, 64, 64), torch.tensor([[64, 64]])
    with torch.no_grad():
        mine, again = (m.detect(m(images, content), content)[0] for m in (model, loaded))
    assert len(mine) > 0 and torch.equal(mine.boxes, again.boxes) and torch.equal(mine.scores, again.scores)
    for changes in ({"roi_features": 10**9}, {"proposals": 0}, {"anchor_strides": "8"}, {"level_range": 8.0}):
        with pytest.raises(CheckpointError):
            rebuild_detector({**model.spec.to_dict(), **changes}, tmp_path)


def test_class_rows_go_to_their_names(tmp_path: Path) -> None:
    model = network(classes=2).eval()
    save_detector(tmp_path / "d.safetensors", model, ("red", "blue"), 64, {})
    warm = warm_detector(read_warm_start(tmp_path / "d.safetensors"), ("new", "blue", "red"), tiny.MODEL).eval()
    assert isinstance(warm, FasterRCNN) and warm.spec.anchor_strides == model.spec.anchor_strides
    images, content = torch.rand(1, 3, 64, 64), torch.tensor([[64, 64]])
    with torch.no_grad():
        old, new = model(images, content), warm(images, content)
        assert torch.equal(old.boxes, new.boxes)
        rois, valid = model.propose(old)
        before, after = model.look(old, rois, valid), warm.look(new, rois, valid)
    torch.testing.assert_close(after.logits[..., [2, 1, 3]], before.logits)
    assert before.deltas is not None and after.deltas is not None
    torch.testing.assert_close(after.deltas[:, :, [2, 1]], before.deltas)


def test_a_training_with_it_and_from_it(tmp_path: Path) -> None:
    data = tiny.dataset(tmp_path / "data")
    config = tiny.config(data, tmp_path / "run", detector="faster_rcnn", model=ModelConfig(8, roi_samples=16))
    outcome = train(config)
    assert outcome.finished and outcome.detector is not None
    loaded = load_detector(outcome.detector).model
    assert isinstance(loaded, FasterRCNN)
    assert (loaded.spec.proposals, loaded.spec.roi_samples, loaded.spec.anchor_strides) == (256, 16, 2.0)
    result = sedet.load(outcome.detector).predict(str(data / "val" / "val0.png"), score=0.0)
    assert len(result) > 0
    again = train(
        replace(config, backbone=None, init=str(outcome.detector), classes=("blue", "red"), out=str(tmp_path / "b"))
    )
    assert again.detector is not None and load_detector(again.detector).classes == ("blue", "red")
    assert "2 of 2 class rows" in (tmp_path / "b" / "train.log").read_text()


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Its samples are drawn at random, but by the step alone."""
    data = tiny.dataset(tmp_path / "data")
    config = tiny.config(
        data, tmp_path / "a", detector="faster_rcnn", model=ModelConfig(8, roi_samples=16), guard=False
    )
    whole = train(config)
    part = replace(config, out=str(tmp_path / "b"))
    train(replace(part, stop=3))
    torch.manual_seed(77)
    parts = train(part, resume=tmp_path / "b")
    assert whole.detector is not None and parts.detector is not None
    mine, other = (load_detector(o.detector).model.state_dict() for o in (whole, parts))
    assert all(torch.equal(mine[name], other[name]) for name in mine)
