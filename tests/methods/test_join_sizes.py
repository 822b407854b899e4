"""The teacher's answers on full and double size, joined: against a loop over regions, and on cases by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sedet.data.views import canvas_side
from sedet.detectors.fcos import grid_points
from sedet.detectors.regions import FULL_LEVELS, Regions
from sedet.methods.sed import join_sizes


def answers(side: int, batch: int, classes: int, seed: int, quality: bool = True) -> Regions:
    """Random answers on the pyramid P3..P7 of a square canvas."""
    generator = torch.Generator().manual_seed(seed)
    points, strides = [], []
    for level in FULL_LEVELS:
        cells = math.ceil(side / 2**level)
        points.append(grid_points(cells, cells, float(2**level), torch.device("cpu")))
        strides.append(torch.full((cells * cells,), float(2**level)))
    count = sum(map(len, points))
    corner = torch.rand(batch, count, 2, generator=generator) * side
    size = torch.rand(batch, count, 2, generator=generator) * side
    return Regions(
        logits=torch.randn(batch, count, classes, generator=generator) * 2,
        boxes=torch.cat([corner, corner + size], dim=-1),
        quality=torch.randn(batch, count, generator=generator) if quality else None,
        points=torch.cat(points),
        strides=torch.cat(strides),
        valid=torch.rand(batch, count, generator=generator) > 0.2,
    )


def partners(full: Regions, double: Regions) -> list[list[int]]:
    """For each full-view region the double view's regions that answer for it, found by where they lie."""
    lowest = float(full.strides.min())
    others = [(x / 2, y / 2, s) for (x, y), s in zip(double.points.tolist(), double.strides.tolist(), strict=True)]
    found = []
    for (x, y), stride in zip(full.points.tolist(), full.strides.tolist(), strict=True):
        found.append(
            [
                i
                for i, (u, v, s) in enumerate(others)
                if (s == 2 * stride and (u, v) == (x, y))
                or (stride == lowest == s and abs(u - x) < stride / 2 and abs(v - y) < stride / 2)
            ]
        )
    return found


def naive(full: Regions, double: Regions) -> tuple[Tensor, Tensor, Tensor | None]:
    logits, boxes = full.logits.clone().double(), full.boxes.clone().double()
    quality = None if full.quality is None else full.quality.clone().double()
    places = partners(full, double)
    for image in range(len(logits)):
        for region, candidates in enumerate(places):
            if not candidates:
                continue
            best = max(candidates, key=lambda r: float(double.logits[image, r].max()))
            for c in range(logits.shape[-1]):
                a, b = (
                    1 / (1 + math.exp(-float(x[image, r, c])))
                    for x, r in ((full.logits, region), (double.logits, best))
                )
                p = (a + b) / 2
                logits[image, region, c] = math.log(p / (1 - p))
            if double.logits[image, best].max() > full.logits[image, region].max():
                boxes[image, region] = double.boxes[image, best].double() / 2
                if quality is not None and double.quality is not None:
                    quality[image, region] = double.quality[image, best].double()
    return logits, boxes, quality


@pytest.mark.parametrize(("side", "classes", "quality"), [(64, 1, True), (128, 3, True), (192, 2, False)])
def test_against_a_loop(side: int, classes: int, quality: bool) -> None:
    assert canvas_side(side) == side
    full, double = answers(side, 2, classes, 0, quality), answers(2 * side, 2, classes, 1, quality)
    joined = join_sizes(full, double)
    logits, boxes, wanted_quality = naive(full, double)
    torch.testing.assert_close(joined.logits.double(), logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(joined.boxes.double(), boxes)
    if quality:
        assert joined.quality is not None and wanted_quality is not None
        torch.testing.assert_close(joined.quality.double(), wanted_quality)
    else:
        assert joined.quality is None
    assert torch.equal(joined.valid, full.valid) and torch.equal(joined.points, full.points)


def test_every_level_but_the_highest_has_partners() -> None:
    full, double = answers(128, 1, 1, 0), answers(256, 1, 1, 1)
    places, strides = partners(full, double), full.strides.tolist()
    counts = {s: {len(p) for p, stride in zip(places, strides, strict=True) if stride == s} for s in (8, 16, 64, 128)}
    assert counts == {8: {5}, 16: {1}, 64: {1}, 128: {0}}


def test_an_equal_answer_at_both_sizes_changes_nothing() -> None:
    full = answers(64, 1, 2, 3)
    double = answers(128, 1, 2, 4)
    double.logits.fill_(-20.0)
    for region, found in enumerate(partners(full, double)):
        for other in found:
            double.logits[0, other] = full.logits[0, region]
            double.boxes[0, other] = 2 * full.boxes[0, region]
    joined = join_sizes(full, double)
    torch.testing.assert_close(joined.logits, full.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(joined.boxes, full.boxes)


def test_a_small_object_is_taken_from_the_finer_cell() -> None:
    full, double = answers(64, 1, 1, 0), answers(128, 1, 1, 1)
    full.logits.fill_(-4.0)
    double.logits.fill_(-4.0)
    cell = 19  # of 16 x 16 cells of 8 px: column 3, row 1, so column 1, row 0 of the full view's 8 x 8
    double.logits[0, cell] = 3.0
    double.boxes[0, cell] = torch.tensor([20.0, 4.0, 36.0, 20.0])
    joined = join_sizes(full, double)
    changed = (joined.logits[0, :, 0] > -3.5).nonzero().flatten().tolist()
    assert changed == [1]
    assert joined.boxes[0, 1].tolist() == [10.0, 2.0, 18.0, 10.0]
    expected = (1 / (1 + math.exp(-3)) + 1 / (1 + math.exp(4))) / 2
    assert float(joined.logits[0, 1, 0].sigmoid()) == pytest.approx(expected, abs=1e-5)
