"""Makes the pictures of docs/how-it-works.md with the library's own views and formulas.

python docs/pictures.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import torch
from matplotlib.figure import Figure

from sedet.config import SEDConfig, ViewConfig
from sedet.data.views import View, half_view, strong_view, weak_view
from sedet.demo.scenes import draw_scene
from sedet.methods.sed import binary_kl, class_weights

HERE = Path(__file__).resolve().parent
SIZE, STRIDE = 192, 32
METADATA = {"Software": None}


def views() -> Figure:
    """One scene as teacher and student see it, drawn to scale, with the cells of the levels that pair."""
    image, _ = draw_scene(np.random.default_rng(3), ["mug", "fish", "wheel", "mushroom"], SIZE)
    config = ViewConfig(scale_min=1.0, scale_max=1.0)
    weak = weak_view(image, SIZE, config, np.random.default_rng(0))
    double = weak_view(image, SIZE, config, np.random.default_rng(0), factor=2)
    strong = strong_view(weak, config, 9, "picture")
    shown: list[tuple[str, View, int]] = [
        ("teacher: weak view at double size\n(for small objects)", double, 2 * STRIDE),
        ("teacher: weak view\n(P5)", weak, STRIDE),
        ("student: strong view\n(P5)", strong, STRIDE),
        ("student: the same\nat half size (P4)", half_view(strong), STRIDE // 2),
    ]
    figure = Figure(figsize=(9, 4.3), dpi=85, layout="constrained")
    widths = [view.width for _, view, _ in shown]
    for axes, (title, view, cell) in zip(
        figure.subplots(1, len(shown), width_ratios=[w + 40 for w in widths]), shown, strict=True
    ):
        axes.imshow(view.image.permute(1, 2, 0).numpy(), interpolation="nearest")
        for edge in range(cell, view.width, cell):
            axes.axvline(edge - 0.5, color="white", linewidth=0.6, alpha=0.7)
            axes.axhline(edge - 0.5, color="white", linewidth=0.6, alpha=0.7)
        axes.set_title(title, fontsize=8)
        axes.set(xticks=[], yticks=[], xlabel=f"{view.width} px", anchor="S")
    return figure


def weights() -> Figure:
    """The class term of a region over the student's score, with and without the weight, for three of the teacher's."""
    student = torch.linspace(0.01, 0.99, 197)
    figure = Figure(figsize=(7.5, 2.6), dpi=110, layout="constrained")
    for axes, score in zip(figure.subplots(1, 3, sharey=True), (0.02, 0.3, 0.7), strict=True):
        given, wanted = student.logit()[None, :, None], torch.full((1, len(student), 1), score).logit()
        term = binary_kl(wanted, given)[0, :, 0]
        weighed = term * class_weights(wanted, given, SEDConfig())[0, :, 0]
        axes.plot(student, term, "--", color="#777777", label="KL divergence")
        axes.plot(student, weighed, color="#0072b2", label="weighed by |p_T - p_S|")
        axes.axvline(score, color="black", linewidth=0.7, linestyle=":")
        axes.set(title=f"the teacher says {score:g}", xlabel="student's score", xlim=(0, 1), ylim=(0, 1.5))
        axes.title.set_fontsize(9)
    axes.legend(fontsize=7, loc="upper center")
    return figure


def main() -> None:
    for name, draw in (("views.png", views), ("weights.png", weights)):
        draw().savefig(HERE / name, metadata=METADATA)
        print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
