"""What a method is: one step, from batches and progress to a dict of losses. No optimizer, file or logger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
        steps: updates in all; 0: unknown.
    """

    step: int
    burn_in: int
    ramp: int
    steps: int = 0

    @property
    def unlabeled_weight(self) -> float:
        """0 in the burn-in, a linear ramp after it, then 1."""
        if self.step < self.burn_in:
            return 0.0
        return min(1.0, (self.step - self.burn_in + 1) / max(1, self.ramp))

    def between(self, first: float, last: float | None) -> float:
        """A setting that goes in a straight line from the burn-in's end to the last step; None: it stays."""
        done = (self.step - self.burn_in) / max(1, self.steps - 1 - self.burn_in)
        return first if last is None or not self.steps else first + (last - first) * min(1.0, max(0.0, done))


class Method:
    """One training method. Its losses are weighted: their sum is what is minimised.

    The same keys come at every step and on every process. What a method remembers from step to step lies in ``state``
    and is kept in checkpoints. Each process remembers what it saw; a checkpoint holds the first process's memory, and
    after a resume all go on from that one (scores and mixing partners of the same data: no state that must agree).

    Attributes:
        uses_unlabeled: whether it is given unlabelled batches after the burn-in.
        largest_zoom: up to which these hold ``weak_double``; 0: they do not.
        labeled_weak: whether labelled batches hold ``weak`` too.
        uses_half: whether half-size views are trained on, labelled or not.
        pairs: whether unlabelled images are laid over the next one of their batch.
    """

    uses_unlabeled = True
    largest_zoom = 0.0
    labeled_weak = False
    uses_half = True
    pairs = False

    def losses(
        self,
        student: Detector,
        teacher: Detector,
        labeled: Batch,
        unlabeled: Batch | None,
        progress: Progress,
    ) -> dict[str, Tensor]:
        raise NotImplementedError

    def seen(self, unlabeled: Batch, pairs: bool) -> Batch:
        """The batch with the views that the student learns from as ``strong`` and ``half``, for pictures of a run.

        The strong views where a method does not say otherwise, whatever it makes of them.

        Args:
            pairs: whether images are laid over each other at this step.
        """
        return unlabeled

    def state(self) -> dict[str, Tensor]:
        """What a resumed run has to know; empty for most methods."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave.

        Raises:
            ValueError, KeyError: it is another method's.
        """
        if state:
            raise ValueError("the method remembers nothing")
