"""Views: matrices that tell the truth about the pixels, exact halves, erasing, targets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sedet.config import ViewConfig
from sedet.data.table import Objects
from sedet.data.views import (
    View,
    even,
    half_view,
    map_boxes,
    plain_view,
    stack_views,
    strong_view,
    view_targets,
    weak_view,
)

PLAIN = ViewConfig(jitter=0.0, grey=0.0, blur=0.0, erase=False)
"""Strong views without anything that changes a pixel."""


def marked(width: int, height: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """A dark picture with one bright rectangle."""
    image = np.full((height, width, 3), 20, dtype=np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 240
    return image


def bright(image: Tensor) -> list[float] | None:
    """Extent of the bright part, by where rows and columns are half lit; xyxy."""
    lit = (image.float().mean(dim=0) - 20) / 220
    result: list[float] = []
    for dim in (0, 1):
        profile = lit.amax(dim=dim)
        inside = (profile > 0.5).nonzero()
        if not len(inside):
            return None
        result += [float(inside.min()), float(inside.max() + 1)]
    return [result[0], result[2], result[1], result[3]]


def draws(seed: int, width: int, height: int, config: ViewConfig, size: int = 96) -> tuple[View, np.ndarray]:
    rng = np.random.default_rng(seed)
    w, h = int(rng.integers(width // 6, width // 3)), int(rng.integers(height // 6, height // 3))
    x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
    view = weak_view(marked(width, height, (x, y, x + w, y + h)), size, config, np.random.default_rng(seed))
    return view, np.array([[x, y, x + w, y + h]], dtype=np.float32)


@pytest.mark.parametrize("size", [(200, 120), (90, 150), (64, 64), (301, 47)])
def test_the_content_is_where_the_matrix_says(size: tuple[int, int]) -> None:
    """In weak, strong and half view, with zoom, crop and both flips."""
    config = replace(PLAIN, vertical_flip=0.5)
    flips, cropped, compared = set(), 0, 0
    for seed in range(40):
        weak, box = draws(seed, *size, config)
        flips.add((bool(weak.matrix[0, 0] < 0), bool(weak.matrix[1, 1] < 0)))
        for view in (weak, strong_view(weak, config, seed), half_view(weak)):
            mapped = map_boxes(box, view.matrix)[0]
            inner = np.clip(mapped, 0, [view.width, view.height] * 2)
            if np.any(inner != mapped):
                cropped += 1
            if min(inner[2:] - inner[:2]) < 4:
                continue
            found = bright(view.image)
            assert found is not None
            assert np.abs(np.array(found) - inner).max() <= 1.01, (seed, found, inner)
            compared += 1
    assert len(flips) == 4 and cropped > 3 and compared > 25


def test_boxes_return_to_the_original_within_a_fraction_of_a_pixel() -> None:
    config = replace(PLAIN, vertical_flip=0.5)
    rng = np.random.default_rng(0)
    for seed in range(30):
        width, height = (int(v) for v in rng.integers(30, 900, 2))
        view = weak_view(np.zeros((height, width, 3), np.uint8), 128, config, np.random.default_rng(seed))
        low = rng.uniform(0, 500, (20, 2))
        boxes = np.concatenate([low, low + rng.uniform(0.5, 300, (20, 2))], axis=1).astype(np.float32)
        for v in (view, half_view(view)):
            there = map_boxes(boxes, v.matrix)
            assert (there[:, 2:] > there[:, :2]).all()
            back = map_boxes(there, np.linalg.inv(v.matrix))
            assert np.abs(back - boxes).max() < 0.01
    assert map_boxes(np.zeros((0, 4), np.float32), np.eye(3)).shape == (0, 4)


def test_mapping_by_hand() -> None:
    matrix = np.array([[-2.0, 0, 100], [0, 0.5, -3], [0, 0, 1]])
    assert map_boxes(np.array([[10, 20, 30, 60]], np.float32), matrix).tolist() == [[40, 7, 80, 27]]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 500), (777, 2), (64, 64), (500, 333)])
def test_sides_are_even_and_the_half_is_exactly_half(width: int, height: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for seed in range(8):
        weak = weak_view(image, 95, ViewConfig(), np.random.default_rng(seed))
        strong = strong_view(weak, ViewConfig(), seed)
        half = half_view(strong)
        assert weak.width % 2 == weak.height % 2 == 0 and 2 <= weak.width <= 96 and 2 <= weak.height <= 96
        assert (half.width * 2, half.height * 2) == (strong.width, strong.height)
        assert np.array_equal(half.matrix[:2] * 2, strong.matrix[:2]) and half.matrix[2].tolist() == [0, 0, 1]
        assert torch.equal(half.erased * 2, strong.erased)
        assert weak.image.dtype == strong.image.dtype == half.image.dtype == torch.uint8


def test_even() -> None:
    assert [even(v) for v in (0.0, 0.4, 1.0, 2.9, 3.1, 95.0, 95.2, 97.1)] == [2, 2, 2, 2, 4, 96, 96, 98]


def test_half_averages_what_it_covers() -> None:
    blocks = torch.randint(0, 256, (3, 16, 20), dtype=torch.uint8)
    view = View(blocks.repeat_interleave(4, 1).repeat_interleave(4, 2), np.eye(3), torch.zeros(0, 4))
    half = half_view(view).image.reshape(3, 16, 2, 20, 2).float().mean(dim=(2, 4))
    assert (half - blocks.float()).abs().mean() < 16  # edges soften, places stay


def test_plain_view_is_the_whole_image_at_the_size() -> None:
    view = plain_view(marked(300, 200, (30, 40, 90, 100)), 96)
    assert (view.width, view.height) == (96, 64) and not len(view.erased)
    np.testing.assert_allclose(view.matrix, np.diag([0.32, 0.32, 1]))
    assert bright(view.image) == pytest.approx([9.6, 12.8, 28.8, 32], abs=1)


@pytest.mark.parametrize(
    ("size", "width", "height"), [(37, 283, 90), (125, 1920, 1080), (193, 7, 3000), (249, 1080, 1920), (37, 250, 90)]
)
def test_no_odd_size_loses_its_edges_to_rounding(size: int, width: int, height: int) -> None:
    """283 * (37 / 283) lies just above 37, whose nearest even number is 36, and was rounded to 38."""
    view = plain_view(np.zeros((height, width, 3), np.uint8), size)
    assert max(view.width, view.height) == even(size)
    # the far corner of the image is the far corner of the view: nothing is cut off
    np.testing.assert_allclose(view.matrix @ [width, height, 1], [view.width, view.height, 1])


def test_a_shrunk_decode_keeps_the_original_frame() -> None:
    """The matrix leads from the original's pixels, whatever size was decoded."""
    full = marked(800, 600, (200, 150, 400, 450))
    small = full[::4, ::4]
    for seed in range(6):
        big = weak_view(full, 96, PLAIN, np.random.default_rng(seed))
        shrunk = weak_view(small, 96, PLAIN, np.random.default_rng(seed), (800, 600))
        np.testing.assert_allclose(shrunk.matrix, big.matrix, rtol=1e-12, atol=1e-9)
        box = np.array([[200, 150, 400, 450]], np.float32)
        inner = np.clip(map_boxes(box, shrunk.matrix)[0], 0, [shrunk.width, shrunk.height] * 2)
        found = bright(shrunk.image)
        assert found is not None and np.abs(np.array(found) - inner).max() <= 1.01


def test_zoom_stays_in_its_range_and_reaches_both_ends() -> None:
    config = ViewConfig(scale_min=0.5, scale_max=2.0, flip=0.0)
    image = np.zeros((100, 100, 3), np.uint8)
    zooms = [weak_view(image, 200, config, np.random.default_rng(s)).matrix[0, 0] / 2 for s in range(300)]
    assert 0.49 < min(zooms) < 0.56 and 1.8 < max(zooms) < 2.01
    assert sum(z < 1 for z in zooms) == pytest.approx(150, abs=40)  # log-uniform: half of them shrink
    fixed = weak_view(image, 200, ViewConfig(scale_min=1.0, scale_max=1.0), np.random.default_rng(0))
    assert (fixed.width, fixed.height) == (200, 200)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_flips_happen_as_often_as_said(share: float) -> None:
    config = ViewConfig(flip=share, vertical_flip=1 - share)
    for seed in range(10):
        view = weak_view(np.zeros((40, 60, 3), np.uint8), 64, config, np.random.default_rng(seed))
        assert (view.matrix[0, 0] < 0) == (share == 1.0) and (view.matrix[1, 1] < 0) == (share == 0.0)


# --- strong views ---------------------------------------------------------------------------------------------------


def noise(seed: int = 0) -> View:
    image = np.random.default_rng(seed).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    return weak_view(image, 96, ViewConfig(), np.random.default_rng(seed))


def test_recorded_erasings_are_the_pixels_that_change() -> None:
    config = ViewConfig(jitter=0.0, grey=0.0, blur=0.0)
    counts = set()
    for seed in range(40):
        weak = noise(seed)
        kept = weak.image.clone()
        strong = strong_view(weak, config, 3, "x", seed)
        assert torch.equal(weak.image, kept)  # the teacher's view stays whole
        assert strong.matrix is weak.matrix and strong.image.shape == weak.image.shape
        counts.add(len(strong.erased))
        covered = torch.zeros(weak.image.shape[1:], dtype=torch.bool)
        for x1, y1, x2, y2 in strong.erased.int().tolist():
            assert 0 <= x1 < x2 <= weak.width and 0 <= y1 < y2 <= weak.height
            covered[y1:y2, x1:x2] = True
        changed = (strong.image != weak.image).any(dim=0)
        assert not (changed & ~covered).any()
        if covered.any():
            assert changed[covered].float().mean() > 0.98
            x1, y1, x2, y2 = strong.erased[-1].int().tolist()
            assert (strong.image[:, y1:y2, x1:x2].flatten(1).float().std(dim=1) == 0).all()  # one flat colour
    assert counts == {0, 1, 2, 3}


def test_without_erasing_nothing_is_erased() -> None:
    view = noise()
    strong = strong_view(view, PLAIN, 0, "x")
    assert torch.equal(strong.image, view.image) and strong.erased.shape == (0, 4)


@pytest.mark.parametrize("part", ["jitter", "grey", "blur"])
def test_each_photometric_part_changes_pixels_in_place(part: str) -> None:
    config = replace(PLAIN, **{part: 1.0})
    weak, box = draws(3, 200, 120, config)
    weak = replace(weak, image=torch.clamp(weak.image.int() + torch.tensor([30, 0, -15]).view(3, 1, 1), 0, 255).byte())
    strong = strong_view(weak, config, 1, "x")
    assert not torch.equal(strong.image, weak.image)
    assert strong.matrix is weak.matrix
    if part == "grey":
        assert torch.equal(strong.image[0], strong.image[1])
    if part == "blur":
        inner = np.clip(map_boxes(box, weak.matrix)[0], 0, [weak.width, weak.height] * 2)
        assert np.abs(np.array(bright(strong.image)) - inner).max() <= 1.5


def test_draws_depend_on_seed_and_keys_alone() -> None:
    weak = noise()
    first = strong_view(weak, ViewConfig(), 1, "unlabeled", 7)
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    again = strong_view(weak, ViewConfig(), 1, "unlabeled", 7)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is as it was
    assert torch.equal(first.image, again.image) and torch.equal(first.erased, again.erased)
    others = [
        strong_view(weak, ViewConfig(), s, k, n)
        for s, k, n in ((2, "unlabeled", 7), (1, "labeled", 7), (1, "unlabeled", 8))
    ]
    assert all(not torch.equal(o.image, first.image) for o in others)


# --- targets ----------------------------------------------------------------------------------------------------------


def still(width: int = 100, height: int = 80, erased: list[list[float]] | None = None, shift: float = 0.0) -> View:
    matrix = np.eye(3)
    matrix[0, 2] = shift
    return View(
        torch.zeros(3, height, width, dtype=torch.uint8),
        matrix,
        torch.tensor(erased or [], dtype=torch.float32).reshape(-1, 4),
    )


def of(view: View, boxes: list[list[float]], **flags: Any) -> Any:
    labels = list(range(len(boxes)))
    return view_targets(view, Objects.build(boxes, labels, **flags), ViewConfig())


def test_targets_are_clipped_and_the_little_that_is_left_is_ignored() -> None:
    view = still(shift=-50.0)  # what lies left of 50 has left the view
    got = of(view, [[40, 10, 60, 30], [10, 10, 60, 30], [0, 0, 40, 40], [60, 10, 70, 20]])
    assert got.labels.tolist() == [0, 3]
    assert got.boxes.tolist() == [[0, 10, 10, 30], [10, 10, 20, 20]]
    assert got.ignore.tolist() == [[0, 10, 10, 30]]  # a fifth of it is visible
    assert got.boxes.dtype == torch.float32 and got.labels.dtype == torch.int64


def test_crowds_difficult_and_erased_objects_are_ignored() -> None:
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10], [80, 0, 90, 10]]
    flags = {"crowd": [True] + [False] * 4, "difficult": [False, True] + [False] * 3}
    got = of(still(erased=[[40, 0, 48, 10], [60, 0, 65, 10]]), boxes, **flags)
    assert got.labels.tolist() == [3, 4]
    assert got.ignore.tolist() == [boxes[0], boxes[1], boxes[2]]


def test_objects_under_a_pixel_are_ignored_and_flat_ones_dropped() -> None:
    got = of(still(), [[10, 10, 10.5, 20], [30, 30, 30, 40], [50, 50, 51, 51]])
    assert got.labels.tolist() == [2] and got.ignore.tolist() == [[10, 10, 10.5, 20]]


def test_no_objects() -> None:
    got = of(still(), [])
    assert got.boxes.shape == (0, 4) and got.labels.shape == (0,) and got.ignore.shape == (0, 4)
    assert got.halved().boxes.shape == (0, 4)


def test_halved_targets() -> None:
    half = of(still(), [[10, 20, 40, 60], [5, 5, 5.5, 20]]).halved()
    assert half.boxes.tolist() == [[5, 10, 20, 30]] and half.ignore.tolist() == [[2.5, 2.5, 2.75, 10]]
    assert half.labels.tolist() == [0]


def test_stacking_pads_right_and_below() -> None:
    views = [still(10, 20), still(64, 2)]
    views = [replace(v, image=v.image + 200) for v in views]
    images, content = stack_views(views, 64)
    assert images.shape == (2, 3, 64, 64) and images.dtype == torch.uint8
    assert content.tolist() == [[10, 20], [64, 2]] and content.dtype == torch.int64
    for image, (width, height) in zip(images, content.tolist(), strict=True):
        assert (image[:, :height, :width] == 200).all()
        assert image.count_nonzero() == 3 * width * height
    assert stack_views([], 64)[1].shape == (0, 2)
