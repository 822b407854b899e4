"""AP over the number of labels, one line a method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sedet.files import write_atomically

COLOURS = ("#c8501e", "#555555", "#2b6cb0", "#2f855a", "#805ad5", "#b7791f", "#d53f8c", "#319795", "#718096", "#000000")
BESIDE = 0.04
"""Between the points of two methods, in shares of the way from one number of labels to the next."""
MARKERS = ("o", "s", "^", "D")
"""The next one where the colours begin anew."""


def draw(entries: Sequence[dict[str, Any]], path: Path) -> None:
    """Write an SVG: mean AP, its deviation where there are several runs, and the ceiling as a level line."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style: Any = {"svg.hashsalt": "sedet", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
        methods = list(dict.fromkeys(e["method"] for e in entries if not e["ceiling"]))
        shares = list(dict.fromkeys(e["labels"] for e in entries if not e["ceiling"]))  # the fewest first
        for number, method in enumerate(methods):
            points = [e for e in entries if e["method"] == method and not e["ceiling"] and e["ap"] is not None]
            if not points:
                continue
            beside = BESIDE * (number - (len(methods) - 1) / 2)  # equal points and bars would hide each other
            x, y = [shares.index(e["labels"]) + beside for e in points], [e["ap"] for e in points]
            spread = [e["ap_deviation"] or 0.0 for e in points]
            dashes = "--" if method == "supervised" else "-"
            again, colour = divmod(number, len(COLOURS))
            look: Any = {"color": COLOURS[colour], "marker": MARKERS[again % len(MARKERS)], "ls": dashes}
            axes.errorbar(x, y, yerr=spread, label=method, capsize=2, **look)
        top = [e["ap"] for e in entries if e["ceiling"] and e["ap"] is not None]
        if top:
            axes.axhline(top[0], color="#999999", lw=1, ls=":", label="all labels")
        axes.set_xticks(range(len(shares)), shares)
        axes.set_xlim(-0.4, max(0.4, len(shares) - 0.6))
        axes.set(xlabel="labels", ylabel="AP on val")
        axes.legend(frameon=False, fontsize=8)
        data = io.BytesIO()
        figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    write_atomically(path, data.getvalue())
