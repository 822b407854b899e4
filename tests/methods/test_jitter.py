"""Jitter uncertainty: by hand, against a loop, and where there is nothing to jitter."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor

from sedet.data.batch import pixels
from sedet.detectors.faster_rcnn import FasterRCNN, boxes_of
from sedet.detectors.regions import Detections, Regions
from sedet.methods.jitter import jitter_uncertainty, jittered, relative_spread
from tests import tiny
from tests.detectors.test_faster_rcnn import network


def answers(classes: int = 3, seed: int = 1) -> tuple[FasterRCNN, Regions]:
    model = network(classes, seed=seed).eval()
    with torch.no_grad():
        model.box_predictor.bbox_pred.weight.mul_(20)  # boxes that move
    batch = tiny.batch([(64, 48), (40, 64)], seed=seed)
    with torch.no_grad():
        return model, model(pixels(batch.strong), batch.content)


def detections(*rows: tuple[float, float, float, float], labels: list[int] | None = None) -> Detections:
    boxes = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
    return Detections(boxes, torch.ones(len(rows)), torch.tensor(labels or [0] * len(rows), dtype=torch.int64))


def test_the_spread_by_hand() -> None:
    """10 x 30: half of width + height is 20. x1 of two copies 2 apart (deviation sqrt 2), y2 4 apart (2 sqrt 2)."""
    box = torch.tensor([[5.0, 5.0, 15.0, 35.0]])
    refined = torch.tensor([[[4.0, 5.0, 15.0, 33.0], [6.0, 5.0, 15.0, 37.0]]])
    assert float(relative_spread(refined, box)) == pytest.approx(3 * math.sqrt(2) / 4 / 20, rel=1e-6)
    assert relative_spread(refined[:, :1], box).tolist() == [0.0]  # a single copy does not spread
    assert relative_spread(torch.zeros(0, 10, 4), torch.zeros(0, 4)).shape == (0,)
    flat = relative_spread(refined, torch.full((1, 4), 3.0))
    assert bool(flat.isfinite().all()) and float(flat) > 1  # a box without an area is not sure


def test_copies_are_moved_by_the_sides() -> None:
    boxes = torch.tensor([[100.0, 200.0, 110.0, 240.0], [0.0, 0.0, 100.0, 2.0]])
    torch.manual_seed(0)
    copies = jittered(boxes, 20_000, 0.06)
    assert copies.shape == (2, 20_000, 4)
    sides = torch.tensor([[10.0, 40.0, 10.0, 40.0], [100.0, 2.0, 100.0, 2.0]])
    torch.testing.assert_close(copies.std(dim=1), 0.06 * sides, rtol=0.03, atol=0)
    torch.testing.assert_close(copies.mean(dim=1), boxes, rtol=0, atol=0.2)
    first = copies[0]
    assert abs(float(torch.corrcoef(first.T)[0, 2])) < 0.03  # each coordinate is drawn by itself
    torch.manual_seed(0)
    assert torch.equal(jittered(boxes, 20_000, 0.06), copies)
    assert torch.equal(jittered(boxes, 3, 0.0), boxes[:, None].expand(-1, 3, -1))
    wild = jittered(boxes, 1000, 3.0)
    assert bool((wild[..., 2:] >= wild[..., :2]).all())


def naive(model: FasterRCNN, regions: Regions, found: list[Detections], count: int, deviation: float) -> list[Tensor]:
    """One box and one copy at a time."""
    assert regions.content is not None
    wanted = []
    for i, one in enumerate(found):
        shifts = torch.randn(len(one), count, 4)
        values = []
        for k in range(len(one)):
            x1, y1, x2, y2 = one.boxes[k].tolist()
            steps = [deviation * (x2 - x1), deviation * (y2 - y1)] * 2
            moved: list[list[float]] = []
            for j in range(count):
                copy = [v + s * float(e) for v, s, e in zip((x1, y1, x2, y2), steps, shifts[k, j], strict=True)]
                rois = torch.tensor(copy).view(1, 1, 4)
                seen = model.look(regions.images(slice(i, i + 1)), rois, torch.ones(1, 1, dtype=torch.bool))
                box = boxes_of(seen, one.labels[k].view(1, 1)).boxes[0, 0].tolist()
                limits = regions.content[i].tolist() * 2
                moved.append([min(max(v, 0.0), float(limit)) for v, limit in zip(box, limits, strict=True)])
            spread = [statistics.stdev(row[c] for row in moved) for c in range(4)]
            values.append(sum(spread) / 4 / (((x2 - x1) + (y2 - y1)) / 2))
        wanted.append(torch.tensor(values))
    return wanted


@pytest.mark.parametrize(
    "rows",
    [
        [((4, 4, 40, 36), (10, 2, 30, 47)), ((0, 0, 40, 64),)],
        [(), ((3, 5, 9, 60), (20, 20, 40, 40), (1, 1, 4, 4))],
        [((8, 8, 24, 24),), ()],
        [(), ()],
    ],
)
@pytest.mark.parametrize("count", [2, 10])
def test_against_a_loop(rows: list[tuple[tuple[float, float, float, float], ...]], count: int) -> None:
    model, regions = answers()
    found = [detections(*row, labels=[(2 + k) % 3 for k in range(len(row))]) for row in rows]
    torch.manual_seed(5)
    got = jitter_uncertainty(model, regions, found, count, 0.1)
    torch.manual_seed(5)
    with torch.no_grad():
        wanted = naive(model, regions, found, count, 0.1)
    assert [len(values) for values in got] == [len(row) for row in rows]
    for mine, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-6)
        assert not mine.requires_grad
    assert not any(rows) or bool((torch.cat(got) > 0).any())


def test_degenerate_boxes_and_draws_are_finite() -> None:
    model, regions = answers(classes=1)
    found = [detections((5, 5, 5, 5), (0, 0, 64, 48)), detections((39, 63, 40, 64))]
    for count, deviation in ((1, 0.06), (10, 0.0), (10, 5.0)):
        for values in jitter_uncertainty(model, regions, found, count, deviation):
            assert bool(values.isfinite().all()) and bool((values >= 0).all())
    assert all(bool((v < 1e-4).all()) for v in jitter_uncertainty(model, regions, [found[1]] * 2, 10, 0.0))


def test_a_second_stage_that_always_finds_the_box_is_certain() -> None:
    """Deltas of zero leave the copies where they are: the spread is the jitter's; shrunk copies spread less."""
    model, regions = answers()
    with torch.no_grad():
        model.box_predictor.bbox_pred.weight.zero_()
        model.box_predictor.bbox_pred.bias.zero_()
    found = [detections((20, 16, 40, 30)), detections((10, 20, 30, 40))]
    torch.manual_seed(0)
    square = jitter_uncertainty(model, regions, found, 5000, 0.06)
    assert float(square[1]) == pytest.approx(0.06, rel=0.05)
    assert float(square[0]) == pytest.approx(0.06, rel=0.05)
