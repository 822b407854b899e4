"""The plan: complete settings, a shared burn-in's settings, and a probe that changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

from sedet.config import ModelConfig, TrainConfig, ViewConfig
from sedet.data.clean import Problem
from sedet.detectors.build import build_detector
from sedet.detectors.file import save_detector
from sedet.detectors.warm_start import read_warm_start
from sedet.errors import ConfigError, DataError, SedetError, TrainingError
from sedet.settings import flat, load_config, save_config, validate
from sedet.training import plan, probe
from sedet.training.checkpoint import load_checkpoint
from sedet.training.inputs import absolute_paths, read_data, stop_at_errors
from sedet.training.pictures import Album
from sedet.training.run import make_detector, make_method, train
from sedet.training.step import TrainingStep
from tests.training.runs import data, metrics, supervised

# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("labeled", [1, 50, 5000])
def test_nothing_is_left_open(device: str, labeled: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    config = plan.resolve(TrainConfig(labeled="x", unlabeled=("y",)), device, labeled, 640)
    left = {"val", "images", "val_images", "init", "start", "stop", "threads", "ema_decay"}
    left |= {"cache"}  # follows the memory that is free, which no setting should remember
    # what another detector or method has of its own; a share that stays as it is
    left |= {"model.proposals", "model.roi_samples", "mixpl.threshold", "sed.class_share_end"}
    assert {name for name, value in flat(config) if value is None} == left
    two_stages = plan.resolve(TrainConfig(detector="faster_rcnn"), device, labeled, 640).model
    assert two_stages.proposals and two_stages.roi_samples and two_stages.head_convs == 1
    schedule = plan.make_schedule(config)
    assert 0 < schedule.burn_in < schedule.burn_in + schedule.ramp < schedule.steps
    assert 10 <= schedule.steps / schedule.evaluate <= 14


def test_a_large_pool_makes_a_run_longer() -> None:
    """Each of its images comes once at least after the burn-in, up to a limit; the labels alone set the rest."""
    steps = [plan.resolve(TrainConfig(), "cpu", 200, 640, unlabeled=n).steps for n in (0, 1_000, 10_000, 10**6)]
    assert steps == [2000, 2000, 2500, 8000]
    assert plan.resolve(TrainConfig(ratio=4.0), "cpu", 200, 640, unlabeled=10_000).steps == 2000


@pytest.mark.parametrize("chosen", [{"image_size": 64}, {"image_size": 32}])
def test_bf16_on_a_cpu_needs_maps_of_more_than_a_cell(chosen: dict[str, Any]) -> None:
    config = TrainConfig(precision="bf16", **chosen)
    with pytest.raises(ConfigError, match="precision bf16 on a CPU needs an image_size of 65 or more"):
        plan.resolve(config, "cpu", 100, 640)
    assert plan.resolve(config, "cuda", 100, 640).precision == "bf16"
    assert plan.resolve(replace(config, image_size=None), "cpu", 100, 640).precision == "bf16"
    assert plan.resolve(replace(config, precision="32"), "cpu", 100, 640).precision == "32"


def test_what_the_user_set_stays() -> None:
    given = TrainConfig(
        steps=77, rate=0.5, batch=3, image_size=100, burn_in=0.0, eval_every=5, save_every=6, workers=2, backbone="b"
    )
    config = plan.resolve(given, "cpu", 100, 640)
    for name in ("steps", "rate", "batch", "image_size", "burn_in", "eval_every", "save_every", "workers", "backbone"):
        assert getattr(config, name) == getattr(given, name)


def test_the_saved_settings_are_the_same(tmp_path: Path) -> None:
    """config.yaml must load again, to be resumed and to be trained anew."""
    given = TrainConfig(labeled="a.json:train", unlabeled=("p", "q/*.jpg"), rate=1e-05, views=ViewConfig(flip=0.0))
    config = absolute_paths(plan.resolve(given, "cpu", 100, 640))
    save_config(validate(config), tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert all(Path(source).is_absolute() for source in (config.labeled, *config.unlabeled, config.out))
    assert config.weights == "auto" and config.val is None


def test_a_warm_start_shortens_the_burn_in_and_gives_sizes(tmp_path: Path) -> None:
    model = build_detector("fcos", "lcnet_035", 1, ModelConfig(neck_channels=8, head_convs=1, level_range=5.0), "none")
    save_detector(tmp_path / "best.safetensors", model, ("cat",), 96, {})
    start = read_warm_start(tmp_path / "best.safetensors")
    config = plan.resolve(TrainConfig(init="x"), "cpu", 100, 640, start)
    assert (config.burn_in, config.backbone, config.image_size) == (0.05, "lcnet_035", 96)
    assert (config.model.neck_channels, config.model.head_convs, config.model.level_range) == (8, 1, 5.0)


# --- a shared burn-in ---------------------------------------------------------------------------------------


def saved_run(folder: Path, config: TrainConfig) -> Path:
    folder.mkdir()
    save_config(absolute_paths(config), folder / "config.yaml")
    return folder


COMPLETE = plan.resolve(TrainConfig(labeled="a", unlabeled=("u",), weights="none"), "cpu", 100, 640)


def test_a_burn_in_is_shared_across_methods_and_weights(tmp_path: Path) -> None:
    run = saved_run(tmp_path / "twin", replace(supervised(COMPLETE), out="elsewhere", guard=False, patience=2))
    assert plan.check_start(replace(COMPLETE, ratio=2.0, ramp=0.2), run).method == "supervised"


@pytest.mark.parametrize(
    "change",
    [
        {"labeled": "b"},
        {"val": "v"},
        {"classes": ("cat",)},
        {"seed": 1},
        {"batch": 4},
        {"burn_in": 0.3},
        {"warmup": 0.5},
        {"rate": 0.1},
        {"image_size": 256},
        {"half_size": False},
        {"backbone": "resnet50"},
        {"weights": "auto"},
        {"views": ViewConfig(flip=0.1)},
        {"model": replace(COMPLETE.model, neck_channels=4)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_burn_in_of_other_settings_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    run = saved_run(tmp_path / "twin", COMPLETE)
    with pytest.raises(ConfigError, match=f"with (a )?{next(iter(change))}"):
        plan.check_start(replace(COMPLETE, **change), run)


def test_a_longer_run_takes_a_burn_in_of_as_many_steps(tmp_path: Path) -> None:
    assert COMPLETE.steps is not None and COMPLETE.burn_in is not None
    run = saved_run(tmp_path / "twin", COMPLETE)
    double = replace(COMPLETE, steps=2 * COMPLETE.steps, burn_in=COMPLETE.burn_in / 2, warmup=COMPLETE.warmup / 2)
    plan.check_start(double, run)
    with pytest.raises(ConfigError, match="with a burn_in of"):
        plan.check_start(replace(double, burn_in=COMPLETE.burn_in), run)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        plan.check_start(COMPLETE, tmp_path)


# --- the text -----------------------------------------------------------------------------------------------


def test_the_plan_says_what_will_be_done_in_80_columns(tmp_path: Path) -> None:
    config = data(tmp_path)
    inputs = read_data(config)
    config = plan.resolve(config, "cpu", len(inputs.labeled), 64)
    schedule = plan.make_schedule(config)
    detector = make_detector(config, inputs.labeled.classes, None, None)
    cost = probe.Expectation(seconds=840.0, memory=3 * 2**30, probed=7)
    lines = plan.describe(config, schedule, inputs, detector, None, cost)
    text = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= 80
    for part in (
        "6 labelled, 5 unlabelled, 3 to judge by",
        "2, with boxes: cat 3, dog 3",
        "4: 2 on the labels alone (burn-in), then a ramp of 1",
        "2 labelled and 2 unlabelled images",
        "lcnet_035, from scratch",
        "64 px, and half of it",
        "0.0005",
        "cpu",
        "precision 32",
        "14 minutes, 3.0 GiB of memory",
    ):
        assert part in text, part
    # as the optimizer has it, and what is judged
    assert "judged every 2" in text and "of it" not in text.split("rate")[1]
    detector.backbone.pretrained = True
    text = " ".join(plan.describe(config, schedule, replace(inputs, val=None), detector, None, cost))
    assert "judged every" not in text and f"backbone {config.backbone_rate:g} of it" in text


# --- the probe ----------------------------------------------------------------------------------------------


def work(config: TrainConfig) -> probe.Work:
    from sedet.data.loading import StepData, labeled_samples, unlabeled_samples
    from sedet.training.validate import Judge

    inputs = read_data(config)
    config = plan.resolve(config, "cpu", len(inputs.labeled), 64)
    schedule = plan.make_schedule(config)
    torch.manual_seed(0)
    student = make_detector(config, inputs.labeled.classes, None, None)
    steps = StepData(
        labeled_samples(inputs.labeled),
        unlabeled_samples(inputs.pool.paths if inputs.pool else ()),
        batch=2,
        unlabeled_batch=2,
        image_size=64,
        views=config.views,
        seed=0,
        unlabeled_from=schedule.burn_in,
        cache=2.0,
    )
    assert inputs.val is not None
    judge = Judge(inputs.val, 64, batch=2)
    fabric = Fabric(accelerator="cpu", devices=1)
    return probe.Work(config, schedule, fabric, student, make_method(config), steps, judge)


def test_a_probe_changes_no_number_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = data(tmp_path)
    monkeypatch.setattr(Album, "_draw", lambda *_: None)  # pictures take longer than these trainings
    train(replace(config, out=str(tmp_path / "plain")))
    probed = []
    measure = probe.measure
    monkeypatch.setattr(probe, "SHORTEST", 0)
    monkeypatch.setattr(probe, "measure", lambda *a: probed.append(measure(*a)) or probed[0])
    train(replace(config, out=str(tmp_path / "probed")))
    assert probed[0] is not None and probed[0].seconds > 0 and probed[0].memory > 0
    plain, other = (tmp_path / name / "metrics.csv" for name in ("plain", "probed"))
    assert plain.read_bytes() == other.read_bytes()
    states = [load_checkpoint(tmp_path / n / "checkpoints" / "last.pt") for n in ("plain", "probed")]
    assert all(torch.equal(states[0]["student"][k], states[1]["student"][k]) for k in states[0]["student"])
    log = (tmp_path / "probed" / "train.log").read_text()
    assert "Measured: " in log and "Planned: " in log


def test_a_probe_leaves_weights_modes_and_chance_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SHORTEST", 0)
    given = work(data(tmp_path))
    before = {k: v.clone() for k, v in given.student.state_dict().items()}
    state, files = torch.get_rng_state(), sorted(tmp_path.rglob("*"))
    probe.measure(given, 0, 4)
    assert all(torch.equal(v, before[k]) for k, v in given.student.state_dict().items())
    assert all(p.grad is None for p in given.student.parameters())
    assert given.student.training and torch.equal(torch.get_rng_state(), state)
    assert sorted(tmp_path.rglob("*")) == files


@pytest.mark.parametrize(("start", "stop", "expected"), [(0, 4, 54.0), (2, 4, 30.0), (0, 2, 24.0), (3, 4, 25.0)])
def test_cost_is_counted_by_kind_of_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int, stop: int, expected: float
) -> None:
    """By a fake clock: 2 burn-in steps of 1 + 1 s, 2 semi-supervised ones of 4 + 1 s, evaluations of 2 x 10 s."""
    monkeypatch.setattr(probe, "SHORTEST", 0)
    given = work(data(tmp_path))
    kinds: list[float] = []

    def micro(work: probe.Work, module: TrainingStep, labeled: Any, unlabeled: Any, progress: Any) -> None:
        kinds.append(1.0 if unlabeled is None else 4.0)

    def timed(what: Any, repeats: int, device: torch.device) -> float:
        known = len(kinds)
        what()
        return kinds[-1] if len(kinds) > known else 1.0

    monkeypatch.setattr(probe, "_micro_step", micro)
    monkeypatch.setattr(probe, "_timed", timed)
    monkeypatch.setattr(probe, "_load", lambda read: (probe._Load(0.0, 0.0), read()))
    monkeypatch.setattr(probe, "_evaluations", lambda judge, model, count, fabric: 20.0 * count)
    cost = probe.measure(given, start, stop)
    assert cost is not None and cost.seconds == pytest.approx(expected)


@pytest.mark.parametrize(
    ("zoom", "first", "timed"), [(0.0, None, [None]), (1.3, 2, [0, 1]), (2.0, 2, [1, 2]), (2.8, 2, [2])]
)
def test_memory_is_measured_with_every_image_doubled_and_time_with_the_usual_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zoom: float, first: int | None, timed: list[int | None]
) -> None:
    """Which images the teacher sees at double size is chance: some later step will double them all."""
    monkeypatch.setattr(probe, "SHORTEST", 0)
    given = work(data(tmp_path))
    given.data.largest_zoom = zoom
    seen: list[int | None] = []

    def micro(work: probe.Work, module: TrainingStep, labeled: Any, unlabeled: Any, progress: Any) -> None:
        if unlabeled is not None:
            doubled = unlabeled.doubled
            assert doubled is None or len(doubled) == len(unlabeled.weak_double)
            seen.append(None if doubled is None else len(doubled))

    monkeypatch.setattr(probe, "_micro_step", micro)
    probe.measure(given, 2, 4)
    assert seen == [first, *timed]
    share = given.data.doubled_share
    assert sum(part * count for count, part in probe._counts(2 * share)) == pytest.approx(2 * share)


def test_decoding_is_paid_once_where_the_cache_holds_all() -> None:
    load = probe._Load(first=3.0, again=1.0)  # of a batch of 2: half a second an image, one more to decode it
    assert load.seconds(2, draws=10, images=100, fits=1.0) == pytest.approx(10 * 0.5 + 10 * 1.0)
    assert load.seconds(2, draws=10, images=4, fits=1.0) == pytest.approx(10 * 0.5 + 4 * 1.0)
    assert load.seconds(2, draws=10, images=4, fits=0.5) == pytest.approx(10 * 0.5 + (4 + 3) * 1.0)


def test_a_short_run_is_not_probed(tmp_path: Path) -> None:
    assert probe.measure(work(data(tmp_path)), 0, probe.SHORTEST - 1) is None


def test_a_batch_that_does_not_fit_is_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = TrainingStep.forward

    def small_memory(self: TrainingStep, given: Any) -> Any:
        if len(given.labeled) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(self, given)

    monkeypatch.setattr(probe, "SHORTEST", 0)
    monkeypatch.setattr(TrainingStep, "forward", small_memory)
    with pytest.raises(TrainingError, match="--batch 1"):
        train(data(tmp_path))
    assert not (tmp_path / "run").exists()


def test_the_probe_judges_by_the_whole_val(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """COCO's metrics are timed on as many images as val has, though only a batch of them is looked at."""
    given = work(data(tmp_path))
    assert given.judge is not None
    seen: list[int] = []

    def counted(table: Any, detections: list[Any], **_: Any) -> Any:
        seen.append(len(detections))
        return metrics(0.0)

    monkeypatch.setattr(probe, "coco_metrics", counted)
    assert probe._evaluations(given.judge, given.student, 3, given.fabric) > 0
    assert seen == [len(given.judge.table)] == [3]


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(SedetError, match="steps"):
        plan.make_schedule(replace(COMPLETE, steps=1, burn_in=1.0))
    with pytest.raises(SedetError, match="together exceed 1"):  # with the default burn-in, too
        plan.make_schedule(replace(COMPLETE, steps=100, burn_in=0.5, ramp=0.9))
    plan.make_schedule(replace(COMPLETE, method="supervised", steps=100, burn_in=0.5, ramp=0.9))


def test_a_numbered_gpu_is_chosen_outside() -> None:
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES=1 and give cuda"):
        plan.resolve_device(replace(COMPLETE, device="cuda:1"))


@pytest.mark.parametrize(("count", "said"), [(1, None), (2, "1 more error:"), (3, "2 more errors:")])
def test_errors_are_counted_in_words(count: int, said: str | None) -> None:
    with pytest.raises(DataError) as caught:
        stop_at_errors([Problem("error", "x", "broken", "Mend it")] * count)
    assert said in str(caught.value) if said else "more" not in str(caught.value)
