"""One training step as one forward of one module, the only thing that Fabric wraps."""

from __future__ import annotations

from torch import Tensor, nn

from sedet.data.batch import Batch
from sedet.detectors.build import Detector
from sedet.methods.method import Method, Progress
from sedet.methods.teacher import EMATeacher


class Given:
    """What a step is given, as one plain object: under mixed precision Fabric walks through arguments to convert their
    tensors, and refuses frozen dataclasses. Images are bytes and boxes stay float32, so there is nothing to convert.
    """

    __slots__ = ("labeled", "progress", "unlabeled")

    def __init__(self, labeled: Batch, unlabeled: Batch | None, progress: Progress) -> None:
        self.labeled, self.unlabeled, self.progress = labeled, unlabeled, progress


class TrainingStep(nn.Module):
    """The student, with the method that trains it. The teacher is outside: it has no gradients to be exchanged."""

    def __init__(self, student: Detector, teacher: EMATeacher[Detector], method: Method) -> None:
        super().__init__()
        self.student = student
        self._teacher = (teacher,)  # a tuple keeps it out of the module's parameters
        self.method = method

    def forward(self, given: Given) -> dict[str, Tensor]:
        teacher = self._teacher[0].model
        return self.method.losses(self.student, teacher, given.labeled, given.unlabeled, given.progress)
