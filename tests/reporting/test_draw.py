"""Pictures: that the right pixels are coloured, and that nothing odd in the input breaks them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from sedet.reporting.draw import class_colour, draw_boxes, grid

GREY = np.full((200, 300, 3), 128, np.uint8)


def test_frame_has_the_colour_of_its_class_and_leaves_the_inside_alone() -> None:
    picture = np.asarray(draw_boxes(GREY, [[60, 80, 240, 160]], [3], ["a", "b", "c", "d"], legible_side=0))
    assert picture.shape == GREY.shape
    assert tuple(picture[120, 60]) == class_colour(3) and tuple(picture[120, 240]) == class_colour(3)
    assert tuple(picture[160, 150]) == class_colour(3)
    assert (picture[100:140, 80:220] == 128).all()


def test_small_images_are_enlarged_by_a_whole_number_and_boxes_with_them() -> None:
    small = np.full((96, 128, 3), 128, np.uint8)
    picture = draw_boxes(small, [[32, 32, 64, 64]], [0], ["cat"])
    assert picture.size == (640, 480)
    assert tuple(np.asarray(picture)[240, 160]) == class_colour(0)
    assert draw_boxes(np.zeros((700, 900, 3), np.uint8), [], [], []).size == (900, 700)


def test_colours_of_the_first_classes_differ_and_repeat_the_same() -> None:
    assert len({class_colour(i) for i in range(21)}) == 21
    assert class_colour(21) == class_colour(0)


@pytest.mark.parametrize(
    "boxes",
    [
        [],
        [[10, 10, 10, 10]],
        [[50, 50, 20, 20]],
        [[-500, -500, 9000, 9000]],
        [[math.nan, 0, 10, 10], [0, 0, math.inf, 10]],
        [[290, 190, 300, 200], [0, 0, 5, 5]],
    ],
)
def test_odd_boxes_do_not_break(boxes: list[list[float]]) -> None:
    draw_boxes(GREY, boxes, [0] * len(boxes), ["x" * 200], [0.5] * len(boxes))


def test_what_is_not_finite_or_turned_inside_out_is_not_drawn() -> None:
    odd = [[math.nan, 0, 10, 10], [50, 50, 20, 20]]
    assert (np.asarray(draw_boxes(GREY, odd, [0, 0], ["a"], legible_side=0)) == 128).all()


def test_tiny_pictures_unknown_labels_and_control_characters() -> None:
    draw_boxes(np.zeros((1, 1, 3), np.uint8), [[0, 0, 1, 1]], [7], [])
    draw_boxes(GREY, [[5, 5, 50, 50]], [2], {2: "two\nlines\x00"})
    draw_boxes(GREY, [[5, 5, 50, 50]], [-1], ["a"])


def test_the_image_given_stays_as_it_was() -> None:
    image = GREY.copy()
    draw_boxes(image, [[5, 5, 50, 50]], [0], ["a"], legible_side=0)
    assert (image == GREY).all()


def test_grid_places_pictures_in_rows_and_keeps_their_shape() -> None:
    red, green = Image.new("RGB", (100, 50), (255, 0, 0)), np.full((80, 40, 3), (0, 255, 0), np.uint8)
    sheet = np.asarray(grid([red, green, red], columns=2))
    assert (sheet == (255, 0, 0)).all(-1).sum() == 2 * 100 * 50
    assert (sheet == (0, 255, 0)).all(-1).sum() == 80 * 40
    top = np.argwhere((sheet == (255, 0, 0)).all(-1))
    assert top[:, 0].max() > np.argwhere((sheet == (0, 255, 0)).all(-1))[:, 0].max()
    titled = np.asarray(grid([red, green], ["one", "an endless title " * 20], columns=2))
    assert titled.shape[0] > np.asarray(grid([red, green], columns=2)).shape[0]
    assert (titled < 100).all(-1).any()


def test_grid_shrinks_large_pictures_to_the_cell() -> None:
    sheet = grid([Image.new("RGB", (4000, 1000))], cell=200)
    assert sheet.width < 230 and sheet.height < 80


def test_grid_of_nothing_and_wrong_counts() -> None:
    assert grid([]).size == (1, 1)
    with pytest.raises(ValueError, match="1 pictures, 2 titles"):
        grid([GREY], ["a", "b"])
    with pytest.raises(ValueError, match="0 columns"):
        grid([GREY], columns=0)
