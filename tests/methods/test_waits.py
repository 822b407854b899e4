"""What a step costs a GPU beside its computing, however many images it has.

Every question for a value (which are positive, how many) waits for the device, and every operation has to be started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sedet.config import SEDConfig
from sedet.methods.method import Method, Progress
from sedet.methods.sed import SED
from sedet.methods.supervised import Supervised
from tests import tiny


class Waits(TorchDispatchMode):
    """Counts operations whose result has a size, or becomes a Python number, that only the device knows."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = str(func)
        self.operations += 1
        masks = [m for a in args if isinstance(a, list | tuple) for m in a if isinstance(m, torch.Tensor)]
        by_mask = name.startswith("aten.index") and any(m.dtype == torch.bool for m in masks)
        self.count += by_mask or any(kind in name for kind in ("nonzero", "_local_scalar_dense", "masked_select"))
        return func(*args, **(kwargs or {}))


def cost(method: Method, images: int) -> tuple[int, int]:
    """Waits and operations of one step's losses."""
    sizes = [(64, 48)] * images
    labels = [tiny.targets((0, 8, 8, 40, 40), (1, 20, 4, 60, 44), ignore=[[0, 0, 6, 6]]) for _ in sizes]
    labeled = tiny.batch(sizes, labels=labels)
    unlabeled = tiny.batch(sizes, seed=1, erased=[[[4.0, 4.0, 20.0, 20.0], [30.0, 10.0, 50.0, 30.0]]] * images)
    student, teacher = tiny.detector(confident=True), tiny.detector(seed=1, confident=True)
    with Waits() as seen:
        method.losses(student, teacher, labeled, unlabeled, Progress(step=5, burn_in=0, ramp=1))
    return seen.count, seen.operations


@pytest.mark.parametrize("method", [Supervised(), SED(SEDConfig()), SED(SEDConfig(box_weight=1.0, quality_weight=1.0))])
def test_a_larger_batch_starts_and_awaits_no_more(method: Method) -> None:
    cost(method, 1)  # the first time constants are computed
    few, many = cost(method, 1), cost(method, 3)
    assert 0 < few[0] == many[0] < 60
    assert many[1] < few[1] + 2 * 40  # an image: its boxes halved, cut out and filled up
