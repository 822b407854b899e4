"""The demo's fixed settings: the scenes, and the one recipe for the twin and SED.

The scenes were fixed before SED was tuned; the rate was chosen on supervised trials only (docs/experiments.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from sedet.config import ModelConfig, SEDConfig, TrainConfig
from sedet.demo.scenes import DemoData

BACKBONE = "tf_efficientnet_lite0"

AREA_RANGES = (16.0, 48.0)
"""Sides, pixels, that part small from medium and medium from large objects in 128 px scenes."""

TRIALS = {"supervised": 26, "sed": 46}
"""Trainings looked at while the settings were chosen (docs/experiments.md), on other scenes than seeds 1 and 2."""

CEILING_FROM = 1.3
"""The ceiling is trained if this many times the twin's seconds are left."""

SED_COST = 2.1
"""Seconds of SED after the burn-in, in seconds of the whole twin (benchmarks/results, recipe demo-hold)."""


@dataclass(frozen=True)
class Scenes:
    labeled: int = 24
    unlabeled: int = 400
    val: int = 150
    size: int = 128


SCENES = Scenes()


def demo_config(data: DemoData, seed: int, fast: bool) -> TrainConfig:
    """SED's settings; the twin's differ in the method alone."""
    return TrainConfig(
        labeled=str(data.labeled_json),
        unlabeled=(str(data.unlabeled_dir),),
        val=str(data.val_json),
        seed=seed,
        device="cpu",
        backbone=BACKBONE,
        image_size=128,
        batch=8 if not fast else 4,
        ratio=1.0,
        steps=840 if not fast else 8,
        burn_in=1 / 3 if not fast else 0.5,
        eval_every=280 if not fast else 4,
        rate=1.5e-3,
        # The teacher's joined answers are learnt steadily, and the longer the rate stays up the more of them.
        hold=0.6,
        ema_end=0.5,
        guard=False,
        # Small, on a backbone that stays as it is, so that the labels are learnt out in the minutes there are.
        model=ModelConfig(neck_channels=64, freeze_stages=4),
        # Not the defaults: on these scenes the teacher's joined boxes are better than the student's, so they teach too,
        # images laid over each other keep the student learning for longer, so that it needs no strong view besides, and
        # what the teacher sees at double size is right even where no label was shown that large.
        sed=SEDConfig(box_weight=1.0, quality_weight=1.0, overlay=1.0, largest_zoom=4.0, student_view="weak"),
    )
