"""Whether a score of 0.7 is right seven times in ten: reliability of scores, and the expected calibration error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sedet.evaluation.pairs import ImagePairs

BINS = 10


def calibration(pairs: Sequence[ImagePairs], least: float = 0.0, bins: int = BINS) -> dict[str, Any]:
    """Reliability of the scores: of the detections in each bin of scores, how many are right.

    Right is what stands for an object (same class, IoU and matching as in ``pairs``). Detections of crowd and
    difficult objects are left out. The expected calibration error is the mean over the detections of the distance
    between their bin's mean score and its share of right ones (Guo et al., ICML 2017).

    Args:
        pairs: matched detections, one entry an image.
        least: lowest score that is looked at.
        bins: equally wide, from 0 to 1; a bin holds its lower bound, the last one 1 too.

    Returns:
        ``detections``, ``ece`` (nan without detections), ``mean_score``, ``precision``, and ``bins``: rows of
        ``from``, ``to``, ``detections``, ``mean_score``, ``precision`` (nan where there are no detections).
    """
    scores = np.concatenate([p.scores[~p.ignored] for p in pairs]) if pairs else np.zeros(0)
    right = np.concatenate([(p.matched >= 0)[~p.ignored] for p in pairs]) if pairs else np.zeros(0, bool)
    kept = scores >= float(np.float32(least))  # in the scores' own precision
    scores, right = scores[kept], right[kept]
    place = np.clip((scores * bins).astype(np.int64), 0, bins - 1)
    rows, error = [], 0.0
    for n in range(bins):
        here = place == n
        count = int(here.sum())
        score = float(scores[here].mean()) if count else math.nan
        precision = float(right[here].mean()) if count else math.nan
        error += count * abs(score - precision) if count else 0.0
        rows.append(
            {"from": n / bins, "to": (n + 1) / bins, "detections": count, "mean_score": score, "precision": precision}
        )
    total = len(scores)
    return {
        "detections": total,
        "least_score": least,
        "ece": error / total if total else math.nan,
        "mean_score": float(scores.mean()) if total else math.nan,
        "precision": float(right.mean()) if total else math.nan,
        "bins": rows,
    }
