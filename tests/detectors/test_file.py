"""Detector files: round trips, and files that are missing, damaged, foreign or hostile."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from sedet.detectors.file import load_detector, save_detector
from sedet.errors import CheckpointError, SedetError
from tests import tiny

CLASSES = ("red", "blau/grün", "3")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    save_detector(path, tiny.detector(), CLASSES, 160, {"step": 7, "metrics": None})
    return path


def changed(written: Path, path: Path, **facts: Any) -> Path:
    """A copy whose description is changed."""
    from safetensors import safe_open

    with safe_open(written, framework="pt") as file:
        meta = json.loads(file.metadata()["sedet"])
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    spec = facts.pop("spec_changes", {})
    meta |= facts
    meta["spec"] = {**meta["spec"], **spec} if isinstance(meta["spec"], dict) else meta["spec"]
    save_file(tensors, path, metadata={"sedet": json.dumps(meta)})
    return path


def test_round_trip(written: Path) -> None:
    model = tiny.detector().eval()
    for path in (written, written.parent, str(written)):
        loaded = load_detector(path)
        assert loaded.classes == CLASSES and loaded.image_size == 160 and loaded.metadata["step"] == 7
        assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())
        assert loaded.model.spec == model.spec
    images, content = torch.rand(1, 3, 64, 64), torch.tensor([[64, 64]])
    with torch.no_grad():
        want, got = model(images, content), loaded.model(images, content)
    assert torch.equal(want.logits, got.logits) and torch.equal(want.boxes, got.boxes)
    assert [p.name for p in written.parent.iterdir()] == ["best.safetensors"]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ([7, 1, 90], (7, 1, 90)),
        (None, (1, 2, 3)),
        ([7, 1], (1, 2, 3)),
        ([7, 7, 1], (1, 2, 3)),
        (["7", 1, 2], (1, 2, 3)),
    ],
)
def test_category_ids_are_those_of_the_labels_or_counted(
    written: Path, tmp_path: Path, said: object, meant: tuple[int, ...]
) -> None:
    assert load_detector(changed(written, tmp_path / "d.safetensors", category_ids=said)).category_ids == meant


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors: there is no such detector file"):
        load_detector(tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError, match=r"best\.safetensors"):
        load_detector(tmp_path)


def test_damage_is_an_error_of_one_line(written: Path, tmp_path: Path) -> None:
    whole = written.read_bytes()
    rng = np.random.default_rng(0)
    file = tmp_path / "d.safetensors"
    broken = [whole[:n] for n in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1)] + [whole + b"x", rng.bytes(400)]
    for _ in range(25):  # in the header
        start = int(rng.integers(0, 3000))
        broken.append(whole[:start] + rng.bytes(16) + whole[start + 16 :])
    for content in broken:
        file.write_bytes(content)
        with pytest.raises(SedetError) as caught:
            load_detector(file)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    """They would find no object at all, without a word."""
    model = tiny.detector()
    name, parameter = next((n, p) for n, p in model.named_parameters() if n.startswith("fpn."))
    with torch.no_grad():
        parameter.view(-1)[-1] = value
    save_detector(tmp_path / "d.safetensors", model, CLASSES, 160, {})
    with pytest.raises(CheckpointError, match=rf"the weights are damaged \('{re.escape(name)}' is not finite\)"):
        load_detector(tmp_path / "d.safetensors")


def test_foreign_files(tmp_path: Path) -> None:
    file = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match="not a detector written by sedet"):
        load_detector(file)
    for text in (
        "{",
        "[]",
        "null",
        "{}",
        '{"format": 1}',
        '{"format": "x", "spec": {}, "classes": [], "image_size": 1}',
        '{"format": 1, "spec": {}, "classes": [], "image_size": Infinity}',
        '{"format": ' + 100_000 * "[" + 100_000 * "]" + "}",
    ):
        file.write_bytes(save({"a": torch.zeros(2)}, metadata={"sedet": text}))
        with pytest.raises(CheckpointError, match=r"foreign\.safetensors"):
            load_detector(file)
    torch.save({"a": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="not a detector file"):
        load_detector(file)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "hacked"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.mkdir, (mark,)

    file = tmp_path / "best.safetensors"
    file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        load_detector(file)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"format": 99}, "newer sedet"),
        ({"spec_changes": {"detector": "yolo"}}, "unknown detector"),
        ({"spec_changes": {"colour": 1}}, "does not fit this version"),
        ({"spec_changes": {"backbone": "no_such_net"}}, "no_such_net"),
        ({"spec_changes": {"backbone": ["a"]}}, "damaged"),
        ({"spec_changes": {"backbone": "hf-hub:timm/resnet18.a1_in1k"}}, r"d\.safetensors: its backbone 'hf-hub:"),
        ({"spec_changes": {"backbone": "local-dir:/tmp"}}, r"d\.safetensors: its backbone 'local-dir:/tmp'"),
        ({"spec_changes": {"classes": 4}}, "3 classes for 4"),
        ({"spec_changes": {"classes": -1}}, "damaged"),
        ({"spec_changes": {"classes": "3"}}, "damaged"),
        ({"spec_changes": {"neck_channels": 0}}, "damaged"),
        ({"spec_changes": {"neck_channels": 12}}, "do not fit"),
        ({"spec_changes": {"neck_channels": 10**9}}, "damaged"),
        ({"spec_changes": {"head_convs": 10**4}}, "damaged"),
        ({"spec_changes": {"level_range": "wide"}}, "damaged"),
        ({"spec_changes": {"center_radius": None}}, "damaged"),
        ({"classes": ["one"]}, "1 classes for 3"),
        ({"classes": 3}, "damaged"),
        ({"image_size": "big"}, "damaged"),
        ({"image_size": -64}, "damaged"),
        ({"image_size": 10**9}, "damaged"),
        ({"spec": []}, "unknown detector"),
        ({"spec": 5}, "damaged"),
    ],
)
def test_descriptions_that_cannot_be(written: Path, tmp_path: Path, facts: dict[str, Any], said: str) -> None:
    """Each is refused with the reason, and none builds a network of absurd size."""
    with pytest.raises(SedetError, match=said):
        load_detector(changed(written, tmp_path / "d.safetensors", **facts))


def test_an_unchanged_copy_loads(written: Path, tmp_path: Path) -> None:
    assert load_detector(changed(written, tmp_path / "d.safetensors")).classes == CLASSES
