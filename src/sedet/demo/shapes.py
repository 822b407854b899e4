"""Little objects drawn from parts: the demo's classes, and the distractors that look a bit like them.

A shape is a list of polygons in its own frame, y down, painted in order. What makes a class is how its parts go
together; colours, patterns, proportions, turn and outline are drawn at random for every object, so that a few
examples do not cover a class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw


class Paint(IntEnum):
    """What a part is filled with. HOLE takes away what lies under it."""

    HOLE = 0
    MAIN = 1
    SECOND = 2
    DARK = 3
    LIGHT = 4
    OUTLINE = 5


@dataclass(frozen=True, slots=True)
class Part:
    """A filled polygon of a shape.

    Attributes:
        points: float [n, 2], xy in the shape's frame.
        paint: what it is filled with.
        clue: whether the class is told by it: a mug whose handle is hidden is a glass to any eye.
    """

    points: NDArray[np.float64]
    paint: Paint
    clue: bool = False


@dataclass(frozen=True, slots=True)
class Raster:
    """A painted shape, with one pixel of margin all round.

    Attributes:
        cover: float32 [paints, h, w], share of the pixel that each `Paint` covers (HOLE: that nothing covers).
        clue: float32 [h, w], share of the pixel that the parts cover by which the class is told.
        box: xyxy in pixels of this raster, tight round what is drawn to a fraction of a pixel.
    """

    cover: NDArray[np.float32]
    clue: NDArray[np.float32]
    box: tuple[float, float, float, float]


Shape = Callable[[np.random.Generator], list[Part]]


def _ellipse(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360) -> NDArray[np.float64]:
    t = np.radians(np.linspace(start, end, 40))
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], axis=1)


def _bar(x0: float, y0: float, x1: float, y1: float, width: float) -> NDArray[np.float64]:
    a, b = np.array([x0, y0]), np.array([x1, y1])
    side = np.array([y0 - y1, x1 - x0]) / max(float(np.hypot(x1 - x0, y1 - y0)), 1e-6) * width / 2
    return np.stack([a + side, b + side, b - side, a - side])


def _polygon(*points: tuple[float, float]) -> NDArray[np.float64]:
    return np.array(points, dtype=np.float64)


def _cup(rng: np.random.Generator) -> tuple[list[Part], float, float]:
    """The body of a mug, or a glass; with its half width in the middle, and its half height."""
    w, h, taper = rng.uniform(0.42, 0.85), rng.uniform(0.6, 1.0), rng.uniform(-0.1, 0.3)
    rim, bottom = rng.uniform(0.07, 0.24), w * (1 - taper)
    bulge = rng.uniform(-0.1, 0.14)
    y = np.linspace(-h, h, 9)
    x = w + (bottom - w) * (y + h) / (2 * h) + bulge * np.cos(y / h * np.pi / 2)
    right, left = np.stack([x, y], 1), np.stack([-x, y], 1)[::-1]
    body = np.concatenate([right, _ellipse(0, h, bottom, rim * 0.8, 0, 180), left])
    parts = [Part(body, Paint.MAIN)]
    if rng.random() < 0.4:  # a band round the cup
        top, low = sorted(rng.uniform(-0.5, 0.8, 2) * h)
        inside = (y >= top - 0.1) & (y <= low + 0.1)
        if inside.sum() > 1:
            parts.append(Part(np.concatenate([right[inside], left[inside[::-1]]]), Paint.SECOND))
    elif rng.random() < 0.4:  # a print
        r = rng.uniform(0.15, 0.35) * w
        parts.append(Part(_ellipse(rng.uniform(-0.2, 0.2) * w, rng.uniform(-0.1, 0.4) * h, r, r), Paint.LIGHT))
    parts.append(Part(_ellipse(0, -h, w, rim), Paint.LIGHT if rng.random() < 0.4 else Paint.SECOND))
    parts.append(Part(_ellipse(0, -h, w * 0.84, rim * 0.7), Paint.DARK))
    return parts, (w + bottom) / 2 + bulge, h


def mug(rng: np.random.Generator) -> list[Part]:
    """A cup with a handle on one side."""
    cup, w, h = _cup(rng)
    x, y = w * rng.uniform(0.88, 1.0), rng.uniform(-0.15, 0.2) * h
    rx, ry, thick = rng.uniform(0.36, 0.56), rng.uniform(0.4, 0.68) * h, rng.uniform(0.12, 0.2)
    if rng.random() < 0.7:
        outer, inner = _ellipse(x, y, rx, ry), _ellipse(x, y, rx - thick, ry - thick)
    else:
        outer = _polygon((x, y - ry), (x + rx, y - ry * 0.8), (x + rx * 0.9, y + ry * 0.5), (x, y + ry))
        inner = (outer - [x, y]) * (1 - 1.4 * thick / min(rx, ry)) + [x, y]
    paint = Paint.MAIN if rng.random() < 0.7 else Paint.SECOND
    return [Part(outer, paint, clue=True), Part(inner, Paint.HOLE), *cup]


def fish(rng: np.random.Generator) -> list[Part]:
    """A body with a tail, fins and an eye."""
    h, sharp = rng.uniform(0.28, 0.68), rng.uniform(0.6, 1.1)
    t = np.linspace(0, np.pi, 24)
    x, y = -np.cos(t), np.sin(t) ** sharp * h
    y *= 1 - 0.45 * (x + 1) / 2 * rng.uniform(0, 1)
    body = np.concatenate([np.stack([x, -y], 1), np.stack([x, y * rng.uniform(0.7, 1.1)], 1)[::-1]])
    size, fork, root = rng.uniform(0.35, 0.7), rng.uniform(-0.15, 0.35), rng.uniform(0.06, 0.14)
    spread = rng.uniform(0.3, 0.62)
    tail = _polygon(
        (0.75, -root),
        (1 + size, -spread),
        (1 + size - fork, 0),
        (1 + size, spread * rng.uniform(0.7, 1.2)),
        (0.75, root),
    )
    parts = [Part(tail, Paint.SECOND if rng.random() < 0.6 else Paint.MAIN, clue=True)]
    x0, long, high = rng.uniform(-0.4, 0), rng.uniform(0.35, 0.8), rng.uniform(0.15, 0.5)
    parts.append(Part(_polygon((x0, -h * 0.7), (x0 + long * 0.6, -h - high), (x0 + long, -h * 0.4)), Paint.SECOND))
    if rng.random() < 0.7:
        parts.append(Part(_polygon((-0.1, h * 0.5), (0.35, h + high * 0.7), (0.4, h * 0.4)), Paint.SECOND))
    parts.append(Part(body, Paint.MAIN))
    kind = rng.integers(4)
    if kind == 0:  # belly
        low = np.stack([x * 0.8, y * 0.85], 1)
        parts.append(Part(np.concatenate([low, _polygon((0.7, h * 0.15), (-0.7, h * 0.15))]), Paint.LIGHT))
    elif kind == 1:  # bands
        for at in np.linspace(-0.3, 0.5, int(rng.integers(2, 4))):
            high_here = float(np.interp(at, x, y)) * 0.75
            parts.append(Part(_bar(at, -high_here, at, high_here, rng.uniform(0.1, 0.2)), Paint.SECOND))
    elif kind == 2:  # side fin
        parts.append(Part(_polygon((-0.25, 0.02), (0.25, -0.12 * h), (0.3, h * 0.55)), Paint.SECOND))
    eye = min(rng.uniform(0.09, 0.16), h * 0.32)
    at_x, at_y = rng.uniform(-0.7, -0.55), -h * rng.uniform(0.1, 0.25)
    parts.append(Part(_ellipse(at_x, at_y, eye, eye), Paint.LIGHT))
    parts.append(Part(_ellipse(at_x, at_y, eye * 0.55, eye * 0.55), Paint.DARK))
    return parts


def _cap(rng: np.random.Generator) -> tuple[list[Part], float, float]:
    """A mushroom's cap: from a flat dome to a pointed hat, with its half width and height."""
    w, h, power = rng.uniform(0.6, 1.0), rng.uniform(0.45, 1.1), rng.uniform(0.45, 1.1)
    x = np.linspace(-1, 1, 31)
    top = -h * (1 - np.abs(x) ** 2) ** power
    rim = rng.uniform(0.06, 0.2)
    dome = np.concatenate([np.stack([x * w, top], 1), _ellipse(0, 0, w, rim, 0, 180)])
    parts = [Part(dome, Paint.MAIN)]
    if rng.random() < 0.5:
        for at in rng.permutation(np.linspace(-0.7, 0.7, 6))[: int(rng.integers(3, 6))]:
            y = float(np.interp(at, x, top)) * rng.uniform(0.3, 0.8)
            r = rng.uniform(0.07, 0.15)
            parts.append(Part(_ellipse(at * w * 0.9, y, r, r * 0.8), Paint.LIGHT))
    return parts, w, rim


def mushroom(rng: np.random.Generator) -> list[Part]:
    """A cap on a stem."""
    cap, w, rim = _cap(rng)
    length, thick, bend = rng.uniform(0.5, 1.2), rng.uniform(0.12, 0.34) * w / 0.7, rng.uniform(-0.2, 0.2)
    foot = thick * rng.uniform(0.8, 1.7)
    y = np.linspace(-0.2, length, 8)
    s = (y + 0.2) / (length + 0.2)
    middle, half = bend * s**2, thick + (foot - thick) * s**2
    stem = np.concatenate([np.stack([middle + half, y], 1), np.stack([middle - half, y], 1)[::-1]])
    under = [Part(_ellipse(0, 0.02, w * 0.93, rim * 1.5), Paint.DARK)] if rng.random() < 0.5 else []
    parts = [Part(stem, Paint.LIGHT if rng.random() < 0.5 else Paint.SECOND, clue=True)]
    if rng.random() < 0.35:  # a ring round the stem
        parts.append(Part(_ellipse(bend * 0.2, length * 0.4, thick * 1.6, 0.08), Paint.SECOND))
    return [*under, *parts, *cap] if rng.random() < 0.5 else [*parts, *under, *cap]


def _ring(rng: np.random.Generator, thick: float, paint: Paint) -> list[Part]:
    return [Part(_ellipse(0, 0, 1, 1), paint), Part(_ellipse(0, 0, 1 - thick, 1 - thick), Paint.HOLE)]


def wheel(rng: np.random.Generator) -> list[Part]:
    """A tyre with spokes and a hub."""
    thick, hub, n = rng.uniform(0.12, 0.3), rng.uniform(0.12, 0.27), int(rng.integers(4, 10))
    parts = _ring(rng, thick, Paint.DARK if rng.random() < 0.35 else Paint.MAIN)
    if rng.random() < 0.35:
        parts.append(Part(_ellipse(0, 0, 1 - thick, 1 - thick), Paint.SECOND))
    spoke = Paint.LIGHT if rng.random() < 0.5 else Paint.MAIN
    first, width, narrow = rng.uniform(0, 2 * np.pi), rng.uniform(0.07, 0.9 / n + 0.06), rng.uniform(0.5, 1.4)
    for angle in first + np.arange(n) * 2 * np.pi / n:
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        end, inner, outer = along * (1 - thick * 0.6), across * width / 2, across * width * narrow / 2
        parts.append(Part(np.stack([inner, end + outer, end - outer, -inner]), spoke, clue=True))
    parts.append(Part(_ellipse(0, 0, hub, hub), Paint.MAIN if rng.random() < 0.6 else Paint.SECOND))
    if rng.random() < 0.5:
        parts.append(Part(_ellipse(0, 0, hub * 0.45, hub * 0.45), Paint.DARK))
    return parts


def _bow(rng: np.random.Generator) -> list[Part]:
    """The ring a key is held by, at the left of the origin."""
    r, thick = rng.uniform(0.38, 0.6), rng.uniform(0.14, 0.24)
    n = (40, 4, 6, 8)[int(rng.integers(4))]
    t = np.arange(n) * 2 * np.pi / n
    unit = np.stack([np.cos(t) * rng.uniform(0.8, 1.1), np.sin(t)], 1)
    return [Part(unit * r - [r, 0], Paint.MAIN), Part(unit * (r - thick) - [r, 0], Paint.HOLE)]


def key(rng: np.random.Generator) -> list[Part]:
    """A ring, a shaft and two to four teeth at one side of the shaft's end."""
    long, thick = rng.uniform(1.0, 1.7), rng.uniform(0.14, 0.24)
    parts = [*_bow(rng), Part(_bar(-0.08, 0, long, 0, thick), Paint.MAIN)]
    n, tooth = int(rng.integers(2, 5)), rng.uniform(0.12, 0.17)
    for i in range(n):
        at = long - tooth / 2 - i * tooth * 1.75
        parts.append(Part(_bar(at, 0, at, rng.uniform(0.32, 0.5), tooth), Paint.MAIN, clue=True))
    if rng.random() < 0.4:
        parts.append(Part(_bar(0.06, -thick, 0.06, thick, 0.12), Paint.SECOND))
    return parts


CLASSES: Mapping[str, Shape] = {"mug": mug, "fish": fish, "mushroom": mushroom, "wheel": wheel, "key": key}


def _blob(rng: np.random.Generator) -> list[Part]:
    t = np.linspace(0, 2 * np.pi, 48)
    r = 1 + sum(rng.uniform(-0.5, 0.5) / k * np.cos(k * t + rng.uniform(0, 6.3)) for k in range(2, 6))
    parts = [Part(np.stack([r * np.cos(t), r * np.sin(t)], 1), Paint.MAIN)]
    for _ in range(int(rng.integers(0, 4))):  # spots, as eyes and dots have
        x, y, s = *rng.uniform(-0.5, 0.5, 2), rng.uniform(0.08, 0.2)
        parts.append(Part(_ellipse(x, y, s, s), Paint(int(rng.integers(2, 5)))))
    return parts


def _plain_ring(rng: np.random.Generator) -> list[Part]:
    parts = _ring(rng, rng.uniform(0.1, 0.4), Paint.DARK if rng.random() < 0.3 else Paint.MAIN)
    return parts + ([Part(_ellipse(0, 0, 0.3, 0.3), Paint.SECOND)] if rng.random() < 0.4 else [])


def _disc(rng: np.random.Generator) -> list[Part]:
    paints = rng.permutation([Paint.MAIN, Paint.SECOND, Paint.LIGHT, Paint.DARK])[: int(rng.integers(1, 4))]
    return [Part(_ellipse(0, 0, r, r), Paint(int(p))) for r, p in zip((1, 0.65, 0.35), paints, strict=False)]


def _triangles(rng: np.random.Generator) -> list[Part]:
    paints = (Paint.MAIN, Paint.SECOND, Paint.LIGHT)
    return [Part(rng.uniform(-1, 1, (3, 2)), p) for p in paints[: int(rng.integers(1, 4))]]


def _glass(rng: np.random.Generator) -> list[Part]:
    return _cup(rng)[0]  # a cup that has no handle is no mug


def _hat(rng: np.random.Generator) -> list[Part]:
    return _cap(rng)[0]  # a cap that has no stem is no mushroom


def _leaf(rng: np.random.Generator) -> list[Part]:
    x, h = np.linspace(-1, 1, 20), rng.uniform(0.25, 0.7)
    y = h * (1 - x**2) ** rng.uniform(0.8, 1.4)
    parts = [Part(np.concatenate([np.stack([x, y], 1), np.stack([x, -y], 1)[::-1]]), Paint.MAIN)]
    parts.append(Part(_bar(-1, 0, rng.uniform(1, 1.5), 0, 0.07), Paint.SECOND))
    for at in np.linspace(-0.6, 0.4, int(rng.integers(0, 4))):
        parts.append(Part(_bar(at, 0, at + 0.25, h * 0.6, 0.05), Paint.SECOND))
    return parts


def _stick(rng: np.random.Generator) -> list[Part]:
    """A ring or a disc on a shaft that has no teeth."""
    bow = _bow(rng) if rng.random() < 0.6 else [Part(_ellipse(-0.5, 0, 0.5, 0.5), Paint.MAIN)]
    return [*bow, Part(_bar(-0.05, 0, rng.uniform(0.8, 1.8), 0, rng.uniform(0.1, 0.25)), Paint.MAIN)]


def _lines(rng: np.random.Generator) -> list[Part]:
    """A bundle of twigs, or spokes that have no tyre."""
    ends = rng.uniform(-1, 1, (int(rng.integers(3, 8)), 2))
    starts = np.zeros_like(ends) if rng.random() < 0.5 else rng.uniform(-1, 1, ends.shape)
    width = rng.uniform(0.05, 0.14)
    return [
        Part(_bar(x0, y0, x1, y1, width), Paint.MAIN if rng.random() < 0.7 else Paint.SECOND)
        for (x0, y0), (x1, y1) in zip(starts, ends, strict=True)
    ]


def _comb(rng: np.random.Generator) -> list[Part]:
    n = int(rng.integers(3, 9))
    teeth = [Part(_bar(x, 0, x, rng.uniform(0.4, 0.6), 0.9 / n), Paint.MAIN) for x in np.linspace(-0.9, 0.9, n)]
    return [*teeth, Part(_bar(-1, 0, 1, 0, rng.uniform(0.15, 0.4)), Paint.MAIN)]


def _box(rng: np.random.Generator) -> list[Part]:
    h = rng.uniform(0.3, 1)
    parts = [Part(_bar(-1, 0, 1, 0, 2 * h), Paint.MAIN)]
    if rng.random() < 0.6:
        parts.append(Part(_bar(-1, rng.uniform(-h, h) * 0.7, 1, 0, rng.uniform(0.1, 0.4)), Paint.SECOND))
    if rng.random() < 0.4:
        parts.append(Part(_polygon((-1, -h), (-0.6, -h - 0.4), (1.4, -h - 0.4), (1, -h)), Paint.LIGHT))
    return parts


DISTRACTORS: tuple[Shape, ...] = (
    _blob,
    _plain_ring,
    _disc,
    _triangles,
    _glass,
    _hat,
    _leaf,
    _stick,
    _lines,
    _comb,
    _box,
)


def place(parts: list[Part], side: float, degrees: float, stretch: float, shear: float, mirror: bool) -> list[Part]:
    """The parts stretched, sheared and turned, with their top left at (0, 0) and their long side ``side`` pixels."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.array([[c, -s], [s, c]]) @ np.array([[stretch * (-1 if mirror else 1), shear], [0, 1 / stretch]])
    turned = [p.points @ matrix.T for p in parts]
    solid = np.concatenate([t for t, p in zip(turned, parts, strict=True) if p.paint != Paint.HOLE])
    low, high = solid.min(axis=0), solid.max(axis=0)
    scale = side / float((high - low).max())
    return [Part((t - low) * scale, p.paint, p.clue) for t, p in zip(turned, parts, strict=True)]


def raster(parts: list[Part], outline: float, oversample: int) -> Raster:
    """Paint the placed parts in order.

    Args:
        outline: width in pixels of the line round each part; 0 for none.
        oversample: samples a pixel along each side.
    """
    far = np.concatenate([p.points for p in parts if p.paint != Paint.HOLE]).max(axis=0)
    w, h = (int(np.ceil(v)) + 2 for v in far)
    image = Image.new("L", (w * oversample, h * oversample), int(Paint.HOLE))
    told = Image.new("L", image.size)
    draw, mark = ImageDraw.Draw(image), ImageDraw.Draw(told)
    has_clue = any(part.clue for part in parts)
    line = max(1, round(outline * oversample)) if outline else 0
    for part in parts:
        points = [(float(x), float(y)) for x, y in (part.points + 1) * oversample]
        if line and part.paint != Paint.HOLE:
            draw.polygon(points, fill=int(part.paint), outline=int(Paint.OUTLINE), width=line)
        else:
            draw.polygon(points, fill=int(part.paint))
        if has_clue:
            mark.polygon(points, fill=int(part.clue))
    x0, y0, x1, y1 = (v / oversample for v in image.getbbox() or (0, 0, w * oversample, h * oversample))
    drawn = np.asarray(image)
    cover = np.zeros((len(Paint), h, w), dtype=np.float32)
    for paint in np.flatnonzero(np.bincount(drawn.ravel())):
        cover[paint] = _shrink(drawn == paint, oversample)
    return Raster(cover, _shrink(np.asarray(told) == 1, oversample), (x0, y0, x1, y1))


def _shrink(mask: NDArray[np.bool_], factor: int) -> NDArray[np.float32]:
    """float32: the share that is true of each factor x factor block."""
    counts = mask.view(np.uint8)
    rows = sum((counts[i::factor] for i in range(1, factor)), start=counts[::factor])
    both = sum((rows[:, i::factor] for i in range(1, factor)), start=rows[:, ::factor])
    return both.astype(np.float32) / np.float32(factor**2)
