"""Charts as SVG inside a page: matplotlib draws them, the page's style sheet colours them, readers can read them.

matplotlib gets colours that stand for a place of the style sheet (``var(--ink)``), so one drawing serves light and
dark. Text stays text, in the page's own font. Each chart carries a title, a description, and the position and value
of its points, which the page's script shows under the pointer.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sedet.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
SERIES = tuple(f"#0a0c{n:02x}" for n in range(8))
"""Stand for the colours of the style sheet; as many series as there are colours are told apart by dashes, too."""
DASHES = ("-", "--", "-.", (0, (1, 1.2)), (0, (6, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (2, 2)), (0, (8, 2, 2, 2)))
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--series-{n}" for n, colour in enumerate(SERIES)
}
SIZE = (4.4, 2.9)
"""Inches: in a column of a page as in the width of a phone the text keeps a size that can be read."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sedet",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
}
_COLOUR = re.compile("|".join(VARIABLES), re.IGNORECASE)
_FONT = re.compile(r"font:\s*(?:normal\s+|\d{3}\s+)*([\d.]+px)[^;]*")
_FAMILY = re.compile(r"font-family:[^;]*;?")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Series:
    """One line: ``x`` and ``y`` of equal length, nan where there is nothing; told in the table as ``name``."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """A chart in a page.

    Attributes:
        svg: the drawing, safe to put into a page.
        title, description: what it shows, in words.
        columns, rows: its numbers as a table; texts.
        points: what the pointer shows: ``[x, y, text]`` in the drawing's own units.
        cursor: drawing units of the value 0 and 1 on the x axis, where a line may be moved; else None.
    """

    svg: Markup
    title: str
    description: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    points: tuple[tuple[float, float, str], ...] = ()
    cursor: tuple[float, float] | None = None
    marks: dict[str, Any] = field(default_factory=dict)


def lines(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str = "",
    description: str = "",
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float | None, float | None] = (0, None),
    digits: int = 1,
    percent: bool = False,
    marker: bool = False,
    level: tuple[str, float] | None = None,
    at: tuple[str, float] | None = None,
    dots: Sequence[tuple[str, float, float]] = (),
    cursor: bool = False,
    table: bool = True,
    more: Callable[[Axes], None] | None = None,
    x_names: Sequence[str] = (),
) -> Chart:
    """Lines over a common axis.

    Args:
        series: at most eight have a look of their own.
        x_range, y_range: ends of the axes, None: from the values.
        digits: of the values in the table; percent: they are shares, shown as percent.
        marker: mark the points themselves.
        level: a named value as a level line; at: a named x as an upright line; dots: named points.
        cursor: an upright line that the page's script may move along x (from 0 to 1).
        table: whether the numbers are given as a table.
        more: is given the axes, to add to them; x_names: what stands for x = 0, 1, ... in words.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    points: list[tuple[float, float, str]] = []
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        for n, one in enumerate(series):
            colour, dashes = SERIES[n % len(SERIES)], DASHES[n % len(DASHES)]
            dense = len(one.x) > 40
            axes.plot(
                one.x,
                one.y,
                label=_legend(one.name),
                color=colour,
                linestyle=dashes,
                marker="o" if marker and not dense else None,
                markersize=3.5,
                clip_on=not marker,  # a point at the end of an axis is drawn whole
            )
        if level is not None:
            axes.axhline(level[1], color=MUTED, linestyle=(0, (1, 2)), linewidth=1.2, label=_legend(level[0]))
        axes.set_xlim(x_range)
        axes.margins(y=0.12)
        axes.set_ylim(*y_range)
        if at is not None:
            axes.axvline(at[1], color=MUTED, linewidth=0.9)
            axes.annotate(at[0], (at[1], 1.0), xycoords=("data", "axes fraction"), va="bottom", fontsize=8, color=MUTED)
        for name, x, y in dots:
            axes.plot([x], [y], "o", color=INK, markersize=6, markerfacecolor="none", markeredgewidth=1.6, zorder=5)
            axes.annotate(name, (x, y), xytext=(6, 6), textcoords="offset points", fontsize=8, color=INK)
        if cursor:
            axes.axvline(0, color=INK, linewidth=1, gid="cursor")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if len(series) > 1 or level is not None:
            axes.legend(loc="best")
        if percent:
            axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
        if more is not None:
            more(axes)
        drawn = _draw(figure, title, description)
        place_of = _placed(figure, axes)
    for one in series:
        for x, y in zip(one.x, one.y, strict=True):
            if math.isfinite(x) and math.isfinite(y):
                place = x_names[int(x)] if x_names else f"{x_label} {x:g}"
                text = f"{one.name}: {number(y, digits, percent)} at {place}"
                points.append((*place_of(x, y), printable(text)))
    ends = (place_of(0, 0)[0], place_of(1, 0)[0]) if cursor else None
    columns, rows = _table(series, x_label, digits, percent) if table else ((), ())
    return Chart(drawn, title, description, columns, rows, tuple(points), ends)


def bars(
    title: str,
    names: Sequence[str],
    groups: Sequence[tuple[str, Sequence[float]]],
    *,
    x_label: str,
    description: str = "",
    digits: int = 1,
    ends: Sequence[tuple[float, float]] = (),
) -> Chart:
    """Level bars, one row a name, one bar of each group in it; the first name on top.

    Args:
        groups: name and values (nan: no bar) of each.
        ends: with one group, the ends of an interval for each bar.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    points: list[tuple[float, float, str]] = []
    with mpl.rc_context(_STYLE):
        rows = len(names)
        figure = Figure(figsize=(SIZE[0], max(1.6, 0.75 + rows * (0.16 + 0.13 * len(groups)))), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        height = 0.76 / max(1, len(groups))
        for g, (group, values) in enumerate(groups):
            place = [row - 0.38 + (g + 0.5) * height for row in range(rows)]
            shown = [0.0 if math.isnan(v) else v for v in values]
            drawn_bars = axes.barh(
                place, shown, height=height * 0.92, color=SERIES[g % len(SERIES)], label=_legend(group)
            )
            texts = ["–" if math.isnan(v) else f"{v:.{digits}f}" for v in values]
            if ends:
                texts = [
                    f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
                    for value, (low, high) in zip(values, ends, strict=True)
                ]
                axes.hlines(place, [low for low, _ in ends], [high for _, high in ends], color=INK, linewidth=1.6)
                for row, text in zip(place, texts, strict=True):
                    reach = max(0.0, *(high for _, high in ends))
                    axes.annotate(
                        text, (reach, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7.5
                    )
            else:
                axes.bar_label(drawn_bars, texts, fontsize=7.5, padding=2, color=INK)
            points += [
                (v, p, f"{names[n]}, {group}: {texts[n]}")
                for n, (v, p) in enumerate(zip(shown, place, strict=True))
                if not math.isnan(values[n])
            ]
        axes.set_yticks(range(rows), [_legend(name) for name in names])
        axes.set_ylim(rows - 0.5, -0.5)
        every = [
            0.0,
            *(v for _, values in groups for v in values if not math.isnan(v)),
            *(v for end in ends for v in end),
        ]
        least, most = min(every), max(every)
        span = (most - least) or 1.0
        axes.set_xlim(least - (0.12 * span if least < 0 else 0), most + (0.55 if ends else 0.14) * span)
        if least < 0:
            axes.axvline(0, color=MUTED, linewidth=0.9)
        axes.grid(axis="y", visible=False)
        # long names leave the axes too little room to centre it on them
        figure.supxlabel(x_label, fontsize=_STYLE["font.size"], color=MUTED)
        if len(groups) > 1:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(groups))
        drawn = _draw(figure, title, description)
        place_of = _placed(figure, axes)
    columns = ("", *(group for group, _ in groups))
    body = tuple((name, *(number(values[n], digits) for _, values in groups)) for n, name in enumerate(names))
    return Chart(drawn, title, description, columns, body, tuple((*place_of(x, y), printable(t)) for x, y, t in points))


def number(value: float, digits: int = 1, percent: bool = False) -> str:
    """A value as text; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    return f"{100 * value:.0f} %" if percent else f"{value:.{digits}f}"


def _legend(name: str) -> str:
    """A name from outside: no control characters, not too long, and no leading '_', which would hide it."""
    text = printable(name)
    text = text if len(text) <= 28 else f"{text[:27]}…"
    return f"\u200b{text}" if text.startswith("_") else text


def _table(
    series: Sequence[Series], x_label: str, digits: int, percent: bool
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """All series by their common x."""
    values: dict[float, dict[int, float]] = {}
    for n, one in enumerate(series):
        for x, y in zip(one.x, one.y, strict=True):
            values.setdefault(x, {})[n] = y
    rows = tuple(
        (f"{x:g}", *(number(values[x].get(n, math.nan), digits, percent) for n in range(len(series))))
        for x in sorted(values)
    )
    return (x_label, *(one.name for one in series)), rows


def _placed(figure: Figure, axes: Axes) -> Callable[[float, float], tuple[float, float]]:
    """Where a value lies in the drawing, in its units (points, from the upper left corner)."""
    scale, (_, height) = 72 / figure.dpi, figure.get_size_inches() * 72

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = axes.transData.transform((x, y))
        return round(float(across) * scale, 1), round(float(height) - float(up) * scale, 1)

    return place


def _draw(figure: Figure, title: str, description: str) -> Markup:
    """The figure as SVG for a page: its own ids, colours of the style sheet, a title and a description."""
    data = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # letters that matplotlib's font lacks: the page's own has them
        figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(data.getvalue())  # what matplotlib has just written
    prefix = f"chart-{next(_numbers)}"
    for element in list(root.iter()):
        element.tag = element.tag.rpartition("}")[2]
        for key in list(element.attrib):
            value = element.attrib.pop(key)
            name = key.rpartition("}")[2]
            if name == "id":
                value = f"{prefix}-{value}"
            elif name == "href":
                value = f"#{prefix}-{value[1:]}"
            elif "url(#" in value:
                value = value.replace("url(#", f"url(#{prefix}-")
            if name == "style":
                value = _COLOUR.sub(lambda found: f"var({VARIABLES[found[0].lower()]})", value)
                value = _FAMILY.sub("", _FONT.sub(r"font-size: \1", value))
            element.set(name, value)
    for child in list(root):
        if child.tag == "metadata":
            root.remove(child)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    for tag, text in (("desc", description), ("title", title)):
        words = ElementTree.Element(tag, {"id": f"{prefix}-{tag}"})
        words.text = printable(text)
        root.insert(0, words)
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}-title {prefix}-desc")
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # escaped by ElementTree
