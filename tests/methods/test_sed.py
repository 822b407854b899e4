"""One SED step as a whole: which forwards, which losses, which gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from sedet.config import SEDConfig
from sedet.data.batch import Targets, pixels
from sedet.detectors.regions import FULL_LEVELS, HALF_LEVELS, Regions
from sedet.methods.method import Progress
from sedet.methods.pseudo_labels import pseudo_labels
from sedet.methods.sed import PARTS, distillation, teacher_answers, teacher_target
from sedet.methods.supervised import Supervised
from tests import tiny

from .sed_cases import AFTER, BURN_IN, KEYS, OFF, SIZES, Cells, asked, equal_views, every_part, labeled, step, unlabeled

# --- keys and the supervised twin -------------------------------------------------------------------------------


@pytest.mark.parametrize("half_size", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        every_part(),
        every_part(distill=False),
        every_part(scale=False),
        every_part(reweight="foreground"),
        every_part(targets="hard"),
        every_part(quality_weight=0.0),
        OFF,
    ],
    ids=["default", "no distill", "no scale", "foreground", "hard", "no quality", "off"],
)
def test_keys_never_change(config: SEDConfig, half_size: bool) -> None:
    for quality in (True, False):
        student, teacher = Cells(0, quality), Cells(1, quality)
        for where, more in (
            (BURN_IN, None),
            (BURN_IN, unlabeled()),
            (Progress(5, 5, 10), unlabeled()),
            (AFTER, unlabeled()),
        ):
            losses = step(config, student, teacher, more, where, half_size=half_size)
            assert list(losses) == KEYS
            assert all(value.shape == () and value.isfinite() for value in losses.values())
            if where is BURN_IN:
                assert all(losses[key].item() == 0.0 for key in KEYS[3:])


@pytest.mark.parametrize("half_size", [True, False])
def test_all_parts_off_equals_supervised_bit_for_bit(half_size: bool) -> None:
    student, teacher = tiny.detector(seed=0, confident=True), tiny.detector(seed=1, confident=True)
    want = Supervised(half_size).losses(student, teacher, labeled(), None, AFTER)
    assert all(value.item() > 0 for value in want.values())
    for config, where in ((OFF, AFTER), (every_part(), BURN_IN)):
        got = step(config, student, teacher, unlabeled(), where, half_size=half_size)
        assert {key: got[key].item() for key in want} == {key: value.item() for key, value in want.items()}
        assert all(got[key].item() == 0.0 for key in got if key not in want)


def test_parts_on_differ_from_supervised() -> None:
    """The check above could not fail if the unlabelled losses were always zero."""
    student, teacher = tiny.detector(seed=0, confident=True), tiny.detector(seed=1, confident=True)
    losses = step(every_part(), student, teacher, unlabeled())
    assert all(losses[key].item() > 0 for key in KEYS)


def test_sharing_a_forward_changes_no_labelled_loss() -> None:
    student, teacher = tiny.detector(seed=0, confident=True), tiny.detector(seed=1)
    alone = Supervised().losses(student, teacher, labeled(), None, AFTER)
    shared = step(every_part(), student, teacher, unlabeled())
    for key, value in alone.items():
        assert shared[key].item() == pytest.approx(value.item(), rel=1e-4)


def test_supervised_is_the_mean_of_both_sizes_with_boxes_halved() -> None:
    student = Cells()
    batch = labeled()
    assert batch.targets is not None
    full = student.loss(student(pixels(batch.strong), batch.content), batch.targets)
    small = [Targets(t.boxes / 2, t.labels, t.ignore / 2) for t in batch.targets]
    half = student.loss(student(pixels(batch.half), batch.content // 2, HALF_LEVELS), small)
    got = Supervised().losses(student, student, batch, None, AFTER)  # type: ignore[arg-type]
    for key in full:
        assert got[f"sup_{key}"].item() == pytest.approx((full[key].item() + half[key].item()) / 2)
    got = Supervised(half_size=False).losses(student, student, batch, None, AFTER)  # type: ignore[arg-type]
    assert got["sup_box"].item() == pytest.approx(full["box"].item())


# --- the unlabelled losses ---------------------------------------------------------------------------------------


def test_an_exactly_scale_equivalent_detector_loses_nothing() -> None:
    student = Cells()
    losses = step(every_part(reweight="none"), student, student, tiny.one_size(equal_views()))
    assert all(losses[key].abs().item() < 1e-6 for key in KEYS[3:])


def test_nor_with_a_teacher_of_three_sizes_unless_a_finer_cell_is_surer() -> None:
    def finer(by: float) -> Any:
        """Unsure answers; changes the finest level of the double view, which has no partner in the full one."""
        return lambda r, _: replace(r, logits=r.logits - 8 + by * ((r.strides == 8) & (len(r) > 128))[:, None])

    student, teacher = Cells(), Cells()
    student.disturb, teacher.disturb = finer(0.0), finer(-50.0)
    losses = step(every_part(reweight="none"), student, teacher, equal_views())
    assert all(losses[key].abs().item() < 1e-4 for key in KEYS[3:])
    teacher.disturb = finer(4.0)
    losses = step(every_part(reweight="none"), student, teacher, equal_views())
    assert all(losses[key].item() > 1e-3 for key in KEYS[3:])


def test_scale_loss_of_an_equivalent_detector_is_the_distillation_loss() -> None:
    """Teacher and student differ, but the half view shows just what the full view does."""
    for config in (every_part(), every_part(box_loss="smooth_l1", reweight="foreground", normalizer="count")):
        losses = step(config, Cells(0), Cells(1), equal_views())  # whatever the teacher's target is
        for part in PARTS:
            assert losses[f"scale_{part}"].item() == pytest.approx(losses[f"distill_{part}"].item(), rel=1e-9)
            assert losses[f"scale_{part}"].item() > 1e-3


def test_a_detector_that_is_not_equivalent_loses() -> None:
    def absolute(regions: Regions, levels: Sequence[int]) -> Regions:
        """Sides in pixels of the view, whatever its size."""
        sides = torch.full_like(regions.boxes[..., :2], 10.0)
        return replace(regions, boxes=torch.cat([regions.points - sides, regions.points + sides], dim=-1))

    student = Cells()
    student.disturb = absolute
    losses = step(every_part(), student, student, tiny.one_size(equal_views()))
    assert losses["distill_box"].abs().item() < 1e-9 and losses["scale_box"].item() > 0.1


@pytest.mark.parametrize("three", [True, False])
@pytest.mark.parametrize("where", [Progress(5, 5, 10), Progress(9, 5, 10), AFTER])
def test_weights_of_the_parts(where: Progress, three: bool) -> None:
    """weight x ramp x part, and the half view's scale_weight on top."""
    config = every_part(
        weight=3.0,
        scale_weight=0.5,
        class_weight=2.0,
        box_weight=0.7,
        quality_weight=0.3,
        temperature=0.8,
        sharpness=3.0,
    )
    student, teacher, batch = Cells(0), Cells(1), unlabeled() if three else tiny.one_size(unlabeled())
    losses = step(config, student, teacher, batch, where)
    target = teacher_target(asked(teacher, batch), batch, 0.7, 0.8, 3.0)
    full = distillation(target, student(pixels(batch.strong), batch.content), 1.0, config)
    half = distillation(target, student(pixels(batch.half), batch.content // 2, HALF_LEVELS), 2.0, config)
    ramp = min(1.0, (where.step - 4) / 10)
    for part, weight in zip(PARTS, (2.0, 0.7, 0.3), strict=True):
        assert losses[f"distill_{part}"].item() == pytest.approx(3.0 * ramp * weight * full[part].item(), rel=1e-9)
        assert losses[f"scale_{part}"].item() == pytest.approx(1.5 * ramp * weight * half[part].item(), rel=1e-9)
        assert full[part].item() > 0


def test_the_student_may_learn_from_the_weak_view() -> None:
    """Then nothing is erased, and neither the strong view nor its half plays any part."""
    more = unlabeled([[[0, 0, 64, 64]], [[0, 0, 64, 64]]])
    assert more.weak is not None and more.weak_half is not None
    config = every_part(student_view="weak")
    losses = step(config, Cells(0), Cells(1), more)
    plain = replace(more, strong=more.weak, half=more.weak_half, erased=torch.zeros_like(more.erased))
    want = step(every_part(), Cells(0), Cells(1), plain)
    assert {k: v.item() for k, v in losses.items()} == {k: v.item() for k, v in want.items()}
    assert all(losses[key].item() > 0 for key in KEYS[3:])
    other = step(config, Cells(0), Cells(1), replace(more, strong=255 - more.strong, half=255 - more.half))
    assert {k: v.item() for k, v in losses.items()} == {k: v.item() for k, v in other.items()}


@pytest.mark.parametrize("half_size", [True, False])
def test_each_part_alone_is_what_it_is_beside_the_other(half_size: bool) -> None:
    both = step(every_part(), Cells(0), Cells(1), unlabeled(), half_size=half_size)
    first = step(every_part(scale=False), Cells(0), Cells(1), unlabeled(), half_size=half_size)
    second = step(every_part(distill=False), Cells(0), Cells(1), unlabeled(), half_size=half_size)
    for part in PARTS:
        assert first[f"distill_{part}"].item() == pytest.approx(both[f"distill_{part}"].item(), rel=1e-12)
        assert second[f"scale_{part}"].item() == pytest.approx(both[f"scale_{part}"].item(), rel=1e-12)
        assert first[f"scale_{part}"].item() == second[f"distill_{part}"].item() == 0.0


def test_forwards_are_shared_and_the_teacher_sees_the_weak_view_without_gradients() -> None:
    student, teacher, batch = Cells(0), Cells(1), unlabeled()
    step(every_part(), student, teacher, batch)
    assert student.calls == [((4, 3, 64, 64), FULL_LEVELS, True), ((4, 3, 32, 32), HALF_LEVELS, True)]
    full = ((2, 3, 64, 64), FULL_LEVELS, False)
    assert teacher.calls == [full, ((2, 3, 128, 128), FULL_LEVELS, False), ((2, 3, 32, 32), HALF_LEVELS, False)]
    teacher.calls = []
    step(every_part(), student, teacher, tiny.one_size(batch))
    assert teacher.calls == [full]
    # what the losses are worked out from is the weak view, not the strong one
    other = step(every_part(), student, teacher, replace(batch, weak=batch.strong))
    assert other["distill_class"].item() != step(every_part(), student, teacher, batch)["distill_class"].item()
    for config, where in ((OFF, AFTER), (every_part(), BURN_IN), (every_part(weight=0.0), AFTER)):
        student.calls, teacher.calls = [], []
        step(config, student, teacher, unlabeled(), where)
        assert [call[0][0] for call in student.calls] == [2, 2] and not teacher.calls


def test_no_gradient_reaches_the_teacher() -> None:
    for config in (every_part(), every_part(targets="hard", threshold=0.01)):
        student, teacher = tiny.detector(seed=0, confident=True), tiny.detector(seed=1, confident=True)
        losses = step(config, student, teacher, unlabeled())
        sum(losses[key] for key in KEYS[3:]).backward()  # type: ignore[union-attr]
        assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
        assert sum(float(p.grad.abs().sum()) for p in student.parameters() if p.grad is not None) > 0


def test_a_batch_of_which_some_or_no_image_is_doubled() -> None:
    """The teacher's answers are those of each image alone; with none doubled the double view plays no part."""
    student, teacher = tiny.detector(seed=0, confident=True), tiny.detector(seed=1, confident=True)
    whole = unlabeled()
    assert whole.weak_double is not None
    part = replace(whole, weak_double=whole.weak_double[1:], doubled=torch.tensor([1]))
    none = replace(whole, weak_double=whole.weak_double[:0], doubled=torch.tensor([], dtype=torch.int64))
    given = [teacher_answers(teacher, batch)[0].logits for batch in (whole, part, none)]
    torch.testing.assert_close(given[1][1], given[0][1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(given[1][0], given[2][0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(given[0][0], given[2][0], atol=1e-2)
    for batch in (part, none):
        losses = step(every_part(), student, teacher, batch)
        assert all(value.isfinite() for value in losses.values()) and losses["distill_class"].item() > 0


@pytest.mark.parametrize("three", [True, False])
def test_padding_and_erased_places_change_no_loss(three: bool) -> None:
    """Whatever the student answers there; the teacher's answers in padding change nothing either."""
    erased = [[[10.0, 6.0, 50.0, 40.0]], [[0.0, 0.0, 30.0, 50.0], [20.0, 30.0, 40.0, 64.0]]]
    given, more = labeled(), unlabeled(erased)
    more = more if three else tiny.one_size(more)
    plain = step(every_part(), Cells(0), Cells(1), more, labeled=given)
    teacher = Cells(1)
    assert more.weak is not None
    target = teacher_target(asked(teacher, more), more, 0.7)
    assert 0 < target.mask.sum() < Cells()(pixels(more.weak), more.content).valid.sum()

    def elsewhere(regions: Regions, levels: Sequence[int]) -> Regions:
        hidden = ~torch.cat([regions.valid[:2], target.mask])  # labelled images keep all that is valid
        noise = torch.where(hidden, 37.0, 0.0)
        assert regions.quality is not None
        return replace(
            regions,
            logits=regions.logits + noise[..., None],
            boxes=regions.boxes - noise[..., None] * torch.tensor([1.0, 2.0, -1.0, 3.0]),
            quality=regions.quality - noise,
        )

    def padding(regions: Regions, levels: Sequence[int]) -> Regions:
        noise = torch.where(regions.valid, 0.0, 37.0)
        return replace(regions, logits=regions.logits + noise[..., None], boxes=regions.boxes + noise[..., None])

    student = Cells(0)
    student.disturb, teacher.disturb = elsewhere, padding
    noisy = step(every_part(), student, teacher, more, labeled=given)
    for key in KEYS[3:]:
        assert noisy[key].item() == plain[key].item(), key
    student.disturb = lambda regions, levels: replace(regions, logits=regions.logits + 0.1)
    assert (
        step(every_part(), student, teacher, more, labeled=given)["distill_class"].item()
        != plain["distill_class"].item()
    )


def test_a_wholly_erased_image_teaches_nothing() -> None:
    losses = step(every_part(), Cells(0), Cells(1), unlabeled([[[0, 0, 64, 64]], [[0, 0, 64, 64]]]))
    assert all(losses[key].item() == 0.0 for key in KEYS[3:])


# --- hard labels -------------------------------------------------------------------------------------------------


def test_hard_labels_train_both_views_as_labels_do() -> None:
    config = every_part(targets="hard", threshold=0.3, weight=2.0, scale_weight=0.5)
    student, teacher, batch = Cells(0), Cells(1), unlabeled([[[0, 0, 4, 4]], []])
    losses = step(config, student, teacher, batch)
    assert batch.weak is not None
    found = pseudo_labels(teacher, asked(teacher, batch), batch, 0.3, 0.7)  # type: ignore[arg-type]
    assert all(len(t.labels) + len(t.ignore) == 2 for t in found)
    full = student.loss(student(pixels(batch.strong), batch.content), found)
    half = student.loss(student(pixels(batch.half), batch.content // 2, HALF_LEVELS), [t.halved() for t in found])
    for part in PARTS:
        assert losses[f"distill_{part}"].item() == pytest.approx(2 * full[part].item())
        assert losses[f"scale_{part}"].item() == pytest.approx(half[part].item())


# --- odd batches, with the real detector ---------------------------------------------------------------------------

EMPTY = tiny.targets()
ODD = {
    "no objects": (3, [EMPTY, EMPTY]),
    "one image": (3, [tiny.targets((0, 4, 4, 40, 36))]),
    "one image without objects": (3, [EMPTY]),
    "one class": (1, [tiny.targets((0, 4, 4, 40, 36)), EMPTY]),
    "smaller than a pixel": (3, [tiny.targets((0, 10.2, 10.2, 10.6, 10.9)), EMPTY]),
    "at the border": (3, [tiny.targets((0, 0, 0, 64, 48), (1, 60, 0, 64, 5)), tiny.targets((1, 0, 58, 40, 64))]),
    "without area": (3, [tiny.targets((0, 12, 12, 12, 30), (1, 5, 5, 5, 5)), EMPTY]),
    "only ignored": (3, [tiny.targets(ignore=[[0, 0, 64, 64]]), tiny.targets(ignore=[[0, 0, 64, 64]])]),
    "one on another": (3, [tiny.targets((0, 4, 4, 40, 36), (1, 4, 4, 40, 36)), EMPTY]),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("targets", ["soft", "hard"])
def test_odd_batches_give_finite_losses_and_gradients(name: str, targets: Any) -> None:
    classes, rows = ODD[name]
    student, teacher = tiny.detector(classes, seed=0), tiny.detector(classes, seed=1)
    given = tiny.batch(SIZES[: len(rows)], seed=1, labels=rows)
    more = tiny.batch(SIZES[: len(rows)], seed=2, erased=[[[0, 0, 64, 64]], []][: len(rows)])
    losses = step(every_part(targets=targets), student, teacher, more, labeled=given)
    torch.stack(list(losses.values())).sum().backward()
    assert all(value.isfinite() and value >= 0 for value in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())


@pytest.mark.parametrize("logit", [-30.0, 30.0])
def test_a_teacher_that_is_sure_of_all_or_nothing(logit: float) -> None:
    """All background, or objects everywhere: nothing overflows."""
    student, teacher = Cells(0), Cells(1)
    teacher.disturb = lambda r, _: replace(r, logits=torch.full_like(r.logits, logit))
    student.disturb = lambda r, _: replace(r, logits=r.logits * 0 - logit)
    for config in (every_part(), every_part(reweight="foreground", normalizer="weights", box_loss="smooth_l1")):
        losses = step(config, student, teacher, unlabeled())
        torch.stack(list(losses.values())).sum().backward()
        assert all(value.isfinite() for value in losses.values())
        assert student.mix.grad is not None and student.mix.grad.isfinite().all()


def test_ramp() -> None:
    assert [Progress(s, 4, 4).unlabeled_weight for s in range(10)] == [0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert Progress(0, 0, 1).unlabeled_weight == 1.0
    assert [Progress(s, 2, 0).unlabeled_weight for s in (1, 2)] == [0.0, 1.0]


def test_the_classes_share_may_change_over_the_run() -> None:
    going = [Progress(s, 4, 4, 9).between(0.5, 0.1) for s in (0, 4, 5, 8, 9)]
    assert going == pytest.approx([0.5, 0.5, 0.4, 0.1, 0.1])
    assert Progress(7, 4, 4, 9).between(0.5, None) == 0.5
    assert Progress(0, 0, 0, 1).between(0.5, 0.1) == Progress(7, 4, 4).between(0.5, 0.1) == 0.5
    falling, now = every_part(class_share=0.5, class_share_end=0.1), Progress(7, 4, 1, 9)
    student, teacher = Cells(0), Cells(1)
    losses = step(falling, student, teacher, unlabeled(), now)
    for share, same in ((0.2, True), (0.5, False)):
        constant = step(every_part(class_share=share), student, teacher, unlabeled(), now)
        assert losses["distill_class"].item() != 0
        assert (losses["distill_class"].item() == pytest.approx(constant["distill_class"].item(), rel=1e-9)) is same


def test_pixels_in_padding_change_nothing_with_the_real_detector() -> None:
    """At none of the teacher's three sizes."""
    student, teacher = tiny.detector(seed=0, confident=True), tiny.detector(seed=1, confident=True)
    batch = unlabeled()
    assert batch.weak is not None and batch.weak_half is not None and batch.weak_double is not None
    plain = step(every_part(), student, teacher, batch)
    noisy = {}
    for name, images, scale in (
        ("weak", batch.weak, 1.0),
        ("weak_half", batch.weak_half, 0.5),
        ("weak_double", batch.weak_double, 2.0),
    ):
        changed = images.clone()
        for i, (width, height) in enumerate((batch.content * scale).int().tolist()):
            changed[i, :, height:] = 200
            changed[i, :, :, width:] = 200
        assert not torch.equal(changed, images)
        noisy[name] = changed
    got = step(every_part(), student, teacher, replace(batch, **noisy))
    assert {k: v.item() for k, v in got.items()} == {k: v.item() for k, v in plain.items()}
    other = step(every_part(), student, teacher, replace(batch, weak_double=batch.weak_double.flip(-1)))
    assert other["distill_class"].item() != plain["distill_class"].item()
