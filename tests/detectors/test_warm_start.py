"""Warm starts: rows by class name, torchvision's answers kept, foreign and ill-fitting files refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.detection import (
    FCOS_ResNet50_FPN_Weights,
    RetinaNet_ResNet50_FPN_Weights,
    fasterrcnn_resnet50_fpn,
    fcos_resnet50_fpn,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from sedet.config import ModelConfig, TrainConfig
from sedet.detectors.build import build_detector
from sedet.detectors.fcos import FCOS
from sedet.detectors.file import save_detector
from sedet.detectors.regions import FULL_LEVELS, HALF_LEVELS
from sedet.detectors.retinanet import RetinaNet
from sedet.detectors.warm_start import (
    complete_settings,
    read_warm_start,
    shared_classes,
    warm_detector,
)
from sedet.errors import CheckpointError, ConfigError
from sedet.training.plan import resolve

BACKBONE = "lcnet_035"
SMALL = ModelConfig(neck_channels=8, head_convs=1)


def own(path: Path, classes: tuple[str, ...] = ("cat", "dog"), seed: int = 1) -> FCOS:
    torch.manual_seed(seed)
    model = build_detector("fcos", BACKBONE, len(classes), SMALL, "none")
    save_detector(path, model, classes, 96, {})
    return model


def as_in_torchvision(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits without background, sides before decoding, centerness and decoded boxes of torchvision's model."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.transform.image_mean, model.transform.image_std))
    features = list(model.backbone((images - mean) / std).values())
    answers = model.head(features)
    sizes = [tuple(images.shape[-2:])] * len(images)
    anchors = torch.stack(model.anchor_generator(ImageList(images, sizes), features))
    boxes = model.head.box_coder.decode(answers["bbox_regression"], anchors)
    return answers["cls_logits"][..., 1:], answers["bbox_regression"], answers["bbox_ctrness"][..., 0], boxes


@pytest.fixture(scope="module")
def coco() -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
    """torchvision's FCOS with random weights whose answers spread, and whose statistics are not those of a new one."""
    torch.manual_seed(0)
    model = fcos_resnet50_fpn(weights=None, weights_backbone=None).eval()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.8, 1.2)
        for name, parameter in model.head.named_parameters():
            if "conv" in name and parameter.ndim == 4:
                parameter.mul_(3)
        model.head.classification_head.cls_logits.weight.mul_(4)
        model.head.regression_head.bbox_ctrness.weight.mul_(4)
        model.head.regression_head.bbox_reg.weight.mul_(4)
        model.head.regression_head.bbox_reg.bias.fill_(10.0)  # where softplus and ReLU agree
    yield model, model.state_dict()


@pytest.fixture(scope="module")
def coco_file(coco: tuple[nn.Module, dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coco") / "fcos_resnet50_fpn_coco.pth"
    torch.save(coco[1], path)
    return path


@torch.no_grad()
def test_torchvision_answers_are_kept(coco: tuple[nn.Module, dict[str, Tensor]], coco_file: Path) -> None:
    start = read_warm_start(coco_file)
    names = list(FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:])
    labels = [i for i, name in enumerate(names) if name != "N/A"]
    detector = warm_detector(start, [names[i] for i in labels], ModelConfig()).eval()
    images = torch.rand(2, 3, 128, 128)
    regions = detector(images, torch.tensor([[128, 128]] * 2), FULL_LEVELS)
    logits, sides, quality, boxes = as_in_torchvision(coco[0], images)
    assert logits.std() > 0.1 and quality.std() > 0.1  # else everything would agree with everything
    assert torch.allclose(regions.logits, logits[..., labels], atol=1e-4)
    assert regions.quality is not None and torch.allclose(regions.quality, quality, atol=1e-4)
    large = (sides > 8).all(dim=-1)
    assert large.float().mean() > 0.5
    difference = (regions.boxes - boxes).abs() / regions.strides[None, :, None]
    assert difference[large].max() < 2e-3  # in strides: softplus(8) is 8.0003


@torch.no_grad()
def test_torchvision_padding_is_invisible(coco: tuple[nn.Module, dict[str, Tensor]], coco_file: Path) -> None:
    """torchvision pads after normalising, so padding is zero to the network; ours must be too."""
    detector = warm_detector(read_warm_start(coco_file), ["person"], ModelConfig()).eval()
    images = torch.rand(1, 3, 128, 128)
    images[..., 96:] = 0
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (coco[0].transform.image_mean, coco[0].transform.image_std))
    normalised = (images - mean) / std
    normalised[..., 96:] = 0
    features = list(coco[0].backbone(normalised).values())
    expected = coco[0].head(features)["cls_logits"][..., 1]
    regions = detector(images, torch.tensor([[96, 128]]), FULL_LEVELS)
    assert torch.allclose(regions.logits[..., 0], expected, atol=1e-4)


@torch.no_grad()
def test_torchvision_has_no_p2_so_it_begins_as_p3(coco_file: Path) -> None:
    detector = warm_detector(read_warm_start(coco_file), ["person"], ModelConfig()).eval()
    images, content = torch.rand(1, 3, 64, 64), torch.tensor([[64, 64]])
    features = detector.backbone(images, content)
    p2, p3 = detector.fpn(features, (2, 3))
    assert p2.shape[-1] == 2 * p3.shape[-1] and p2.std() > 0
    assert len(detector(images, content, HALF_LEVELS)) == 16**2 + 8**2 + 4**2 + 2**2 + 1
    assert all(p.requires_grad for p in detector.fpn.inner_blocks[0].parameters())


def test_torchvision_rows_go_by_name(coco: tuple[nn.Module, dict[str, Tensor]], coco_file: Path) -> None:
    start = read_warm_start(coco_file)
    names = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    classes = ("Traffic_Light", "forklift", "sofa", "person")
    detector = warm_detector(start, classes, ModelConfig())
    weight = coco[1]["head.classification_head.cls_logits.weight"]
    rows = detector.classification_head.cls_logits.weight.detach()
    assert torch.equal(rows[0], weight[names.index("traffic light")])
    assert torch.equal(rows[2], weight[names.index("couch")])
    assert torch.equal(rows[3], weight[names.index("person")])
    assert not any(torch.equal(rows[1], row) for row in weight)
    assert detector.classification_head.cls_logits.bias[1] < -4  # a prior of 0.01, as for a new head
    assert shared_classes(start, ["N/A", "__background__"]) == {}


def test_torchvision_of_other_classes_and_of_older_layout(
    coco: tuple[nn.Module, dict[str, Tensor]], tmp_path: Path
) -> None:
    state = {k.replace("blocks.0.0.", "blocks.0."): v for k, v in coco[1].items() if "num_batches" not in k}
    state = {k.replace("blocks.1.0.", "blocks.1.").replace("blocks.2.0.", "blocks.2."): v for k, v in state.items()}
    assert "backbone.fpn.layer_blocks.2.weight" in state
    for part in ("weight", "bias"):
        name = f"head.classification_head.cls_logits.{part}"
        state[name] = state[name][:4]
    torch.save(state, tmp_path / "own.pth")
    start = read_warm_start(tmp_path / "own.pth")
    assert start.classes == ("", "", "")
    detector = warm_detector(start, ["person", "dog"], ModelConfig())
    assert torch.equal(detector.fpn.layer_blocks[3][0].weight.detach(), coco[1]["backbone.fpn.layer_blocks.2.0.weight"])
    assert not detector.spec.neck_norm and detector.spec.classes == 2


def test_frozen_statistics_come_along(coco: tuple[nn.Module, dict[str, Tensor]], coco_file: Path) -> None:
    detector = warm_detector(read_warm_start(coco_file), ["person"], ModelConfig(freeze_stages=2))
    body = detector.backbone.body.state_dict()
    assert torch.equal(body["layer4.2.bn3.running_mean"], coco[1]["backbone.body.layer4.2.bn3.running_mean"])
    assert not any("bn" in n for n, p in detector.backbone.body.named_parameters() if p.requires_grad)
    trained = {n.split(".")[0] for n, p in detector.backbone.body.named_parameters() if p.requires_grad}
    assert trained == {"layer3", "layer4"}  # stages up to stride 8 are frozen
    assert torch.allclose(detector.backbone.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))


def test_own_detector_with_other_classes(tmp_path: Path) -> None:
    old = own(tmp_path / "best.safetensors", ("cat", "dog", "hen"))
    start = read_warm_start(tmp_path / "best.safetensors")
    torch.manual_seed(7)
    new = warm_detector(start, ("hen", "cow", "cat"), ModelConfig())
    before, after = old.state_dict(), new.state_dict()
    for part in ("weight", "bias"):
        name = f"classification_head.cls_logits.{part}"
        assert torch.equal(after[name][0], before[name][2]) and torch.equal(after[name][2], before[name][0])
    rows = before["classification_head.cls_logits.weight"]
    assert not any(torch.equal(after["classification_head.cls_logits.weight"][1], row) for row in rows)
    others = [name for name in before if "cls_logits" not in name]
    assert len(others) > 50 and all(torch.equal(before[n], after[n]) for n in others)


def test_same_classes_give_the_same_detector(tmp_path: Path) -> None:
    old = own(tmp_path / "best.safetensors")
    new = warm_detector(read_warm_start(tmp_path), ("cat", "dog"), ModelConfig())  # a run folder will do
    assert all(torch.equal(a, b) for a, b in zip(old.state_dict().values(), new.state_dict().values(), strict=True))
    assert any(p.requires_grad for p in new.parameters())


def test_settings_take_the_sizes_of_the_file(tmp_path: Path) -> None:
    own(tmp_path / "best.safetensors")
    start = read_warm_start(tmp_path / "best.safetensors")
    config = complete_settings(TrainConfig(), start)
    assert (config.backbone, config.image_size) == (BACKBONE, 96)
    assert (config.model.neck_channels, config.model.head_convs) == (8, 1)
    assert complete_settings(TrainConfig(image_size=64), start).image_size == 64


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (TrainConfig(backbone="resnet50"), "backbone resnet50"),
        (TrainConfig(model=ModelConfig(neck_channels=64)), "model.neck_channels 64"),
        (TrainConfig(model=ModelConfig(head_convs=4)), "model.head_convs 4"),
        (TrainConfig(weights="mine.pth"), "--weights"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tmp_path: Path, asked: TrainConfig, named: str) -> None:
    own(tmp_path / "best.safetensors")
    with pytest.raises(ConfigError, match=named):
        complete_settings(asked, read_warm_start(tmp_path / "best.safetensors"))


def test_the_anchors_of_faster_rcnn_are_those_of_the_file(tmp_path: Path) -> None:
    """Neither the size of the images nor the settings move anchors that the head was trained with."""
    model = ModelConfig(neck_channels=8, head_convs=1, level_range=16)
    old = build_detector("faster_rcnn", BACKBONE, 1, model, "none")
    save_detector(tmp_path / "best.safetensors", old, ("cat",), 96, {})
    start = read_warm_start(tmp_path)
    for asked in (None, 16.0):
        config = TrainConfig(detector="faster_rcnn", model=ModelConfig(level_range=asked))
        assert resolve(config, "cpu", 10, 500, start).model.level_range == 16
    config = TrainConfig(detector="faster_rcnn", model=ModelConfig(level_range=8))
    with pytest.raises(ConfigError, match=r"model\.level_range 8 does not fit .* which have 16"):
        complete_settings(config, start)


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_warm_start(tmp_path / "missing.pth")
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(CheckpointError, match=r"text\.pth"):
        read_warm_start(tmp_path / "text.pth")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not a detector written by sedet"):
        read_warm_start(tmp_path / "foreign.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match="neither"):
        read_warm_start(tmp_path / "foreign.pth")
    torch.save({"a": Path("/")}, tmp_path / "pickled.pth")
    with pytest.raises(CheckpointError, match="safely"):
        read_warm_start(tmp_path / "pickled.pth")


@torch.no_grad()
def test_torchvision_retinanet_answers_are_kept(tmp_path: Path) -> None:
    """Logits exactly, boxes but for its rounded anchors; half a stride between the anchors' centres would be seen."""
    torch.manual_seed(0)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None).eval()
    for name, parameter in model.head.named_parameters():
        if parameter.ndim == 4:
            parameter.mul_(3 if name.startswith("classification_head") else 1)
        elif "bbox_reg.bias" in name:
            parameter.normal_(0, 0.3)
    torch.save(model.state_dict(), tmp_path / "retinanet_resnet50_fpn_coco.pth")
    start = read_warm_start(tmp_path / "retinanet_resnet50_fpn_coco.pth")
    names = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    detector = warm_detector(start, ["dog", "forklift", "person"], ModelConfig()).eval()
    assert isinstance(detector, RetinaNet) and not detector.spec.head_norm and detector.spec.head_convs == 4
    images = torch.rand(1, 3, 256, 256)
    regions = detector(images, torch.tensor([[256, 256]]), FULL_LEVELS)

    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.transform.image_mean, model.transform.image_std))
    features = list(model.backbone((images - mean) / std).values())
    answers = model.head(features)
    logits = answers["cls_logits"]
    assert logits.std() > 0.1
    rows = [names.index("dog"), names.index("person")]
    torch.testing.assert_close(regions.logits[..., [0, 2]], logits[..., rows], rtol=1e-3, atol=1e-3)
    grids = model.anchor_generator(ImageList(images, [(256, 256)]), features)
    boxes = torch.stack(
        [model.box_coder.decode_single(d, a) for d, a in zip(answers["bbox_regression"], grids, strict=True)]
    )
    usual = (answers["bbox_regression"].abs() < 1).all(dim=-1)  # e to the power of more magnifies what is rounded
    assert usual.float().mean() > 0.5
    off = (regions.boxes - boxes).abs().amax(dim=-1) / (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1)
    assert off[usual].max() < 0.15 and off[usual & (regions.strides == 128)].max() < 0.02

    # written by this library and read again, it is the same network
    save_detector(tmp_path / "best.safetensors", detector, ("dog", "forklift", "person"), 256, {})
    again = read_warm_start(tmp_path / "best.safetensors")
    assert again.spec == detector.spec
    config = complete_settings(TrainConfig(detector="retinanet"), start)
    assert (config.backbone, config.model.neck_channels, config.model.head_convs) == ("resnet50", 256, 4)


@pytest.mark.parametrize(
    ("build", "named"),
    [(retinanet_resnet50_fpn_v2, "fpn_v2"), (fasterrcnn_resnet50_fpn, "fcos_resnet50_fpn")],
    ids=["retinanet v2", "faster rcnn"],
)
def test_another_detector_of_torchvision_is_refused(build: Any, named: str, tmp_path: Path) -> None:
    torch.save(build(weights=None, weights_backbone=None).state_dict(), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=named):
        read_warm_start(tmp_path / "other.pth")


def test_a_retinanet_with_other_anchors_is_refused(tmp_path: Path) -> None:
    anchors = AnchorGenerator(tuple((32 * 2**level,) for level in range(5)), ((0.5, 1.0, 2.0),) * 5)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=7, anchor_generator=anchors)
    torch.save(model.state_dict(), tmp_path / "few.pth")
    with pytest.raises(CheckpointError, match=r"few\.pth: it has 3 anchors a cell, here there are 9"):
        read_warm_start(tmp_path / "few.pth")


def test_a_missing_or_misshapen_tensor_is_named(coco: tuple[nn.Module, dict[str, Tensor]], tmp_path: Path) -> None:
    state = {k: v for k, v in coco[1].items() if "layer3.4.conv2" not in k}
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match=r"layer3\.4\.conv2"):
        warm_detector(read_warm_start(tmp_path / "short.pth"), ["person"], ModelConfig())
    state = dict(coco[1])
    state["backbone.fpn.extra_blocks.p6.weight"] = torch.zeros(256, 2048, 3, 3)  # P6 from C5, as RetinaNet may have it
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="pyramid"):
        warm_detector(read_warm_start(tmp_path / "other.pth"), ["person"], ModelConfig())
