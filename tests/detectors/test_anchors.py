"""Anchors, deltas and matching: by hand, against loops, and against torchvision's."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from sedet.detectors.anchors import RATIOS, SCALES, cell_anchors, decode, encode, grid_anchors, match_anchors

CPU = torch.device("cpu")


def random_boxes(count: int, seed: int, side: float = 200.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * side
    return torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=generator) * side / 2], dim=1)


def test_the_anchors_of_a_cell_by_hand() -> None:
    found = cell_anchors(8.0, (4.0, 8.0), (0.25, 1.0), False, CPU)
    # ratio 1/4: twice as wide as the square, half as high; scales run fastest
    wanted = [[-32, -8, 32, 8], [-64, -16, 64, 16], [-16, -16, 16, 16], [-32, -32, 32, 32]]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float32))


def test_a_grid_by_hand() -> None:
    found = grid_anchors(1, 2, 8.0, (2.0,), (1.0,), False, CPU)
    assert found.tolist() == [[-4.0, -4.0, 12.0, 12.0], [4.0, -4.0, 20.0, 12.0]]  # around 4, 4 and 12, 4


@pytest.mark.parametrize("level", [2, 3, 4, 5, 6])
def test_anchors_of_a_level_are_twice_those_of_the_one_below(level: int) -> None:
    """What the scale part pairs: P_l of the full view, P_{l-1} of the half view, exactly."""
    low = grid_anchors(5, 3, float(2**level), SCALES, RATIOS, False, CPU)
    high = grid_anchors(5, 3, float(2 ** (level + 1)), SCALES, RATIOS, False, CPU)
    torch.testing.assert_close(2 * low, high, rtol=1e-6, atol=0)


def test_torchvisions_anchors_where_asked_for() -> None:
    sides = (32, 64, 128, 256, 512)
    theirs = AnchorGenerator(tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in sides), (RATIOS,) * 5)
    maps = [torch.zeros(1, 1, 256 // 2**level, 128 // 2**level) for level in (3, 4, 5, 6, 7)]
    (wanted,) = theirs(ImageList(torch.zeros(1, 3, 256, 128), [(256, 128)]), maps)
    found = [
        grid_anchors(*feature.shape[-2:], float(2**level), SCALES, RATIOS, True, CPU)
        for level, feature in zip((3, 4, 5, 6, 7), maps, strict=True)
    ]
    assert torch.equal(torch.cat(found), wanted)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_deltas_are_torchvisions_and_round_trip(weights: tuple[float, float, float, float]) -> None:
    anchors, boxes = random_boxes(40, 0), random_boxes(40, 1)
    deltas = encode(boxes, anchors, weights)
    torch.testing.assert_close(deltas, BoxCoder(weights).encode_single(boxes, anchors))
    torch.testing.assert_close(decode(deltas, anchors, weights), boxes, rtol=1e-5, atol=1e-3)
    wild = torch.randn(40, 4) * 8  # far beyond the limit of growth
    torch.testing.assert_close(decode(wild, anchors, weights), BoxCoder(weights).decode_single(wild, anchors))


def test_a_delta_by_hand() -> None:
    anchor = torch.tensor([[10.0, 20.0, 30.0, 30.0]])  # 20 x 10 around 20, 25
    box = torch.tensor([[20.0, 15.0, 60.0, 25.0]])  # 40 x 10 around 40, 20
    assert encode(box, anchor)[0].tolist() == pytest.approx([1.0, -0.5, math.log(2), 0.0])
    assert decode(encode(box, anchor), anchor)[0].tolist() == pytest.approx(box[0].tolist())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("every_object", [True, False])
def test_matching_is_torchvisions(seed: int, every_object: bool) -> None:
    anchors, boxes = random_boxes(300, seed), random_boxes(6, 100 + seed)
    wanted = Matcher(0.5, 0.4, allow_low_quality_matches=every_object)(box_iou(boxes, anchors))
    assert torch.equal(match_anchors(anchors, boxes, 0.5, 0.4, every_object), wanted)
    assert {-2, -1} <= set(wanted.tolist())


def test_matching_by_hand() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4.5], [0, 0, 10, 3], [50, 50, 60, 60], [100, 100, 104, 104]])
    objects = torch.tensor([[0.0, 0, 10, 10], [100, 100, 120, 120], [300, 300, 310, 310]])
    # the whole box, an IoU of .45, one of .3, none; the second object has but an anchor of .04, the third none at all
    assert match_anchors(anchors, objects, 0.5, 0.4).tolist() == [0, -2, -1, -1, 1]
    assert match_anchors(anchors, objects, 0.5, 0.4, every_object=False).tolist() == [0, -2, -1, -1, -1]
    usable = torch.tensor([False, True, True, True, False])
    assert match_anchors(anchors, objects, 0.5, 0.4, usable=usable).tolist() == [-1, 0, -1, -1, -1]
    assert match_anchors(anchors, torch.zeros(0, 4), 0.5, 0.4).tolist() == [-1] * 5
