"""Pictures of detections: boxes with names, and contact sheets of several pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]

# Okabe and Ito's palette, told apart by the colour-blind too; then the same hues darker, and lighter.
_HUES: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_SHADES = (0.0, -0.35, 0.45)

LEGIBLE_SIDE = 640
"""Pictures with a smaller long side are enlarged, by a whole number, up to about this many pixels."""


def class_colour(label: int) -> Colour:
    """The colour of a class: the same in every picture, 21 different ones in turn."""
    hue = _HUES[label % len(_HUES)]
    shade = _SHADES[label // len(_HUES) % len(_SHADES)]
    target = 255 if shade > 0 else 0
    red, green, blue = (round(c + (target - c) * abs(shade)) for c in hue)
    return red, green, blue


def draw_boxes(
    image: NDArray[np.uint8],
    boxes: ArrayLike,
    labels: ArrayLike,
    names: Sequence[str] | Mapping[int, str],
    scores: ArrayLike | None = None,
    legible_side: int = LEGIBLE_SIDE,
) -> Image.Image:
    """The image with its boxes. Small images are enlarged so that names can be read.

    Args:
        image: uint8 [height, width, 3], RGB.
        boxes: float [n, 4], xyxy in pixels of ``image``; clipped to it, and left out where not finite.
        labels: int [n], class of each box.
        names: class names by label.
        scores: float [n] in 0..1, shown behind the name.
        legible_side: images with a smaller long side are enlarged; 0 never enlarges.

    Returns:
        An RGB picture, a whole number of times as large as the image.
    """
    height, width = image.shape[:2]
    zoom = max(1, math.ceil(legible_side / max(width, height) - 0.25))
    picture = Image.fromarray(np.ascontiguousarray(image))
    if zoom > 1:
        picture = picture.resize((width * zoom, height * zoom), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    side = max(picture.size)
    line = max(2, round(side / 320))
    font = _font(max(12, round(side / 55)))

    rows = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    classes = np.asarray(labels, dtype=np.int64).reshape(-1)
    values = None if scores is None else np.asarray(scores, dtype=np.float64).reshape(-1)
    corners = np.clip(rows * zoom, 0, np.array(picture.size * 2) - 1)
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    usable = np.isfinite(rows).all(1) & (corners[:, 2] >= corners[:, 0]) & (corners[:, 3] >= corners[:, 1])
    order = [int(i) for i in np.argsort(-area, kind="stable") if usable[i]]  # small ones on top of large ones
    for i in order:
        _frame(draw, corners[i].tolist(), class_colour(int(classes[i])), line)
    taken: list[Rectangle] = []
    for i in reversed(order):  # small ones choose the place of their names first: they have the fewest
        label = int(classes[i])
        text = _name(names, label) if values is None else f"{_name(names, label)} {values[i]:.2f}"
        _tag(draw, corners[i].tolist(), text, class_colour(label), font, line, taken, picture.size)
    return picture


def grid(
    images: Sequence[Image.Image | NDArray[np.uint8]],
    titles: Sequence[str] | None = None,
    columns: int = 3,
    cell: int | None = None,
) -> Image.Image:
    """A contact sheet: pictures in rows, each with its title above.

    Args:
        images: pictures or uint8 [height, width, 3] arrays of any size; fitted into a cell, not distorted.
        titles: one a picture; a row without any takes no place for them.
        columns: pictures a row.
        cell: longest side of a picture in the sheet, pixels. Default: that of the largest one, at most 720.

    Returns:
        An RGB picture on white.

    Raises:
        ValueError: the number of titles differs from that of the pictures, or there are no columns.
    """
    pictures = [i if isinstance(i, Image.Image) else Image.fromarray(np.ascontiguousarray(i)) for i in images]
    texts = [""] * len(pictures) if titles is None else [_clean(t) for t in titles]
    if len(texts) != len(pictures) or columns < 1:
        raise ValueError(f"{len(pictures)} pictures, {len(texts)} titles, {columns} columns")
    if not pictures:
        return Image.new("RGB", (1, 1), "white")
    columns = min(columns, len(pictures))
    cell = cell or min(720, max(max(p.size) for p in pictures))
    fitted = [_fit(p.convert("RGB"), cell) for p in pictures]
    font = _font(max(13, round(cell / 28)))
    margin, title_height = max(6, cell // 60), round(font.size * 1.7)
    rows = [range(start, min(start + columns, len(fitted))) for start in range(0, len(fitted), columns)]
    widths = [max(fitted[i].width for i in range(c, len(fitted), columns)) for c in range(columns)]
    heights = [max(fitted[i].height for i in row) for row in rows]
    bands = [title_height if any(texts[i] for i in row) else 0 for row in rows]
    sheet = Image.new(
        "RGB",
        (sum(widths) + margin * (columns + 1), sum(heights) + sum(bands) + margin * (len(rows) + 1)),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    y = margin
    for row, height, band in zip(rows, heights, bands, strict=True):
        x = margin
        for i, width in zip(row, widths, strict=False):
            if texts[i]:
                text = _shortened(texts[i], font, width)
                draw.text((x, y + band * 0.45), text, fill=(20, 20, 20), font=font, anchor="lm")
            sheet.paste(fitted[i], (x, y + band))
            x += width + margin
        y += height + band + margin
    return sheet


def _frame(draw: ImageDraw.ImageDraw, box: list[float], colour: Colour, line: int) -> None:
    """A coloured frame between thin dark ones: seen on any background."""
    x1, y1, x2, y2 = box
    half = line / 2
    draw.rectangle((x1 - half - 1, y1 - half - 1, x2 + half + 1, y2 + half + 1), outline=(0, 0, 0), width=1)
    draw.rectangle((x1 - half, y1 - half, x2 + half, y2 + half), outline=colour, width=line)


def _tag(
    draw: ImageDraw.ImageDraw,
    box: list[float],
    text: str,
    colour: Colour,
    font: ImageFont.FreeTypeFont,
    line: int,
    taken: list[Rectangle],
    size: tuple[int, int],
) -> None:
    """Write a name at its box: above, below or inside, where no other name stands if possible."""
    pad = max(2, round(font.size / 6))
    width, height = draw.textlength(text, font) + 2 * pad, font.size * 1.15 + pad
    x1, y1, x2, y2 = box
    places = [
        (x1 - line / 2, y1 - height),
        (x1 - line / 2, y2),
        (x2 - width + line / 2, y1 - height),
        (x2 - width + line / 2, y2),
        (x2, y1),
        (x1 - width, y1),
        (x1, y1),
        (x1, y2 - height),
    ]
    rectangles = []
    for x, y in places:
        x, y = min(max(x, 0), max(size[0] - width, 0)), min(max(y, 0), max(size[1] - height, 0))
        rectangles.append((x, y, x + width, y + height))
    place = min(rectangles, key=lambda r: sum(_shared(r, other) for other in taken))  # the first of equal ones
    taken.append(place)
    draw.rectangle(place, fill=colour, outline=(0, 0, 0))
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 110
    ink = (0, 0, 0) if dark else (255, 255, 255)
    draw.text((place[0] + pad, (place[1] + place[3]) / 2), text, fill=ink, font=font, anchor="lm")


def _shared(a: Rectangle, b: Rectangle) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _name(names: Sequence[str] | Mapping[int, str], label: int) -> str:
    known = label in names if isinstance(names, Mapping) else 0 <= label < len(names)
    return _clean(names[label]) if known else str(label)


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _fit(picture: Image.Image, cell: int) -> Image.Image:
    scale = min(cell / picture.width, cell / picture.height)
    if scale >= 1:
        return picture
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # for the font it carries: Pillow's own lacks most letters with accents

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
