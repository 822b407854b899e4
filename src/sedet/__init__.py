"""sedet: train object detectors from few labels and many unlabelled images.

    import sedet

    run = sedet.train(labeled="data/train.json", unlabeled="photos/", out="runs/first")
    detector = sedet.load("runs/first/best.safetensors")
    detections = detector.predict("street.jpg")
    metrics = sedet.evaluate("runs/first/best.safetensors", "data/val.json")

Everything heavy (PyTorch and what needs it) is imported at its first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sedet.api import train
from sedet.config import DenseTeacherConfig, ModelConfig, SEDConfig, TrainConfig, ViewConfig
from sedet.errors import SedetError

if TYPE_CHECKING:
    from sedet.evaluation.analysis import analyze
    from sedet.exporting.export import export
    from sedet.judge import evaluate
    from sedet.labeling.label import label
    from sedet.labeling.merge import merge
    from sedet.predict import predict_sources
    from sedet.predictor import load
    from sedet.reporting.report import report

    __version__: str

__all__ = [
    "DenseTeacherConfig",
    "ModelConfig",
    "SEDConfig",
    "SedetError",
    "TrainConfig",
    "ViewConfig",
    "__version__",
    "analyze",
    "evaluate",
    "export",
    "label",
    "load",
    "merge",
    "predict_sources",
    "report",
    "train",
]

# Where a public name lives that is imported at its first use.
_LAZY = {
    "analyze": "sedet.evaluation.analysis",
    "evaluate": "sedet.judge",
    "export": "sedet.exporting.export",
    "label": "sedet.labeling.label",
    "load": "sedet.predictor",
    "merge": "sedet.labeling.merge",
    "predict_sources": "sedet.predict",
    "report": "sedet.reporting.report",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("sedet")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'sedet' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
