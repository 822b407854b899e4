"""FCOS: assignment, losses and detections against loops, and the traps."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sedet.data.batch import Targets
from sedet.detectors.fcos import FCOS, centerness, grid_points
from sedet.detectors.regions import FULL_LEVELS, HALF_LEVELS, Regions
from tests import tiny
from tests.methods import reference


@pytest.fixture(scope="module")
def model() -> FCOS:
    return tiny.detector()


def answers(
    content: list[tuple[int, int]],
    side: int = 128,
    levels: tuple[int, ...] = FULL_LEVELS,
    classes: int = 3,
    seed: int = 0,
) -> Regions:
    """Random answers on the grid of a canvas."""
    rng = torch.Generator().manual_seed(seed)
    grids = [grid_points(*(2 * [math.ceil(side / 2**level)]), float(2**level), torch.device("cpu")) for level in levels]
    points = torch.cat(grids)
    strides = torch.cat([torch.full((len(g),), float(2**level)) for g, level in zip(grids, levels, strict=True)])
    shape = (len(content), len(points))
    sides = torch.rand(*shape, 4, generator=rng) * 40
    size = torch.tensor(content)
    return Regions(
        torch.randn(*shape, classes, generator=rng) * 2 - 1,
        torch.cat([points - sides[..., :2], points + sides[..., 2:]], dim=-1),
        torch.randn(*shape, generator=rng),
        points,
        strides,
        (points[None] < size[:, None]).all(dim=-1),
    )


def naive_assign(regions: Regions, image: int, target: Targets, level_range: float, radius: float) -> list[int]:
    """One location, one object at a time."""
    levels = sorted(set(regions.strides.tolist()))
    result = []
    for r, (x, y) in enumerate(regions.points.tolist()):
        stride = regions.strides[r].item()
        low = 0.0 if stride == levels[0] else level_range * stride / 2
        high = math.inf if stride == levels[-1] else level_range * stride
        if not regions.valid[image, r]:
            result.append(-2)
            continue
        best, chosen = math.inf, -1
        for k, (x1, y1, x2, y2) in enumerate(target.boxes.tolist()):
            sides = (x - x1, y - y1, x2 - x, y2 - y)
            near = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) < radius * stride
            area = (x2 - x1) * (y2 - y1)
            if min(sides) > 0 and near and low <= max(sides) < high and area < best:
                best, chosen = area, k
        if chosen < 0 and any(a < x < c and b < y < d for a, b, c, d in target.ignore.tolist()):
            chosen = -2
        result.append(chosen)
    return result


def random_targets(rng: np.random.Generator, count: int, side: int, ignored: int = 0) -> Targets:
    def boxes(n: int) -> Tensor:
        size = np.exp(rng.uniform(0, math.log(side), (n, 2)))
        low = rng.uniform(0, np.maximum(side - size, 1))
        return torch.tensor(np.concatenate([low, np.minimum(low + size, side)], axis=1), dtype=torch.float32)

    return Targets(boxes(count), torch.tensor(rng.integers(0, 3, count)), boxes(ignored))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("levels", [FULL_LEVELS, HALF_LEVELS])
def test_assignment_equals_loops(model: FCOS, seed: int, levels: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    side = 192 if levels is FULL_LEVELS else 96
    regions = answers([(side, side), (side - 70, side // 2)], side, levels)
    for image in (0, 1):
        target = random_targets(rng, [0, 1, 6, 25][seed % 4], side, seed % 3)
        index = model.assign(regions, image, target)
        want = naive_assign(regions, image, target, model.spec.level_range, model.spec.center_radius)
        assert index.tolist() == want


@pytest.mark.parametrize("pairs", [1, 3000, 10**9])
def test_images_assigned_together_are_as_alone(model: FCOS, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many images are compared at once; the fewer objects of one are filled up with nothing."""
    monkeypatch.setattr("sedet.detectors.fcos.PAIRS_AT_ONCE", pairs)
    rng = np.random.default_rng(1)
    regions = answers([(96, 96), (90, 60), (50, 96), (96, 80), (64, 64)], 96)
    targets = [random_targets(rng, count, 60, ignored) for count, ignored in ((3, 0), (0, 2), (9, 1), (0, 0), (1, 3))]
    together = model.assign_all(regions, targets)
    assert torch.equal(together, torch.stack([model.assign(regions, i, t) for i, t in enumerate(targets)]))
    assert (together >= 0).sum() > 5 and (together[1] == -2).sum() > (~regions.valid[1]).sum()
    assert (model.assign_all(regions, [tiny.targets()] * 5)[regions.valid] == -1).all()


def test_assignment_of_both_views_is_the_same(model: FCOS) -> None:
    rng = np.random.default_rng(0)
    target = random_targets(rng, 12, 192, 2)
    full = model.assign(answers([(192, 100)], 192), 0, target)
    half = model.assign(answers([(96, 50)], 96, HALF_LEVELS), 0, target.halved())
    assert torch.equal(full, half) and (full >= 0).sum() > 3


def test_every_size_is_answered_for(model: FCOS) -> None:
    """Also where the farthest side is exactly at the border of two levels' ranges."""
    regions = answers([(256, 256)], 256)
    edge = model.spec.level_range * 8  # up to here the lowest level answers
    # from the point at (108, 108) to the left border: exactly the edge
    box = (108.0 - edge, 108.0 - edge, 108.0 + edge - 4, 108.0 + edge - 4)
    index = model.assign(regions, 0, tiny.targets((0, *box)))
    at = [r for r in range(len(regions)) if regions.points[r].tolist() == [108.0, 108.0]]
    upper = [r for r in range(len(regions)) if regions.points[r].tolist() == [104.0, 104.0]]
    assert len(at) == 1 and index[at[0]] == -1  # stride 8 is just past it
    assert len(upper) == 1 and index[upper[0]] == 0


def test_small_objects_are_seen_where_a_location_falls_into_them(model: FCOS) -> None:
    regions = answers([(128, 128)])
    assert (model.assign(regions, 0, tiny.targets((0, 3.6, 3.6, 4.4, 4.4))) == 0).sum() == 1
    index = model.assign(regions, 0, tiny.targets((0, 6.0, 6.0, 6.4, 6.4)))
    assert (index >= 0).sum() == 0  # between locations


def test_losses_equal_the_reference(model: FCOS) -> None:
    for seed, count in enumerate([3, 0, 8]):
        rng = np.random.default_rng(seed)
        regions = answers([(128, 128), (90, 60)], seed=seed)
        targets = [random_targets(rng, count, 128, seed), random_targets(rng, count // 2, 60, 1)]
        got = model.loss(regions, targets)
        focal = box = quality = 0.0
        positives = 0
        for i, target in enumerate(targets):
            index = naive_assign(regions, i, target, model.spec.level_range, model.spec.center_radius)
            for r, k in enumerate(index):
                if k == -2:
                    continue
                for c in range(3):
                    p = reference.sigmoid(regions.logits[i, r, c].item())
                    if k >= 0 and target.labels[k] == c:
                        focal += -0.25 * (1 - p) ** 2 * math.log(p)
                    else:
                        focal += -0.75 * p**2 * math.log(1 - p)
                if k < 0:
                    continue
                positives += 1
                x, y = regions.points[r].tolist()
                x1, y1, x2, y2 = target.boxes[k].tolist()
                box += reference.giou_loss(regions.boxes[i, r].tolist(), [x1, y1, x2, y2])
                left, top, right, bottom = x - x1, y - y1, x2 - x, y2 - y
                c = math.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))
                q = reference.sigmoid(regions.quality[i, r].item())  # type: ignore[index]
                quality += -c * math.log(q) - (1 - c) * math.log(1 - q)
        assert (positives > 0) == (count > 0)
        for key, value in (("class", focal), ("box", box), ("quality", quality)):
            assert got[key].item() == pytest.approx(value / max(1, positives), rel=1e-4, abs=1e-6), key


def test_ignored_and_padded_places_are_no_background(model: FCOS) -> None:
    regions = answers([(128, 96)])
    ignore = [[30.0, 30.0, 90.0, 90.0]]
    target = tiny.targets((0, 50, 50, 70, 70), ignore=ignore)
    index = model.assign(regions, 0, target)
    assert (index == 0).any()  # an object inside keeps its locations
    hidden = index == -2
    assert hidden.sum() > (~regions.valid[0]).sum() > 0
    plain = model.loss(regions, [target])
    assert regions.quality is not None
    noisy = replace(
        regions,
        logits=torch.where(hidden[None, :, None], 9.0, regions.logits),
        boxes=torch.where(hidden[None, :, None], -7.0, regions.boxes),
        quality=torch.where(hidden[None], 9.0, regions.quality),
    )
    assert {k: v.item() for k, v in model.loss(noisy, [target]).items()} == {k: v.item() for k, v in plain.items()}
    background = model.loss(noisy, [tiny.targets((0, 50, 50, 70, 70))])["class"].item()
    assert background > plain["class"].item() + 1


def test_all_background_has_a_class_loss_only(model: FCOS) -> None:
    regions = answers([(128, 128)])
    regions.boxes.requires_grad_()
    losses = model.loss(regions, [tiny.targets()])
    assert losses["class"].item() > 0 and losses["box"].item() == losses["quality"].item() == 0.0
    torch.stack(list(losses.values())).sum().backward()
    assert regions.boxes.grad is not None and (regions.boxes.grad == 0).all()


def test_centerness_by_hand() -> None:
    points = torch.tensor([[5.0, 5.0], [2.0, 5.0], [1.0, 8.0], [0.0, 5.0]])
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]] * 4)
    want = [1.0, 0.5, math.sqrt(1 / 9 * 2 / 8), 0.0]
    assert centerness(points, boxes).tolist() == pytest.approx(want)


def test_boxes_are_sides_from_the_locations_in_strides(model: FCOS) -> None:
    images, content = torch.rand(1, 3, 64, 128), torch.tensor([[100, 40]])
    with torch.no_grad():
        head = model.regression_head.bbox_reg
        kept = head.weight.clone(), head.bias.clone()
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 1.0, 2.0, -1.0]))
        regions = model(images, content)
        half = model(images[..., ::2, ::2], content // 2, HALF_LEVELS)
        head.weight.copy_(kept[0]), head.bias.copy_(kept[1])
    sides = [math.log1p(math.exp(v)) for v in (0.0, 1.0, 2.0, -1.0)]
    for r in (0, 7, 127, 128, len(regions) - 1):
        (x, y), s = regions.points[r].tolist(), regions.strides[r].item()
        want = [x - sides[0] * s, y - sides[1] * s, x + sides[2] * s, y + sides[3] * s]
        assert regions.boxes[0, r].tolist() == pytest.approx(want, rel=1e-5)
    torch.testing.assert_close(half.boxes * 2, regions.boxes)
    assert regions.points[0].tolist() == [4.0, 4.0] and regions.points[15].tolist() == [124.0, 4.0]
    assert regions.points[16].tolist() == [4.0, 12.0]
    assert regions.valid[0, :16].tolist() == [x < 100 for x in range(4, 128, 8)]


# --- detections ---------------------------------------------------------------------------------------------------


def iou(a: list[float], b: list[float]) -> float:
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def naive_detect(
    regions: Regions, image: int, width: int, height: int, threshold: float
) -> list[tuple[float, int, list[float]]]:
    rows = []
    for r in range(len(regions)):
        if not regions.valid[image, r]:
            continue
        x1, y1, x2, y2 = regions.boxes[image, r].tolist()
        box = [min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height)]
        if box[2] - box[0] <= 1e-2 or box[3] - box[1] <= 1e-2:
            continue
        q = reference.sigmoid(regions.quality[image, r].item())  # type: ignore[index]
        for c in range(regions.logits.shape[-1]):
            score = math.sqrt(reference.sigmoid(regions.logits[image, r, c].item()) * q)
            if score > threshold:
                rows.append((score, c, box))
    rows.sort(key=lambda row: -row[0])
    kept: list[tuple[float, int, list[float]]] = []
    for row in rows:
        if all(k[1] != row[1] or iou(k[2], row[2]) <= 0.6 for k in kept):
            kept.append(row)
    return kept


@pytest.mark.parametrize("threshold", [0.001, 0.5, 0.95])
def test_detections_equal_loops(model: FCOS, threshold: float) -> None:
    content = [(64, 64), (50, 30)]
    regions = answers(content, 64, seed=3)
    found = model.detect(regions, torch.tensor(content), threshold, max_detections=1000)
    for i, (width, height) in enumerate(content):
        want = naive_detect(regions, i, width, height, threshold)
        assert len(found[i]) == len(want)
        assert found[i].scores.tolist() == pytest.approx([w[0] for w in want], rel=1e-5)
        assert found[i].labels.tolist() == [w[1] for w in want]
        np.testing.assert_allclose(
            found[i].boxes.numpy().reshape(-1, 4), np.reshape([w[2] for w in want], (-1, 4)), atol=1e-3
        )
    few = model.detect(regions, torch.tensor(content), threshold, max_detections=3)
    for a, b in zip(few, found, strict=True):
        assert torch.equal(a.scores, b.scores[:3]) and torch.equal(a.boxes, b.boxes[:3])


def test_a_threshold_nothing_reaches_gives_empty_detections(model: FCOS) -> None:
    found = model.detect(answers([(64, 64)], 64), torch.tensor([[64, 64]]), score_threshold=1.0)
    assert len(found) == 1 and len(found[0]) == 0
    assert found[0].boxes.shape == (0, 4) and found[0].labels.dtype == torch.int64


def test_places_in_padding_detect_nothing(model: FCOS) -> None:
    regions = answers([(32, 32)], 64)
    sure = replace(regions, logits=torch.where(regions.valid[..., None], -9.0, 9.0).expand(-1, -1, 3))
    assert all(s < 0.05 for s in model.detect(sure, torch.tensor([[32, 32]]))[0].scores.tolist())


def test_losses_of_a_fresh_detector_are_of_usual_size(model: FCOS) -> None:
    """The class bias starts at one in a hundred: a wrong start would let background drown the first steps."""
    regions = model(torch.rand(2, 3, 64, 64), torch.tensor([[64, 64]] * 2))
    assert regions.logits.sigmoid().mean().item() == pytest.approx(0.01, abs=0.005)
    losses = model.loss(regions, [tiny.targets((0, 8, 8, 50, 50))] * 2)
    assert losses["class"].item() < 5 and losses["box"].item() < 2
