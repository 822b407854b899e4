"""Convolutions in 8-bit integers: ONNX Runtime's static quantization, calibrated on images."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedet.exporting.formats import INPUT, need, quiet

CALIBRATION_IMAGES = 64
"""Images that the ranges are measured on, at most."""
FLOAT_WEIGHTS = ("cls_logits", "bbox_reg", "bbox_ctrness", "bbox_pred")
"""The last convolutions stay float32: their answers are few, and are the scores and sides themselves."""


def quantized(model: Any, images: Iterable[NDArray[np.uint8]]) -> Any:
    """The ONNX model with its convolutions in int8 (weights a channel, activations a tensor); all else stays float32.

    Args:
        model: ``onnx.ModelProto``.
        images: uint8 [height, width, 3] each, like those the detector will see.

    Raises:
        SedetError: onnxruntime is not installed.
    """
    need("onnxruntime")
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is untyped
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            one = next(self.left, None)
            return None if one is None else {INPUT: np.ascontiguousarray(one)[None]}

    level = logging.root.manager.disable
    with tempfile.TemporaryDirectory() as folder, quiet():
        try:
            logging.disable(logging.WARNING)
            before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
            onnx.save(model, before)
            quantize_static(
                before,
                after,
                Images(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                # Weights of 7 bits: processors without VNNI add two products in 16 bits, which 8 bits overflow.
                reduce_range=True,
                nodes_to_exclude=[
                    node.name
                    for node in model.graph.node
                    if node.op_type == "Conv" and any(name in node.input[1] for name in FLOAT_WEIGHTS)
                ],
            )
            return onnx.load(after)
        finally:
            logging.disable(level)
