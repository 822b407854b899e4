"""The geometry of MixPL: what is erased, mixed and set as a mosaic, and that boxes land where the pixels land."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from torch import Tensor

from sedet.data.batch import Targets
from sedet.data.views import erased_share
from sedet.methods.mixing import Picture, as_float, draw_mosaic, draw_patches, mixup, mosaic, placed, union_share
from tests import tiny

Box = tuple[float, float, float, float]
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))


def painted(
    rows: list[Box], size: tuple[int, int] = (64, 48), colour: int = 0, side: int = 64, ignore: list[Box] | None = None
) -> Picture:
    """A black picture with a rectangle of one colour a box; labels are the colour's number."""
    image = torch.zeros(3, side, side, dtype=torch.uint8)
    for x1, y1, x2, y2 in rows:
        image[:, int(y1) : int(y2), int(x1) : int(x2)] = torch.tensor(COLOURS[colour], dtype=torch.uint8)[:, None, None]
    targets = tiny.targets(*((colour, *row) for row in rows), ignore=[list(b) for b in ignore or []])
    return Picture(image, size, targets)


def lit(image: Tensor, colour: int, least: float = 0.5) -> Tensor:
    """float [4]: the box round all pixels of a colour."""
    wanted = torch.tensor(COLOURS[colour]) / 255.0
    here = ((image - wanted[:, None, None]).abs() < 1 - least).all(dim=0)
    rows, columns = here.any(dim=1).nonzero().flatten(), here.any(dim=0).nonzero().flatten()
    return torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=torch.float32)


# --- erasing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 48), (640, 300), (9, 30), (2, 2)])
def test_patches_are_small_and_inside(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    counts, widest, limit = set(), 0, torch.tensor([max(1.0, 0.1 * s) for s in size])
    for _ in range(300):
        patches = draw_patches(*size)
        counts.add(len(patches))
        sides = patches[:, 2:] - patches[:, :2]
        assert (sides >= 1).all() and (sides <= limit).all()
        assert (patches[:, :2] >= 0).all() and (patches[:, 2:] <= torch.tensor(size)).all()
        widest = max(widest, int(sides[:, 0].max()))
    assert counts == set(range(1, 21)) and widest == int(limit[0])


def naive_share(box: list[float], rectangles: list[list[float]], fine: int = 4) -> float:
    """By counting the cells of a fine grid, on which all corners lie."""
    x1, y1, x2, y2 = (round(v * fine) for v in box)
    cells = list(itertools.product(range(x1, x2), range(y1, y2)))
    covered = 0
    for x, y in cells:
        middle = ((x + 0.5) / fine, (y + 0.5) / fine)
        covered += any(r[0] < middle[0] < r[2] and r[1] < middle[1] < r[3] for r in rectangles)
    return covered / len(cells) if cells else 0.0


@pytest.mark.parametrize("seed", range(8))
def test_the_erased_share_against_counting(seed: int) -> None:
    rng = random.Random(seed)

    def box(step: int) -> list[float]:
        (x1, x2), (y1, y2) = (sorted(rng.sample(range(24 * step), 2)) for _ in range(2))
        return [x1 / step, y1 / step, x2 / step, y2 / step]

    boxes = [box(4) for _ in range(seed)]
    rectangles = [box(1) for _ in range(3 * seed % 11)] + [[0.0] * 4] * 2
    found = union_share(torch.tensor(boxes).reshape(-1, 4), torch.tensor(rectangles))
    assert found.tolist() == pytest.approx([naive_share(b, rectangles) for b in boxes], abs=1e-5)
    few = torch.tensor(rectangles[:5]).reshape(-1, 4)
    used = few[(few[:, 2:] > few[:, :2]).all(dim=1)]
    torch.testing.assert_close(
        union_share(torch.tensor(boxes).reshape(-1, 4), few), erased_share(torch.tensor(boxes).reshape(-1, 4), used)
    )


def test_the_erased_share_of_nothing() -> None:
    assert union_share(torch.zeros(0, 4), torch.tensor([[0.0, 0, 5, 5]])).tolist() == []
    assert union_share(torch.tensor([[0.0, 0, 5, 5]]), torch.zeros(0, 4)).tolist() == [0.0]
    assert union_share(torch.tensor([[5.0, 5, 5, 5]]), torch.tensor([[0.0, 0, 9, 9]])).tolist() == [0.0]
    assert union_share(torch.tensor([[1.0, 1, 5, 5]]), torch.tensor([[0.0, 0, 9, 9]])).tolist() == [1.0]


# --- mixup --------------------------------------------------------------------------------------------------


def test_a_mixture_is_half_of_both_with_the_boxes_of_both() -> None:
    a = painted([(4, 6, 20, 18)], (64, 32), 0, ignore=[(1, 2, 3, 4)])
    b = painted([(10, 30, 30, 60), (2, 2, 8, 8)], (40, 64), 1, ignore=[(5, 6, 7, 8)])
    mixed = mixup(a, b)
    assert mixed.size == (64, 64) and mixed.image.dtype == torch.float32
    torch.testing.assert_close(mixed.image, (a.image.double() + b.image.double()).float() / 510)
    assert mixed.targets.boxes.tolist() == [[4, 6, 20, 18], [10, 30, 30, 60], [2, 2, 8, 8]]
    assert mixed.targets.labels.tolist() == [0, 1, 1]
    assert mixed.targets.ignore.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert mixed.image[:, 8, 10].tolist() == [0.5, 0.0, 0.0]  # of one alone: half bright
    nothing = mixup(painted([]), painted([]))
    assert nothing.targets.boxes.shape == (0, 4) and nothing.targets.labels.dtype == torch.int64


# --- mosaic -------------------------------------------------------------------------------------------------


def naive_placed(targets: Targets, scale: Box, shift: Box, window: Box) -> tuple[list[tuple[int, Box]], list[Box]]:
    """By one box after the other, in float64; scale and shift of x1, y1, x2, y2."""
    kept: list[tuple[int, Box]] = []
    ignored: list[Box] = []
    every = [(int(c), b) for c, b in zip(targets.labels, targets.boxes.tolist(), strict=True)]
    for label, box in every + [(-1, b) for b in targets.ignore.tolist()]:
        there = [v * s + d for v, s, d in zip(box, scale, shift, strict=True)]
        inner = (
            max(there[0], window[0]),
            max(there[1], window[1]),
            min(there[2], window[2]),
            min(there[3], window[3]),
        )
        width, height = inner[2] - inner[0], inner[3] - inner[1]
        if width <= 0 or height <= 0:
            continue
        share = width * height / ((there[2] - there[0]) * (there[3] - there[1]))
        if label >= 0 and share >= 0.3 and min(width, height) >= 1:
            kept.append((label, inner))
        else:
            ignored.append(inner)
    return kept, ignored


@pytest.mark.parametrize("seed", range(8))
def test_boxes_are_placed_as_a_loop_does_it(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def boxes(count: int) -> Tensor:
        corner = torch.rand(count, 2, generator=generator) * 50
        return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 30], dim=1)

    count = 5 * seed
    targets = Targets(boxes(count), torch.randint(4, (count,), generator=generator), boxes(seed))
    sx, sy, dx, dy = 0.4 + 0.1 * seed, 0.5, -9.5 + seed, 3.0
    window = (0, 4, 30, 20)
    found = placed(targets, (sx, sy), (dx, dy), window)
    kept, ignored = naive_placed(targets, (sx, sy, sx, sy), (dx, dy, dx, dy), window)
    assert found.labels.tolist() == [label for label, _ in kept]
    torch.testing.assert_close(found.boxes, torch.tensor([b for _, b in kept]).reshape(-1, 4))
    torch.testing.assert_close(found.ignore, torch.tensor(ignored).reshape(-1, 4))


def test_little_is_ignored_and_nothing_is_gone() -> None:
    targets = tiny.targets((0, 0, 0, 10, 10), (1, 6, 0, 16, 10), (2, 8, 0, 18, 10), (3, 12, 0, 20, 10))
    found = placed(targets, (1.0, 1.0), (0.0, 0.0), (0, 0, 10, 10))
    assert found.labels.tolist() == [0, 1] and found.boxes[1].tolist() == [6, 0, 10, 10]  # 0.4 of it are left
    assert found.ignore.tolist() == [[8, 0, 10, 10]]  # 0.2; of the last there is nothing
    thin = placed(tiny.targets((0, 0, 0, 8, 80)), (0.1, 0.1), (0.0, 0.0), (0, 0, 10, 10))
    assert len(thin.labels) == 0 and len(thin.ignore) == 1  # 0.8 px wide


def test_boxes_land_where_the_pixels_land() -> None:
    sizes = [(64, 48), (40, 64), (64, 64), (50, 30)]
    rows: list[Box] = [(8, 8, 40, 40), (4, 16, 36, 56), (20, 12, 60, 52), (10, 2, 44, 28)]
    tiles = [painted([row], size, n) for n, (row, size) in enumerate(zip(rows, sizes, strict=True))]
    whole = mosaic(tiles, [28.0, 30.0, 32.0, 24.0], (32, 32))
    assert whole.size == (64, 64) and whole.image.shape == (3, 64, 64)
    assert whole.targets.labels.tolist() == [0, 1, 2, 3]
    for n, box in enumerate(whole.targets.boxes):
        assert float((lit(whole.image, n) - box).abs().max()) <= 1.0
    # by hand: 64 x 48 becomes 28 x 21, its lower right corner in the centre
    assert whole.targets.boxes[0].tolist() == pytest.approx([4 + 8 * 28 / 64, 11 + 8 * 21 / 48, 21.5, 28.5])
    # upper right: 40 x 64 becomes 19 x 30 (18.75 rounded), its lower left corner there
    assert whole.targets.boxes[1].tolist() == pytest.approx([32 + 4 * 19 / 40, 2 + 7.5, 32 + 36 * 19 / 40, 2 + 26.25])
    # lower left and lower right
    assert whole.targets.boxes[2].tolist() == pytest.approx([10, 38, 30, 58])
    assert whole.targets.boxes[3].tolist() == pytest.approx(
        [32 + 4.8, 32 + 2 * 14 / 30, 32 + 44 * 0.48, 32 + 28 * 14 / 30]
    )


@pytest.mark.parametrize("seed", range(10))
def test_boxes_land_where_the_pixels_land_wherever_it_lies(seed: int) -> None:
    torch.manual_seed(seed)
    rng, tiles = random.Random(seed), []
    for n in range(4):
        size = (rng.randint(100, 256), rng.randint(100, 256))
        x1, y1 = rng.randint(0, size[0] - 60), rng.randint(0, size[1] - 60)
        row = (x1, y1, rng.randint(x1 + 50, size[0]), rng.randint(y1 + 50, size[1]))
        tiles.append(painted([row], size, n, 256))
    whole = draw_mosaic(tiles)
    assert len(whole.targets.labels) + len(whole.targets.ignore) >= 3
    for label, box in zip(whole.targets.labels.tolist(), whole.targets.boxes, strict=True):
        assert float((lit(whole.image, label) - box).abs().max()) <= 1.5
    assert float(whole.targets.boxes.min()) >= 0 and float(whole.targets.boxes.max()) <= 256


def test_what_leaves_the_canvas_is_cropped() -> None:
    tiles = [painted([(0, 0, 64, 64)], (64, 64), n) for n in range(4)]
    whole = mosaic(tiles, [38.0] * 4, (26, 32))
    assert whole.targets.boxes.tolist() == [[0, 0, 26, 32], [26, 0, 64, 32], [0, 32, 26, 64], [26, 32, 64, 64]]
    assert all(lit(whole.image, n, 0.9).tolist() == whole.targets.boxes[n].tolist() for n in range(4))


def test_what_is_drawn_keeps_the_publications_proportions() -> None:
    side = 200
    tiles = [painted([(0, 0, side, side)], (side, side), n, side) for n in range(3)]
    tiles.append(painted([(0, 0, side / 2, side / 2)], (side, side), 3, side))
    sides, centers = [], []
    for seed in range(200):
        torch.manual_seed(seed)
        boxes = draw_mosaic(tiles).targets.boxes
        centers += boxes[0, 2:].tolist()
        sides += (2 * (boxes[3, 2:] - boxes[3, :2])).tolist()
    assert 0.4 * side <= min(centers) < 0.41 * side and 0.59 * side < max(centers) <= 0.6 * side
    assert 60 <= min(sides) < 62 and 118 < max(sides) <= 120


def test_tiles_of_hardly_any_size() -> None:
    tiles = [painted([(0, 0, 2, 2)], (2, 2)), painted([], (64, 2)), painted([], (2, 64)), painted([])]
    whole = mosaic(tiles, [1.0, 20.0, 20.0, 0.2], (32, 32))
    assert bool(as_float(whole.image).isfinite().all()) and len(whole.targets.boxes) == 1
