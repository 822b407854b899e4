"""MixPL: what a step learns from, against the detector's own loss; what it remembers; and trainings with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sedet.config import MixPLConfig, ModelConfig
from sedet.data.batch import Batch, Targets
from sedet.detectors.build import Detector, build_detector
from sedet.detectors.file import load_detector
from sedet.methods.method import Progress
from sedet.methods.mixing import Picture
from sedet.methods.mixpl import MixPL
from sedet.methods.supervised import Supervised
from sedet.training.run import train
from tests import tiny
from tests.detectors.test_faster_rcnn import network

BURN_IN, RAMP, AFTER = Progress(3, 5, 10), Progress(9, 5, 10), Progress(100, 5, 10)
PARTS = {
    "fcos": ("class", "box", "quality"),
    "retinanet": ("class", "box"),
    "faster_rcnn": ("rpn_class", "rpn_box", "class", "box"),
}
UNSURE = MixPLConfig(threshold=0.05)


def detector(name: str, seed: int, classes: int = 3) -> Detector:
    if name == "fcos":
        return tiny.detector(classes, seed, confident=True)
    if name == "faster_rcnn":
        return network(classes, seed)
    torch.manual_seed(seed)
    model = build_detector("retinanet", tiny.BACKBONE, classes, tiny.MODEL, "none")
    with torch.no_grad():
        model.classification_head.cls_logits.weight.mul_(20)  # type: ignore[union-attr, operator]
        model.classification_head.cls_logits.bias.zero_()  # type: ignore[union-attr, operator]
    return model


def labeled() -> Batch:
    return tiny.batch([(64, 48)], seed=1, labels=[tiny.targets((0, 4, 4, 40, 36))])


def unlabeled(count: int = 3, seed: int = 2, erased: list[list[list[float]]] | None = None) -> Batch:
    return tiny.one_size(
        tiny.batch([(64, 48), (40, 64), (64, 64), (30, 20), (64, 32)][:count], seed=seed, erased=erased)
    )


def step(
    method: MixPL, student: Detector, teacher: Detector, more: Batch, progress: Progress = AFTER
) -> dict[str, Tensor]:
    torch.manual_seed(11)
    return method.losses(student, teacher, labeled(), more, progress)


@pytest.mark.parametrize("name", PARTS)
def test_a_step_and_its_twin(name: str) -> None:
    student, teacher = detector(name, 1), detector(name, 2).eval()
    method = MixPL(UNSURE)
    early = step(method, student, teacher, unlabeled(), BURN_IN)
    torch.manual_seed(11)
    twin = Supervised().losses(student, teacher, labeled(), None, BURN_IN)
    assert all(torch.equal(early[key], value) for key, value in twin.items())
    assert method.state() == {}
    late = step(method, student, teacher, unlabeled())
    own = [f"{view}_{part}" for view in ("mixup", "mosaic") for part in PARTS[name]]
    assert list(late) == list(early) == [*twin, *own]
    assert all(float(early[key]) == 0 < float(late[key].detach()) for key in own)
    torch.stack(list(late.values())).sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert [n for n, p in student.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", PARTS)
def test_losses_are_the_detectors_own_on_what_was_mixed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each against one forward and one loss; the weights are those of the settings and the ramp."""
    student, teacher = detector(name, 1), detector(name, 2).eval()
    student.eval()
    method = MixPL(replace(UNSURE, weight=3.0, mosaic_weight=0.25))
    step(method, student, teacher, unlabeled(5, seed=9))  # something to remember
    given: list[tuple[Tensor, Tensor]] = []
    asked: list[tuple[object, dict[str, Tensor]]] = []
    forward, loss = student.forward, student.loss

    def watched_forward(images: Tensor, content: Tensor, *levels: object) -> object:
        given.append((images, content))
        return forward(images, content, *levels)  # type: ignore[arg-type]

    def watched_loss(regions: object, targets: object) -> dict[str, Tensor]:
        asked.append((targets, loss(regions, targets)))  # type: ignore[arg-type]
        return asked[-1][1]

    monkeypatch.setattr(student, "forward", watched_forward)
    monkeypatch.setattr(student, "loss", watched_loss)
    late = step(method, student, teacher, unlabeled(5), RAMP)
    images, content = given[0]
    assert len(images) == 1 + 5 + 2 and len(given) == 2 and len(asked) == 4  # full and half; labels twice, two mixtures
    assert torch.equal(images[0], labeled().strong[0] / 255.0)
    assert content[-2:].tolist() == [[64, 64]] * 2
    for view, weight, (targets, found) in zip(("mixup", "mosaic"), (1.0, 0.25), asked[2:], strict=True):
        assert len(targets) == (5 if view == "mixup" else 2)  # type: ignore[arg-type]
        for part, value in found.items():
            assert float(late[f"{view}_{part}"].detach()) == pytest.approx(
                3 * 0.5 * weight * float(value.detach()), rel=1e-5
            )
    if name != "faster_rcnn":  # which draws
        monkeypatch.undo()
        pictures, rows = images[1:6], asked[2][0]
        alone = student.loss(student(pictures, content[1:6]), rows)  # type: ignore[arg-type]
        for part, value in alone.items():
            assert float(late[f"mixup_{part}"].detach()) == pytest.approx(1.5 * float(value.detach()), rel=1e-4)


def test_views_are_the_strong_ones_with_patches_and_the_teachers_boxes() -> None:
    teacher, batch = tiny.detector(seed=2, confident=True).eval(), unlabeled()
    torch.manual_seed(0)
    views = MixPL(UNSURE).views(teacher, batch)
    with torch.no_grad():
        assert batch.weak is not None
        found = teacher.detect(teacher(batch.weak / 255.0, batch.content), batch.content, score_threshold=0.05)
    for i, (view, detections) in enumerate(zip(views, found, strict=True)):
        assert view.size == tuple(batch.content[i].tolist())
        changed = (view.image != batch.strong[i]).any(dim=0)
        inside = torch.zeros_like(changed)
        inside[: view.size[1], : view.size[0]] = True
        assert 0 < int(changed.sum()) < 20 * 0.01 * view.size[0] * view.size[1] and not bool((changed & ~inside).any())
        assert len(view.targets.boxes) + len(view.targets.ignore) == len(detections) > 0
        if len(view.targets.ignore) == 0:
            assert torch.equal(view.targets.boxes, detections.boxes)
            assert torch.equal(view.targets.labels, detections.labels)


def test_boxes_erased_beyond_the_limit_are_ignored() -> None:
    teacher = tiny.detector(seed=2, confident=True).eval()
    whole = MixPL(UNSURE).views(teacher, unlabeled(2, erased=[[[0.0, 0.0, 64.0, 64.0]], []]))
    assert len(whole[0].targets.boxes) == 0 < len(whole[0].targets.ignore)
    assert len(whole[1].targets.boxes) > 0
    rows = unlabeled(2, erased=[[[0.0, 0.0, 32.0, 64.0]], []])
    torch.manual_seed(3)
    strict, lenient = (len(MixPL(UNSURE, erase_limit=e).views(teacher, rows)[0].targets.boxes) for e in (0.2, 0.95))
    assert strict < lenient


def test_the_threshold_is_the_publications_for_each_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(teacher: Detector, batch: Batch, threshold: float) -> list[object]:
        seen.append(threshold)
        return []

    monkeypatch.setattr("sedet.methods.mixpl.teacher_detections", watched)
    for name in PARTS:
        MixPL(MixPLConfig()).views(detector(name, 0).eval(), unlabeled())
    MixPL(MixPLConfig(threshold=0.0)).views(detector("fcos", 0).eval(), unlabeled())
    assert seen == [0.3, 0.3, 0.7, 0.0]


# --- what is mixed with what --------------------------------------------------------------------------------


def blank(count: int, first: int = 0) -> list[Picture]:
    """Pictures told from each other by their grey."""
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    return [Picture(image + first + n, (64, 64), tiny.targets((n, 1, 2, 3, 4))) for n in range(count)]


def index(pictures: list[Picture], which: Picture) -> int:
    return [p is which for p in pictures].index(True)


def test_partners_are_others_of_the_batch_until_something_is_remembered() -> None:
    method, views = MixPL(MixPLConfig()), blank(4)
    pairs = set()
    for seed in range(60):
        torch.manual_seed(seed)
        pairs |= {(i, index(views, p)) for i, p in enumerate(method.partners(views))}
    assert pairs == {(i, j) for i in range(4) for j in range(4) if i != j}
    alone = blank(1)
    assert method.partners(alone)[0] is alone[0]
    method.remembered = blank(8, 100)
    taken = set()
    for seed in range(60):
        torch.manual_seed(seed)
        taken |= {index(method.remembered, p) for p in method.partners(views)}
    assert taken == set(range(8))


@pytest.mark.parametrize(("count", "past"), [(1, 0), (2, 0), (1, 2), (3, 8), (4, 8), (5, 8), (8, 0), (9, 1)])
def test_each_image_of_the_batch_is_in_one_mosaic(count: int, past: int) -> None:
    method, views = MixPL(MixPLConfig()), blank(count)
    method.remembered = blank(past, 100)
    torch.manual_seed(count)
    fours = method.fours(views)
    assert len(fours) == -(-count // 4) and all(len(four) == 4 for four in fours)
    order = [int(p.image[0, 0, 0]) for four in fours for p in four]
    assert sorted(order[:count]) == list(range(count))
    filled = order[count:]
    assert sum(v >= 100 for v in filled) == min(past, len(filled)) == len({v for v in filled if v >= 100})
    orders = set()
    for seed in range(20):
        torch.manual_seed(seed)
        orders.add(tuple(int(p.image[0, 0, 0]) for four in method.fours(views) for p in four))
    assert len(orders) > 1 or count == 1


def test_the_last_images_are_remembered() -> None:
    student, teacher = tiny.detector(seed=1, confident=True), tiny.detector(seed=2, confident=True).eval()
    method = MixPL(replace(UNSURE, cache=4))
    step(method, student, teacher, unlabeled(3))
    first = list(method.remembered)
    assert [p.size for p in first] == [(64, 48), (40, 64), (64, 64)]
    step(method, student, teacher, unlabeled(2, seed=5))
    assert [p.size for p in method.remembered] == [(40, 64), (64, 64), (64, 48), (40, 64)]
    assert all(a is b for a, b in zip(method.remembered[:2], first[1:], strict=True))
    assert all(p.image.dtype == torch.uint8 and not p.targets.boxes.requires_grad for p in method.remembered)
    assert method.remembered[0].image.untyped_storage().nbytes() == 3 * 64 * 64  # nothing of its batch


@pytest.mark.parametrize("name", PARTS)
def test_what_is_remembered_goes_through_its_state(name: str, tmp_path: Path) -> None:
    student, teacher = detector(name, 1).eval(), detector(name, 2).eval()
    method, again = MixPL(UNSURE), MixPL(UNSURE)
    step(method, student, teacher, unlabeled(5, erased=[[[0.0, 0.0, 64.0, 64.0]]] + [[]] * 4))
    torch.save(method.state(), tmp_path / "state.pt")
    assert (tmp_path / "state.pt").stat().st_size < 2 * 5 * 3 * 64 * 64 + 20_000
    again.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert len(again.remembered) == 5
    for a, b in zip(method.remembered, again.remembered, strict=True):
        assert a.size == b.size and torch.equal(a.image, b.image)
        assert all(torch.equal(getattr(a.targets, n), getattr(b.targets, n)) for n in ("boxes", "labels", "ignore"))
    for seed in (6, 7):
        mine, other = (step(m, student, teacher, unlabeled(2, seed=seed)) for m in (method, again))
        assert all(torch.equal(mine[key], other[key]) for key in mine)
    again.restore({})
    assert again.state() == {}
    with pytest.raises(KeyError):
        again.restore({"scores": torch.zeros(3)})
    with pytest.raises((ValueError, RuntimeError)):
        again.restore(method.state() | {"labels": torch.zeros(1, dtype=torch.int64)})


def test_what_lies_on_two_devices_is_saved_from_one() -> None:
    """Resumed on a GPU: what the checkpoint remembered is on the CPU, what came since is not."""
    with FakeTensorMode():
        method = MixPL(UNSURE)
        for device in ("cpu", "cuda"):
            image = torch.zeros(3, 64, 64, dtype=torch.uint8, device=device)
            boxes, labels = torch.zeros(2, 4, device=device), torch.zeros(2, dtype=torch.int64, device=device)
            method.remembered.append(Picture(image, (64, 48), Targets(boxes, labels, boxes[:1])))
        state = method.state()
    assert all(value.device.type == "cpu" for value in state.values())
    assert state["images"].shape == (2, 3, 64, 64) and state["boxes"].shape == (4, 4)


# --- degenerate cases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("threshold", [0.02, 1.0])
@pytest.mark.parametrize("count", [1, 2])
def test_nothing_to_learn_from_gives_no_nan(name: str, threshold: float, count: int) -> None:
    student, teacher = detector(name, 1, classes=1), detector(name, 2, classes=1).eval()
    method = MixPL(MixPLConfig(threshold=threshold, cache=1))
    blind = unlabeled(count, erased=[[[0.0, 0.0, 64.0, 64.0]]] * count)
    small = tiny.one_size(tiny.batch([(8, 8)] * count, seed=4))
    keys = set()
    for more in (blind, small, blind, unlabeled(count)):
        losses = step(method, student, teacher, more)
        keys.add(tuple(losses))
        assert all(bool(v.isfinite()) for v in losses.values())
        torch.stack(list(losses.values())).sum().backward()
    assert len(keys) == 1
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in student.parameters())


def test_what_lies_in_padding_has_no_say() -> None:
    """Of a view's canvas only the content is set into a mosaic or shown."""
    teacher, batch = tiny.detector(seed=2, confident=True).eval(), unlabeled(4)
    torch.manual_seed(1)
    views = MixPL(UNSURE).views(teacher, batch)
    for view in views:
        assert not bool(view.image[:, view.size[1] :].any()) and not bool(view.image[:, :, view.size[0] :].any())


# --- trainings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARTS)
def test_a_training_with_it(name: str, tmp_path: Path) -> None:
    data = tiny.dataset(tmp_path / "data")
    outcome = train(tiny.config(data, tmp_path / "run", method="mixpl", detector=name, mixpl=UNSURE))
    assert outcome.finished and outcome.teacher_ap is not None
    assert "mixpl, teacher " in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.parametrize("name", ["fcos", "faster_rcnn"])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(name: str, tmp_path: Path) -> None:
    data = tiny.dataset(tmp_path / "data")
    model = ModelConfig(8, head_convs=1, roi_samples=16)
    config = tiny.config(data, tmp_path / "a", method="mixpl", detector=name, mixpl=UNSURE, model=model, guard=False)
    whole = train(config)
    part = replace(config, out=str(tmp_path / "b"))
    train(replace(part, stop=5))
    torch.manual_seed(77)
    parts = train(part, resume=tmp_path / "b")
    assert whole.detector is not None and parts.detector is not None
    mine, other = (load_detector(o.detector).model.state_dict() for o in (whole, parts))
    assert all(torch.equal(mine[key], other[key]) for key in mine)
    last = torch.load(tmp_path / "b" / "checkpoints" / "last.pt", weights_only=True)
    assert len(last["method"]["images"]) == 8
    assert torch.load(tmp_path / "b" / "checkpoints" / "burn_in.pt", weights_only=True)["method"] == {}
