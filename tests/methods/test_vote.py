"""One box for all regions of an object: by hand, and against a loop over regions."""

from __future__ import annotations

import math

import pytest
import torch

from sedet.config import SEDConfig
from sedet.detectors.regions import Regions
from sedet.methods.method import Progress
from sedet.methods.sed import SED
from sedet.methods.vote import voted_boxes
from tests import tiny
from tests.methods import reference


def regions(
    scores: list[list[float]],
    boxes: list[list[float]],
    quality: list[float] | None = None,
    points: list[list[float]] | None = None,
    valid: list[bool] | None = None,
) -> Regions:
    """One image's regions, from probabilities."""
    count = len(boxes)
    return Regions(
        logits=torch.tensor(scores, dtype=torch.float64).logit()[None],
        boxes=torch.tensor(boxes, dtype=torch.float64)[None],
        quality=None if quality is None else torch.tensor(quality, dtype=torch.float64).logit()[None],
        points=torch.tensor(points or [[5.0, 5.0]] * count, dtype=torch.float64),
        strides=torch.full((count,), 8.0, dtype=torch.float64),
        valid=torch.tensor([valid or [True] * count]),
    )


def test_by_hand() -> None:
    """Two regions of one object, and three that are not of it: another class, another place, padding."""
    given = regions(
        [[0.8, 0.1], [0.4, 0.1], [0.1, 0.6], [0.5, 0.1], [0.7, 0.1]],
        [[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 9], [30, 30, 40, 40], [0, 0, 10, 7]],
        valid=[True, True, True, True, False],
    )
    found = voted_boxes(given)
    # the surest weighs 1 * 0.8², the other 0.8 * 0.4²: bottom (0.64 * 10 + 0.128 * 8) / 0.768 = 9.6667
    expected = [[0, 0, 10, 29 / 3], [0, 0, 10, 29 / 3], [0, 0, 10, 9], [30, 30, 40, 40], [0, 0, 10, 7]]
    assert torch.allclose(found.boxes[0], torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(found.logits, given.logits) and found.quality is None
    assert torch.equal(given.boxes[0, 0], torch.tensor([0.0, 0, 10, 10], dtype=torch.float64))  # nothing in place


def test_centerness_stays() -> None:
    boxes, points = [[0.0, 0, 10, 10], [0, 0, 10, 8]], [[2.0, 5.0], [9.0, 5.0]]
    given = regions([[0.8], [0.6]], boxes, quality=[0.9, 0.4], points=points)
    found = voted_boxes(given)
    assert found.quality is not None and given.quality is not None
    assert torch.equal(found.quality, given.quality) and not torch.equal(found.boxes, given.boxes)


def test_quality_decides_who_is_sure() -> None:
    """The score is sqrt(class * centerness), as the detector ranks its detections."""
    boxes = [[0.0, 0, 10, 10], [0, 0, 10, 5.2], [0, 0, 10, 4.8]]
    found = voted_boxes(regions([[0.5], [0.5], [0.5]], boxes, quality=[0.9, 0.1, 0.1]))
    # the first finds the second (IoU 0.52), not the third (0.48), which is left to itself
    weight = 0.52 * 0.5 * 0.1, 0.5 * 0.9
    bottom = (weight[0] * 5.2 + weight[1] * 10) / sum(weight)
    assert found.boxes[0, :, 3].tolist() == pytest.approx([bottom, bottom, 4.8])


def naive(given: Regions, overlap: float) -> list[list[float]]:
    """The same with loops: suppression first, then each region goes to the surest object it overlaps with."""
    scores, boxes = given.scores()[0].tolist(), given.boxes[0].tolist()
    quality = None if given.quality is None else given.quality[0].sigmoid().tolist()
    sure, label = [], []
    for r, row in enumerate(scores):
        values = [math.sqrt(p * quality[r]) if quality is not None else p for p in row]
        sure.append(max(values) if bool(given.valid[0, r]) else 0.0)
        label.append(values.index(max(values)) if bool(given.valid[0, r]) else 0)
    kept: list[int] = []
    for r in sorted(range(len(boxes)), key=lambda r: -sure[r]):
        if all(label[k] != label[r] or reference.iou(boxes[k], boxes[r]) <= overlap for k in kept):
            kept.append(r)
    members: dict[int, list[int]] = {k: [] for k in kept}
    for r in range(len(boxes)):
        mine = [k for k in kept if label[k] == label[r] and reference.iou(boxes[k], boxes[r]) > overlap]
        if mine and bool(given.valid[0, r]):
            members[mine[0]].append(r)
    found = [list(box) for box in boxes]
    for k, those in members.items():
        weight = {r: reference.iou(boxes[k], boxes[r]) * sure[r] ** 2 for r in those}
        for r in those:
            found[r] = [sum(weight[m] * boxes[m][side] for m in those) / sum(weight.values()) for side in range(4)]
    return found


@pytest.mark.parametrize("seed", range(8))
def test_against_a_loop(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    count, classes = 60, 1 + seed % 3
    corner = torch.rand(count, 2, generator=draw, dtype=torch.float64) * 30
    size = 10 + torch.rand(count, 2, generator=draw, dtype=torch.float64) * 20
    given = regions(
        torch.rand(count, classes, generator=draw, dtype=torch.float64).clamp(0.01, 0.99).tolist(),
        torch.cat([corner, corner + size], dim=-1).tolist(),
        None if seed % 2 else torch.rand(count, generator=draw).clamp(0.01, 0.99).tolist(),
        valid=(torch.rand(count, generator=draw) > 0.2).tolist(),
    )
    found = voted_boxes(given, overlap=0.4 + 0.05 * (seed % 4))
    wanted = torch.tensor(naive(given, 0.4 + 0.05 * (seed % 4)), dtype=torch.float64)
    assert torch.allclose(found.boxes[0], wanted)
    assert not torch.allclose(found.boxes, given.boxes)


def test_nothing_to_vote_on() -> None:
    """No regions in the content, boxes without area, scores of zero: boxes stay, nothing is NaN."""
    for given in (
        regions([[0.5], [0.5]], [[0, 0, 9, 9], [0, 0, 9, 8]], quality=[0.5, 0.5], valid=[False, False]),
        regions([[0.5], [0.5]], [[3, 3, 3, 3], [3, 3, 3, 3]], quality=[0.5, 0.5]),
        regions([[0.0], [0.0]], [[0, 0, 9, 9], [0, 0, 9, 8]]),
    ):
        found = voted_boxes(given)
        assert torch.equal(found.boxes, given.boxes)
        assert found.quality is None or found.quality.isfinite().all()


def test_the_vote_teaches_boxes_and_leaves_the_rest() -> None:
    student, teacher = tiny.detector(), tiny.detector(seed=1, confident=True)
    with torch.no_grad():
        teacher.regression_head.bbox_reg.bias.fill_(2.0)  # boxes of four strides: neighbours overlap
    labeled = tiny.batch([(64, 48)], labels=[tiny.targets((0, 4, 4, 40, 36))])
    unlabeled = tiny.batch([(64, 48)], seed=5)
    found = {}
    for kind in ("region", "voted"):
        config = SEDConfig(box_target=kind, box_weight=1.0, quality_weight=1.0)  # type: ignore[arg-type]
        found[kind] = SED(config).losses(student, teacher, labeled, unlabeled, Progress(20, 5, 5))
    own, voted = found["region"], found["voted"]
    assert own.keys() == voted.keys() and all(value.isfinite() for value in voted.values())
    for key in own:
        same = not key.endswith("box") or key.startswith("sup_")  # nothing is erased, so the same regions teach
        assert torch.equal(own[key], voted[key]) == same, key
