"""What a method is: one step, from batches and progress to a dict of losses. No optimizer, file or logger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sedet.data.batch import Batch
from sedet.detectors.build import Detector


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands.

    Attributes:
        step: 0-based update.
        burn_in: updates on labels alone.
        ramp: updates over which the unlabelled weight rises from zero to one after the burn-in.
    """

    step: int
    burn_in: int
    ramp: int

    @property
    def unlabeled_weight(self) -> float:
        """0 in the burn-in, a linear ramp after it, then 1."""
        if self.step < self.burn_in:
            return 0.0
        return min(1.0, (self.step - self.burn_in + 1) / max(1, self.ramp))


class Method(Protocol):
    """One training method. Its losses are weighted: their sum is what is minimised.

    The same keys come at every step and on every process.
    """

    uses_unlabeled: bool

    def losses(
        self,
        student: Detector,
        teacher: Detector,
        labeled: Batch,
        unlabeled: Batch | None,
        progress: Progress,
    ) -> dict[str, Tensor]: ...
