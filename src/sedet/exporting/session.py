"""Exported files, run: in ONNX Runtime, or by PyTorch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sedet.detectors.regions import Detections
from sedet.exporting.formats import INPUT, SCORE, need, quiet
from sedet.predictor import Pixels, Predictor

Arrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]
"""boxes [b, max, 4], scores [b, max], labels [b, max], count [b]."""


class Session(Protocol):
    """An exported file, ready to run: uint8 images [b, height, width, 3], and the lowest score."""

    def __call__(self, images: NDArray[np.uint8], score: float | None = None) -> Arrays: ...


class OnnxSession:
    """An ONNX model in ONNX Runtime on the CPU, called as the traced module is."""

    def __init__(self, data: bytes, threads: int = 0) -> None:
        need("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def __call__(self, images: NDArray[np.uint8], score: float | None = None) -> Arrays:
        given: dict[str, Any] = {INPUT: images}
        if score is not None:
            given[SCORE] = np.array(score, dtype=np.float32)
        boxes, scores, labels, count = self.session.run(None, given)
        return boxes, scores, labels, count


class TorchExportSession:
    """A saved torch.export program, called as the traced module is."""

    def __init__(self, data: bytes) -> None:
        with quiet():
            self.module: Any = torch.export.load(io.BytesIO(data)).module()
        self.score = float(self.module.get_buffer("score"))

    def __call__(self, images: NDArray[np.uint8], score: float | None = None) -> Arrays:
        with torch.inference_mode():
            self.module.get_buffer("score").fill_(self.score if score is None else score)
            boxes, scores, labels, count = self.module(torch.from_numpy(images))
        return boxes.numpy(), scores.numpy(), labels.numpy(), count.numpy()


class ExportedPredictor(Predictor):
    """Predicts with an exported file in place of the network; all else is as it was."""

    def __init__(self, original: Predictor, session: Session) -> None:
        self.__dict__.update(original.__dict__)
        self.session = session

    def detect(self, images: Sequence[Pixels], score_threshold: float, max_detections: int) -> list[Detections]:
        """As :meth:`Predictor.detect`, one image at a time; the file's own limit of detections holds too."""
        found = []
        for pixels in images:
            boxes, scores, labels, count = self.session(np.ascontiguousarray(pixels)[None], score_threshold)
            number = min(int(count[0]), max_detections)
            arrays = (boxes[0, :number], scores[0, :number], labels[0, :number])
            found.append(Detections(*(torch.from_numpy(a.copy()) for a in arrays)))
        return found
