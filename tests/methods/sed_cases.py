"""Batches, and a detector that is exactly scale-equivalent, for the tests of a SED step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sedet.config import SEDConfig
from sedet.data.batch import Batch, Targets, pixels
from sedet.detectors.fcos import grid_points
from sedet.detectors.regions import FULL_LEVELS, HALF_LEVELS, Detections, Regions
from sedet.methods.join import join_sizes
from sedet.methods.method import Progress
from sedet.methods.sed import PARTS, SED
from tests import tiny

BURN_IN, AFTER = Progress(3, 5, 10), Progress(100, 5, 10)


def every_part(**changes: Any) -> SEDConfig:
    """SED with every loss term at weight 1, whatever the defaults are, so that each is tested."""
    return replace(SEDConfig(class_weight=1.0, box_weight=1.0, quality_weight=1.0), **changes)


OFF = replace(SEDConfig(), distill=False, scale=False, reweight="none")
KEYS = [f"{view}_{part}" for view in ("sup", "distill", "scale") for part in PARTS]
SIZES = [(64, 48), (40, 64)]


def labeled(count: int = 2) -> Batch:
    rows = [tiny.targets((0, 4, 4, 40, 36), (2, 20, 8, 60, 40)), tiny.targets((1, 2, 10, 30, 50))]
    return tiny.batch((SIZES * count)[:count], seed=1, labels=(rows * count)[:count])


def unlabeled(erased: list[list[list[float]]] | None = None) -> Batch:
    return tiny.batch(SIZES, seed=2, erased=erased or [[[8, 8, 40, 30]], []])


def asked(teacher: Any, batch: Batch) -> Regions:
    """What the teacher answers on the weak view, at one size or at three."""
    assert batch.weak is not None
    full: Regions = teacher(pixels(batch.weak), batch.content)
    if batch.weak_double is None:
        return full
    assert batch.weak_half is not None
    double = teacher(pixels(batch.weak_double), 2 * batch.content)
    return join_sizes(full, double, teacher(pixels(batch.weak_half), batch.content // 2, HALF_LEVELS))


class Cells(nn.Module):
    """A detector that is exactly scale-equivalent: each region answers with the mean colour of its own cell."""

    def __init__(self, seed: int = 0, quality: bool = True) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.mix = nn.Parameter(torch.randn(3, 8, generator=draw, dtype=torch.float64))
        self.quality = quality
        self.calls: list[tuple[tuple[int, ...], tuple[int, ...], bool]] = []
        self.disturb: Any = None

    def forward(self, images: Tensor, content: Tensor, levels: Sequence[int] = FULL_LEVELS) -> Regions:
        self.calls.append((tuple(images.shape), tuple(levels), torch.is_grad_enabled()))
        rows, points, strides = [], [], []
        for level in levels:
            cells = F.avg_pool2d(images.double(), 2**level, ceil_mode=True, count_include_pad=False)
            rows.append(cells.flatten(2).transpose(1, 2))
            grid = grid_points(*cells.shape[-2:], float(2**level), images.device)
            points.append(grid)
            strides.append(torch.full((len(grid),), float(2**level)))
        answers = torch.cat(rows, dim=1) @ self.mix * 4
        centers, sizes = torch.cat(points).double(), torch.cat(strides).double()
        sides = F.softplus(answers[..., 3:7]) * sizes[:, None]
        regions = Regions(
            answers[..., :3],
            torch.cat([centers - sides[..., :2], centers + sides[..., 2:]], dim=-1),
            answers[..., 7] if self.quality else None,
            centers,
            sizes,
            (centers[None] < content[:, None]).all(dim=-1),
        )
        return regions if self.disturb is None else self.disturb(regions, levels)

    def loss(self, regions: Regions, targets: Sequence[Targets]) -> dict[str, Tensor]:
        wanted = regions.boxes.new_tensor([float(t.boxes.sum()) for t in targets])
        term = (regions.boxes.mean(dim=(1, 2)) - wanted).square().mean()
        return {"class": regions.logits.square().mean(), "box": term, "quality": regions.logits.mean() * 0}

    def detect(self, regions: Regions, content: Tensor, score_threshold: float) -> list[Detections]:
        return [
            Detections(boxes[:2].float(), torch.tensor([0.9, 0.8]), torch.tensor([0, 1])) for boxes in regions.boxes
        ]


def equal_views(erased: list[list[list[float]]] | None = None) -> Batch:
    """Blocks of 2x2 equal pixels, strong as weak, so that the half view's cells have exactly the same means."""
    batch = tiny.batch([(64, 48), (40, 64)], seed=4, erased=erased or [[[0, 0, 20, 20]], []])
    weak = batch.weak
    assert weak is not None
    weak = weak[..., ::2, ::2].repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    half = weak[..., ::2, ::2]
    double = weak.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    return replace(batch, weak=weak, strong=weak, half=half, weak_half=half, weak_double=double)


def step(
    config: SEDConfig, student: Any, teacher: Any, more: Batch | None, where: Progress = AFTER, **options: Any
) -> dict[str, Tensor]:
    given = options.pop("labeled", None) or labeled()
    return SED(config, **options).losses(student, teacher, given, more, where)
