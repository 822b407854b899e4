"""The teacher's answers at half, full and double size, joined: against a loop over regions, and on cases by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sedet.data.views import canvas_side
from sedet.detectors.fcos import grid_points
from sedet.detectors.regions import FULL_LEVELS, HALF_LEVELS, Regions
from sedet.methods.join import join_sizes, paired_iou


def answers(
    side: int,
    batch: int,
    classes: int,
    seed: int,
    quality: bool = True,
    levels: tuple[int, ...] = FULL_LEVELS,
    per_cell: int = 1,
) -> Regions:
    """Random answers on the pyramid of a square canvas."""
    generator = torch.Generator().manual_seed(seed)
    points, strides = [], []
    for level in levels:
        cells = math.ceil(side / 2**level)
        grid = grid_points(cells, cells, float(2**level), torch.device("cpu"))
        points.append(grid.repeat_interleave(per_cell, dim=0))
        strides.append(torch.full((len(points[-1]),), float(2**level)))
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
        per_cell=per_cell,
    )


def three(side: int, classes: int, quality: bool = True, per_cell: int = 1) -> tuple[Regions, Regions, Regions]:
    """Full, double and half, of two images."""
    return (
        answers(side, 2, classes, 0, quality, per_cell=per_cell),
        answers(2 * side, 2, classes, 1, quality, per_cell=per_cell),
        answers(side // 2, 2, classes, 2, quality, HALF_LEVELS, per_cell),
    )


def partners(full: Regions, double: Regions, half: Regions) -> list[tuple[Regions, float, list[int]]]:
    """For each full-view region the view that answers for it too, its scale, and which of its regions may do so.

    Found by where the regions lie and how large their cells are, not by index.
    """
    lowest = float(full.strides.min())
    fine = [(x / 2, y / 2, s / 2) for (x, y), s in zip(double.points.tolist(), double.strides.tolist(), strict=True)]
    coarse = [(x * 2, y * 2, s * 2) for (x, y), s in zip(half.points.tolist(), half.strides.tolist(), strict=True)]
    found = []
    kinds = full.per_cell
    for region, ((x, y), stride) in enumerate(zip(full.points.tolist(), full.strides.tolist(), strict=True)):
        if stride == lowest:
            inside = [
                i
                for i, (u, v, s) in enumerate(fine)
                if s <= stride and abs(u - x) < stride / 2 and abs(v - y) < stride / 2 and (i - region) % kinds == 0
            ]
            found.append((double, 2.0, inside))
        else:
            same = [i for i, cell in enumerate(coarse) if cell == (x, y, stride) and (i - region) % kinds == 0]
            found.append((half, 0.5, same))
    return found


def sigmoid(value: Tensor) -> float:
    return 1 / (1 + math.exp(-float(value)))


def iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = width * height if width > 0 and height > 0 else 0.0
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def naive(full: Regions, double: Regions, half: Regions) -> tuple[Tensor, Tensor, Tensor | None]:
    logits, boxes = full.logits.clone().double(), full.boxes.clone().double()
    quality = None if full.quality is None else full.quality.clone().double()
    places = partners(full, double, half)
    for image in range(len(logits)):
        for region, (view, scale, candidates) in enumerate(places):
            seen = [r for r in candidates if view is half or bool(view.valid[image, r])]  # padding has no say
            if not seen:  # where the full view's region lies in padding, too: of no account
                logits[image, region] = boxes[image, region] = torch.nan
                continue
            best = max(seen, key=lambda r: float(view.logits[image, r].max()))
            mine = [sigmoid(z) for z in full.logits[image, region]]
            theirs = [sigmoid(z) for z in view.logits[image, best]]
            wanted = view.boxes[image, best].double() / scale
            share = max(theirs) / (max(mine) + max(theirs))
            if iou(full.boxes[image, region].tolist(), wanted.tolist()) <= 0.6:
                share = 1.0 if max(theirs) > 1.5 * max(mine) else 0.0
            for c, (a, b) in enumerate(zip(mine, theirs, strict=True)):
                p = (a + b) / 2
                logits[image, region, c] = math.log(p / (1 - p))
            boxes[image, region] = (1 - share) * full.boxes[image, region].double() + share * wanted
            if quality is not None and full.quality is not None and view.quality is not None:
                mixed = (1 - share) * float(full.quality[image, region]) + share * float(view.quality[image, best])
                quality[image, region] = mixed
    return logits, boxes, quality


@pytest.mark.parametrize(
    ("side", "classes", "quality", "per_cell"),
    [(64, 1, True, 1), (128, 3, True, 1), (192, 2, False, 1), (64, 2, False, 3)],
)
def test_against_a_loop(side: int, classes: int, quality: bool, per_cell: int) -> None:
    assert canvas_side(side) == side
    full, double, half = three(side, classes, quality, per_cell)
    joined = join_sizes(full, double, half)
    logits, boxes, wanted_quality = naive(full, double, half)
    told = ~logits.isnan().any(dim=-1)
    assert told.float().mean() > 0.99
    torch.testing.assert_close(joined.logits.double()[told], logits[told], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(joined.boxes.double()[told], boxes[told], atol=1e-3, rtol=1e-5)
    if quality:
        assert joined.quality is not None and wanted_quality is not None
        torch.testing.assert_close(joined.quality.double()[told], wanted_quality[told], atol=1e-4, rtol=1e-4)
    else:
        assert joined.quality is None
    assert torch.equal(joined.valid, full.valid) and torch.equal(joined.points, full.points)


def test_some_images_are_seen_at_double_size() -> None:
    """These as if all were; of the others the lowest level stays, and all else is joined with the half view."""
    full, double, half = three(64, 2)
    whole = join_sizes(full, double, half)
    part = join_sizes(full, double.images(slice(1, None)), half, doubled=torch.tensor([1]))
    none = join_sizes(full, None, half)
    small = full.strides == 8
    for joined, seen in ((part, [False, True]), (none, [False, False])):
        for image, twice in enumerate(seen):
            for key in ("logits", "boxes", "quality"):
                got, alone, other = (getattr(r, key)[image] for r in (joined, full, whole))
                torch.testing.assert_close(got[~small], other[~small])
                torch.testing.assert_close(got[small], (other if twice else alone)[small], atol=1e-4, rtol=1e-4)


def test_who_answers_for_whom() -> None:
    full, double, half = three(128, 1)
    counts: dict[float, set[tuple[float, int]]] = {}
    for stride, (_, scale, found) in zip(full.strides.tolist(), partners(full, double, half), strict=True):
        counts.setdefault(stride, set()).add((scale, len(found)))
    assert counts == {8: {(2.0, 5)}, **{s: {(0.5, 1)} for s in (16, 32, 64, 128)}}


def test_an_equal_answer_at_all_sizes_changes_nothing() -> None:
    full, double, half = three(64, 2)
    double.logits.fill_(-20.0)
    double.valid.fill_(True)
    for region, (view, scale, found) in enumerate(partners(full, double, half)):
        for other in found:
            view.logits[:, other] = full.logits[:, region]
            view.boxes[:, other] = scale * full.boxes[:, region]
    joined = join_sizes(full, double, half)
    torch.testing.assert_close(joined.logits, full.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(joined.boxes, full.boxes)


def test_a_small_object_is_taken_from_the_finer_cell() -> None:
    full, double, half = three(64, 1)
    for view in (full, double, half):
        view.logits.fill_(-4.0)
        view.valid.fill_(True)
    cell = 19  # of 16 x 16 cells of 8 px: column 3, row 1, so column 1, row 0 of the full view's 8 x 8
    double.logits[0, cell] = 3.0
    double.boxes[0, cell] = torch.tensor([20.0, 4.0, 36.0, 20.0])
    full.boxes[0, 1] = torch.tensor([0.0, 0.0, 20.0, 20.0])
    joined = join_sizes(full, double, half)
    changed = (joined.logits[0, :, 0] > -3.5).nonzero().flatten().tolist()
    assert changed == [1]
    sure, unsure = 1 / (1 + math.exp(-3)), 1 / (1 + math.exp(4))
    assert float(joined.logits[0, 1, 0].sigmoid()) == pytest.approx((sure + unsure) / 2, abs=1e-5)
    assert joined.boxes[0, 1].tolist() == pytest.approx([10.0, 2.0, 18.0, 10.0], abs=1e-4)  # no mean with the other


def test_a_large_object_is_judged_at_half_size_too() -> None:
    full, double, half = three(64, 1)
    for view in (full, double, half):
        view.logits.fill_(-4.0)
    region = int((full.strides == 16).nonzero()[0])
    full.logits[0, region] = half.logits[0, region] = 1.0  # the same index: the grids pair
    full.boxes[0, region] = torch.tensor([0.0, 0.0, 40.0, 40.0])
    half.boxes[0, region] = torch.tensor([2.0, 2.0, 22.0, 22.0])
    double.logits[0, (double.strides == 32)] = 5.0  # not asked
    joined = join_sizes(full, double, half)
    # 36 of 40 px are shared: an IoU of 1296 / 1904, above 0.6
    assert joined.boxes[0, region].tolist() == pytest.approx([2.0, 2.0, 42.0, 42.0], abs=1e-4)
    assert float(joined.logits[0, region, 0]) == pytest.approx(1.0, abs=1e-5)

    half.boxes[0, region] = torch.tensor([5.0, 5.0, 25.0, 25.0])  # 30 of 40 px: 900 / 2300, so they disagree
    assert join_sizes(full, double, half).boxes[0, region].tolist() == [0.0, 0.0, 40.0, 40.0]
    half.logits[0, region] = 2.0  # 0.88 against 0.73: surer, but not clearly
    assert join_sizes(full, double, half).boxes[0, region].tolist() == [0.0, 0.0, 40.0, 40.0]
    full.logits[0, region] = 0.0  # 0.88 against 0.5
    assert join_sizes(full, double, half).boxes[0, region].tolist() == [10.0, 10.0, 50.0, 50.0]


@pytest.mark.parametrize(("classes", "boxes"), [(0.0, 0.0), (0.25, 0.5), (1.0, 1.0)])
def test_shares_by_hand(classes: float, boxes: float) -> None:
    full, double, half = three(64, 1)
    for view in (full, double, half):
        view.logits.fill_(-4.0)
    region, other = (int(i) for i in (full.strides == 16).nonzero()[:2])
    full.logits[0, region], half.logits[0, region] = 1.0, 2.0
    full.boxes[0, region] = torch.tensor([0.0, 0.0, 40.0, 40.0])
    half.boxes[0, region] = torch.tensor([1.0, 1.0, 21.0, 21.0])  # agrees: moved by 2 of 40 px
    half.logits[0, other] = 0.0
    full.boxes[0, other] = torch.tensor([0.0, 0.0, 40.0, 40.0])
    half.boxes[0, other] = torch.tensor([5.0, 5.0, 25.0, 25.0])  # disagrees, and is clearly surer: taken whole
    joined = join_sizes(full, double, half, classes, boxes)
    first, second = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))
    score = float(joined.logits[0, region, 0].sigmoid())
    assert score == pytest.approx((1 - classes) * first + classes * second, abs=1e-5)
    moved = 2.0 * boxes * second / (first + second)
    assert joined.boxes[0, region].tolist() == pytest.approx([moved, moved, 40 + moved, 40 + moved], abs=1e-4)
    assert joined.boxes[0, other].tolist() == pytest.approx([10.0, 10.0, 50.0, 50.0], abs=1e-4)


def test_iou_pair_by_pair() -> None:
    a = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 4.0, 4.0]])
    b = torch.tensor([[5.0, 0.0, 15.0, 10.0], [20.0, 20.0, 30.0, 30.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 4.0, 4.0]])
    torch.testing.assert_close(paired_iou(a, b), torch.tensor([50 / 150, 0.0, 0.0, 1.0]))
