"""The defaults of the methods are those of their publications, for COCO."""

from __future__ import annotations

from typing import Any

import pytest

from sedet.config import TrainConfig

PUBLISHED: dict[str, dict[str, Any]] = {
    "stac": {"threshold": 0.9, "weight": 2.0},
    "unbiased_teacher": {"threshold": 0.7, "weight": 4.0, "focal_gamma": 1.5},
    "soft_teacher": {
        "candidate_threshold": 0.5, "threshold": 0.9, "uncertainty": 0.02, "jitters": 10, "jitter": 0.06, "weight": 4.0,
    },
    "dense_teacher": {"share": 0.01, "class_weight": 4.0, "box_weight": 1.0, "quality_weight": 1.0},
    "pseco": {"threshold": 0.6, "candidate_iou": 0.4, "candidates": 12, "weight": 2.0},
    # down after 100k of 120k; a sigmoid above one half is likelier than its absence
    "csd": {"weight": 1.0, "ramp_down": pytest.approx(20 / 120, abs=0.004), "threshold": 0.5},
    "consistent_teacher": {"buffer": 100, "candidates": 13, "weight": 2.0},
    "mixpl": {"threshold": None, "weight": 2.0, "mosaic_weight": 0.5, "cache": 8},
}  # fmt: skip


@pytest.mark.parametrize("group", PUBLISHED)
def test_defaults_are_the_published_ones(group: str) -> None:
    settings = getattr(TrainConfig(), group)
    assert {name: getattr(settings, name) for name in settings.__dataclass_fields__} == PUBLISHED[group]
