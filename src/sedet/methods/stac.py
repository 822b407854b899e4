"""STAC (Sohn et al., 2020): labels made once, by a detector trained on the labels alone.

  labeler   the teacher as it is at the end of the burn-in; it never changes again
  label     its detections on the weak view of score >= min(threshold, the best score of the image)
  total     = L_sup + weight(t) L, L the detector's own loss on the strong view with these labels

Facts of the publication's code: the rule for the score with a threshold of 0.9, so that an image always keeps its best
box; class and box losses; the weight 2. Our choice: labels are made when an image comes up, not kept on disk (the
labeler and the view decide them alone); training goes on from the burn-in instead of starting anew; the strong view is
the one of every method here, and so are the ramp, the teacher's average (which is judged and shipped, but labels
nothing) and the labelled loss, which may include the half-size view. Defined for every detector.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from sedet.config import STACConfig
from sedet.data.batch import Batch
from sedet.detectors.build import Detector
from sedet.detectors.regions import HALF_LEVELS, Detections
from sedet.methods.method import Method, Progress
from sedet.methods.pseudo_labels import as_labels, keep, teacher_detections
from sedet.methods.supervised import joint_views, labeled_losses

LEAST_SCORE = 0.001


class STAC(Method):
    """One step of STAC. See the module's text. What it remembers is the labeler."""

    def __init__(self, config: STACConfig, half_size: bool = True, erase_limit: float = 0.7) -> None:
        self.config, self.half_size, self.erase_limit = config, half_size, erase_limit
        self.uses_half = half_size
        self._labeler: Detector | None = None
        self._restored: dict[str, Tensor] = {}

    def losses(
        self,
        student: Detector,
        teacher: Detector,
        labeled: Batch,
        unlabeled: Batch | None,
        progress: Progress,
    ) -> dict[str, Tensor]:
        """Weighted losses of one step: ``sup_*`` and ``stac_*``; the latter are 0 in the burn-in."""
        count, weight = len(labeled), self.config.weight * progress.unlabeled_weight
        if progress.unlabeled_weight == 0.0:
            unlabeled = None
        full = student(*joint_views(labeled, unlabeled, half=False))
        half = student(*joint_views(labeled, None, half=True), HALF_LEVELS) if self.half_size else None
        assert labeled.targets is not None
        losses = labeled_losses(student, full.images(slice(0, count)), half, labeled.targets)
        parts = [key.removeprefix("sup_") for key in losses]
        losses |= {f"stac_{part}": full.logits.new_zeros(()) for part in parts}
        if unlabeled is None:
            return losses
        found = teacher_detections(self.labeler(teacher), unlabeled, LEAST_SCORE)
        labels = as_labels([confident(d, self.config.threshold) for d in found], unlabeled, self.erase_limit)
        own = student.loss(full.images(slice(count, None)), labels)
        return losses | {f"stac_{part}": weight * own[part] for part in parts}

    def labeler(self, teacher: Detector) -> Detector:
        """The detector that labels: a copy of the teacher, made when it is first asked for."""
        if self._labeler is None:
            self._labeler = copy.deepcopy(teacher).eval().requires_grad_(False)
            if self._restored:
                self._labeler.load_state_dict(self._restored)
                self._restored = {}
        return self._labeler

    def state(self) -> dict[str, Tensor]:
        return self._restored if self._labeler is None else self._labeler.state_dict()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._labeler, self._restored = None, dict(state)


@torch.no_grad()
def confident(found: Detections, threshold: float) -> Detections:
    """The detections of an image of score >= min(threshold, its best score)."""
    if not len(found):
        return found
    return keep(found, found.scores >= min(threshold, float(found.scores.max())))
