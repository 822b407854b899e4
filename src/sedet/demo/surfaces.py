"""Colours, patterns, noise and light: what the demo's scenes and objects are made of."""

from __future__ import annotations

import colorsys
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from sedet.demo.shapes import Paint

Floats = NDArray[np.float32]
PATTERNS = ("plain", "plain", "stripes", "checks", "dots", "cloud", "grain", "fade")


def colour(rng: np.random.Generator) -> Floats:
    """float32 [3]: an RGB colour in 0-1, muted ones more often than loud ones."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.beta(1.2, 1.5), rng.uniform(0.15, 0.95))
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
        if cell < 1:
            break
        shape = (int(np.ceil(height / cell)) + 2, int(np.ceil(width / cell)) + 2)
        grid = Image.fromarray(rng.standard_normal(shape, dtype=np.float32))
        window = (0.5, 0.5, 0.5 + width / cell, 0.5 + height / cell)
        total += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC, window)) * fall**octave
    total -= total.mean()
    total /= max(float(total.std()), 1e-6)
    return total


def pattern(rng: np.random.Generator, kind: str, x: Floats, y: Floats, period: float) -> Floats:
    """How much of the second colour is at each point: float32 [h, w] in 0-1.

    Args:
        x, y: float32 [h, w] coordinates in pixels, in the frame of the thing (it turns with the thing).
        period: length of one repeat, pixels.
    """
    angle, phase, turn = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi), 2 * math.pi / period
    u = (x * math.cos(angle) + y * math.sin(angle)) * turn + phase
    v = (y * math.cos(angle) - x * math.sin(angle)) * turn + phase
    if kind == "stripes":
        return np.clip(np.sin(u) * 3 + rng.uniform(-1, 1) + 0.5, 0, 1)
    if kind == "checks":
        return np.clip(np.sin(u) * np.sin(v) * 5 + 0.5, 0, 1)
    if kind == "dots":
        return np.clip((np.sin(u) + np.sin(v) - 0.8) * 4, 0, 1)
    if kind == "fade":
        span = max(float(np.ptp(u)), 1e-6)
        return (u - u.min()) / span
    if kind in ("cloud", "grain"):
        coarse = period * (1.5 if kind == "cloud" else 0.3)
        field = noise(rng, x.shape[0], x.shape[1], max(coarse, 1.5), 3, 0.6)
        return np.clip(field * 0.5 + 0.35, 0, 1)
    return np.zeros_like(x)


def dress(
    rng: np.random.Generator, cover: Floats, degrees: float, outline: bool, against: Floats, light: float
) -> Floats:
    """Give a drawn shape its colours, patterns and shading.

    Args:
        cover: float32 [paints, h, w], from `shapes.raster`: share of the pixel each `Paint` covers.
        degrees: the thing's turn; its patterns turn with it.
        outline: whether its parts are outlined.
        against: float32 [3], mean colour of what lies behind: the main colour is drawn again while it is lost on it.
        light: direction the light comes from, radians.

    Returns:
        float32 [h, w, 3] in 0-1, not multiplied by how much of the pixel is covered.
    """
    _, height, width = cover.shape
    side = max(height, width)
    main = colour(rng)
    for _ in range(8):
        if float(np.abs(main - against).mean()) >= 0.17:
            break
        main = colour(rng)
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
    if side > 20:
        shade = shade * (1 + noise(rng, height, width, side / 6, 3, 0.7) * rng.uniform(0, 0.12))
    total *= shade[..., None]
    if rng.random() < 0.4:  # a shine where the light comes from
        far = (x / side - 0.2 * math.cos(light)) ** 2 + (y / side - 0.2 * math.sin(light)) ** 2
        total += (rng.uniform(0.15, 0.5) * np.exp(far / -rng.uniform(0.01, 0.04)))[..., None]
    return np.clip(total, 0, 1)


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
        return np.clip(level * size / 2 + 0.5, 0, 1).astype(np.float32)
    corners, t = int(rng.integers(3, 8)), np.sort(rng.uniform(0, 2 * np.pi, 8))
    r = rng.uniform(0.15, 0.5) * size
    x0, y0 = rng.uniform(0, size, 2)
    points = [(float(x0 + r * np.cos(a)), float(y0 + r * np.sin(a))) for a in t[:corners]]
    image = Image.new("L", (size, size))
    ImageDraw.Draw(image).polygon(points, fill=255)
    soft = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3)))
    return np.asarray(soft, dtype=np.float32) / 255


def background(rng: np.random.Generator, size: int) -> Floats:
    """float32 [size, size, 3] in 0-1: surfaces of clouded colours and textures."""
    image = np.zeros((size, size, 3), dtype=np.float32)
    y, x = _grid(size, size)
    base = colour(rng)
    for layer in range(int(rng.integers(2, 5))):
        # Neighbouring surfaces share some of their colour, as things in one light do.
        first = 0.5 * base + 0.5 * colour(rng)
        second = np.clip(first * rng.uniform(0.4, 1.3) + rng.normal(0, 0.07, 3), 0, 1).astype(np.float32)
        field = noise(rng, size, size, size * rng.uniform(0.15, 0.7), 6, rng.uniform(0.45, 0.85))
        mix = np.clip(0.5 + field * rng.uniform(0.15, 0.5), 0, 1)[..., None]
        surface = first + mix * (second - first)
        if rng.random() < 0.55:
            kind = PATTERNS[int(rng.integers(2, 7))]
            warp = noise(rng, size, size, size / 2, 2, 0.5) * rng.uniform(0, 3)
            amount = pattern(rng, kind, x + warp, y - warp, rng.uniform(3, 26) * size / 128) * rng.uniform(0.1, 0.5)
            surface = surface + amount[..., None] * (colour(rng) - surface)
        share = np.ones((size, size), np.float32) if layer == 0 else _region(rng, size)
        image += share[..., None] * (surface - image)
    return np.clip(image, 0, 1)


def develop(rng: np.random.Generator, image: Floats, light: float) -> NDArray[np.uint8]:
    """What the camera makes of the scene: light from one side, a cast, blur, noise. uint8 [size, size, 3]."""
    size = len(image)
    y, x = (v / size for v in _grid(size, size))
    slope = rng.uniform(0, 0.7) * (x * math.cos(light) + y * math.sin(light))
    fall = 1 + slope - rng.uniform(0, 0.6) * (x**2 + y**2)
    image = image * fall[..., None] * rng.uniform(0.9, 1.1, 3).astype(np.float32)
    contrast = rng.uniform(0.75, 1.1)
    image = np.clip((image - 0.5) * contrast + 0.5 + rng.normal(0, 0.05), 0, 1)
    if rng.random() < 0.3:
        photo = Image.fromarray((image * 255).astype(np.uint8))
        image = np.asarray(photo.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7))), dtype=np.float32) / 255
    image = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0.005, 0.03))
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
