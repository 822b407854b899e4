"""Colours, patterns, noise and light: what the demo's scenes and objects are made of."""

from __future__ import annotations

import colorsys
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from sedet.demo.shapes import Paint

Floats = NDArray[np.float32]
PATTERNS = ("plain", "plain", "plain", "plain", "plain", "stripes", "checks", "dots", "cloud", "grain", "fade")


TYPICAL = 0.6
"""Share of the objects whose main colour is the typical one of their class."""


def colour(rng: np.random.Generator) -> Floats:
    """float32 [3]: an RGB colour in 0-1, muted ones more often than loud ones."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.beta(1.2, 1.5), rng.uniform(0.15, 0.95))
    return np.array(rgb, dtype=np.float32)


def class_colour(rng: np.random.Generator, hue: float) -> Floats:
    """float32 [3]: a colour near a hue (0-1 round the wheel), as things of one kind tend to have."""
    rgb = colorsys.hsv_to_rgb((hue + rng.normal(0, 0.05)) % 1.0, rng.uniform(0.45, 0.95), rng.uniform(0.35, 0.95))
    return np.array(rgb, dtype=np.float32)


def noise(rng: np.random.Generator, height: int, width: int, coarse: float, octaves: int, fall: float) -> Floats:
    """float32 [height, width] with mean 0 and deviation 1: smooth noise, summed over octaves.

    Args:
        coarse: size of the largest features, pixels.
        fall: amplitude of each octave relative to the one before.
    """
    total = np.zeros((height, width), dtype=np.float32)
    for octave in range(octaves):
        cell = coarse / 2**octave
        if cell < 1.5:
            break
        (row, dy), (column, dx) = _steps(height, cell, rng.random()), _steps(width, cell, rng.random())
        grid = rng.standard_normal((row[-1] + 2, column[-1] + 2), dtype=np.float32)
        grid *= np.float32(fall**octave)
        rows = grid[row] + dy[:, None] * (grid[row + 1] - grid[row])
        left = rows.take(column, axis=1)
        total += left + dx * (rows.take(column + 1, axis=1) - left)
    total -= total.mean()
    total /= max(float(total.std()), 1e-6)
    return total


def _steps(length: int, cell: float, offset: float) -> tuple[NDArray[np.int64], Floats]:
    """For each pixel of a line, the grid point before it and how far it has gone to the next (eased at both)."""
    at = np.arange(length) / cell + offset
    whole = at.astype(np.int64)
    t = (at - whole).astype(np.float32)
    return whole, t * t * (3 - 2 * t)


def pattern(rng: np.random.Generator, kind: str, x: Floats, y: Floats, period: float) -> Floats:
    """How much of the second colour is at each point: float32 [h, w] in 0-1.

    Args:
        x, y: float32 [h, w] coordinates in pixels, in the frame of the thing (it turns with the thing).
        period: length of one repeat, pixels.
    """
    angle, phase, turn = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi), 2 * math.pi / period
    u = (x * math.cos(angle) + y * math.sin(angle)) * turn + phase
    v = (y * math.cos(angle) - x * math.sin(angle)) * turn + phase
    amount: NDArray[np.floating[Any]] = np.zeros_like(u)
    if kind == "stripes":
        amount = np.sin(u) * 3 + rng.uniform(-0.5, 1.5)
    elif kind == "checks":
        amount = np.sin(u) * np.sin(v) * 5 + 0.5
    elif kind == "dots":
        amount = (np.sin(u) + np.sin(v) - 0.8) * 4
    elif kind == "fade":
        amount = (u - u.min()) / max(float(np.ptp(u)), 1e-6)
    elif kind in ("cloud", "grain"):
        coarse = period * (1.5 if kind == "cloud" else 0.3)
        amount = noise(rng, u.shape[0], u.shape[1], max(coarse, 1.5), 3, 0.6) * 0.5 + 0.35
    return amount.clip(0, 1).astype(np.float32, copy=False)


def dress(
    rng: np.random.Generator,
    cover: Floats,
    degrees: float,
    outline: bool,
    against: Floats,
    light: float,
    hue: float | None = None,
) -> Floats:
    """Give a drawn shape its colours, patterns and shading.

    Args:
        cover: float32 [paints, h, w], from `shapes.raster`: share of the pixel each `Paint` covers.
        degrees: the thing's turn; its patterns turn with it.
        outline: whether its parts are outlined.
        against: float32 [3], mean colour of what lies behind: the main colour is drawn again while it is lost on it.
        light: direction the light comes from, radians.
        hue: the hue that things of this kind often have (0-1), or None.

    Returns:
        float32 [h, w, 3] in 0-1, not multiplied by how much of the pixel is covered.
    """
    _, height, width = cover.shape
    side = max(height, width)
    typical = hue is not None and rng.random() < TYPICAL
    for _ in range(8):
        main = class_colour(rng, hue) if typical and hue is not None else colour(rng)
        if float(np.abs(main - against).mean()) >= 0.17:
            break
    # A tone of the main colour, or another colour.
    second = np.clip(main * rng.uniform(0.5, 1.5), 0, 1) if rng.random() < 0.4 else colour(rng)
    dark, bright = rng.uniform(0.02, 0.3), rng.uniform(0.7, 1.0)
    edge = main * 0.25 if rng.random() < 0.75 else np.clip(main * 0.3 + 0.7, 0, 1)

    y, x = _grid(height, width)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    total = np.zeros((height, width, 3), dtype=np.float32)
    for paint, flat in ((Paint.MAIN, main), (Paint.SECOND, second)):
        kind = PATTERNS[int(rng.integers(len(PATTERNS)))]
        fill = flat.astype(np.float32)
        if kind != "plain" and (paint == Paint.MAIN or rng.random() < 0.4):
            strength = rng.uniform(0.35, 0.95)
            amount = pattern(rng, kind, x * c + y * s, y * c - x * s, max(side * rng.uniform(0.12, 0.4), 2.5))
            fill = fill + (amount * np.float32(strength))[..., None] * (colour(rng) - fill)
        total += cover[paint][..., None] * fill
    total += cover[Paint.DARK][..., None] * (dark * (0.5 + 0.5 * colour(rng)))
    total += cover[Paint.LIGHT][..., None] * (bright * (0.75 + 0.25 * colour(rng)))
    if outline:
        total += cover[Paint.OUTLINE][..., None] * edge
    total /= np.maximum(1 - cover[Paint.HOLE], 1e-3)[..., None]

    shade = 1 + rng.uniform(0.1, 0.8) / side * (x * math.cos(light) + y * math.sin(light))
    if side > 24:
        shade = shade * (1 + noise(rng, height, width, side / 6, 3, 0.7) * rng.uniform(0, 0.12))
    total *= shade[..., None]
    if rng.random() < 0.4:  # a shine where the light comes from
        far = (x / side - 0.2 * math.cos(light)) ** 2 + (y / side - 0.2 * math.sin(light)) ** 2
        total += (rng.uniform(0.15, 0.5) * np.exp(far / -rng.uniform(0.01, 0.04)))[..., None]
    return total.clip(0, 1).astype(np.float32, copy=False)


def _grid(height: int, width: int) -> tuple[Floats, Floats]:
    """float32 y [height, 1] and x [1, width] in pixels from the middle."""
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(height / 2)
    x = np.arange(width, dtype=np.float32)[None] - np.float32(width / 2)
    return y, x


def _region(rng: np.random.Generator, size: int) -> Floats:
    """float32 [size, size] in 0-1: a floor or wall with a straight or ragged edge, or a patch."""
    if rng.random() < 0.5:
        y, x = _grid(size, size)
        angle = math.pi / 2 + rng.normal(0, 0.35) if rng.random() < 0.7 else rng.uniform(0, 2 * math.pi)
        level = (x * math.cos(angle) + y * math.sin(angle)) / size - rng.uniform(-0.3, 0.3)
        if rng.random() < 0.6:
            level = level + noise(rng, size, size, size / 3, 4, 0.5) * rng.uniform(0.01, 0.06)
        return (level * size / 2 + 0.5).clip(0, 1).astype(np.float32, copy=False)
    corners, t = int(rng.integers(3, 8)), np.sort(rng.uniform(0, 2 * np.pi, 8))
    r = rng.uniform(0.15, 0.5) * size
    x0, y0 = rng.uniform(0, size, 2)
    points = [(float(x0 + r * np.cos(a)), float(y0 + r * np.sin(a))) for a in t[:corners]]
    image = Image.new("L", (size, size))
    ImageDraw.Draw(image).polygon(points, fill=255)
    soft = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3)))
    return (np.asarray(soft) / np.float32(255)).astype(np.float32, copy=False)


def background(rng: np.random.Generator, size: int) -> Floats:
    """float32 [size, size, 3] in 0-1: surfaces of clouded colours and textures."""
    image: Floats = np.zeros((size, size, 3), dtype=np.float32)
    y, x = _grid(size, size)
    base = colour(rng)
    for layer in range(int(rng.integers(1, 4))):
        # Neighbouring surfaces share some of their colour, as things in one light do.
        first = 0.5 * base + 0.5 * colour(rng)
        second = np.clip(first * rng.uniform(0.4, 1.3) + rng.normal(0, 0.07, 3), 0, 1).astype(np.float32)
        field = noise(rng, size, size, size * rng.uniform(0.15, 0.7), 6, rng.uniform(0.45, 0.85))
        mix = (0.5 + field * rng.uniform(0.15, 0.5)).clip(0, 1)[..., None]
        surface = first + mix * (second - first)
        if rng.random() < 0.3:
            kind = PATTERNS[int(rng.integers(5, 10))]
            warp = noise(rng, size, size, size / 2, 2, 0.5) * rng.uniform(0, 3)
            amount = pattern(rng, kind, x + warp, y - warp, rng.uniform(3, 26) * size / 128) * rng.uniform(0.1, 0.5)
            surface = surface + amount[..., None] * (colour(rng) - surface)
        share = np.ones((size, size), np.float32) if layer == 0 else _region(rng, size)
        image += share[..., None] * (surface - image)
    return image.clip(0, 1)


def develop(rng: np.random.Generator, image: Floats, light: float) -> NDArray[np.uint8]:
    """What the camera makes of the scene: light from one side, a cast, blur, noise. uint8 [size, size, 3]."""
    size = len(image)
    photo: NDArray[np.floating[Any]] = image
    y, x = (v / size for v in _grid(size, size))
    slope = np.float32(rng.uniform(0, 0.7)) * (x * math.cos(light) + y * math.sin(light))
    fall = 1 + slope - rng.uniform(0, 0.6) * (x**2 + y**2)
    photo = photo * fall[..., None] * rng.uniform(0.9, 1.1, 3).astype(np.float32)
    contrast, middle = np.float32(rng.uniform(0.75, 1.1)), np.float32(0.5 + rng.normal(0, 0.05))
    photo = ((photo - 0.5) * contrast + middle).clip(0, 1)
    if rng.random() < 0.3:
        sharp = Image.fromarray((photo * 255).astype(np.uint8))
        photo = np.asarray(sharp.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7))), dtype=np.float32) / 255
    photo = photo + rng.standard_normal(photo.shape, dtype=np.float32) * np.float32(rng.uniform(0.005, 0.03))
    return (photo.clip(0, 1) * 255 + 0.5).astype(np.uint8)
