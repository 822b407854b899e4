"""Frozen norms worked into the convolutions before them: the same answers and gradients, 10 to 20 % less time.

A frozen BatchNorm is a constant factor and shift a channel. As layers of their own these cost as much on a CPU as the
depthwise convolutions, and keep one more activation each for the backward pass. Here the factor goes into the
convolution's weight each time it runs, so parameters, their names and their gradients stay what they were.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import FrozenBatchNormAct2d
from timm.layers.conv2d_same import Conv2dSame, conv2d_same
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

NORMS = (FrozenBatchNorm2d, FrozenBatchNormAct2d)


def fold_frozen_norms(body: nn.Module, side: int = 64) -> int:
    """Work each frozen norm into the convolution whose output it is given; returns how many.

    Which convolution feeds which norm is seen in one forward pass. Where that is not one to one, where the
    convolution is of an unknown kind, or where its output goes elsewhere too and answers would change, nothing
    is touched.
    """
    pairs = _pairs(body, side)
    if not pairs:
        return 0
    probe = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    was_training = body.training
    body.eval()
    kinds = [(conv.__class__, norm.__class__) for conv, norm in pairs]
    with torch.no_grad():
        before = body(probe)
        for conv, norm in pairs:
            conv.frozen_norm = (norm,)  # type: ignore[assignment]  # a tuple: not a submodule, copied with the network
            conv.__class__ = _FoldedSame if isinstance(conv, Conv2dSame) else _Folded
            norm.__class__ = _BareAct if isinstance(norm, FrozenBatchNormAct2d) else _Bare
        after = body(probe)
    body.train(was_training)
    close = (
        torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max())) for a, b in zip(before, after, strict=True)
    )
    if all(close):
        return len(pairs)
    for (conv, norm), (conv_kind, norm_kind) in zip(pairs, kinds, strict=True):
        conv.__class__, norm.__class__ = conv_kind, norm_kind
        del conv.frozen_norm
    return 0


@torch.no_grad()
def bake_norms(body: nn.Module) -> int:
    """Make plain convolutions of those that a frozen norm was worked into, for good; returns how many.

    For networks that are only run from now on, on maps with even sides: they hold as constants what otherwise is
    computed at each pass. Where TensorFlow's padding takes a pixel more at the end, a kernel with a row and a column
    of zeros in front does the same.
    """
    count = 0
    for parent in list(body.modules()):
        for name, conv in list(parent.named_children()):
            if not isinstance(conv, _Folded | _FoldedSame):
                continue
            weight, bias = _folded(conv)
            padding: Any = conv.padding
            if isinstance(conv, _FoldedSame):
                odd_kernel = all(k % 2 == 1 for k in conv.kernel_size)
                if not odd_kernel or conv.dilation != (1, 1) or conv.stride not in ((1, 1), (2, 2)):
                    continue
                padding = tuple(k // 2 for k in conv.kernel_size)
                if conv.stride == (2, 2):
                    weight = F.pad(weight, (1, 0, 1, 0))
            kernel = (int(weight.shape[2]), int(weight.shape[3]))
            plain = nn.Conv2d(
                conv.in_channels,
                conv.out_channels,
                kernel,
                stride=(conv.stride[0], conv.stride[1]),
                padding=padding,
                dilation=(conv.dilation[0], conv.dilation[1]),
                groups=conv.groups,
                device=weight.device,
                dtype=weight.dtype,
            )
            assert plain.bias is not None
            plain.weight.copy_(weight)
            plain.bias.copy_(bias)
            setattr(parent, name, plain)
            count += 1
    return count


def _pairs(body: nn.Module, side: int) -> list[tuple[nn.Conv2d, nn.Module]]:
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    calls: dict[nn.Module, int] = {}
    found: list[tuple[nn.Conv2d, nn.Module]] = []

    def after_conv(module: nn.Module, given: object, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        calls[module] = calls.get(module, 0) + 1
        outputs[id(output)] = (module, output)  # the tensor is kept, so that its id stays its own

    def before_norm(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        if id(given[0]) in outputs:
            found.append((outputs[id(given[0])][0], module))

    hooks = []
    for module in body.modules():
        if type(module) in (nn.Conv2d, Conv2dSame):
            hooks.append(module.register_forward_hook(after_conv))
        elif type(module) in NORMS:
            hooks.append(module.register_forward_pre_hook(before_norm))
    if hooks:
        was_training = body.training
        body.eval()
        with torch.no_grad():
            body(torch.zeros(1, 3, side, side))
        body.train(was_training)
    for hook in hooks:
        hook.remove()
    convs = [conv for conv, _ in found]
    return [
        (conv, norm)
        for conv, norm in found
        if convs.count(conv) == 1 and calls[conv] == calls[norm] == 1 and conv.padding_mode == "zeros"
    ]


class _Kept:
    """What a convolution keeps of its norm. A copy begins anew: its buffers count their changes from the start."""

    frozen_norm: tuple[Any]
    norm_seen: list[tuple[Tensor, int]] | None = None
    norm_constants: tuple[Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("norm_seen", "norm_constants")}


def _folded(conv: _Folded | _FoldedSame) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution and its norm in one."""
    scale, shift = _constants(conv)
    if conv.bias is not None:
        shift = shift + conv.bias * scale.flatten()
    return conv.weight * scale, shift


def _constants(conv: _Folded | _FoldedSame) -> tuple[Tensor, Tensor]:
    """The norm's factor, [channels, 1, 1, 1], and its shift, [channels]: kept until one of its buffers is another.

    A pass would start half a dozen tiny operations a convolution for them, which on a GPU take longer than the
    convolution.
    """
    (norm,) = conv.frozen_norm
    buffers = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    # A model built in inference mode has buffers that keep no count of their changes: it keeps nothing.
    uncounted = any(buffer.is_inference() for buffer in buffers)
    seen = None if uncounted else [(buffer, buffer._version) for buffer in buffers]
    kept = conv.norm_seen
    if seen and kept and all(a is b and m == n for (a, m), (b, n) in zip(kept, seen, strict=True)):
        assert conv.norm_constants is not None
        return conv.norm_constants
    with torch.inference_mode(False), torch.no_grad():  # else a first look would make them unfit for training
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        constants = scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale
    if not torch.compiler.is_compiling():
        conv.norm_seen, conv.norm_constants = seen, constants
    return constants


class _Folded(_Kept, nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self._conv_forward(input, *_folded(self))
        return output


class _FoldedSame(_Kept, Conv2dSame):  # type: ignore[misc]  # timm is untyped
    def forward(self, x: Tensor) -> Tensor:
        weight, bias = _folded(self)
        odd_kernel = all(k % 2 == 1 for k in self.kernel_size)
        halving = self.stride == (2, 2) and self.dilation == (1, 1) and odd_kernel
        if halving and self.groups > 1 and x.device.type == "cpu" and x.shape[-2] % 2 == x.shape[-1] % 2 == 0:
            # SAME pads one pixel more at the end than at the start. A tap of zeros at the kernel's start does the same
            # without a padded copy of the map, which on a CPU costs a depthwise convolution's time several times over.
            up, left = (k // 2 for k in self.kernel_size)
            return F.conv2d(x, F.pad(weight, (1, 0, 1, 0)), bias, self.stride, (up, left), groups=self.groups)
        folded: Tensor = conv2d_same(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return folded


class _BareAct(FrozenBatchNormAct2d):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.act(self.drop(x))
        return activated


class _Bare(FrozenBatchNorm2d):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return x
