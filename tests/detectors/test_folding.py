"""Frozen norms in the convolutions before them: nothing but the speed changes."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from sedet.detectors.folding import fold_frozen_norms


def frozen(name: str) -> nn.Module:
    """A backbone whose norms do something."""
    torch.manual_seed(0)
    body = timm.create_model(name, features_only=True, pretrained=False)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return freeze_batch_norm_2d(body).eval()


@pytest.mark.parametrize("size", [(96, 64), (97, 62), (90, 63)])  # SAME pads even and odd sides differently
@pytest.mark.parametrize(("name", "norms"), [("tf_efficientnet_lite0", 48), ("resnet18", 20), ("lcnet_035", 27)])
def test_answers_gradients_and_names_stay(name: str, norms: int, size: tuple[int, int]) -> None:
    plain = frozen(name)
    folded = copy.deepcopy(plain)
    assert fold_frozen_norms(folded) == norms
    folded = copy.deepcopy(folded)  # as the teacher is made
    assert list(folded.state_dict()) == list(plain.state_dict())
    # in double precision, or a value near a ReLU's edge decides
    plain, folded, images = plain.double(), folded.double(), torch.rand(2, 3, *size, dtype=torch.float64)
    for a, b in zip(plain(images), folded(images), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)
    plain(images)[-1].square().mean().backward()
    folded(images)[-1].square().mean().backward()
    for (key, a), (_, b) in zip(plain.named_parameters(), folded.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), key
        if a.grad is not None and b.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-6, atol=1e-9 * float(a.grad.abs().max()) + 1e-15)


@torch.inference_mode()
def test_a_model_built_in_inference_mode_answers() -> None:
    """Its buffers keep no count of their changes: nothing may be kept of them."""
    plain = frozen("lcnet_035")
    folded = copy.deepcopy(plain)
    assert fold_frozen_norms(folded) == 27
    images = torch.rand(1, 3, 64, 64)
    for _ in range(2):
        for a, b in zip(plain(images), folded(images), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        for body in (plain, folded):
            for name, buffer in body.named_buffers():
                if name.endswith("running_mean"):
                    buffer += 0.5


def test_a_copy_has_norms_of_its_own() -> None:
    first = frozen("resnet18")
    fold_frozen_norms(first)
    second = copy.deepcopy(first)
    before = second(torch.ones(1, 3, 64, 64))[-1]
    state = {k: v * 1.5 if k.endswith("running_var") else v for k, v in first.state_dict().items()}
    first.load_state_dict(state)
    assert torch.equal(second(torch.ones(1, 3, 64, 64))[-1], before)
    assert not torch.allclose(first(torch.ones(1, 3, 64, 64))[-1], before)


def test_a_copy_does_not_take_over_constants() -> None:
    """The buffers of a copy count their changes anew, and could be taken for those of another moment."""
    body, other = frozen("lcnet_035"), frozen("lcnet_035")
    fold_frozen_norms(body)
    images = torch.rand(1, 3, 64, 64)
    for buffer in other.buffers():
        buffer.add_(0.5)
    body(images)
    body.load_state_dict(body.state_dict())
    body(images)
    body.load_state_dict(other.state_dict())
    copied = copy.deepcopy(body)
    for a, b in zip(body(images), copied(images), strict=True):
        assert torch.equal(a, b)


def test_constants_are_kept_until_a_buffer_changes() -> None:
    """In place, replaced, on another type, or first looked at where nothing can be trained."""
    images = torch.rand(1, 3, 64, 64)
    folded, plain = frozen("resnet18"), frozen("resnet18")
    fold_frozen_norms(folded)
    with torch.inference_mode():
        folded(images)
    for body in (folded, plain):
        body(images)[-1].square().mean().backward()
    grads = [[p.grad for p in body.parameters() if p.grad is not None] for body in (folded, plain)]
    assert len(grads[0]) == len(grads[1]) > 0
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))
    for change in (
        lambda body: body.bn1.running_var.mul_(2.0),
        lambda body: body.layer1[0].bn1.bias.add_(1.0),
        lambda body: setattr(body.bn1, "running_mean", body.bn1.running_mean + 1.0),
        lambda body: body.load_state_dict({k: v * 1.1 for k, v in body.state_dict().items()}),
        lambda body: body.double(),
    ):
        before = folded(images)[-1]
        change(folded)
        change(plain)
        images = images.to(folded.conv1.weight.dtype)
        answers, expected = folded(images)[-1], plain(images)[-1]
        torch.testing.assert_close(answers, expected, rtol=1e-3, atol=1e-3 * float(expected.detach().abs().max()))
        assert answers.dtype == torch.float64 or not torch.allclose(answers, before, rtol=1e-2)


class Branching(nn.Module):
    """The convolution's output goes past the norm, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), FrozenBatchNorm2d(4)
        self.norm.running_mean.fill_(1.0)

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.conv(x)
        return [y, self.norm(y)]


class Twice(Branching):
    """One convolution, called twice."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.norm(self.conv(x)), self.conv(x)]


@pytest.mark.parametrize("kind", [Branching, Twice])
def test_what_cannot_be_folded_is_left_alone(kind: type[Branching]) -> None:
    body = kind()
    images = torch.rand(1, 3, 64, 64)
    before = [x.clone() for x in body(images)]
    assert fold_frozen_norms(body) == 0
    assert type(body.conv) is nn.Conv2d and type(body.norm) is FrozenBatchNorm2d
    assert all(torch.equal(a, b) for a, b in zip(body(images), before, strict=True))
