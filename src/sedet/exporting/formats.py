"""Traced graphs as bytes: an ONNX model, or what torch.export saves."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sedet.errors import SedetError
from sedet.exporting import graph
from sedet.exporting.graph import Deployed

OPSET = 18
"""ONNX operator set of the files; ONNX Runtime runs it since 1.14."""
INPUT, SCORE = "images", "score"
"""Of the ONNX model: the images, and the lowest score, which need not be given."""
OUTPUTS = ("boxes", "scores", "labels", "count")


@torch.library.custom_op("sedet::class_nms", mutates_args=())
def class_nms(boxes: Tensor, scores: Tensor, groups: Tensor, count: int, iou: float) -> Tensor:
    """``graph.suppress`` as one operation, so that the exporter can put ONNX's NonMaxSuppression in its place."""
    return graph.suppress(boxes, scores, groups, count, iou)


@class_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, count: int, iou: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def onnx_nms(boxes: Any, scores: Any, groups: Any, count: int, iou: float) -> Any:
    """ONNX's NonMaxSuppression takes the scores of every class: those of other classes are zeros, which it skips."""
    from onnxscript import opset18

    op: Any = opset18
    classes = op.Reshape(op.Constant(value_ints=list(range(count))), op.Constant(value_ints=[1, count, 1]))
    own = op.Equal(op.Unsqueeze(groups, op.Constant(value_ints=[1])), classes)
    zero = op.Constant(value_float=0.0)
    by_class = op.Where(own, op.Unsqueeze(scores, op.Constant(value_ints=[1])), zero)
    number = op.Shape(scores, start=1, end=2)
    chosen = op.NonMaxSuppression(boxes, by_class, number, op.Constant(value_floats=[iou]), zero_list(op))
    place = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)  # image and box
    ones = op.Expand(op.Constant(value_float=1.0), op.Shape(place, start=0, end=1))
    empty = op.Mul(scores, zero)
    return op.Greater(op.ScatterND(empty, place, ones), zero)


def zero_list(op: Any) -> Any:
    return op.Constant(value_floats=[0.0])


def program(deployed: Deployed, size: tuple[int, int] = (97, 131)) -> torch.export.ExportedProgram:
    """The traced module; batch, height and width are free."""
    example = torch.zeros(2, *size, 3, dtype=torch.uint8)
    free = {
        0: torch.export.Dim("batch", min=1, max=4096),
        1: torch.export.Dim("height", min=1, max=65_536),
        2: torch.export.Dim("width", min=1, max=65_536),
    }
    with quiet():
        return torch.export.export(deployed, (example,), dynamic_shapes=(free,), strict=False)


def to_onnx(deployed: Deployed) -> Any:
    """The traced module as an ONNX model (``onnx.ModelProto``), still without a word about itself.

    Raises:
        SedetError: onnx or onnxscript is not installed.
    """
    need("onnx", "onnxscript")
    deployed.suppress = class_nms
    try:
        traced = program(deployed)
        with quiet():
            found = torch.onnx.export(
                traced,
                (),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                custom_translation_table={torch.ops.sedet.class_nms.default: onnx_nms},
                verbose=False,
                optimize=True,
            )
    finally:
        deployed.suppress = graph.suppress
    assert found is not None
    return found.model_proto


def finished(model: Any, facts: dict[str, Any]) -> bytes:
    """An ONNX model's file, ``facts`` as JSON in its metadata under "sedet", the class names under "classes"."""
    import onnx

    for node in model.graph.node:  # where a node came from, in paths of this machine's source files
        del node.metadata_props[:]
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    del model.graph.metadata_props[:], model.metadata_props[:]
    offer_score(model)
    model.producer_name, model.producer_version = "sedet", str(facts["sedet"])
    onnx.helper.set_model_props(model, {"sedet": json.dumps(facts), "classes": json.dumps(facts["classes"])})
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def offer_score(model: Any) -> None:
    """Make the lowest score an input with a default: ONNX lets an initializer be overridden if it is named as one."""
    import onnx

    if SCORE not in {tensor.name for tensor in model.graph.initializer}:
        raise SedetError("the exported graph has lost its lowest score; please report this with your versions of torch")
    model.graph.input.append(onnx.helper.make_tensor_value_info(SCORE, onnx.TensorProto.FLOAT, []))


def to_torch_export(deployed: Deployed, facts: dict[str, Any]) -> bytes:
    """What ``torch.export.load`` reads (with torchvision imported), ``facts`` in its file "sedet.json"."""
    file = io.BytesIO()
    with quiet():
        torch.export.save(program(deployed), file, extra_files={"sedet.json": json.dumps(facts)})
    return file.getvalue()


def need(*packages: str) -> None:
    """
    Raises:
        SedetError: one of the packages is not installed.
    """
    import importlib.util

    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise SedetError(f"{name} is not installed: pip install onnx onnxscript onnxruntime")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporters tell of their own steps on every stream there is; errors are raised all the same."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
