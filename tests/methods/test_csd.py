"""CSD: mirrored answers, its losses by hand and against a loop, its weight, and whole steps and trainings with it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sedet.config import CSDConfig
from sedet.data.batch import pixels
from sedet.detectors.anchors import decode
from sedet.detectors.build import Detector
from sedet.detectors.dense import grid_points
from sedet.detectors.regions import FULL_LEVELS, Regions
from sedet.errors import ConfigError
from sedet.methods import csd
from sedet.methods.csd import CSD, csd_losses, mirror, mirror_images, offsets, ramp_down
from sedet.methods.method import Progress
from sedet.methods.supervised import Supervised
from sedet.training.run import train
from tests import tiny
from tests.detectors.test_retinanet import network
from tests.methods.reference import kl, sigmoid

BURN_IN, AFTER = Progress(3, 5, 10), Progress(100, 5, 10)


def answers(batch: int, side: tuple[int, int], classes: int, seed: int, cell: int = 1, quality: bool = True) -> Regions:
    """Random answers on all levels of a canvas (height, width); with several a cell, those of anchors."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * 2

    points, strides = [], []
    for level in FULL_LEVELS:
        stride = 2.0**level
        grid = grid_points(math.ceil(side[0] / stride), math.ceil(side[1] / stride), stride, torch.device("cpu"))
        points.append(grid.double().repeat_interleave(cell, 0))
        strides.append(torch.full((len(points[-1]),), stride, dtype=torch.float64))
    place, stride = torch.cat(points), torch.cat(strides)
    count = len(place)
    valid = torch.rand(batch, count, generator=generator) > 0.2
    logits = normal(batch, count, classes)
    if cell == 1:
        sides = (normal(batch, count, 4).abs() + 0.1) * stride[:, None]
        boxes = torch.cat([place - sides[..., :2], place + sides[..., 2:]], dim=-1)
        return tiny.regions(logits, boxes, normal(batch, count) if quality else None, place, stride, valid)
    half = (1 + torch.rand(cell, 2, generator=generator, dtype=torch.float64)).repeat(count // cell, 1)
    half = half * stride[:, None]
    anchors, deltas = torch.cat([place - half, place + half], dim=-1), normal(batch, count, 4) / 4
    regions = tiny.regions(logits, decode(deltas, anchors), None, place, stride, valid)
    return replace(regions, per_cell=cell, anchors=anchors, deltas=deltas)


def partners(side: tuple[int, int], cell: int) -> list[int | None]:
    """For each region the one at the mirrored place, or None; by walking the cells."""
    found: list[int | None] = []
    start = 0
    for level in FULL_LEVELS:
        stride = 2**level
        rows, columns = -(-side[0] // stride), -(-side[1] // stride)
        for row in range(rows):
            for column in range(columns):
                for kind in range(cell):
                    there = start + (row * columns + columns - 1 - column) * cell + kind
                    found.append(there if side[1] % stride == 0 else None)
        start += rows * columns * cell
    return found


def naive(original: Regions, flipped: Regions, side: tuple[int, int], cell: int) -> dict[str, float]:
    """The losses from the answers on the flipped canvas, region by region."""
    batch, count = original.valid.shape
    kept, divergence, square = 0, 0.0, 0.0
    for i in range(batch):
        for r, other in zip(range(count), partners(side, cell), strict=True):
            p = [sigmoid(float(z)) for z in original.logits[i, r]]
            if other is None or not original.valid[i, r] or not flipped.valid[i, other] or max(p) <= 0.5:
                continue
            kept += 1
            q = [sigmoid(float(z)) for z in flipped.logits[i, other]]
            divergence += sum((kl(a, b) + kl(b, a)) / 2 for a, b in zip(p, q, strict=True))
            if original.deltas is None:
                stride = float(original.strides[r])
                (x, y), (x2, y2) = original.points[r].tolist(), flipped.points[other].tolist()
                a, b = original.boxes[i, r].tolist(), flipped.boxes[i, other].tolist()
                mine = [x - a[0], y - a[1], a[2] - x, a[3] - y]
                their = [b[2] - x2, y2 - b[1], x2 - b[0], b[3] - y2]  # left is right
                square += sum(((u - v) / stride) ** 2 for u, v in zip(mine, their, strict=True)) / 4
            else:
                assert flipped.deltas is not None
                signs = [-1, 1, 1, 1]
                pairs = zip(original.deltas[i, r].tolist(), flipped.deltas[i, other].tolist(), signs, strict=True)
                square += sum((u - s * v) ** 2 for u, v, s in pairs) / 4
    return {"class": divergence / max(1, kept), "box": square / max(1, kept)}


@pytest.mark.parametrize("cell", [1, 2])
@pytest.mark.parametrize(("seed", "batch", "side"), [(0, 2, (64, 64)), (1, 1, (128, 128)), (2, 3, (64, 192))])
def test_losses_against_a_loop(seed: int, batch: int, side: tuple[int, int], cell: int) -> None:
    original, flipped = (answers(batch, side, 1 + seed, s, cell) for s in (seed, seed + 50))
    found = csd_losses(original, mirror(flipped, side[1]))
    for key, value in naive(original, flipped, side, cell).items():
        assert value > 0
        assert float(found[key]) == pytest.approx(value, rel=1e-6), key


@pytest.mark.parametrize("cell", [1, 2])
def test_mirroring(cell: int) -> None:
    side = (128, 256)
    given = answers(2, side, 3, 7, cell)
    once = mirror(given, 256)
    for r, other in enumerate(partners(side, cell)):
        assert other is not None and torch.equal(once.logits[:, r], given.logits[:, other])
        assert torch.equal(once.valid[:, r], given.valid[:, other])
        x1, y1, x2, y2 = given.boxes[0, other].tolist()
        assert once.boxes[0, r].tolist() == pytest.approx([256 - x2, y1, 256 - x1, y2])
        if cell == 1:
            assert once.quality is not None and given.quality is not None
            assert torch.equal(once.quality[:, r], given.quality[:, other])
        # the box lies about its region as the flipped one did about its own
        assert once.points[r].tolist() == [256 - float(given.points[other, 0]), float(given.points[other, 1])]
    if cell > 1:
        assert once.deltas is not None and once.anchors is not None
        torch.testing.assert_close(decode(once.deltas, once.anchors), once.boxes)
    twice = mirror(once, 256)
    assert torch.equal(twice.logits, given.logits) and torch.equal(twice.valid, given.valid)
    torch.testing.assert_close(twice.boxes, given.boxes)


def test_a_level_without_mirrored_cells_is_left_out() -> None:
    """On a canvas of 192 pixels two cells of P7 would cover 256."""
    once = mirror(replace(given := answers(1, (192, 192), 2, 3), valid=torch.ones_like(given.valid)), 192)
    assert torch.equal(once.valid[0], given.strides < 128)


def test_anchors_of_the_real_network_keep_their_kind() -> None:
    model = network().eval()
    with torch.no_grad():
        regions = model(torch.rand(1, 3, 128, 128), torch.tensor([[128, 128]]))
    once = mirror(regions, 128)
    assert once.deltas is not None and once.anchors is not None
    torch.testing.assert_close(decode(once.deltas, once.anchors), once.boxes, rtol=1e-4, atol=1e-3)


def test_losses_by_hand() -> None:
    """Two cells of one class; only the first is above background: 0.8 here and 0.5 in the mirror."""
    points = torch.tensor([[4.0, 4.0], [12.0, 4.0]])
    original = tiny.regions(
        torch.tensor([[[math.log(4.0)], [-0.1]]]), torch.tensor([[[0.0, 0.0, 8.0, 8.0]] * 2]), None, points
    )
    flipped = tiny.regions(
        torch.tensor([[[5.0], [0.0]]]),
        torch.tensor([[[0.0, 0.0, 1.0, 1.0], [4.0, 0.0, 24.0, 16.0]]]),
        None,
        points,
    )
    found = csd_losses(original, mirror(flipped, 16))
    # (0.8 ln 1.6 + 0.2 ln 0.4 + 0.5 ln 0.625 + 0.5 ln 2.5) / 2
    wanted = (0.8 * math.log(1.6) + 0.2 * math.log(0.4) + 0.5 * math.log(0.625) + 0.5 * math.log(2.5)) / 2
    assert float(found["class"]) == pytest.approx(wanted, rel=1e-5)
    # the second flipped box is -8, 0, 12, 16 in the image: 8 pixels too wide at the left, 4 at the right, 8 below
    assert float(found["box"]) == pytest.approx((1 + 0 + 0.25 + 1) / 4, rel=1e-6)


def test_only_classes_above_background_count() -> None:
    original, flipped = answers(1, (64, 64), 2, 0), answers(1, (64, 64), 2, 1)
    for share, threshold, counts in ((0.499, 0.5, False), (0.501, 0.5, True), (0.501, 0.6, False), (0.11, 0.1, True)):
        sure = replace(original, logits=torch.full_like(original.logits, share).logit())
        assert (float(csd_losses(sure, mirror(flipped, 64), threshold)["class"]) > 0) == counts
        if threshold != 0.5:
            continue
        assert (float(csd_losses(sure, mirror(flipped, 64))["class"]) > 0) == counts
        # what the mirror image says has no say in it
        other = replace(flipped, logits=torch.full_like(flipped.logits, -8.0 if counts else 8.0))
        assert (float(csd_losses(sure, mirror(other, 64))["class"]) > 0) == counts


def test_each_side_learns_from_the_other() -> None:
    """Half of p_a - p_b from each: the target has no gradient. Boxes draw each other alike."""
    a = torch.tensor([[[1.5]]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[[-0.5]]], dtype=torch.float64, requires_grad=True)
    box = torch.tensor([[[0.0, 0.0, 8.0, 8.0]]], dtype=torch.float64)
    low, wide = box.clone().requires_grad_(), (box * 2).requires_grad_()
    losses = csd_losses(tiny.regions(a, low, None), tiny.regions(b, wide, None))
    losses["class"].backward()
    gap = (sigmoid(1.5) - sigmoid(-0.5)) / 2
    assert a.grad is not None and b.grad is not None
    assert float(a.grad) == pytest.approx(gap, rel=1e-9) and float(b.grad) == pytest.approx(-gap, rel=1e-9)
    losses["box"].backward()
    assert low.grad is not None and wide.grad is not None
    assert torch.equal(low.grad, -wide.grad) and float(low.grad[0, 0, 2]) == pytest.approx(-2 / 8 / 4)


def test_nothing_to_learn_from_gives_no_nan() -> None:
    original, flipped = answers(2, (64, 64), 1, 0), answers(2, (64, 64), 1, 1)
    for valid, logit in ((False, 0.0), (True, -100.0), (True, 100.0)):
        logits = torch.full_like(original.logits, logit).requires_grad_()
        mine = replace(original, logits=logits, valid=torch.full_like(original.valid, valid))
        losses = csd_losses(mine, mirror(flipped, 64))
        sum(losses.values(), torch.zeros(())).backward()
        assert all(bool(v.isfinite()) for v in losses.values())
        assert logits.grad is not None and bool(logits.grad.isfinite().all())
        assert (float(losses["class"].detach()) > 0) == (logit == 100.0)


def test_padding_of_either_image_changes_nothing() -> None:
    original, flipped = answers(2, (64, 64), 2, 3), answers(2, (64, 64), 2, 4)
    before = csd_losses(original, mirror(flipped, 64))
    changed = [
        replace(r, logits=torch.where(r.valid[..., None], r.logits, 30.0), boxes=r.boxes * r.valid[..., None])
        for r in (original, flipped)
    ]
    after = csd_losses(changed[0], mirror(changed[1], 64))
    assert all(float(before[k]) == float(after[k]) > 0 for k in before)


class Pooled(nn.Module):
    """A body that looks the same from left to right: mean colours of the cells, at strides 4 to 32."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [nn.functional.avg_pool2d(images, 4 * 2**n) for n in range(4)]
        return [m.repeat(1, -(-c // 3), 1, 1)[:, :c] for m, c in zip(maps, self.channels, strict=True)]


def symmetric(model: Detector) -> Detector:
    """A detector whose answers on a mirror image are exactly the mirrored ones."""
    model.backbone.body, model.backbone._indices = Pooled(model.backbone.channels), [0, 1, 2, 3]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.weight.copy_((module.weight + module.weight.flip(-1)) / 2)
        for block in model.fpn.extra_blocks.values():  # of even sides, their cells do not lie symmetrically
            nn.init.zeros_(block.weight)
        weight, bias = model.regression_head.bbox_reg.weight, model.regression_head.bbox_reg.bias
        if len(weight) == 4:  # left and right are each other's mirror image
            weight[2] = weight[0]
        else:  # shifts to the side: odd
            weight[0::4], bias[0::4] = 0.0, 0.0
            weight[0::4, :, :, 2] = torch.randn_like(weight[0::4, :, :, 2]) * 0.1
            weight[0::4, :, :, 0] = -weight[0::4, :, :, 2]
    return model


@pytest.mark.parametrize("name", ["fcos", "retinanet"])
def test_a_symmetric_detector_has_nothing_to_learn(name: str) -> None:
    """The whole way, of images whose content lies at one side of the canvas: flip, answers, mirror, losses."""
    model = symmetric(tiny.detector(confident=True) if name == "fcos" else network())
    labeled = tiny.batch([(64, 48)], seed=1, labels=[tiny.targets((0, 4, 4, 40, 36))])
    more = tiny.one_size(tiny.batch([(64, 48), (40, 64), (24, 30)], seed=2))
    with torch.no_grad():
        losses = CSD(CSDConfig()).losses(model, model, labeled, more, AFTER)
        for part in ("class", "box"):
            assert float(losses[f"csd_{part}"]) == pytest.approx(0.0, abs=1e-8), part
        # and it has much to lose: another one's answers differ
        assert more.weak is not None
        images, content = mirror_images(pixels(more.weak), more.content, model.backbone.mean)
        flipped = model(images, content)
        kept = (flipped.logits.sigmoid().amax(dim=-1) > 0.5).sum()
        apart = csd_losses(model(pixels(more.weak), more.content), flipped)
    assert int(kept) > 20 and all(float(v) > 1e-3 for v in apart.values())


def test_the_mirrored_canvas() -> None:
    images, content = torch.rand(2, 3, 4, 8), torch.tensor([[8, 4], [3, 2]])
    mean = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    flipped, size = mirror_images(images, content, mean)
    assert size.tolist() == [[8, 4]] * 2
    assert torch.equal(flipped[0], images[0].flip(-1))
    assert torch.equal(flipped[1, :, :2, 5:], images[1, :, :2, :3].flip(-1))
    assert all(torch.equal(flipped[1, :, y, x], mean.flatten()) for y, x in ((0, 0), (0, 4), (3, 7), (2, 5)))


def test_offsets_in_strides() -> None:
    given = answers(1, (64, 64), 1, 0)
    x, y = given.points[70].tolist()  # of P4
    box = given.boxes[0, 70].tolist()
    wanted = [(x - box[0]) / 16, (y - box[1]) / 16, (box[2] - x) / 16, (box[3] - y) / 16]
    assert offsets(given)[0, 70].tolist() == pytest.approx(wanted)


def test_the_weight_falls_at_the_end() -> None:
    assert [ramp_down(Progress(s, 0, 1, 10), 0.4) for s in range(10)] == [1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert ramp_down(Progress(9, 0, 1), 0.4) == ramp_down(Progress(9, 0, 1, 10), 0.0) == 1.0
    model = tiny.detector(confident=True)
    labeled = tiny.batch([(64, 48)], seed=1, labels=[tiny.targets((0, 4, 4, 40, 36))])
    more = tiny.one_size(tiny.batch([(64, 48)], seed=2))
    with torch.no_grad():
        first, last, steep = (
            CSD(CSDConfig(weight, 0.4)).losses(model, model, labeled, more, Progress(step, 2, 4, 10))
            for weight, step in ((1.0, 6), (1.0, 8), (3.0, 2))
        )
    assert all(float(last[f"csd_{p}"]) == pytest.approx(float(first[f"csd_{p}"]) / 2) for p in ("class", "box"))
    assert float(steep["csd_box"]) == pytest.approx(float(first["csd_box"]) * 3 / 4)
    assert float(first["sup_class"]) == float(last["sup_class"])


@pytest.mark.parametrize("name", ["fcos", "retinanet"])
@pytest.mark.parametrize("half_size", [True, False])
def test_a_step_and_its_twin(name: str, half_size: bool) -> None:
    student, teacher = (tiny.detector(seed=s, confident=True) if name == "fcos" else network(seed=s) for s in (1, 2))
    labeled = tiny.batch([(64, 48)], seed=1, labels=[tiny.targets((0, 4, 4, 40, 36))])
    more = tiny.one_size(tiny.batch([(64, 48), (40, 64)], seed=2))
    method = CSD(CSDConfig(), half_size)
    early = method.losses(student, teacher, labeled, more, BURN_IN)
    twin = Supervised(half_size).losses(student, teacher, labeled, None, BURN_IN)
    assert all(torch.equal(early[key], value) for key, value in twin.items())
    late = method.losses(student, teacher, labeled, more, AFTER)
    assert list(late) == list(early) == [*twin, "csd_class", "csd_box"]
    assert all(float(early[f"csd_{p}"]) == 0 < float(late[f"csd_{p}"].detach()) for p in ("class", "box"))
    # the labelled images are learnt from as by the twin; strong views of the others are not looked at
    assert all(float(late[k].detach()) == pytest.approx(float(v.detach()), rel=1e-4) for k, v in twin.items())
    blind = method.losses(student, teacher, labeled, replace(more, strong=more.strong * 0), AFTER)
    assert all(torch.equal(blind[k], late[k]) for k in late)
    torch.stack(list(late.values())).sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
    unused = [n for n, p in student.named_parameters() if p.grad is None]
    assert all(n.startswith("fpn.") and not half_size for n in unused)
    assert method.state() == {}


def test_a_training_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Progress] = []
    monkeypatch.setattr(csd, "ramp_down", lambda progress, share: seen.append(progress) or ramp_down(progress, share))
    data = tiny.dataset(tmp_path / "data")
    config = tiny.config(data, tmp_path / "a", method="csd")
    whole = train(config)
    assert whole.finished and whole.teacher_ap is not None
    assert [(p.step, p.steps) for p in seen] == [(step, 8) for step in range(2, 8)]
    assert "method    csd" in (tmp_path / "a" / "train.log").read_text()
    part = replace(config, out=str(tmp_path / "b"))
    train(replace(part, stop=5))
    train(part, resume=tmp_path / "b")
    mine, other = (torch.load(tmp_path / run / "checkpoints" / "last.pt") for run in "ab")
    assert all(torch.equal(mine[k][name], other[k][name]) for k in ("student", "teacher") for name in mine[k])
    assert train(replace(config, detector="retinanet", out=str(tmp_path / "c"))).finished
    with pytest.raises(ConfigError, match="defined for the detector fcos and retinanet, not for faster_rcnn"):
        train(replace(config, detector="faster_rcnn", out=str(tmp_path / "other")))
