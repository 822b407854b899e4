"""What a detector answers region by region, on labelled images at full and at half size.

Every image is seen at the detector's own size, on levels P3..P7, and at exactly half of it, on P2..P6: the grids are
the same, so that regions pair, as scale-equivalent distillation pairs them; boxes of the half view are doubled. Which
regions are foreground is the detector's own assignment in training. Of Faster R-CNN these are the answers of its first
stage, of one class: an object, whatever it is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sedet import settings
from sedet.config import SEDConfig, ViewConfig
from sedet.data.batch import Targets, pixels
from sedet.data.images import read_image
from sedet.data.table import AnnotationTable
from sedet.data.views import canvas_side, half_view, plain_view, stack_views, view_targets
from sedet.detectors.build import Detector
from sedet.detectors.dense import centers_inside, level_slices
from sedet.detectors.faster_rcnn import FasterRCNN
from sedet.detectors.regions import HALF_LEVELS, Regions
from sedet.detectors.rpn import assign_anchors
from sedet.errors import ConfigError, ImageError
from sedet.evaluation.challenges import size_bin, size_bins
from sedet.methods.join import paired_iou
from sedet.methods.sed import class_weights
from sedet.predictor import Predictor

log = logging.getLogger(__name__)

FIGURES = ("difference", "iou", "score_full", "score_half")


def assign(model: Detector, regions: Regions, image: int, target: Targets) -> Tensor:
    """Which object each region answers for by the detector's own rule, int64 [regions]: -1 background, -2 ignored."""
    if isinstance(model, FasterRCNN):
        return assign_anchors(regions, image, target)
    return model.assign(regions, image, target)


def agreement(full: Regions, half: Regions, image: int, index: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """How far the answers at both sizes are apart at the foreground regions of one image, float [foreground] each.

    Args:
        full, half: regions that pair; those of the half view in its own pixels.
        index: int64 [regions], the object each answers for.
        labels: int64 [objects], among the classes of the regions.

    Returns:
        ``difference``: \\|p_full - p_half\\| of the true class (its score alone, without a centerness); ``iou`` of both
        boxes; ``score_full``, ``score_half``: p_full and p_half.
    """
    row = (index >= 0).nonzero().squeeze(1)
    label = labels[index[row]]
    p_full, p_half = full.scores()[image, row, label], half.scores()[image, row, label]
    iou = paired_iou(full.boxes[image, row], 2 * half.boxes[image, row])
    return {"difference": (p_full - p_half).abs(), "iou": iou, "score_full": p_full, "score_half": p_half}


def level_counts(regions: Regions, image: int, index: Tensor) -> NDArray[np.int64]:
    """int64 [levels, 3]: foreground, background and ignored regions of one image on each level, without padding."""
    valid = regions.valid[image]
    rows = []
    for level in level_slices(regions):
        own = index[level][valid[level]]
        rows.append([int((own >= 0).sum()), int((own == -1).sum()), int((own < -1).sum())])
    return np.array(rows, np.int64).reshape(-1, 3)


def weight_sums(full: Regions, half: Regions, image: int, target: Targets, config: SEDConfig) -> NDArray[np.float64]:
    """What re-weighting gives to regions whose centre lies in an object, and to all others.

    The answers at full size stand for the teacher's, those at half size for the student's; a region's weight is the sum
    over its classes. Padding, and what lies in ignored boxes alone, is left out.

    Returns:
        float64 [2, 2]: inside and outside; number of regions and sum of their weights.
    """
    part = slice(image, image + 1)
    weights = class_weights(full.logits[part], half.logits[part], config)[0].sum(dim=-1, dtype=torch.float64)
    inside = centers_inside(full.points, target.boxes).any(dim=1)
    hidden = centers_inside(full.points, target.ignore).any(dim=1) & ~inside
    use = full.valid[image] & ~hidden
    groups = (use & inside, use & ~inside)
    return np.array([[float(g.sum()), float(weights[g].sum())] for g in groups], np.float64)


@dataclass
class TwoSizes:
    """Sums up what :func:`agreement`, :func:`level_counts` and :func:`weight_sums` tell of image after image.

    Args:
        config: how class terms are weighted; the gamma and the kind of weight are used.
    """

    config: SEDConfig = field(default_factory=SEDConfig)
    strides: list[float] = field(default_factory=list)
    unassigned: int = 0
    images: int = 0
    _levels: NDArray[np.int64] | None = None
    _weights: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 2)))
    _regions: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(size_bins()), np.int64))
    _objects: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(size_bins()), np.int64))
    _sums: dict[str, NDArray[np.float64]] = field(
        default_factory=lambda: {name: np.zeros(len(size_bins())) for name in FIGURES}
    )

    def add(self, model: Detector, full: Regions, half: Regions, image: int, target: Targets, long_side: float) -> None:
        """One more image.

        Args:
            full, half: the detector's answers at both sizes.
            image: which of the batch.
            target: its objects in the full view's pixels; labels are the detector's.
            long_side: of the full view's content, pixels.
        """
        index = assign(model, full, image, target)
        counts = level_counts(full, image, index)
        self._levels = counts if self._levels is None else self._levels + counts
        self.strides = [float(full.strides[level.start]) for level in level_slices(full)]
        self._weights += weight_sums(full, half, image, target, self.config)
        self.images += 1
        labels = torch.zeros_like(target.labels) if isinstance(model, FasterRCNN) else target.labels
        figures = agreement(full, half, image, index, labels)
        sides = (target.boxes[:, 2:] - target.boxes[:, :2]).double().prod(dim=1).sqrt() / long_side
        bins = size_bin(sides.cpu().numpy())
        chosen = index[index >= 0].cpu().numpy()
        seen = np.unique(chosen)
        self.unassigned += len(bins) - len(seen)
        self._objects += np.bincount(bins[seen], minlength=len(self._objects))
        where = bins[chosen]
        self._regions += np.bincount(where, minlength=len(self._regions))
        for name, values in figures.items():
            np.add.at(self._sums[name], where, values.double().cpu().numpy())

    def consistency(self) -> dict[str, Any]:
        """Means over foreground regions: over ``all``, and ``by_size``, rows with ``from`` and ``to`` (shares of the
        long side). Each with ``regions``, ``objects``, ``difference``, ``iou``, ``score_full``, ``score_half``."""

        def row(part: NDArray[np.bool_]) -> dict[str, Any]:
            regions = int(self._regions[part].sum())
            means = {
                name: float(sums[part].sum()) / regions if regions else math.nan for name, sums in self._sums.items()
            }
            return {"regions": regions, "objects": int(self._objects[part].sum()), **means}

        bins = size_bins()
        one = np.eye(len(bins), dtype=bool)
        return {
            "all": row(np.ones(len(bins), bool)),
            "by_size": [{"from": low, "to": high, **row(one[n])} for n, (low, high) in enumerate(bins)],
        }

    def levels(self) -> list[dict[str, Any]]:
        """Rows of ``level``, ``stride``, ``foreground``, ``background``, ``ignored``, ``background_per_foreground``."""
        rows = []
        for stride, counts in zip(self.strides, [] if self._levels is None else self._levels.tolist(), strict=True):
            row = dict(zip(("foreground", "background", "ignored"), counts, strict=True))
            ratio = counts[1] / counts[0] if counts[0] else math.nan
            level = f"P{round(math.log2(stride))}"
            rows.append({"level": level, "stride": stride, **row, "background_per_foreground": ratio})
        return rows

    def weights(self) -> dict[str, Any]:
        """``inside`` and ``outside`` objects: ``regions``, ``total`` and ``mean`` weight; ``share_of_regions`` and
        ``share_of_weight`` inside; ``mean_ratio``: how many times as much a region inside weighs."""
        (count_in, sum_in), (count_out, sum_out) = self._weights.tolist()

        def ratio(part: float, whole: float) -> float:
            return part / whole if whole > 0 else math.nan

        mean_in, mean_out = ratio(sum_in, count_in), ratio(sum_out, count_out)
        return {
            "reweight": self.config.reweight,
            "gamma": self.config.gamma,
            "inside": {"regions": int(count_in), "total": sum_in, "mean": mean_in},
            "outside": {"regions": int(count_out), "total": sum_out, "mean": mean_out},
            "share_of_regions": ratio(count_in, count_in + count_out),
            "share_of_weight": ratio(sum_in, sum_in + sum_out),
            "mean_ratio": ratio(mean_in, mean_out),
        }


def own_weights(config: object) -> SEDConfig:
    """How the detector's own training weighed class terms, from its file; SED's defaults where that does not say.

    Args:
        config: the settings as the file has them, a map of maps, or anything else.
    """
    own = config.get("sed") if isinstance(config, dict) else None
    if isinstance(own, dict):
        try:
            known = {key: value for key, value in own.items() if key in ("reweight", "gamma")}
            return settings.from_dict({"sed": known}).sed
        except ConfigError:  # an odd file is measured all the same
            pass
    return SEDConfig()


@torch.inference_mode()
def measure(predictor: Predictor, table: AnnotationTable, advance: Callable[[int], None] = lambda _: None) -> TwoSizes:
    """See the images of a table at both sizes, one after the other. Images that cannot be read are left out.

    Args:
        table: its classes are some of the detector's.
        advance: is told of every image that is done.
    """
    model, size, device = predictor.model, predictor.image_size, predictor.device
    label_of = torch.tensor([predictor.classes.index(name) for name in table.classes], dtype=torch.int64)
    result = TwoSizes(own_weights(predictor.metadata.get("config")))
    for entry, objects in zip(table.images, table.objects, strict=True):
        advance(1)
        try:
            image = read_image(entry.path, use_exif=entry.use_exif, max_side=2 * size)
        except ImageError as error:
            log.warning("left out: %s", error)
            continue
        view = plain_view(image, size, (entry.width, entry.height))
        target = view_targets(view, objects, ViewConfig())
        target = Targets(target.boxes, label_of[target.labels], target.ignore).to(device)
        stacked, content = stack_views([view], canvas_side(size))
        stacked_half, content_half = stack_views([half_view(view)], canvas_side(size) // 2)
        full = model(pixels(stacked.to(device)), content.to(device))
        half = model(pixels(stacked_half.to(device)), content_half.to(device), HALF_LEVELS)
        result.add(model, full, half, 0, target, max(view.width, view.height))
    return result
