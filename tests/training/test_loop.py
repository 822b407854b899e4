"""The loop in one process: the twin, the guard, and how a training ends when something goes wrong."""

from __future__ import annotations

import csv
import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from sedet.config import SEDConfig, TrainConfig, ViewConfig
from sedet.detectors.build import Detector
from sedet.detectors.file import load_detector
from sedet.errors import TrainingError
from sedet.evaluation.coco import Metrics
from sedet.methods.method import Progress
from sedet.methods.sed import SED
from sedet.methods.teacher import settling_decay
from sedet.settings import load_config
from sedet.training import checkpoint as checkpoints
from sedet.training import loop, probe
from sedet.training import run as runs
from sedet.training.checkpoint import load_checkpoint
from sedet.training.memory import is_out_of_memory
from sedet.training.pictures import Album
from sedet.training.run import make_fabric, train
from sedet.training.validate import Judge
from sedet.training.verdict import Outcome
from tests import tiny

PARTS = ("class", "box", "quality")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time of a run this small, and have tests of their own."""
    monkeypatch.setattr(Album, "_draw", lambda *_: None)


def run(data: Path, out: Path, **changes: Any) -> tuple[TrainConfig, Outcome]:
    config = tiny.config(data, out, **changes)
    return config, train(config)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def last(out: Path, name: str = "last.pt") -> dict[str, Any]:
    return load_checkpoint(out / "checkpoints" / name)


def equal_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- the twin ---------------------------------------------------------------------------------------------------------


def test_with_all_parts_off_training_is_the_supervised_twin(data: Path, tmp_path: Path) -> None:
    """Bit for bit: losses of each step, scores, weights, and the moving average."""
    off = SEDConfig(distill=False, scale=False, reweight="none")
    run(data, tmp_path / "off", sed=off, steps=4, burn_in=0.5)
    run(data, tmp_path / "twin", method="supervised", unlabeled=(), steps=4, burn_in=0.5)
    first, second = last(tmp_path / "off"), last(tmp_path / "twin")
    assert equal_weights(first["student"], second["student"])
    assert equal_weights(first["teacher"], second["teacher"])
    for a, b in zip(rows(tmp_path / "off"), rows(tmp_path / "twin"), strict=True):
        assert b.items() <= a.items()
        assert all(float(a[key]) == 0.0 for key in a.keys() - b.keys())


def test_keys_and_burn_in(data: Path, tmp_path: Path) -> None:
    """The burn-in is the twin's; after it the unlabelled losses join, under the same keys in each row."""
    run(data, tmp_path / "sed")
    run(data, tmp_path / "twin", method="supervised", unlabeled=())
    assert equal_weights(
        last(tmp_path / "sed", "burn_in.pt")["student"], last(tmp_path / "twin", "burn_in.pt")["student"]
    )
    assert not equal_weights(last(tmp_path / "sed")["student"], last(tmp_path / "twin")["student"])
    table = rows(tmp_path / "sed")
    assert [row["step"] for row in table] == [str(s) for s in range(1, 9)]
    for row in table:
        values = {key: float(row[key]) for key in row if key.startswith(("sup_", "distill_", "scale_"))}
        assert len(values) == 9
        late = int(row["step"]) > 2
        assert all((value != 0.0) == late for key, value in values.items() if not key.startswith("sup_"))
    judged = [s % 2 == 0 for s in range(1, 9)]
    assert [bool(row["teacher_ap"]) for row in table] == judged
    assert [bool(row["labels_precision_0.5"]) for row in table] == judged, "what the teacher's labels are worth"


def test_the_teacher_follows_the_student(data: Path, tmp_path: Path) -> None:
    """An average without memory is the student; the default one is not."""
    for decay in (0.0, None):
        run(data, tmp_path / str(decay), stop=1, ema_decay=decay)
        saved = last(tmp_path / str(decay))
        assert equal_weights(saved["teacher"], saved["student"]) == (decay == 0.0)


def test_towards_the_end_the_teacher_follows_closer(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The burn-in, which others may share, does not know of it."""
    left: list[int] = []

    def settling(decay: float, updates: int, share: float) -> float:
        left.append(updates)
        return settling_decay(decay, updates, share)

    monkeypatch.setattr(loop, "settling_decay", settling)
    for end in (0.0, 1.0):
        run(data, tmp_path / str(end), method="supervised", unlabeled=(), ema_decay=0.99, ema_end=end)
    assert left == 2 * [5, 4, 3, 2, 1, 0], "after each of the 6 updates that follow the burn-in, and after no other"
    one, other = (last(tmp_path / str(end)) for end in (0.0, 1.0))
    assert not equal_weights(one["teacher"], other["teacher"]) and equal_weights(one["student"], other["student"])


def test_a_run_without_val_ships_the_last_teacher(data: Path, tmp_path: Path) -> None:
    few = tiny.dataset(tmp_path / "few", labeled=1, unlabeled=1)
    _, outcome = run(few, tmp_path / "run", val=None, steps=3)
    assert outcome.finished and outcome.ap is None and outcome.labels_alone is None
    shipped = load_detector(tmp_path / "run")
    assert shipped.metadata["step"] == 3
    assert equal_weights(shipped.model.state_dict(), last(tmp_path / "run")["teacher"])
    assert "without val" in (tmp_path / "run" / "train.log").read_text()


# --- the guard ---


def scored(monkeypatch: pytest.MonkeyPatch, scores: Iterable[float]) -> None:
    """Judgements in turn: teacher, student, teacher, student, ..."""
    values = iter(scores)

    def judge(self: Judge, model: Detector, find_score: bool = True) -> Metrics:
        ap = next(values)
        return Metrics(ap, ap, ap, ap, ap, ap, ap, {}, images=1, boxes=1)

    monkeypatch.setattr(Judge, "judge", judge)


@pytest.mark.parametrize(
    ("scores", "guard", "step", "ap"),
    [
        ((30, 20, 25, 40, 28, 20, 26, 50), True, 2, 30.0),  # no later teacher is as good as the labels alone
        ((30, 20, 25, 40, 35, 20, 26, 50), True, 6, 35.0),
        ((30, 20, 30, 40, 30, 20, 30, 50), True, 2, 30.0),  # as good is not better
        ((10, 33, 25, 40, 28, 20, 26, 50), True, 2, 33.0),  # the burn-in's student was the better one
        ((30, 20, 35, 40, 28, 20, 26, 50), False, 8, 26.0),
        ((float("nan"), float("nan"), 1, 1, 0, 0, 0, 0), True, 4, 1.0),
    ],
)
def test_the_guard_ships_the_best_and_never_less_than_the_labels_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: Any, guard: bool, step: int, ap: float
) -> None:
    scored(monkeypatch, scores)
    _, outcome = run(data, tmp_path / "run", guard=guard)
    shipped = load_detector(tmp_path / "run")
    assert shipped.metadata["step"] == step and outcome.ap == ap
    assert outcome.teacher_ap == scores[6] and outcome.student_ap == scores[7] and outcome.finished
    burn_in = last(tmp_path / "run", "burn_in.pt")
    assert equal_weights(burn_in["student"], burn_in["teacher"])  # both go on from the better one
    if step == 2:
        assert equal_weights(shipped.model.state_dict(), burn_in["teacher"])
        assert outcome.labels_alone == ap
    if step == 8:
        assert equal_weights(shipped.model.state_dict(), last(tmp_path / "run")["teacher"])
    log = (tmp_path / "run" / "train.log").read_text()
    assert f"{ap:.1f}" in log and ("labels alone" in log)


def test_the_better_of_both_goes_on_after_the_burn_in(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, Any] = {}
    for name, scores in (("teacher", (30, 20)), ("student", (20, 30))):
        scored(monkeypatch, (*scores, 1, 1))
        run(data, tmp_path / name, steps=4, burn_in=0.5, stop=2)
        kept[name] = last(tmp_path / name, "burn_in.pt")["student"]
    assert not equal_weights(kept["teacher"], kept["student"])


@pytest.mark.parametrize("guard", [True, False])
def test_patience_ends_a_run_with_a_detector(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guard: bool
) -> None:
    scored(monkeypatch, (30, 20, 25, 40, 28, 20, 26, 50))
    _, outcome = run(data, tmp_path / "run", patience=2, guard=guard)
    assert outcome.step == 6 and outcome.finished
    assert load_detector(tmp_path / "run").metadata["step"] == (2 if guard else 6)
    assert last(tmp_path / "run")["state"]["step"] == 6


# --- when something goes wrong ---


def finite(out: Path) -> bool:
    saved = last(out)
    tensors = [*saved["student"].values(), *saved["teacher"].values()]
    return all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    honest = SED.losses

    def losses(self: SED, *given: Any) -> dict[str, torch.Tensor]:
        result = honest(self, *given)
        progress: Progress = given[-1]
        return result if progress.step < 4 else {**result, "distill_box": result["distill_box"] * value}

    with monkeypatch.context() as patch:
        patch.setattr(SED, "losses", losses)
        with pytest.raises(TrainingError) as caught:
            run(data, tmp_path / "run")
    text = str(caught.value)
    assert "not finite at step 5" in text and f"distill_box {value}" in text and "sup_class" in text
    assert "labeled/labeled" in text and "unlabeled" in text and "\n" not in text  # the batch's files
    assert last(tmp_path / "run")["state"]["step"] == 4 and finite(tmp_path / "run")


def test_a_gradient_that_is_not_finite_names_the_images_of_all_parts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, read = SED.losses, []

    def losses(self: SED, student: Any, teacher: Any, labeled: Any, *given: Any) -> dict[str, torch.Tensor]:
        result = honest(self, student, teacher, labeled, *given)
        if given[-1].step == 0:
            read.extend(labeled.names)
            weight = next(p for p in student.parameters() if p.requires_grad)
            result["sup_box"] = result["sup_box"] + (weight.sum() * 0).sqrt()
        return result

    monkeypatch.setattr(SED, "losses", losses)
    with pytest.raises(TrainingError, match="gradient norm nan") as caught:
        run(data, tmp_path / "run", batch=4, accumulate=2)
    assert len(set(read)) == 4 and all(name in str(caught.value) for name in read)


@pytest.mark.parametrize("clip", [0.0, 10.0])
def test_gradients_that_are_not_finite_never_reach_a_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: float
) -> None:
    """The loss is fine, its gradient is not (as of a square root at zero)."""
    honest = SED.losses

    def losses(self: SED, student: Any, *given: Any) -> dict[str, torch.Tensor]:
        result = honest(self, student, *given)
        if given[-1].step == 4:
            weight = next(p for p in student.parameters() if p.requires_grad)
            result["sup_box"] = result["sup_box"] + (weight.sum() * 0).sqrt()
        return result

    monkeypatch.setattr(SED, "losses", losses)
    with pytest.raises(TrainingError, match=r"not finite at step 5.*gradient norm nan"):
        run(data, tmp_path / "run", save_every=1, clip=clip)
    assert last(tmp_path / "run")["state"]["step"] == 4 and finite(tmp_path / "run")


def test_out_of_memory_names_the_batch_that_fits(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SED.losses

    def losses(self: SED, student: Any, teacher: Any, labeled: Any, unlabeled: Any, progress: Any) -> Any:
        if len(labeled) + len(unlabeled or ()) > 4:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] can't allocate memory: you tried to allocate")
        return honest(self, student, teacher, labeled, unlabeled, progress)

    monkeypatch.setattr(SED, "losses", losses)
    with pytest.raises(TrainingError, match=r"out of memory with 8 .*; 2 fit\. Use --batch 2, or --accumulate 4"):
        run(data, tmp_path / "run", batch=8, burn_in=0.0)
    # parts are advised only where they will be accepted: 12 and 3 images have none that are small enough
    with pytest.raises(TrainingError, match=r"3 fit\. Use --batch 3 or a smaller --image-size"):
        run(data, tmp_path / "ratio", batch=12, burn_in=0.0, ratio=0.25)
    monkeypatch.setattr(SED, "losses", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(TrainingError, match=r"single labelled image at .*smaller --image-size"):
        run(data, tmp_path / "one", batch=1)
    # a CPU that ran out of memory may not get it back in one piece: that one image was too much is not known
    with pytest.raises(TrainingError, match=r"with 2 .*no batch that fits was found: try --batch 1 or a smaller --im"):
        run(data, tmp_path / "other")


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("where", ["clip_grad_norm_", "step"])
def test_out_of_memory_at_the_update_is_one_line(
    where: str, short: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] can't allocate memory: you tried to allocate")

    if not short:
        monkeypatch.setattr(probe, "SHORTEST", 1)
    if where == "step":
        monkeypatch.setattr(torch.optim.AdamW, "step", full)
        monkeypatch.setattr(torch.optim.SGD, "step", full)
    else:
        monkeypatch.setattr(torch.nn.utils, where, full)
    with pytest.raises(TrainingError, match=r"out of memory at the update of the weights.*smaller --backbone"):
        run(data, tmp_path / "run", clip=1.0)
    assert (tmp_path / "run").exists() == short


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("could not create a primitive", True),
        ("could not create a memory object", True),
        ("CUDA out of memory. Tried to allocate 2 GiB", True),
        ("could not create a primitive descriptor for a convolution forward propagation primitive", False),
        ("out of range", False),
    ],
)
def test_errors_of_memory_are_known(text: str, memory: bool) -> None:
    assert is_out_of_memory(RuntimeError(text)) == memory


def test_our_own_batch_is_parted_to_fit_into_memory(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, sizes = SED.losses, set()

    def losses(self: SED, student: Any, teacher: Any, labeled: Any, unlabeled: Any, progress: Any) -> Any:
        if len(labeled) + len(unlabeled or ()) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.add((len(labeled), len(unlabeled or ())))
        return honest(self, student, teacher, labeled, unlabeled, progress)

    monkeypatch.setattr(SED, "losses", losses)
    monkeypatch.setattr(probe, "SHORTEST", 1)
    _, outcome = run(data, tmp_path / "run", batch=None, steps=2, burn_in=0.5)
    assert outcome.finished
    log = (tmp_path / "run" / "train.log").read_text()
    assert "each is taken in 4 parts" in log and "8 labelled and 8 unlabelled images, in 4 parts" in log
    assert load_config(tmp_path / "run" / "config.yaml").accumulate == 4
    sizes.clear()
    run(data, tmp_path / "again", batch=None, steps=2, burn_in=0.5, accumulate=4)
    assert sizes == {(2, 0), (2, 2)}
    assert equal_weights(last(tmp_path / "run")["student"], last(tmp_path / "again")["student"])


def test_other_errors_are_not_taken_for_memory(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(*_: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(SED, "losses", losses)
    with pytest.raises(RuntimeError, match="a bug"):
        run(data, tmp_path / "run")


def test_a_full_disk_keeps_the_last_checkpoint(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = checkpoints.write_atomically
    calls = 0

    def write(path: Path, content: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        honest(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_atomically", write)
        with pytest.raises(TrainingError, match=r"No space left on device.*--resume"):
            run(data, tmp_path / "run")
    step = last(tmp_path / "run")["state"]["step"]
    assert 2 <= step < 8 and finite(tmp_path / "run")
    outcome = train(tiny.config(data, tmp_path / "run"), resume=tmp_path / "run")
    assert outcome.finished and outcome.step == 8


def test_unreadable_images_are_skipped_counted_and_named(tmp_path: Path) -> None:
    data = tiny.dataset(tmp_path / "data")
    for file in (data / "unlabeled" / "unlabeled1.png", data / "labeled" / "labeled2.png"):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    _, outcome = run(data, tmp_path / "run", steps=4, batch=6)
    assert sorted(Path(name).name for name in outcome.skipped) == ["labeled2.png", "unlabeled1.png"]
    log = (tmp_path / "run" / "train.log").read_text()
    assert "labeled2.png" in log and "unlabeled1.png" in log and "2 images could not be read" in log


@pytest.mark.parametrize("half_size", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_every_trained_parameter_is_used_in_every_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half_size: bool, scale: bool
) -> None:
    """Distributed training fails on a parameter that a step leaves out, in the burn-in or after it."""
    honest = SED.losses
    unused: dict[int, list[str]] = {}

    def losses(self: SED, student: Any, *given: Any) -> dict[str, torch.Tensor]:
        result = honest(self, student, *given)
        trained = [(name, p) for name, p in student.named_parameters() if p.requires_grad]
        total = torch.stack(list(result.values())).sum()
        found = torch.autograd.grad(total, [p for _, p in trained], retain_graph=True, allow_unused=True)
        unused[given[-1].step] = [name for (name, _), g in zip(trained, found, strict=True) if g is None]
        return result

    monkeypatch.setattr(SED, "losses", losses)
    run(data, tmp_path / "run", steps=3, burn_in=0.34, eval_every=9, half_size=half_size, sed=SEDConfig(scale=scale))
    assert unused[1] == unused[2] == []
    if scale and not half_size:  # P2 waits for the unlabelled images, so the processes must look what is used
        assert unused[0] and all(name.startswith(("fpn.inner_blocks.0", "fpn.layer_blocks.0")) for name in unused[0])
    else:
        assert unused[0] == []
    found = {}
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setattr(runs, "Fabric", lambda **given: found.update(given) or MagicMock())
    make_fabric(tiny.config(data, tmp_path, half_size=half_size, sed=SEDConfig(scale=scale)))
    assert found["strategy"] == ("ddp_find_unused_parameters_true" if unused[0] else "ddp")


def test_images_are_doubled_as_far_as_asked_for(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = SED.losses
    doubled: list[float] = []

    def losses(self: SED, student: Any, teacher: Any, labeled: Any, unlabeled: Any, progress: Any) -> Any:
        if unlabeled is not None:
            doubled.append(unlabeled.doubled.numel() / len(unlabeled))
        return honest(self, student, teacher, labeled, unlabeled, progress)

    monkeypatch.setattr(SED, "losses", losses)
    views = ViewConfig(scale_min=0.5, scale_max=1.5)
    for zoom, share in ((0.9, [0.0, 0.0]), (3.0, [1.0, 1.0])):
        run(data, tmp_path / str(zoom), steps=4, burn_in=0.5, views=views, sed=SEDConfig(largest_zoom=zoom))
        assert doubled == share
        doubled.clear()


def test_mixed_precision_trains_from_the_burn_in_to_the_end(data: Path, tmp_path: Path) -> None:
    """Every step goes through Fabric's conversion of what it is given. Larger images: on maps of one pixel some
    CPUs' bf16 convolutions have gradients that are not finite."""
    settings = tiny.config(data, tmp_path / "run", steps=4, burn_in=0.5, eval_every=4, image_size=128, precision="bf16")
    outcome = train(settings)
    assert outcome.step == 4 and outcome.finished
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert len(rows) == 4 and float(rows[-1]["distill_class"]) > 0
