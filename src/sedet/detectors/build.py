"""Build a detector from its settings, or again from what a detector file says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from torch import nn

from sedet.config import ModelConfig
from sedet.detectors.backbones import Backbone
from sedet.detectors.faster_rcnn import FasterRCNN, FasterRCNNSpec
from sedet.detectors.fcos import FCOS, FCOSSpec
from sedet.detectors.retinanet import RetinaNet, RetinaNetSpec
from sedet.errors import CheckpointError, ConfigError

Detector = FCOS | RetinaNet | FasterRCNN
"""The detector contract: ``forward(images, content, levels) -> Regions``, ``loss``, ``detect``, ``spec``."""
Spec = FCOSSpec | RetinaNetSpec | FasterRCNNSpec

DETECTORS: dict[str, type[FCOSSpec] | type[RetinaNetSpec] | type[FasterRCNNSpec]] = {
    "fcos": FCOSSpec,
    "retinanet": RetinaNetSpec,
    "faster_rcnn": FasterRCNNSpec,
}
"""What describes each architecture."""

LOWEST_LEVEL = ("fpn.inner_blocks.0.", "fpn.layer_blocks.0.")
"""How the names of P2's parameters begin, in every detector: only half-size views use it."""


def build_detector(detector: str, backbone: str, classes: int, model: ModelConfig, weights: str = "auto") -> Detector:
    """A new detector.

    Args:
        detector: architecture name.
        backbone: timm model name.
        classes: number of foreground classes.
        model: sizes; None in it means the small (CPU) choice.
        weights: see :class:`~sedet.detectors.backbones.Backbone`.

    Raises:
        ConfigError: unknown architecture or backbone, or weights that cannot be had.
    """
    if detector not in DETECTORS:
        raise ConfigError(f"there is no detector '{detector}'; there are: {', '.join(DETECTORS)}")
    body = Backbone(backbone, weights, model.freeze_stages)
    spec = DETECTORS[detector](
        classes=classes,
        backbone=backbone,
        neck_channels=model.neck_channels or 96,
        head_convs=2 if model.head_convs is None else model.head_convs,
        pretrained_norm=body.pretrained,
    )
    if isinstance(spec, FasterRCNNSpec):
        anchors = (model.level_range or 2 * spec.anchor_strides) / 2
        spec = replace(spec, roi_features=4 * spec.neck_channels, anchor_strides=anchors)
    return assemble(with_assignment(spec, model), body)


def with_assignment(spec: Spec, model: ModelConfig) -> Spec:
    """The description with what the settings say of how regions are chosen; the rest stays."""
    if isinstance(spec, FCOSSpec):
        return replace(spec, level_range=model.level_range or spec.level_range, center_radius=model.center_radius)
    if isinstance(spec, FasterRCNNSpec):
        proposals, samples = model.proposals or spec.proposals, model.roi_samples or spec.roi_samples
        return replace(spec, proposals=proposals, roi_samples=samples)
    return spec


def assemble(spec: Spec, body: Backbone) -> Detector:
    """The network of a description on its backbone."""
    if isinstance(spec, FCOSSpec):
        return FCOS(spec, body)
    return RetinaNet(spec, body) if isinstance(spec, RetinaNetSpec) else FasterRCNN(spec, body)


def rebuild_detector(spec: dict[str, Any], where: Path, freeze_stages: int = 0) -> Detector:
    """The network a detector file or checkpoint describes, its weights still to be loaded.

    Args:
        where: the file, for messages.
        freeze_stages: backbone stages not to train, where it is trained further.

    Raises:
        CheckpointError: the description is not one of this version's detectors.
    """
    known = dict(spec)
    name = known.pop("detector", None)
    if not isinstance(name, str) or name not in DETECTORS:
        raise CheckpointError(f"{where}: unknown detector {name!r}: written by a newer version?")
    try:
        parsed = DETECTORS[name](**known)
    except TypeError as error:
        raise CheckpointError(f"{where}: the detector's description does not fit this version ({error})") from error
    # What a file asks for is built before its weights are compared: no network of absurd size.
    sizes: tuple[tuple[int, int, int], ...] = (
        (parsed.classes, 1, 100_000),
        (parsed.neck_channels, 1, 8192),
        (parsed.head_convs, 0, 64),
    )
    ranges: tuple[float, ...] = ()
    if isinstance(parsed, FCOSSpec):
        ranges = (parsed.level_range, parsed.center_radius)
    elif isinstance(parsed, FasterRCNNSpec):
        ranges = (parsed.anchor_strides,)
        sizes += ((parsed.roi_features, 1, 65_536), (parsed.proposals, 1, 100_000), (parsed.roi_samples, 1, 100_000))
    sane = all(isinstance(value, int) and low <= value <= high for value, low, high in sizes)
    sane &= all(isinstance(value, (int, float)) and 0 < value < 1e6 for value in ranges)
    if not sane or not isinstance(parsed.backbone, str):
        raise CheckpointError(f"{where}: the detector's description is damaged: {spec}")
    # timm would follow a name such as hf-hub:... or local-dir:... to the network or the disk.
    if not timm.is_model(parsed.backbone):
        raise CheckpointError(f"{where}: its backbone {parsed.backbone!r} is no model of timm {timm.__version__}")
    return assemble(parsed, Backbone(parsed.backbone, "none", freeze_stages, pretrained_norm=parsed.pretrained_norm))


def freeze_unused(model: nn.Module, half_size: bool) -> None:
    """Without half-size views nothing uses P2: its parameters are frozen, so that every other one is used."""
    if not half_size:
        for name, parameter in model.named_parameters():
            if name.startswith(LOWEST_LEVEL):
                parameter.requires_grad_(False)
