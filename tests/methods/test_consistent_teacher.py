"""Consistent-Teacher: its memory, thresholds, assignment and losses by hand and against loops; steps and trainings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import Tensor

from sedet.config import ConsistentTeacherConfig
from sedet.data.batch import Batch, Targets
from sedet.detectors.build import Detector
from sedet.detectors.regions import Detections, Regions
from sedet.methods import consistent_teacher
from sedet.methods.consistent_teacher import (
    FALLBACK,
    LOWEST,
    ConsistentTeacher,
    assign,
    consistent_losses,
    remember,
    thresholds,
)
from sedet.methods.method import Progress
from sedet.methods.supervised import Supervised
from sedet.training.run import train
from tests import tiny
from tests.detectors.test_retinanet import network
from tests.methods.reference import giou_loss, sigmoid

BURN_IN, AFTER = Progress(3, 5, 10), Progress(100, 5, 10)
PARTS = ("class", "box", "quality")


def memory(*rows: list[float], buffer: int = 100) -> Tensor:
    return torch.tensor([[math.nan] * (buffer - len(row)) + row for row in rows], dtype=torch.float64)


def mixture(low: int, high: int, seed: int) -> list[float]:
    """Scores of two kinds, shuffled: about 0.15 and about 0.7."""
    generator = torch.Generator().manual_seed(seed)
    a = 0.15 + 0.04 * torch.randn(low, generator=generator, dtype=torch.float64)
    b = 0.7 + 0.1 * torch.randn(high, generator=generator, dtype=torch.float64)
    both = torch.cat([a, b]).clamp(0.051, 0.99)
    found: list[float] = both[torch.randperm(len(both), generator=generator)].tolist()
    return found


def naive_threshold(scores: list[float]) -> float:
    """One class: textbook expectation maximisation, plain floats."""
    if len(scores) < 10:
        return 0.5
    mean, middle = [min(scores), max(scores)], fmean(scores)
    variance = [max(1e-4, fmean((s - middle) ** 2 for s in scores))] * 2
    share = [0.5, 0.5]

    def higher(s: float) -> float:
        logs = [math.log(share[k]) - math.log(variance[k]) / 2 - (s - mean[k]) ** 2 / 2 / variance[k] for k in (0, 1)]
        return 1 / (1 + math.exp(min(700.0, logs[0] - logs[1])))

    for _ in range(50):
        parts = [[1 - higher(s) for s in scores], [higher(s) for s in scores]]
        for k in (0, 1):
            weight = sum(parts[k])
            share[k] = weight / len(scores)
            mean[k] = sum(p * s for p, s in zip(parts[k], scores, strict=True)) / weight
            square = sum(p * (s - mean[k]) ** 2 for p, s in zip(parts[k], scores, strict=True)) / weight
            variance[k] = max(1e-4, square)
    if mean[1] - mean[0] < 0.02:
        return 0.5
    return max(0.2, min(s for s in scores if s >= mean[0] and higher(s) > 0.5))


@pytest.mark.parametrize("seed", range(6))
def test_thresholds_against_a_loop(seed: int) -> None:
    rows = [mixture(10 + 13 * seed, 90 - 15 * seed, seed), mixture(12, 1, seed), mixture(40, 40, seed + 9), [], [0.3]]
    rows.append(torch.rand(60, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist())
    rows[0] = rows[0][:100]
    found = thresholds(memory(*rows))
    assert found.tolist() == pytest.approx([naive_threshold(row) for row in rows], rel=1e-9)
    # the order of the scores has no say
    assert float(thresholds(memory(sorted(rows[0])))) == pytest.approx(float(found[0]), rel=1e-9)


def test_thresholds_by_hand() -> None:
    two = [0.1, 0.12, 0.11] * 10 + [0.6, 0.7, 0.8] * 3
    low = [0.06, 0.07, 0.08] * 5 + [0.15] * 2  # told apart, but all doubtful
    few, same, none = [0.1] * 5 + [0.9] * 4, [0.4] * 30, list[float]()
    # a wide Gaussian about a narrow one: nothing below the lower mean is a pseudo label
    wide = [0.3 + 0.0001 * i for i in range(60)] + [0.06, 0.3, 0.9, 0.95, 0.99, 0.85, 0.8, 0.75, 0.97]
    assert thresholds(memory(two, low, few, same, none)).tolist() == [0.6, LOWEST, FALLBACK, FALLBACK, FALLBACK]
    assert float(thresholds(memory(wide))) >= 0.3
    assert bool(thresholds(memory([0.9] * 100, [0.051] * 99 + [1.0])).isfinite().all())
    # the threshold is the lowest that is kept, not the one above
    assert float(thresholds(memory(two))) == 0.6


def detections(*rows: tuple[float, int]) -> Detections:
    """Rows of score and label, best first."""
    count = len(rows)
    return Detections(
        torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(count, 1),
        torch.tensor([r[0] for r in rows]),
        torch.tensor([r[1] for r in rows], dtype=torch.int64),
    )


def test_the_memory_takes_the_newest() -> None:
    empty = memory([], [], [], buffer=4)
    once = remember(empty, [detections((0.75, 0), (0.5, 2), (0.25, 0)), detections()])
    wanted = memory([0.25, 0.75], [], [0.5], buffer=4)
    torch.testing.assert_close(once, wanted, equal_nan=True)
    again = remember(once, [detections((0.875, 0)), detections((0.9375, 0), (0.625, 0), (0.125, 1))])
    torch.testing.assert_close(again, memory([0.75, 0.875, 0.625, 0.9375], [0.125], [0.5], buffer=4), equal_nan=True)
    assert bool(empty.isnan().all())  # the old one stays as it was
    crowd = remember(memory([], buffer=100), [detections(*[(1 - i / 64, 0) for i in range(40)])])
    assert int((~crowd.isnan()).sum()) == 20 and float(crowd[0, -1]) == 1 and float(crowd[0, -20]) == 1 - 19 / 64


def answers(
    batch: int, regions: int, classes: int, seed: int, quality: bool = True
) -> tuple[Regions, tuple[Targets, ...]]:
    """Random answers about random points, and as random pseudo labels, some images without."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    points = uniform(regions, 2) * 60
    strides = torch.where(uniform(regions) > 0.5, 4.0, 16.0).double()
    sides = (uniform(batch, regions, 4) * 20) + 0.5
    boxes = torch.cat([points - sides[..., :2], points + sides[..., 2:]], dim=-1)
    logits = torch.randn(batch, regions, classes, generator=generator, dtype=torch.float64) * 2
    extra = torch.randn(batch, regions, generator=generator, dtype=torch.float64) if quality else None
    found = tiny.regions(logits, boxes, extra, points, strides, uniform(batch, regions) > 0.2)
    targets = []
    for i in range(batch):
        count = (seed + i) % 4
        corner = uniform(count, 2) * 40
        size = 4 + uniform(count, 2) * 30
        labels = torch.randint(0, classes, (count,), generator=generator)
        hidden = torch.cat([uniform(1, 2) * 30, 30 + uniform(1, 2) * 20], dim=1)[: (seed + i) % 2]
        targets.append(Targets(torch.cat([corner, corner + size], dim=1), labels, hidden))
    return found, tuple(targets)


def iou(a: list[float], b: list[float]) -> float:
    over = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return over / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - over)


def inside(point: list[float], box: list[float]) -> bool:
    return box[0] < point[0] < box[2] and box[1] < point[1] < box[3]


def naive_assign(regions: Regions, image: int, target: Targets, most: int) -> list[int]:
    points = regions.points.tolist()
    valid = regions.valid[image].tolist()
    offers: dict[int, list[tuple[float, int]]] = {}
    for j, box in enumerate(target.boxes.tolist()):
        costs, overlaps = [], []
        for r, point in enumerate(points):
            if not valid[r] or not inside(point, box):
                continue
            p = sigmoid(float(regions.logits[image, r, target.labels[j]]))
            overlap = iou(regions.boxes[image, r].tolist(), box)
            middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            strides = math.dist(middle, point) / float(regions.strides[r])
            costs.append((-math.log(p) + 3 * (1 - overlap) + max(0.0, strides - 3), r))
            overlaps.append(overlap)
        count = min(most, max(1, int(sum(sorted(overlaps)[-most:]))))
        for cost, r in sorted(costs)[:count]:
            offers.setdefault(r, []).append((cost, j))
    found = []
    for r, point in enumerate(points):
        if not valid[r]:
            found.append(-2)
        elif r in offers:
            found.append(min(offers[r])[1])
        else:
            found.append(-2 if any(inside(point, box) for box in target.ignore.tolist()) else -1)
    return found


def naive_losses(regions: Regions, targets: tuple[Targets, ...], most: int) -> dict[str, float]:
    count, focal, giou, quality = 0, 0.0, 0.0, 0.0
    for i, target in enumerate(targets):
        for r, j in enumerate(naive_assign(regions, i, target, most)):
            if j == -2:
                continue
            for c, z in enumerate(regions.logits[i, r].tolist()):
                p = sigmoid(z)
                right = j >= 0 and c == int(target.labels[j])
                focal -= 0.25 * (1 - p) ** 2 * math.log(p) if right else 0.75 * p**2 * math.log(1 - p)
            if j < 0:
                continue
            count += 1
            box, (x, y) = target.boxes[j].tolist(), regions.points[r].tolist()
            giou += giou_loss(regions.boxes[i, r].tolist(), box)
            if regions.quality is not None:
                left, top, right_, bottom = x - box[0], y - box[1], box[2] - x, box[3] - y
                goal = min(left, right_) / max(left, right_) * min(top, bottom) / max(top, bottom)
                q, goal = sigmoid(float(regions.quality[i, r])), math.sqrt(goal)
                quality -= goal * math.log(q) + (1 - goal) * math.log(1 - q)
    count = max(1, count)
    return {"class": focal / count, "box": giou / count, "quality": quality / count}


@pytest.mark.parametrize("seed", range(10))
def test_assignment_and_losses_against_a_loop(seed: int) -> None:
    batch, regions, classes = 1 + seed % 3, (5, 40, 150)[seed % 3], 1 + seed % 4
    student, targets = answers(batch, regions, classes, seed, quality=seed % 3 > 0)
    for most in (13, 3):
        for i, target in enumerate(targets):
            assert assign(student, i, target, most).tolist() == naive_assign(student, i, target, most)
        found = consistent_losses(student, targets, most)
        for key, value in naive_losses(student, targets, most).items():
            assert float(found[key]) == pytest.approx(value, rel=1e-5), key


def row(points: list[float], sides: list[float], logits: list[float], stride: float = 8.0) -> Regions:
    """Regions of one class on a line, y = 10, whose boxes reach so far to the left and the right, 10 up and down."""
    count = len(points)
    boxes = [[x - s, 0.0, x + s, 20.0] for x, s in zip(points, sides, strict=True)]
    place = torch.tensor([[x, 10.0] for x in points])
    strides = torch.full((count,), stride)
    return tiny.regions(torch.tensor(logits).view(1, count, 1), torch.tensor([boxes]), None, place, strides)


def test_assignment_by_hand() -> None:
    target = tiny.targets((0, 0, 0, 20, 20))
    # IoUs of 1, 0.8 and 0.5 add up to 2.3: two answer, the surest and the best placed. Centres outside never do.
    three = row([10.0, 10.0, 10.0, 21.0], [10.0, 8.0, 5.0, 10.0], [0.0] * 4)
    assert assign(three, 0, target, 13).tolist() == [0, 0, -1, -1]
    assert assign(three, 0, target, 1).tolist() == [0, -1, -1, -1]
    # 0.5 more of IoU is worth 1.5 of cross-entropy: ln 2 - ln(1 + e^-z) = 1.1 for a score of 2/3 and none
    sure = row([10.0, 10.0], [5.0, 2.0], [0.0, 3.0])
    assert assign(sure, 0, target, 1).tolist() == [0, -1]  # 0.69 + 1.5 against 0.05 + 2.4
    sure = row([10.0, 10.0], [5.0, 2.0], [-1.0, 3.0])
    assert assign(sure, 0, target, 1).tolist() == [-1, 0]  # 1.31 + 1.5 against 0.05 + 2.4
    # centres more than 3 strides apart cost what is beyond
    far = row([2.0, 10.0], [10.0, 10.0], [0.5, 0.0], stride=2.0)
    assert assign(far, 0, target, 1).tolist() == [-1, 0]
    assert assign(replace(far, strides=torch.full((2,), 4.0)), 0, target, 1).tolist() == [-1, 0]  # by the IoU


def test_conflicts_go_to_the_cheaper_and_each_has_one() -> None:
    two = tiny.targets((0, 0, 0, 20, 20), (0, 4, 0, 24, 20))
    shared = row([10.0], [10.0], [0.0])  # it is exactly the first
    assert assign(shared, 0, two, 13).tolist() == [0]
    poor = row([10.0, 14.0], [0.5, 0.4], [0.0, 0.0])  # IoUs that add up to less than 1: one each all the same
    assert assign(poor, 0, tiny.targets((0, 0, 0, 20, 20)), 13).tolist() == [0, -1]
    nowhere = tiny.targets((0, 11.0, 11.0, 12.0, 12.0))  # a box with no centre
    assert assign(poor, 0, nowhere, 13).tolist() == [-1, -1]


def test_nothing_to_learn_from_gives_no_nan() -> None:
    student, _ = answers(2, 30, 2, 0)
    small = tiny.targets((0, 1.0, 1.0, 1.0001, 1.0001))
    for targets in ((tiny.targets(), tiny.targets()), (small, tiny.targets(ignore=[[0, 0, 99, 99]])), None):
        logits = student.logits.clone().requires_grad_()
        given = replace(student, logits=logits)
        if targets is None:  # all padding
            given = replace(given, valid=torch.zeros_like(given.valid))
        losses = consistent_losses(given, targets or (tiny.targets((0, 0, 0, 60, 60)),) * 2, 13)
        sum(losses.values(), torch.zeros(())).backward()
        assert all(bool(v.isfinite()) for v in losses.values())
        assert logits.grad is not None and bool(logits.grad.isfinite().all())
        assert float(losses["box"].detach()) == float(losses["quality"].detach()) == 0


def test_padding_has_no_say() -> None:
    student, targets = answers(2, 80, 2, 3)
    hidden = ~student.valid
    assert student.quality is not None
    loud = replace(
        student,
        logits=torch.where(hidden[..., None], 30.0, student.logits),
        quality=torch.where(hidden, 30.0, student.quality),
    )
    before, after = (consistent_losses(r, targets, 13) for r in (student, loud))
    assert all(float(before[k]) == float(after[k]) > 0 for k in before)


def pair(name: str) -> tuple[Detector, Detector]:
    if name == "fcos":
        return tiny.detector(seed=1, confident=True), tiny.detector(seed=2, confident=True).eval()
    return network(seed=1), network(seed=2).eval()


def batches() -> tuple[Batch, Batch]:
    labeled = tiny.batch([(64, 48)], seed=1, labels=[tiny.targets((0, 4, 4, 40, 36))])
    return labeled, tiny.one_size(tiny.batch([(64, 48), (40, 64)], seed=2))


@pytest.mark.parametrize("name", ["fcos", "retinanet"])
@pytest.mark.parametrize("half_size", [True, False])
def test_a_step_and_its_twin(name: str, half_size: bool) -> None:
    student, teacher = pair(name)
    labeled, more = batches()
    method = ConsistentTeacher(ConsistentTeacherConfig(), half_size)
    early = method.losses(student, teacher, labeled, more, BURN_IN)
    twin = Supervised(half_size).losses(student, teacher, labeled, None, BURN_IN)
    assert all(torch.equal(early[key], value) for key, value in twin.items())
    assert method.state() == {}  # a burn-in may be taken over by any method
    late = method.losses(student, teacher, labeled, more, AFTER)
    assert list(late) == list(early) == [*twin, *(f"consistent_{p}" for p in PARTS)]
    assert all(float(early[f"consistent_{p}"]) == 0 for p in PARTS)
    assert all((float(late[f"consistent_{p}"].detach()) > 0) == (p != "quality" or name == "fcos") for p in PARTS)
    assert all(float(late[k].detach()) == pytest.approx(float(v.detach()), rel=1e-4) for k, v in twin.items())
    torch.stack(list(late.values())).sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
    unused = [n for n, p in student.named_parameters() if p.grad is None]
    assert all(n.startswith("fpn.") and not half_size for n in unused)
    # half way up the ramp, and a weight of 1 instead of 2
    for config, progress, share in ((ConsistentTeacherConfig(weight=1.0), AFTER, 2), (None, Progress(9, 5, 10), 2)):
        again = ConsistentTeacher(config or ConsistentTeacherConfig(), half_size)
        other = again.losses(student, teacher, labeled, more, progress)
        for p in PARTS:
            assert float(late[f"consistent_{p}"].detach()) == pytest.approx(
                share * float(other[f"consistent_{p}"].detach()), rel=1e-5
            )


def test_the_threshold_chooses_the_pseudo_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes whose remembered scores lie high ask for more; the chosen ones are what the losses get."""
    student, teacher = pair("fcos")
    labeled, more = batches()
    given: list[Targets] = []
    real = consistent_losses

    def spy(regions: Regions, targets: list[Targets], candidates: int) -> Mapping[str, Tensor]:
        given.extend(targets)
        assert candidates == 13 and len(regions.logits) == 2
        return real(regions, targets, candidates)

    monkeypatch.setattr(consistent_teacher, "consistent_losses", spy)
    method = ConsistentTeacher(ConsistentTeacherConfig())
    method.losses(student, teacher, labeled, more, AFTER)
    assert method.scores is not None
    least = thresholds(method.scores)
    with torch.no_grad():
        assert more.weak is not None
        found = teacher.detect(teacher(more.weak.float() / 255, more.content), more.content, score_threshold=0.05)
    for detections, target in zip(found, given, strict=True):
        kept = [i for i in range(len(detections)) if detections.scores[i] >= least[detections.labels[i]]]
        assert 0 < len(kept) < len(detections)
        assert torch.equal(target.labels, detections.labels[kept]) and torch.equal(target.boxes, detections.boxes[kept])
    # what the strong view hides is ignored
    given.clear()
    covered = more.erased.clone()
    covered[:, 0] = torch.tensor([0.0, 0.0, 64.0, 64.0])
    method.losses(student, teacher, labeled, replace(more, erased=covered), AFTER)
    assert all(len(t.labels) == 0 < len(t.ignore) for t in given)


def test_state_goes_round() -> None:
    student, teacher = pair("fcos")
    labeled, more = batches()
    method, other = (ConsistentTeacher(ConsistentTeacherConfig()) for _ in range(2))
    method.losses(student, teacher, labeled, more, AFTER)
    saved = {name: value.clone() for name, value in method.state().items()}
    assert list(saved) == ["scores"] and int((~saved["scores"].isnan()).sum()) > 0
    other.restore(saved)
    next_ = tiny.one_size(tiny.batch([(64, 64)], seed=5))
    mine, theirs, fresh = (
        m.losses(student, teacher, labeled, next_, AFTER)
        for m in (method, other, ConsistentTeacher(ConsistentTeacherConfig()))
    )
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert any(not torch.equal(mine[k], fresh[k]) for k in mine)
    torch.testing.assert_close(method.state(), other.state(), rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(saved["scores"].nan_to_num(), method.state()["scores"].nan_to_num())
    other.restore({})
    assert other.state() == {}
    with pytest.raises(ValueError, match="not 100 scores"):
        other.restore({"scores": torch.zeros(3, 50)})
    with pytest.raises(KeyError):
        other.restore({"boxes": torch.zeros(3, 100)})


def test_a_training_with_it_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # in so short a training all scores are low
    monkeypatch.setattr(consistent_teacher, "LEAST_SCORE", 0.01)
    monkeypatch.setattr(consistent_teacher, "LOWEST", 0.0)
    data = tiny.dataset(tmp_path / "data")
    config = tiny.config(data, tmp_path / "a", method="consistent-teacher")
    whole = train(config)
    assert whole.finished and whole.teacher_ap is not None
    assert "method    consistent-teacher" in (tmp_path / "a" / "train.log").read_text()
    part = replace(config, out=str(tmp_path / "b"))
    train(replace(part, stop=5))
    train(part, resume=tmp_path / "b")
    mine, other = (torch.load(tmp_path / run / "checkpoints" / "last.pt") for run in "ab")
    assert all(torch.equal(mine[k][name], other[k][name]) for k in ("student", "teacher") for name in mine[k])
    torch.testing.assert_close(mine["method"], other["method"], rtol=0, atol=0, equal_nan=True)
    assert int((~mine["method"]["scores"].isnan()).sum()) > 20
    assert torch.load(tmp_path / "a" / "checkpoints" / "burn_in.pt")["method"] == {}
    assert train(replace(config, detector="retinanet", out=str(tmp_path / "c"))).finished
