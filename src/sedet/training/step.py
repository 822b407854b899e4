"""One training step as one forward of one module, the only thing that Fabric wraps."""

from __future__ import annotations

from torch import Tensor, nn

from sedet.data.batch import Batch
from sedet.detectors.build import Detector
from sedet.methods.method import Method, Progress
from sedet.methods.teacher import EMATeacher


class TrainingStep(nn.Module):
    """The student, with the method that trains it. The teacher is outside: it has no gradients to be exchanged."""

    def __init__(self, student: Detector, teacher: EMATeacher[Detector], method: Method) -> None:
        super().__init__()
        self.student = student
        self._teacher = (teacher,)  # a tuple keeps it out of the module's parameters
        self.method = method

    def forward(self, labeled: Batch, unlabeled: Batch | None, progress: Progress) -> dict[str, Tensor]:
        return self.method.losses(self.student, self._teacher[0].model, labeled, unlabeled, progress)
