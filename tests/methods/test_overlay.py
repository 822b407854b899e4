"""Images in pairs: pixels, targets against loops, what stays unseen, and what it is not defined for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sedet.config import SEDConfig, TrainConfig
from sedet.data.batch import Batch
from sedet.detectors.regions import Regions
from sedet.errors import ConfigError
from sedet.methods.build import make_method
from sedet.methods.method import Progress
from sedet.methods.overlay import NEUTRAL, overlay_batch, overlay_target
from sedet.methods.sed import SED, TeacherTarget, teacher_target
from tests import tiny

AFTER = Progress(step=5, burn_in=0, ramp=1)
SIZES = [(64, 48), (40, 64), (50, 20)]


def config(**changes: Any) -> SEDConfig:
    return replace(SEDConfig(box_weight=1.0, quality_weight=1.0), **changes)


def losses(changes: dict[str, Any], more: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    given = tiny.batch([(64, 48)], seed=1, labels=[tiny.targets((0, 4, 4, 40, 36))])
    return SED(config(**changes)).losses(student, teacher, given, more, AFTER)


def test_pixels_are_means_where_both_are_and_else_those_of_one() -> None:
    batch = tiny.batch(SIZES, seed=2, erased=[[[8, 8, 40, 30]], [], []])
    assert batch.content.tolist() == [list(size) for size in SIZES]
    pair = overlay_batch(batch)
    assert pair.content.tolist() == [[64, 64], [50, 64], [64, 48]]
    for mixed, own, scale in ((pair.strong, batch.strong, 1), (pair.half, batch.half, 2)):
        assert mixed.dtype == torch.uint8
        seen = set()
        for i, j in enumerate((1, 2, 0)):
            for y in range(own.shape[2]):
                for x in range(own.shape[3]):
                    there = [k for k in (i, j) if x < SIZES[k][0] // scale and y < SIZES[k][1] // scale]
                    seen.add(len(there))
                    given = [[int(v) for v in own[k, :, y, x]] for k in there] or [list(NEUTRAL)]
                    want = [sum(values) / len(given) for values in zip(*given, strict=True)]
                    for have, asked in zip(mixed[i, :, y, x].tolist(), want, strict=True):
                        assert abs(have - asked) <= 0.5
        assert seen == {0, 1, 2}
    assert pair.weak is batch.weak and pair.weak_double is batch.weak_double and pair.erased is batch.erased


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("quality", [True, False])
def test_targets_equal_loops(seed: int, quality: bool) -> None:
    torch.manual_seed(seed)
    count, regions, classes = (1, 2, 3, 5)[seed], 30, 3
    valid = torch.rand(count, regions) < 0.7
    mask = valid & (torch.rand(count, regions) < 0.8)
    boxes = torch.rand(count, regions, 4)
    target = TeacherTarget(
        logits=torch.randn(count, regions, classes) * 3,
        boxes=boxes,
        quality=torch.randn(count, regions) if quality else None,
        mask=mask,
        foreground=torch.rand(count, regions),
    )
    pair = overlay_target(target, valid)
    for i in range(count):
        j = (i + 1) % count
        for r in range(regions):
            there = [k for k in (i, j) if valid[k, r]]
            assert bool(pair.mask[i, r]) == (bool(there) and all(mask[k, r] for k in there))
            if not there:
                continue
            for c in range(classes):
                assert pair.logits[i, r, c] == max(target.logits[k, r, c] for k in there)
            best = max(there, key=lambda k: (target.foreground[k, r].item(), k == i))
            assert pair.foreground[i, r] == target.foreground[best, r]
            assert torch.equal(pair.boxes[i, r], boxes[best, r])
            assert (pair.quality is None) == (target.quality is None)
            if pair.quality is not None and target.quality is not None:
                assert pair.quality[i, r] == target.quality[best, r]


def test_an_image_over_its_like_is_itself() -> None:
    one = tiny.batch([(64, 48)], seed=4, erased=[[[8, 8, 40, 30]]])
    twice = tiny.batch([(64, 48)] * 2, seed=4, erased=[[[8, 8, 40, 30]]] * 2)
    names = ("strong", "half", "weak", "weak_half", "weak_double")
    same: dict[str, Any] = {n: getattr(one, n).repeat(2, 1, 1, 1) for n in names if getattr(one, n) is not None}
    twice = replace(twice, **same)
    student, teacher = tiny.detector(confident=True), tiny.detector(seed=1, confident=True)
    plain, pairs = (losses({"overlay": share}, twice, student, teacher) for share in (0.0, 1.0))
    assert plain["distill_class"] > 0
    for key, value in plain.items():
        torch.testing.assert_close(pairs[key], value, rtol=1e-5, atol=1e-7)


def test_the_student_sees_pairs_and_learns_what_the_teacher_says_of_each_alone() -> None:
    more = tiny.batch(SIZES, seed=2, erased=[[[8, 8, 40, 30]], [], []])
    student, teacher = tiny.detector(confident=True), tiny.detector(seed=1, confident=True)
    seen: list[Tensor] = []
    student.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    asked: list[Tensor] = []
    teacher.register_forward_pre_hook(lambda module, given: asked.append(given[0]))
    pairs = losses({"overlay": 1.0}, more, student, teacher)
    shown = overlay_batch(more)
    assert torch.equal(seen[0][1:], shown.strong / 255.0) and torch.equal(seen[1][1:], shown.half / 255.0)
    assert more.weak is not None and torch.equal(asked[0], more.weak / 255.0)
    plain = losses({"overlay": 0.0}, more, student, teacher)
    assert set(plain) == set(pairs)
    assert all(torch.equal(plain[k], pairs[k]) for k in plain if k.startswith("sup_"))
    assert plain["distill_class"] != pairs["distill_class"] and plain["scale_class"] != pairs["scale_class"]


def test_what_is_hidden_in_either_image_and_padding_change_no_loss() -> None:
    more = tiny.one_size(tiny.batch(SIZES[:2], seed=2, erased=[[[8, 8, 40, 30]], []]))
    student, teacher = tiny.detector(confident=True), tiny.detector(seed=1, confident=True)
    answer = teacher(more.weak / 255.0, more.content)  # type: ignore[operator]
    mask = overlay_target(teacher_target(answer, more, 0.7), answer.valid).mask
    assert 0 < mask.sum() < (answer.valid | answer.valid.roll(-1, dims=0)).sum()
    forward = student.forward

    def disturbed(images: Tensor, content: Tensor, *levels: Any) -> Regions:
        regions = forward(images, content, *levels)
        noise = torch.where(torch.cat([regions.valid[:1], mask]), 0.0, 37.0)
        assert regions.quality is not None
        return replace(regions, logits=regions.logits + noise[..., None], quality=regions.quality - noise)

    plain = losses({"overlay": 1.0}, more, student, teacher)
    student.forward = disturbed  # type: ignore[method-assign]
    noisy = losses({"overlay": 1.0}, more, student, teacher)
    assert all(torch.equal(plain[key], noisy[key]) for key in plain if not key.startswith("sup_"))


def test_a_share_of_the_steps_is_drawn_and_none_without_it() -> None:
    more = tiny.batch(SIZES, seed=2)
    student, teacher = tiny.detector(), tiny.detector(seed=1)
    given = tiny.batch([(64, 48)], seed=1, labels=[tiny.targets()])
    torch.manual_seed(3)
    state = torch.get_rng_state()
    SED(config()).losses(student, teacher, given, more, AFTER)
    assert torch.equal(state, torch.get_rng_state()), "other methods' draws must not move"
    values = {
        float(SED(config(overlay=0.5)).losses(student, teacher, given, more, AFTER)["distill_class"].detach())
        for _ in range(12)
    }
    assert len(values) == 2


@pytest.mark.parametrize(
    "changes", [{"detector": "faster_rcnn"}, {"sed": SEDConfig(overlay=0.5, targets="hard")}], ids=["rois", "hard"]
)
def test_refused_where_it_is_not_defined(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"sed\.overlay"):
        make_method(replace(TrainConfig(sed=SEDConfig(overlay=0.5)), **changes))
    make_method(TrainConfig(sed=SEDConfig(overlay=0.5)))
