"""The two pyramids: levels of the full and the half view pair region by region."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from sedet.config import ModelConfig
from sedet.data.views import canvas_side
from sedet.detectors.backbones import Backbone, group_norm
from sedet.detectors.build import build_detector, freeze_unused
from sedet.detectors.fcos import FCOS
from sedet.detectors.regions import FULL_LEVELS, HALF_LEVELS
from sedet.errors import CheckpointError, ConfigError
from tests import tiny


@pytest.fixture(scope="module")
def model() -> FCOS:
    return tiny.detector().eval()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 192), (128, 64), (192, 192), (320, 128), (256, 448)])
def test_grids_and_positions_pair(model: FCOS, height: int, width: int) -> None:
    rng = np.random.default_rng(height + width)
    content = [(width, height), (2, 2)]
    content += [(2 * int(rng.integers(1, width // 2 + 1)), 2 * int(rng.integers(1, height // 2 + 1))) for _ in range(3)]
    size = torch.tensor(content)
    images = torch.rand(len(content), 3, height, width)
    with torch.no_grad():
        full = model(images, size)
        half = model(images[..., ::2, ::2], size // 2, HALF_LEVELS)
    assert len(full) == len(half) == sum(-(-height // 2**n) * -(-width // 2**n) for n in FULL_LEVELS)
    assert torch.equal(half.points * 2, full.points)
    assert torch.equal(half.strides * 2, full.strides)
    assert torch.equal(half.valid, full.valid)
    assert sorted(set(full.strides.tolist())) == [8.0, 16.0, 32.0, 64.0, 128.0]
    for a, b in ((full.logits, half.logits), (full.boxes, half.boxes), (full.quality, half.quality)):
        assert a is not None and b is not None and a.shape == b.shape


@pytest.mark.parametrize("image_size", [33, 64, 65, 100, 127, 160, 224, 640])
def test_canvases_are_multiples_of_64(image_size: int) -> None:
    side = canvas_side(image_size)
    assert side % 64 == 0 and image_size <= side < image_size + 64


@pytest.mark.parametrize("levels", [FULL_LEVELS, HALF_LEVELS])
def test_cells_look_where_their_points_say(levels: tuple[int, ...]) -> None:
    """The pixels a cell depends on lie around its point: positions are true, and not only equal."""
    network = tiny.detector().eval()
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = lambda x: x  # type: ignore[method-assign]  # it looks at the whole image
    width, height = 256, 192
    images = torch.rand(1, 3, height, width, requires_grad=True)
    maps = network.fpn(network.backbone(images, torch.tensor([[width, height]])), levels)
    for level, row, column in ((levels[0], 5, 20), (levels[0], 17, 9), (levels[1], 8, 3)):
        stride = 2**level
        feature = maps[levels.index(level)][0, :, row, column].square().sum()
        (gradient,) = torch.autograd.grad(feature, images, retain_graph=True)
        mass = gradient[0].abs().sum(dim=0)
        x = (mass.sum(dim=0) * (torch.arange(width) + 0.5)).sum() / mass.sum()
        y = (mass.sum(dim=1) * (torch.arange(height) + 0.5)).sum() / mass.sum()
        assert abs(x - (column + 0.5) * stride) < 32 and abs(y - (row + 0.5) * stride) < 32


def test_padding_reaches_the_network_as_zeros(model: FCOS) -> None:
    """Black padding and any other padding give the same answers, bit for bit."""
    content = torch.tensor([[40, 30]])
    images = torch.rand(1, 3, 64, 64)
    other = images.clone()
    other[..., 30:, :] = 0.0
    other[..., :, 40:] = 1.0
    with torch.no_grad():
        assert torch.equal(model(images, content).logits, model(other, content).logits)
        assert not torch.equal(model(images, content).logits, model(images, content + 2).logits)


def test_answers_do_not_depend_on_the_batch(model: FCOS) -> None:
    images, content = torch.rand(3, 3, 64, 64), torch.tensor([[64, 64], [30, 40], [64, 20]])
    with torch.no_grad():
        model.train()
        joint = model(images, content)
        model.eval()
        single = model(images[1:2], content[1:2])
    torch.testing.assert_close(joint.logits[1:2], single.logits, rtol=1e-4, atol=1e-5)


def test_every_parameter_is_used_by_both_views(model: FCOS) -> None:
    """Distributed training hangs on a parameter without a gradient."""
    network = tiny.detector()
    content = torch.tensor([[64, 64]])

    def unused(*levels: tuple[int, ...]) -> list[str]:
        network.zero_grad(set_to_none=True)
        total = torch.zeros(())
        for wanted in levels:
            side = 64 if wanted is FULL_LEVELS else 32
            regions = network(torch.rand(1, 3, side, side), content * side // 64, wanted)
            assert regions.quality is not None
            total = total + regions.logits.sum() + regions.boxes.sum() + regions.quality.sum()
        total.backward()
        return [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]

    assert unused(FULL_LEVELS, HALF_LEVELS) == []
    alone = unused(FULL_LEVELS)
    assert alone and all(name.startswith("fpn.") for name in alone)  # P2
    freeze_unused(network, half_size=False)
    assert unused(FULL_LEVELS) == []


# --- backbones -----------------------------------------------------------------------------------------------------


def weights_file(folder: Path, name: str = tiny.BACKBONE) -> Path:
    torch.manual_seed(5)
    state = timm.create_model(name, features_only=True, pretrained=False).state_dict()
    torch.save(state, folder / "backbone.pth")
    return folder / "backbone.pth"


def test_from_scratch_there_is_no_batch_norm() -> None:
    body = Backbone(tiny.BACKBONE, "none")
    kinds = {type(m) for m in body.modules()}
    assert not any(issubclass(k, nn.modules.batchnorm._BatchNorm) for k in kinds) and nn.GroupNorm in kinds
    assert not body.pretrained and all(p.requires_grad for p in body.parameters())


def test_pretrained_norms_and_first_stages_are_frozen(tmp_path: Path) -> None:
    file = weights_file(tmp_path)
    body = Backbone(tiny.BACKBONE, str(file), freeze_stages=2)
    assert body.pretrained
    state = torch.load(file, weights_only=True)
    own = body.body.state_dict()
    assert own.keys() <= state.keys() and all(torch.equal(own[k], state[k]) for k in own)
    body.train()
    images, content = torch.rand(2, 3, 64, 64), torch.tensor([[64, 64]] * 2)
    first = body(images, content)
    after = body.body.state_dict()
    assert all(torch.equal(own[k], after[k]) for k in own)  # statistics do not move
    body.eval()
    for a, b in zip(first, body(images, content), strict=True):
        torch.testing.assert_close(a, b)
    assert not any(f.requires_grad for f in first[:2]) and all(f.requires_grad for f in first[2:])
    assert all(f.requires_grad for f in Backbone(tiny.BACKBONE, str(file), freeze_stages=0)(images, content))


def test_features_have_the_strides_and_channels_they_say() -> None:
    for name in (tiny.BACKBONE, "test_convnext"):
        body = Backbone(name, "none")
        features = body(torch.rand(1, 3, 64, 96), torch.tensor([[96, 64]]))
        assert [tuple(f.shape[-2:]) for f in features] == [(16, 24), (8, 12), (4, 6), (2, 3)]
        assert tuple(f.shape[1] for f in features) == body.channels


def test_images_are_normalised_by_the_models_own_constants() -> None:
    body = Backbone(tiny.BACKBONE, "none")
    seen: list[torch.Tensor] = []
    body.body.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    body(torch.full((1, 3, 64, 64), 0.5), torch.tensor([[32, 64]]))
    cfg = timm.models.get_pretrained_cfg(tiny.BACKBONE)
    want = (0.5 - torch.tensor(cfg.mean)) / torch.tensor(cfg.std)
    torch.testing.assert_close(seen[0][0, :, 0, 0], want)
    assert (seen[0][..., 32:] == 0).all() and (seen[0][..., :32] != 0).all()


def test_unusable_backbones_and_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resnet55"):
        Backbone("resnet55", "none")
    with pytest.raises(ConfigError, match="strides"):
        Backbone("vit_tiny_patch16_224", "none")
    with pytest.raises(ConfigError, match="does not exist"):
        Backbone(tiny.BACKBONE, str(tmp_path / "nothing.pth"))
    (tmp_path / "broken.pth").write_bytes(b"not a zip")
    with pytest.raises(CheckpointError, match=r"broken\.pth"):
        Backbone(tiny.BACKBONE, str(tmp_path / "broken.pth"))
    (tmp_path / "broken.safetensors").write_bytes(b"12345678{}")
    with pytest.raises(CheckpointError, match=r"broken\.safetensors"):
        Backbone(tiny.BACKBONE, str(tmp_path / "broken.safetensors"))
    with pytest.raises(CheckpointError, match="does not fit"):
        Backbone(tiny.BACKBONE, str(weights_file(tmp_path, "test_resnet")))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="state dict"):
        Backbone(tiny.BACKBONE, str(tmp_path / "list.pth"))
    with pytest.raises(ConfigError, match="fcos"):
        build_detector("yolo", tiny.BACKBONE, 3, ModelConfig(), "none")


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8, 16, 24, 32, 48, 96, 256, 7])
def test_group_norm_never_normalises_a_single_value(channels: int) -> None:
    """One cell, one image, as P7 of a small image is."""
    norm = group_norm(channels)
    assert channels % norm.num_groups == 0 and norm.num_groups <= 48
    if channels > 1:
        out = norm(torch.randn(1, channels, 1, 1))
        assert out.isfinite().all() and out.abs().sum() > 0
