"""PseCo: its assignment and box weights by hand and against loops, its losses, whole steps and trainings with it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sedet.config import ModelConfig, PseCoConfig
from sedet.data.batch import Batch, Targets, pixels
from sedet.detectors.build import freeze_unused
from sedet.detectors.faster_rcnn import FasterRCNN
from sedet.detectors.file import load_detector
from sedet.detectors.regions import HALF_LEVELS, Regions
from sedet.detectors.rpn import rpn_loss, sample
from sedet.errors import ConfigError
from sedet.methods.method import Progress
from sedet.methods.pseco import PARTS, PseCo, agreement, assign, by_prediction, draw, pseco_losses
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
    """Each RoI may answer for the label it overlaps most: the first three for 0, the last two for 1.

    Label 0: their IoUs sum to 2.1, so two RoIs, of quality sqrt(.54) and sqrt(.4), not the nearest (sqrt(.08)).
    Label 1: 0.45 and 0.5 sum to 0.95, so one, sqrt(.25) against sqrt(.2); the second RoI's 0.5 counts for 0 alone.
    """
    ious = torch.tensor([[0.8, 0.2], [0.6, 0.5], [0.7, 0.0], [0.3, 0.45], [0.1, 0.5], [0.39, 0.3]])
    score = torch.tensor([[0.1, 1.0], [0.9, 1.0], [0.6, 0.0], [1.0, 0.5], [0.0, 0.4], [1.0, 1.0]])
    assert by_prediction(ious, score, 0.4, 12).tolist() == [-1, 0, 0, 1, -1, -1]
    # one IoU alone sums to 0.8: one RoI
    assert by_prediction(ious, score, 0.4, 1).tolist() == [-1, 0, -1, 1, -1, -1]
    assert by_prediction(ious, score, 0.9, 12).tolist() == [-1] * 6  # none is near enough
    assert by_prediction(ious, torch.zeros(6, 2), 0.4, 12).tolist().count(0) == 2  # scores of 0 may answer too
    # far candidates are no candidates: eleven of 0.39 would have made it five
    few = torch.cat([torch.full((3, 1), 0.45), torch.full((11, 1), 0.39)])
    assert by_prediction(few, torch.ones(14, 1), 0.4, 12).tolist() == [0] + [-1] * 13
    for shape in ((0, 2), (3, 0), (0, 0)):
        assert by_prediction(torch.zeros(shape), torch.zeros(shape), 0.4, 12).tolist() == [-1] * shape[0]


def naive_assignment(ious: list[list[float]], score: list[list[float]], least: float, candidates: int) -> list[int]:
    labels = len(ious[0]) if ious else 0
    found = [-1] * len(ious)
    for g in range(labels):
        able = [r for r, row in enumerate(ious) if row[g] >= least and row.index(max(row)) == g]
        number = max(1, int(sum(sorted((ious[r][g] for r in able), reverse=True)[:candidates])))
        able.sort(key=lambda r: -math.sqrt(ious[r][g] * score[r][g]))
        for r in able[:number]:
            found[r] = g
    return found


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
    """Deltas of 0 decode the RoIs: half and all of the first label's box, 0.75 for both; 0.4 of the third's; none of
    the background's."""
    labels = [tiny.targets((0, 0, 0, 10, 10), (1, 20, 20, 30, 30), (1, 40, 0, 50, 10)), tiny.targets()]
    rois = [
        torch.tensor([[0.0, 0, 10, 5], [40, 0, 50, 4], [0, 0, 10, 10], [20, 20, 30, 30]]),
        torch.tensor([[0.0, 0, 9, 9]]),
    ]
    indices = [torch.tensor([0, 2, 0, -1]), torch.tensor([-1])]
    got = agreement(torch.zeros(5, 2, 4), rois, indices, labels)
    torch.testing.assert_close(got, torch.tensor([0.75, 0.4, 0.75]))
    none = agreement(torch.zeros(1, 2, 4), rois[1:], indices[1:], labels[1:])
    assert none.shape == (0,)


# --- losses ---------------------------------------------------------------------------------------------------


def pair(classes: int = 3) -> tuple[FasterRCNN, FasterRCNN]:
    return network(classes, seed=1), network(classes, seed=2).eval()


BATCH = tiny.batch([(64, 48), (40, 64)], seed=2)
LABELS = [
    tiny.targets((0, 4, 4, 40, 36), (2, 20, 8, 60, 40), (1, 20, 8, 60, 40)),
    tiny.targets((1, 5, 20, 30, 60), ignore=[[0.0, 0, 40, 20]]),
]
SOME = [tiny.targets(ignore=[[0.0, 0, 64, 24]]), LABELS[1]]
NONE = [tiny.targets(), tiny.targets()]


def views(student: FasterRCNN, teacher: FasterRCNN) -> tuple[Regions, Regions, Regions]:
    """The student's full and half view, the teacher's weak one."""
    assert BATCH.weak is not None
    full = student(pixels(BATCH.strong), BATCH.content)
    half = student(pixels(BATCH.half), BATCH.content // 2, HALF_LEVELS)
    with torch.no_grad():
        return full, half, teacher(pixels(BATCH.weak), BATCH.content)


def proposals_of(teacher: FasterRCNN, answer: Regions) -> list[Tensor]:
    return [boxes[valid] for boxes, valid in zip(*teacher.propose(answer), strict=True)]


def decoded(delta: list[float], roi: list[float]) -> list[float]:
    """torchvision's box of a RoI and its four deltas, with the second stage's weights."""
    width, height = roi[2] - roi[0], roi[3] - roi[1]
    x, y = roi[0] + width / 2 + delta[0] / 10 * width, roi[1] + height / 2 + delta[1] / 10 * height
    limit = math.log(1000 / 16)
    w, h = width * math.exp(min(delta[2] / 5, limit)), height * math.exp(min(delta[3] / 5, limit))
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def naive_index(teacher: FasterRCNN, answer: Regions, i: int, pool: Tensor, target: Targets) -> list[int]:
    """What each proposal of one image answers for; only the network's answers are taken over."""
    seen = teacher.look(answer.images(slice(i, i + 1)), pool[None], torch.ones(1, len(pool), dtype=torch.bool))
    assert seen.deltas is not None and answer.content is not None
    limits = answer.content[i].tolist() * 2
    ious, score = [], []
    for roi, logits, deltas in zip(pool.tolist(), seen.logits[0].tolist(), seen.deltas[0].tolist(), strict=True):
        own = [math.exp(z) for z in logits[:-1]]
        box = decoded(deltas[own.index(max(own))], roi)
        inside = [min(max(v, 0.0), float(s)) for v, s in zip(box, limits, strict=True)]
        ious.append([overlap(inside, other) for other in target.boxes.tolist()])
        score.append([own[c] / sum(own) for c in target.labels.tolist()])
    index = naive_assignment(ious, score, EASY.candidate_iou, EASY.candidates)
    for r, (x1, y1, x2, y2) in enumerate(pool.tolist()):
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        if index[r] < 0 and any(a < x < c and b < y < d for a, b, c, d in target.ignore.tolist()):
            index[r] = -2
    return index


@pytest.mark.parametrize("labels", [LABELS, SOME, NONE])
def test_targets_against_a_loop(labels: list[Targets]) -> None:
    _, teacher = pair()
    *_, answer = views(teacher, teacher)
    pool = proposals_of(teacher, answer)
    wanted = [naive_index(teacher, answer, i, pool[i], target) for i, target in enumerate(labels)]
    assert [index.tolist() for index in assign(teacher, answer, pool, labels, EASY)] == wanted
    torch.manual_seed(3)
    rois, indices = draw(teacher, answer, labels, EASY)
    torch.manual_seed(3)
    for boxes, index, every, all_of in zip(rois, indices, wanted, pool, strict=True):
        drawn = torch.cat(sample(torch.tensor(every), teacher.spec.roi_samples, 0.25)).sort().values
        assert torch.equal(boxes, all_of[drawn]) and index.tolist() == [every[r] for r in drawn.tolist()]
    assert any(int(index.max()) >= 0 for index in indices) == (labels is not NONE)


@pytest.mark.parametrize("labels", [LABELS, SOME, NONE])
def test_losses_against_a_loop(labels: list[Targets]) -> None:
    """Both views learn the same RoIs, with the weights that the full one gives them."""
    student, teacher = pair()
    with torch.no_grad():
        student.box_predictor.bbox_pred.weight.mul_(5)
        full, half, answer = views(student, teacher)
        torch.manual_seed(3)
        rois, indices = draw(teacher, answer, labels, EASY)
        torch.manual_seed(4)
        got = pseco_losses(student, full, half, rois, indices, labels)
        torch.manual_seed(4)
        first = [rpn_loss(full, labels), rpn_loss(half, [t.halved() for t in labels])]
        rows: list[dict[str, Any]] = []  # of the positives
        total_class, number = [0.0, 0.0], 0
        for i, (boxes, index, target) in enumerate(zip(rois, indices, labels, strict=True)):
            every = torch.ones(1, len(boxes), dtype=torch.bool)
            seen = [
                student.look(full.images(slice(i, i + 1)), boxes[None], every),
                student.look(half.images(slice(i, i + 1)), boxes[None] / 2, every),
            ]
            for r, g in enumerate(index.tolist()):
                number += 1
                wanted = int(target.labels[g]) if g >= 0 else student.spec.classes
                row: dict[str, Any] = {"label": (i, g), "loss": []}
                for n, answers in enumerate(seen):
                    logits = answers.logits[0, r].tolist()
                    total_class[n] += math.log(sum(math.exp(z) for z in logits)) - logits[wanted]
                    if g >= 0 and answers.deltas is not None:
                        goal = encoded(target.boxes[g].tolist(), boxes[r].tolist())
                        given = answers.deltas[0, r, wanted].tolist()
                        row["loss"].append(sum(smooth_l1(a - b) for a, b in zip(given, goal, strict=True)))
                        if n == 0:
                            row["iou"] = overlap(decoded(given, boxes[r].tolist()), target.boxes[g].tolist())
                if g >= 0:
                    rows.append(row)
    for row in rows:
        ious = [other["iou"] for other in rows if other["label"] == row["label"]]
        row["u"] = sum(ious) / len(ious)
    scale = sum(row["u"] for row in rows) / max(1e-9, sum(row["u"] ** 2 for row in rows))
    for n, name in enumerate(VIEWS):
        total_box = scale * sum(row["u"] ** 2 * row["loss"][n] for row in rows)
        assert float(got[f"{name}_class"]) == pytest.approx(total_class[n] / number, rel=1e-4)
        assert float(got[f"{name}_box"]) == pytest.approx(total_box / number, rel=1e-4, abs=1e-9)
        assert (total_box > 0) == (labels is not NONE)
        assert all(torch.equal(got[f"{name}_{key}"], first[n][key]) for key in ("rpn_class", "rpn_box"))


def test_the_teachers_predictions_choose() -> None:
    """Of what overlaps a label alike, the RoIs have it that the teacher takes for its class; its RoIs alone learn."""
    student, teacher = pair()
    *_, answer = views(student, teacher)
    pool = proposals_of(teacher, answer)
    rois, indices = draw(teacher, answer, LABELS, EASY)
    for boxes, index, proposals, target in zip(rois, indices, pool, LABELS, strict=True):
        assert all(bool((proposals == box).all(dim=1).any()) for box in boxes)
        assert not any(bool((boxes == box).all(dim=1).any()) for box in target.boxes)  # no pseudo box among them
        assert len(index) == len(boxes)
    with torch.no_grad():  # boxes as they are proposed; of the same two the first has all RoIs of both
        teacher.box_predictor.bbox_pred.weight.zero_()
        teacher.box_predictor.bbox_pred.bias.zero_()
        index = assign(teacher, answer, pool, LABELS, EASY)[0]
        ious = torch.tensor([[overlap(a, b) for b in LABELS[0].boxes.tolist()] for a in pool[0].tolist()])
    assert set(index.tolist()) <= {-1, 0, 1} and int((index == 1).sum()) > 0
    assert all(float(ious[r, g]) >= 0.4 for r, g in enumerate(index.tolist()) if g >= 0)


def test_no_gradient_through_assignment_or_weight() -> None:
    student, teacher = pair()
    full, half, answer = views(student, teacher)
    rois, indices = draw(teacher, answer, LABELS, EASY)
    _, deltas = student.second_stage(full, rois)
    assert deltas.requires_grad and not agreement(deltas, rois, indices, LABELS).requires_grad
    losses = pseco_losses(student, full, half, rois, indices, LABELS)
    assert all(value.requires_grad for value in losses.values())
    assert list(losses) == [f"{name}_{part}" for name in VIEWS for part in PARTS]


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


def test_the_labels_and_the_rois_are_the_teachers() -> None:
    """A step's parts are those of the views alone: labels and RoIs from the weak view, halved for the small one."""
    student, teacher = pair()
    labeled = tiny.batch([(64, 48)], seed=1, labels=[tiny.targets((0, 4, 4, 40, 36))])
    got = step(student, teacher)
    with torch.no_grad():
        full, half, answer = views(student, teacher)
        found = teacher.detect(answer, BATCH.content, score_threshold=0.3)
        targets = [Targets(one.boxes, one.labels, torch.zeros(0, 4)) for one in found]
        torch.manual_seed(0)
        Supervised().losses(student, teacher, labeled, None, AFTER)  # draws first
        want = pseco_losses(student, full, half, *draw(teacher, answer, targets, EASY), targets)
    for name, value in want.items():
        assert float(got[name].detach()) == pytest.approx(2 * float(value), rel=1e-3), name


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
