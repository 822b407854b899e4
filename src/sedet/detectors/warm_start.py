"""Warm starts: a new detector that begins with the weights of one's own, or with torchvision's COCO detector."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sedet.config import ModelConfig, TrainConfig
from sedet.detectors.anchors import RATIOS, SCALES, cell_anchors
from sedet.detectors.backbones import Backbone, read_state
from sedet.detectors.build import Detector, Spec, assemble, with_assignment
from sedet.detectors.faster_rcnn import FasterRCNNSpec
from sedet.detectors.fcos import FCOSSpec
from sedet.detectors.file import load_detector
from sedet.detectors.retinanet import RetinaNetSpec
from sedet.errors import CheckpointError, ConfigError

CLASS_ROWS = ("classification_head.cls_logits.weight", "classification_head.cls_logits.bias")
BOX_BIAS = "regression_head.bbox_reg.bias"
P6 = "fpn.extra_blocks.p6.weight"
ROI_ROWS = tuple(f"box_predictor.{layer}.{part}" for layer in ("cls_score", "bbox_pred") for part in ("weight", "bias"))
"""Rows of Faster R-CNN's second stage: those of the background, then those of each class."""

# Pascal VOC's names of what COCO calls otherwise; case, spaces, hyphens and underscores are not told apart at all.
SYNONYMS = {"aeroplane": "airplane", "motorbike": "motorcycle", "sofa": "couch", "tvmonitor": "tv"}


@dataclass(frozen=True)
class WarmStart:
    """Weights to begin with, under this library's names.

    Attributes:
        path: the file.
        source: "sedet" or "torchvision".
        spec: the network they belong to; its classes are those of the file.
        classes: name of each class row; empty where the file does not tell.
        image_size: long side it was trained at, pixels, if the file says so.
        state: tensors by name. torchvision's detector has no P2: its tensors are missing.
    """

    path: Path
    source: str
    spec: Spec
    classes: tuple[str, ...]
    image_size: int | None
    state: dict[str, Tensor]


def read_warm_start(path: Path | str) -> WarmStart:
    """Read a detector file of sedet (or a run folder), or the state dict of torchvision's ``fcos_resnet50_fpn`` or
    ``retinanet_resnet50_fpn``.

    Raises:
        ConfigError: there is no such file.
        CheckpointError: the file is damaged, foreign, or of another detector. Nothing is ever unpickled.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"init: there is no such file: {path}")
    if path.is_dir() or path.suffix == ".safetensors":
        loaded = load_detector(path)
        return WarmStart(path, "sedet", loaded.model.spec, loaded.classes, loaded.image_size, loaded.model.state_dict())
    return _torchvision(path, read_state(path))


def complete_settings(config: TrainConfig, start: WarmStart) -> TrainConfig:
    """The settings with the sizes of the network that the weights belong to.

    Raises:
        ConfigError: a size was asked for that the weights do not have.
    """
    spec, model = start.spec, config.model
    own = spec.level_range if start.source == "sedet" and isinstance(spec, FCOSSpec) else None
    if isinstance(spec, FasterRCNNSpec):
        own = 2 * spec.anchor_strides
    level_range = own if model.level_range is None else model.level_range
    architecture = spec.to_dict()["detector"]
    if config.detector != architecture:
        raise ConfigError(
            f"--init {start.path} is a {architecture}: add --detector {architecture}, or leave --init out"
        )
    for name, asked, given in (
        ("backbone", config.backbone, spec.backbone),
        ("model.neck_channels", model.neck_channels, spec.neck_channels),
        ("model.head_convs", model.head_convs, spec.head_convs),
        # FCOS may be assigned by others, a head with anchors has learnt from its own
        ("model.level_range", level_range, own if isinstance(spec, FasterRCNNSpec) else level_range),
    ):
        if asked is not None and asked != given:
            raise ConfigError(
                f"{name} {asked} does not fit the weights of --init {start.path}, which have {given}: leave {name} "
                "out, or train without --init"
            )
    if config.weights not in ("auto", "none"):
        raise ConfigError("--init brings the backbone's weights too: leave --weights out")
    return replace(
        config,
        backbone=spec.backbone,
        image_size=config.image_size or start.image_size,
        model=replace(model, neck_channels=spec.neck_channels, head_convs=spec.head_convs, level_range=level_range),
    )


def shared_classes(start: WarmStart, classes: Sequence[str]) -> dict[int, int]:
    """Which class row of the file each new class takes over: new label -> row. Classes go by their names."""
    rows: dict[str, int] = {}
    for row, name in enumerate(start.classes):
        if name:
            rows.setdefault(_plain(name), row)
    return {label: rows[_plain(name)] for label, name in enumerate(classes) if _plain(name) in rows}


def warm_detector(start: WarmStart, classes: Sequence[str], model: ModelConfig) -> Detector:
    """A detector for ``classes`` with the weights of ``start``; class rows without a namesake are made anew.

    Args:
        model: level range, centre radius and frozen stages are taken from here, sizes from ``start``.

    Raises:
        CheckpointError: the weights do not fit the network they claim.
    """
    spec = with_assignment(replace(start.spec, classes=len(classes)), model)
    body = Backbone(spec.backbone, "none", model.freeze_stages, pretrained_norm=spec.pretrained_norm)
    body.source = f"{start.source}, {start.path.name}"
    detector = assemble(spec, body)
    state = detector.state_dict()
    rows = shared_classes(start, classes)
    for name, tensor in start.state.items():
        if name in CLASS_ROWS:
            # Rows of one anchor follow each other class by class.
            own, given = (
                x.unflatten(0, (-1, n)) for x, n in ((state[name], len(classes)), (tensor, start.spec.classes))
            )
            for label, row in rows.items():
                own[:, label] = given[:, row]
        elif name in ROI_ROWS:
            own, given = (
                x.unflatten(0, (n + 1, -1)) for x, n in ((state[name], len(classes)), (tensor, start.spec.classes))
            )
            own[0] = given[0]
            for label, row in rows.items():
                own[label + 1] = given[row + 1]
        elif name not in state or state[name].shape != tensor.shape:
            raise CheckpointError(f"{start.path}: '{name}' does not fit the detector '{spec.backbone}' of this version")
        else:
            state[name] = tensor
    if missing := [name for name in state if name not in start.state]:
        if start.source != "torchvision" or any(".0.0." not in name for name in missing):
            raise CheckpointError(f"{start.path}: '{missing[0]}' is missing")
        # P2 begins as P3's output convolution on the upsampled map: the head knows what comes out of that.
        for part in ("weight", "bias"):
            state[f"fpn.layer_blocks.0.0.{part}"] = start.state[f"fpn.layer_blocks.1.0.{part}"]
            state[f"fpn.inner_blocks.0.0.{part}"] = torch.zeros_like(state[f"fpn.inner_blocks.0.0.{part}"])
    detector.load_state_dict(state)
    return detector


def _torchvision(path: Path, given: Mapping[str, Tensor]) -> WarmStart:
    """torchvision's FCOS or RetinaNet under our names: a background row less, boxes from the cells' centres, ImageNet
    colours."""
    state: dict[str, Tensor] = {}
    for name, tensor in given.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name.startswith("backbone.body."):
            state[name] = tensor
        elif name.startswith("head."):
            state[name.removeprefix("head.")] = tensor
        elif match := re.fullmatch(r"backbone\.fpn\.(inner|layer)_blocks\.([012])\.(0\.)?(weight|bias)", name):
            kind, index, _, part = match.groups()  # older files lack the inner ".0": both are in use
            state[f"fpn.{kind}_blocks.{int(index) + 1}.0.{part}"] = tensor
        elif name.startswith("backbone.fpn.extra_blocks."):
            state[name.removeprefix("backbone.")] = tensor
    needed = (*CLASS_ROWS, BOX_BIAS, "backbone.body.conv1.weight", "fpn.layer_blocks.1.0.weight", P6)
    if missing := [name for name in needed if name not in state]:
        raise CheckpointError(
            f"{path}: neither a detector file of sedet nor the weights of torchvision's fcos_resnet50_fpn or "
            f"retinanet_resnet50_fpn ('{missing[0]}' is not in it)"
        )
    channels = state[CLASS_ROWS[0]].shape[1]
    if state[P6].shape[1] != channels:
        raise CheckpointError(
            f"{path}: in torchvision's retinanet_resnet50_fpn_v2 the pyramid goes on from the backbone's last map, "
            "here from its own: give the weights of retinanet_resnet50_fpn or fcos_resnet50_fpn"
        )
    anchors = 1 if "regression_head.bbox_ctrness.weight" in state else len(SCALES) * len(RATIOS)
    if (given_anchors := len(state[BOX_BIAS]) // 4) != anchors:
        raise CheckpointError(
            f"{path}: it has {given_anchors} anchors a cell, here there are {anchors}: give weights of torchvision's "
            "own retinanet_resnet50_fpn or fcos_resnet50_fpn, or train without --init"
        )
    rows = len(state[CLASS_ROWS[0]]) // anchors
    for name in CLASS_ROWS:  # row 0 is the background
        state[name] = torch.unflatten(state[name], 0, (anchors, rows))[:, 1:].flatten(0, 1)
    state["backbone.mean"] = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    state["backbone.std"] = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    sizes: dict[str, Any] = {"classes": rows - 1, "backbone": "resnet50", "neck_channels": channels}
    spec: Spec
    if anchors == 1:
        # torchvision measures from the upper left corner of a cell, we from its centre: left and top grow by half a
        # stride, right and bottom shrink. Its ReLU and our softplus differ below two strides; training mends it.
        state[BOX_BIAS] = state[BOX_BIAS] + torch.tensor([0.5, 0.5, -0.5, -0.5])
        convs = len([n for n in state if re.fullmatch(r"classification_head\.conv\.\d+\.weight", n)]) // 2
        spec = FCOSSpec(**sizes, head_convs=convs, neck_norm=False)
    else:
        # Its anchors lie round the same corner: half a stride to the left and up, in units of the anchor's sides.
        cell = cell_anchors(1.0, SCALES, RATIOS, False, torch.device("cpu"))
        shift = torch.cat([0.5 / (cell[:, 2:] - cell[:, :2]), torch.zeros_like(cell[:, 2:])], dim=1)
        state[BOX_BIAS] = state[BOX_BIAS] - shift.flatten()
        convs = len([n for n in state if re.fullmatch(r"classification_head\.conv\.\d+\.0\.weight", n)])
        spec = RetinaNetSpec(**sizes, head_convs=convs, neck_norm=False, head_norm=False)
    return WarmStart(path, "torchvision", spec, _coco_names(rows), None, state)


def _coco_names(rows: int) -> tuple[str, ...]:
    from torchvision.models.detection import FCOS_ResNet50_FPN_Weights

    names: list[str] = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    if rows != len(names):  # trained on other classes, whose names the file does not tell
        return ("",) * (rows - 1)
    return tuple("" if name == "N/A" else name for name in names[1:])


def _plain(name: str) -> str:
    key = re.sub(r"[\s_-]+", "", name.casefold())
    return SYNONYMS.get(key, key)
