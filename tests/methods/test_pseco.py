"""PseCo: its assignment and box weights by hand and against loops, its losses, whole steps and trainings with it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sedet.config import ModelConfig, PseCoConfig
from sedet.data.batch import Batch, Targets, pixels
from sedet.detectors.build import freeze_unused
from sedet.detectors.faster_rcnn import FasterRCNN, boxes_of
from sedet.detectors.file import load_detector
from sedet.detectors.regions import HALF_LEVELS, Regions
from sedet.detectors.rpn import rpn_loss, sample
from sedet.errors import ConfigError
from sedet.methods.method import Progress
from sedet.methods.pseco import PARTS, PseCo, agreement, assign, by_prediction, pseco_losses
from sedet.methods.supervised import Supervised
from sedet.training.run import train
from tests import tiny
from tests.detectors.test_faster_rcnn import network
from tests.methods.test_soft_teacher import encoded, overlap, smooth_l1

BURN_IN, AFTER = Progress(3, 5, 10), Progress(100, 5, 10)
VIEWS = ("pseco", "pseco_half")
EASY = PseCoConfig(threshold=0.3)
"""What a network that has learnt nothing can pass."""


# --- assignment -----------------------------------------------------------------------------------------------


def test_assignment_by_hand() -> None:
    """Label 0: IoUs sum to 2.2, so two RoIs, of quality sqrt(.54) and sqrt(.4), not the nearest (sqrt(.08)).

    Label 1: they sum to 1.15, so one, the second, which label 0 wants more; it is left without any.
    """
    ious = torch.tensor([[0.8, 0.2], [0.6, 0.5], [0.5, 0.0], [0.3, 0.45]])
    score = torch.tensor([[0.1, 1.0], [0.9, 0.95], [0.8, 0.0], [1.0, 0.5]])
    assert by_prediction(ious, score, 0.4, 12).tolist() == [-1, 0, 0, -1]
    score[1, 0] = 0.75  # 0.45 against 0.475: now label 1 has it
    assert by_prediction(ious, score, 0.4, 12).tolist() == [-1, 1, 0, -1]
    # one IoU alone sums to 0.8 and 0.5: one RoI each, the best; label 0's is the third, by its score
    assert by_prediction(ious, torch.tensor([[0.1, 0.0], [0.1, 0.1], [1.0, 0.0], [1.0, 1.0]]), 0.4, 1).tolist() == [
        -1,
        -1,
        0,
        1,
    ]
    assert by_prediction(ious, score, 0.9, 12).tolist() == [-1] * 4  # none is near enough
    assert by_prediction(ious, torch.zeros(4, 2), 0.4, 12).tolist().count(0) == 2  # scores of 0 may answer too
    for shape in ((0, 2), (3, 0), (0, 0)):
        assert by_prediction(torch.zeros(shape), torch.zeros(shape), 0.4, 12).tolist() == [-1] * shape[0]


def naive_assignment(ious: list[list[float]], score: list[list[float]], least: float, candidates: int) -> list[int]:
    labels = len(ious[0]) if ious else 0
    wanted: list[list[tuple[float, int]]] = [[] for _ in ious]
    for g in range(labels):
        column = [row[g] for row in ious]
        number = max(1, int(sum(sorted(column, reverse=True)[:candidates])))
        able = [r for r in range(len(ious)) if column[r] >= least]
        able.sort(key=lambda r: -math.sqrt(column[r] * score[r][g]))
        for r in able[:number]:
            wanted[r].append((math.sqrt(column[r] * score[r][g]), g))
    return [max(one)[1] if one else -1 for one in wanted]


@pytest.mark.parametrize("seed", range(8))
def test_assignment_against_a_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rois, labels = ((0, 3), (5, 0), (1, 1), (7, 2), (30, 4), (80, 9), (13, 1), (200, 3))[seed]
    ious = torch.rand(rois, labels, generator=generator, dtype=torch.float64)
    score = torch.rand(rois, labels, generator=generator, dtype=torch.float64)
    for least, candidates in ((0.4, 12), (0.0, 3), (0.7, 1), (0.95, 40)):
        got = by_prediction(ious, score, least, candidates)
        assert got.dtype == torch.int64
        assert got.tolist() == naive_assignment(ious.tolist(), score.tolist(), least, candidates)


def test_agreement_by_hand() -> None:
    """Two boxes that share a half and the whole of the first label's: (0.75)^2. The second has none, the third one."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 0, 50, 10]])
    decoded = torch.tensor([[0.0, 0, 10, 5], [40, 0, 50, 4], [0, 0, 10, 10]])
    torch.testing.assert_close(agreement(decoded, torch.tensor([0, 2, 0]), boxes), torch.tensor([0.5625, 0.0, 0.16]))
    none = agreement(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    assert none.shape == (0,)
    assert agreement(torch.full((1, 4), 3.0), torch.tensor([0]), torch.full((1, 4), 3.0)).tolist() == [0.0]


@pytest.mark.parametrize("seed", range(4))
def test_agreement_against_a_loop(seed: int) -> None:
    torch.manual_seed(seed)
    positives, labels = ((0, 2), (1, 1), (9, 3), (40, 12))[seed]

    def boxes(count: int) -> Tensor:
        corner = torch.rand(count, 2, dtype=torch.float64) * 20
        return torch.cat([corner, corner + 5 + torch.rand(count, 2, dtype=torch.float64) * 30], dim=1)

    decoded, given, index = boxes(positives), boxes(labels), torch.randint(0, labels, (positives,))
    wanted = []
    for g in range(labels):
        ious = [overlap(decoded[r].tolist(), given[g].tolist()) for r in range(positives) if int(index[r]) == g]
        wanted.append((sum(ious) / len(ious)) ** 2 if ious else 0.0)
    assert agreement(decoded, index, given).tolist() == pytest.approx(wanted, rel=1e-9)


# --- losses ---------------------------------------------------------------------------------------------------


def pair(classes: int = 3) -> tuple[FasterRCNN, FasterRCNN]:
    return network(classes, seed=1), network(classes, seed=2).eval()


def view(student: FasterRCNN, half: bool = False) -> Regions:
    batch = tiny.batch([(64, 48), (40, 64)], seed=2)
    with torch.no_grad():
        if half:
            return student(pixels(batch.half), batch.content // 2, HALF_LEVELS)
        return student(pixels(batch.strong), batch.content)


LABELS = [
    tiny.targets((0, 4, 4, 40, 36), (2, 20, 8, 60, 40), (1, 20, 8, 60, 40)),
    tiny.targets((1, 5, 20, 30, 60), ignore=[[0.0, 0, 40, 20]]),
]
SOME = [tiny.targets(ignore=[[0.0, 0, 64, 24]]), LABELS[1]]
NONE = [tiny.targets(), tiny.targets()]


def pools(student: FasterRCNN, regions: Regions, labels: list[Targets]) -> list[Tensor]:
    return [torch.cat([p, t.boxes]) for p, t in zip(student.candidates(regions), labels, strict=True)]


def naive_targets(
    student: FasterRCNN, regions: Regions, i: int, pool: Tensor, target: Targets, config: PseCoConfig
) -> tuple[list[int], list[float]]:
    """Index of each RoI and weight of each label of one image; only the network's answers are taken over."""
    alone, every = regions.images(slice(i, i + 1)), torch.ones(1, len(pool), dtype=torch.bool)
    seen = student.look(alone, pool[None], every)
    scores = seen.scores()[0].tolist()
    boxes, classes = target.boxes.tolist(), target.labels.tolist()
    ious = [[overlap(roi, box) for box in boxes] for roi in pool.tolist()]
    score = [[row[c] for c in classes] for row in scores]
    index = naive_assignment(ious, score, config.candidate_iou, config.candidates)
    weights = []
    assert regions.content is not None
    limits = regions.content[i].tolist() * 2
    for g, box in enumerate(boxes):
        decoded = boxes_of(seen, torch.full((1, len(pool)), classes[g])).boxes[0].tolist()
        inside = [[min(max(v, 0.0), float(s)) for v, s in zip(row, limits, strict=True)] for row in decoded]
        agreed = [overlap(inside[r], box) for r in range(len(pool)) if index[r] == g]
        weights.append((sum(agreed) / len(agreed)) ** 2 if agreed else 0.0)
    for r, (x1, y1, x2, y2) in enumerate(pool.tolist()):
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        if index[r] < 0 and any(a < x < c and b < y < d for a, b, c, d in target.ignore.tolist()):
            index[r] = -2
    return index, weights


@pytest.mark.parametrize("labels", [LABELS, SOME, NONE])
@pytest.mark.parametrize("half", [False, True])
def test_targets_and_losses_against_a_loop(labels: list[Targets], half: bool) -> None:
    student, _ = pair()
    with torch.no_grad():
        student.box_predictor.bbox_pred.weight.mul_(5)
    regions = view(student, half)
    targets = [t.halved() for t in labels] if half else labels
    pool = pools(student, regions, targets)
    total_class = total_box = number = 0.0
    with torch.no_grad():
        got_targets = assign(student, regions, pool, targets, EASY)
        torch.manual_seed(3)
        got = pseco_losses(student, regions, targets, EASY)
        torch.manual_seed(3)
        first = rpn_loss(regions, targets)  # draws first
        for i, target in enumerate(targets):
            index, weights = naive_targets(student, regions, i, pool[i], target, EASY)
            assert got_targets[i][0].tolist() == index
            assert got_targets[i][1].tolist() == pytest.approx(weights, rel=1e-4)
            drawn = torch.cat(sample(torch.tensor(index), student.spec.roi_samples, 0.25)).sort().values
            every = torch.ones(1, len(pool[i]), dtype=torch.bool)
            seen = student.look(regions.images(slice(i, i + 1)), pool[i][None], every)
            assert seen.deltas is not None
            for r in drawn.tolist():
                number += 1
                logits, g = seen.logits[0, r].tolist(), index[r]
                wanted = int(target.labels[g]) if g >= 0 else student.spec.classes
                total_class += math.log(sum(math.exp(z) for z in logits)) - logits[wanted]
                if g >= 0:
                    goal = encoded(target.boxes[g].tolist(), pool[i][r].tolist())
                    given = seen.deltas[0, r, wanted].tolist()
                    total_box += weights[g] * sum(smooth_l1(a - b) for a, b in zip(given, goal, strict=True))
    assert all(torch.equal(got[key], first[key]) for key in ("rpn_class", "rpn_box"))
    assert float(got["class"]) == pytest.approx(total_class / number, rel=1e-4)
    assert float(got["box"]) == pytest.approx(total_box / number, rel=1e-4, abs=1e-9)
    assert (total_box > 0) == (labels is not NONE)


def test_the_students_predictions_choose() -> None:
    """Of two labels with the same box the one of the class that the student sees there has the RoIs."""
    student, _ = pair()
    regions = view(student)
    pool = pools(student, regions, LABELS)
    for row, favoured in ((3, 1), (2, 2)):  # rows of the classes, behind the background's
        with torch.no_grad():
            student.box_predictor.cls_score.weight.zero_()
            student.box_predictor.cls_score.bias.zero_()
            student.box_predictor.cls_score.bias[row] = 5.0
        index, _ = assign(student, regions, pool, LABELS, EASY)[0]
        same = index[index >= 1]
        assert len(same) > 0 and set(same.tolist()) == {favoured}


def test_both_sizes_learn_the_same_targets() -> None:
    """With the maps one level apart and halved labels, the half-size view's second stage is taught what the full is."""
    student, _ = pair()
    full = view(student)
    paired = replace(view(student, half=True), maps=full.maps)  # strides of P2..P6
    pool = pools(student, full, LABELS)
    large = assign(student, full, pool, LABELS, EASY)
    small = assign(student, paired, [boxes / 2 for boxes in pool], [t.halved() for t in LABELS], EASY)
    for (index, weight), (index_half, weight_half) in zip(large, small, strict=True):
        assert torch.equal(index, index_half) and bool((index >= 0).any())
        torch.testing.assert_close(weight, weight_half)


def test_no_gradient_through_assignment_or_weight() -> None:
    student, _ = pair()
    batch = tiny.batch([(64, 48), (40, 64)], seed=2)
    regions = student(pixels(batch.strong), batch.content)
    for _, weight in assign(student, regions, pools(student, regions, LABELS), LABELS, EASY):
        assert not weight.requires_grad
    losses = pseco_losses(student, regions, LABELS, EASY)
    assert all(value.requires_grad for value in losses.values())


# --- steps ----------------------------------------------------------------------------------------------------


def step(
    student: FasterRCNN,
    teacher: FasterRCNN,
    config: PseCoConfig = EASY,
    at: Progress = AFTER,
    more: Batch | None = None,
    half_size: bool = True,
) -> dict[str, Tensor]:
    labeled = tiny.batch([(64, 48)], seed=1, labels=[tiny.targets((0, 4, 4, 40, 36))])
    more = tiny.one_size(tiny.batch([(64, 48), (40, 64)], seed=2)) if more is None else more
    torch.manual_seed(0)
    return PseCo(config, half_size).losses(student, teacher, labeled, more, at)


@pytest.mark.parametrize("half_size", [True, False])
def test_a_step_and_its_twin(half_size: bool) -> None:
    student, teacher = pair()
    labeled = tiny.batch([(64, 48)], seed=1, labels=[tiny.targets((0, 4, 4, 40, 36))])
    freeze_unused(student, PseCo(EASY, half_size).uses_half)
    early = step(student, teacher, at=BURN_IN, half_size=half_size)
    torch.manual_seed(0)
    twin = Supervised(half_size).losses(student, teacher, labeled, None, BURN_IN)
    assert all(torch.equal(early[key], value) for key, value in twin.items())
    late = step(student, teacher, half_size=half_size)
    names = [f"{name}_{part}" for name in VIEWS for part in PARTS]
    assert list(late) == list(early) == [*twin, *names]
    for name in names:
        assert float(early[name]) == 0 < float(late[name].detach()), name
    torch.stack([late[name] for name in names]).sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert [n for n, p in student.named_parameters() if p.grad is None] == []


def test_the_labels_are_the_teachers_and_each_view_learns_them() -> None:
    """The parts of a step are those of the views alone: labels from the weak view, halved for the small one."""
    student, teacher = pair()
    more = tiny.one_size(tiny.batch([(64, 48), (40, 64)], seed=2))
    assert more.weak is not None
    labeled = tiny.batch([(64, 48)], seed=1, labels=[tiny.targets((0, 4, 4, 40, 36))])
    got = step(student, teacher)
    with torch.no_grad():
        found = teacher.detect(teacher(pixels(more.weak), more.content), more.content, score_threshold=0.3)
        targets = [Targets(one.boxes, one.labels, torch.zeros(0, 4)) for one in found]
        torch.manual_seed(0)
        Supervised().losses(student, teacher, labeled, None, AFTER)  # draws first
        full = pseco_losses(student, student(pixels(more.strong), more.content), targets, EASY)
        small = student(pixels(more.half), more.content // 2, HALF_LEVELS)
        half = pseco_losses(student, small, [t.halved() for t in targets], EASY)
    for part in PARTS:
        assert float(got[f"pseco_{part}"].detach()) == pytest.approx(2 * float(full[part]), rel=1e-3), part
        assert float(got[f"pseco_half_{part}"].detach()) == pytest.approx(2 * float(half[part]), rel=1e-3), part


def test_the_weight_and_its_ramp() -> None:
    student, teacher = pair()
    full = step(student, teacher)
    for config, at, share in ((replace(EASY, weight=1.0), AFTER, 0.5), (EASY, Progress(9, 5, 10), 0.5)):
        part = step(student, teacher, config, at)
        for key, value in full.items():
            wanted = float(value.detach()) * (share if key.startswith("pseco_") else 1.0)
            assert float(part[key].detach()) == pytest.approx(wanted, rel=1e-5), key


def test_erased_labels_teach_nothing() -> None:
    student, teacher = pair()
    seen = tiny.one_size(tiny.batch([(64, 48)], seed=2))
    gone = tiny.one_size(tiny.batch([(64, 48)], seed=2, erased=[[[0, 0, 64, 48]]]))
    assert float(step(student, teacher, more=seen)["pseco_box"].detach()) > 0
    losses = step(student, teacher, more=gone)
    for name in VIEWS:
        assert float(losses[f"{name}_box"].detach()) == float(losses[f"{name}_rpn_box"].detach()) == 0
    assert all(bool(value.isfinite()) for value in losses.values())


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("objects", [True, False])
def test_odd_batches_give_finite_losses(classes: int, objects: bool) -> None:
    student, teacher = pair(classes)
    if not objects:
        with torch.no_grad():
            teacher.rpn_head.cls_logits.bias.fill_(-100.0)
    for size in ((64, 64), (8, 8)):
        for config in (EASY, PseCoConfig(), PseCoConfig(1.0), PseCoConfig(0.0, 0.0, 1), PseCoConfig(0.0, 1.0, 1000)):
            student.zero_grad()
            losses = step(student, teacher, config, more=tiny.one_size(tiny.batch([size], seed=2)))
            assert all(bool(value.isfinite()) for value in losses.values())
            torch.stack(list(losses.values())).sum().backward()
            assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in student.parameters())


def test_it_remembers_nothing() -> None:
    method = PseCo(EASY)
    assert method.state() == {}
    method.restore({})


def test_a_training_with_it_whole_and_in_two_parts(tmp_path: Path) -> None:
    data = tiny.dataset(tmp_path / "data")
    config = tiny.config(
        data,
        tmp_path / "a",
        method="pseco",
        detector="faster_rcnn",
        model=ModelConfig(8, roi_samples=16),
        pseco=PseCoConfig(threshold=0.1),
    )
    whole = train(config)
    assert whole.finished and whole.teacher_ap is not None
    assert "pseco, teacher  " in (tmp_path / "a" / "train.log").read_text()
    part = replace(config, out=str(tmp_path / "b"))
    train(replace(part, stop=5))
    torch.manual_seed(77)
    parts = train(part, resume=tmp_path / "b")
    assert whole.detector is not None and parts.detector is not None
    mine, other = (load_detector(o.detector).model.state_dict() for o in (whole, parts))
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    with pytest.raises(ConfigError, match="defined for the detector faster_rcnn, not for retinanet"):
        train(replace(config, detector="retinanet", out=str(tmp_path / "other")))
