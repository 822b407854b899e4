"""What a training will cost, measured on a few real steps of a throwaway copy before it starts.

Nothing of the training is touched: weights are copies, the state of the random generators is put back, no file is
written. Only images that are decoded on the way may stay in the cache, where they are the same for everyone.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from lightning_fabric import Fabric

from sedet.config import TrainConfig
from sedet.data.batch import Batch
from sedet.data.loading import StepData
from sedet.detectors.build import Detector
from sedet.detectors.regions import Detections
from sedet.errors import OutOfMemory
from sedet.evaluation.coco import coco_metrics
from sedet.evaluation.pseudo_labels import best_score
from sedet.methods.method import Method, Progress
from sedet.methods.teacher import EMATeacher
from sedet.training.loop import Schedule
from sedet.training.memory import is_out_of_memory, out_of_memory_error, update_memory_error
from sedet.training.optimizer import build_optimizer, set_rate
from sedet.training.step import Given, TrainingStep
from sedet.training.validate import Judge

SHORTEST = 120
"""Runs of fewer updates are not probed: it would take a noticeable part of them."""

T = TypeVar("T")


@dataclass(frozen=True)
class Expectation:
    """What is left of a run will take about this much.

    Attributes:
        seconds: wall-clock time, evaluations included.
        memory: peak bytes: of the GPU where there is one, of this process on a CPU; None where unknown.
        probed: updates that were tried for it.
    """

    seconds: float
    memory: int | None
    probed: int


@dataclass(frozen=True)
class Work:
    """What a probe works on; nothing of it is changed, besides images in the cache of ``data``."""

    config: TrainConfig
    schedule: Schedule
    fabric: Fabric
    student: Detector
    method: Method
    data: StepData
    judge: Judge | None


@dataclass(frozen=True)
class _Load:
    """Seconds to get a batch: the first time, and from the cache."""

    first: float
    again: float

    def seconds(self, batch: int, draws: int, images: int, fits: float) -> float:
        """Of ``draws`` images in all out of ``images``, of which a share ``fits`` the cache; batches of ``batch``."""
        decode = max(0.0, self.first - self.again) / max(1, batch)
        decoded = min(draws, images) + max(0, draws - images) * (1.0 - fits)
        return self.again * draws / max(1, batch) + decode * decoded


def afford(work: Work, start: int, stop: int) -> tuple[Work, Expectation | None]:
    """:func:`measure`; where a batch does not fit into memory, in as many parts (``accumulate``) as it takes.

    Raises:
        TrainingError: not even single images fit, or the batch cannot be parted so finely.
    """
    whole = work
    while True:
        try:
            return work, measure(work, start, stop, even_short=work.fabric.device.type == "cuda")
        except OutOfMemory as error:  # of the burn-in first, then of the larger steps after it
            sizes = [n for n in (whole.data.batch, whole.data.unlabeled_batch) if n]
            parts = error.parts
            while parts is not None and any(size % parts for size in sizes):
                parts = parts + 1 if parts < min(sizes) else None
            if parts is None:
                raise
            work = replace(
                whole,
                config=replace(whole.config, accumulate=parts),
                schedule=replace(whole.schedule, accumulate=parts),
                data=whole.data.in_parts(parts),
            )


def measure(work: Work, start: int, stop: int, even_short: bool = False) -> Expectation | None:
    """Expected cost of the updates ``start`` to ``stop``; None for a run too short to be worth it.

    Every process must call it: the losses' normalisers run over all of them.

    Args:
        even_short: measure short runs too.

    Raises:
        TrainingError: a batch does not fit into memory; names one that would.
    """
    if stop - start < SHORTEST and not even_short:
        return None
    device = work.fabric.device
    repeats = max(1, min(3, (stop - start) // 200))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds, probed = _seconds(work, start, stop, repeats)
    memory = peak_memory(device)
    if memory is not None:
        # the copies stand beside the originals, which are idle now, and will have taken their place
        memory -= sum(t.numel() * t.element_size() for t in work.student.state_dict().values()) * 2
        if device.type == "cpu":
            memory += cache_to_come(work)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return Expectation(seconds, memory, probed)


def try_data(work: Work, step: int) -> None:
    """Load batches for updates from ``step`` on: of data that cannot be decoded a run must not begin.

    Raises:
        DataError: none of the labelled, or none of the unlabelled images can be read.
    """
    data = copy.copy(work.data)
    if work.config.workers:  # they have caches of their own
        data.forget()
    data[max(step * work.schedule.accumulate, data.unlabeled_from)]


def _seconds(work: Work, start: int, stop: int, repeats: int) -> tuple[float, int]:
    schedule, config, data = work.schedule, work.config, work.data
    workers = config.workers or 0
    if workers:  # they have caches of their own
        data = copy.copy(data)
        data.forget()
    student = copy.deepcopy(work.student)
    teacher = EMATeacher(student)
    module = TrainingStep(student, teacher, copy.deepcopy(work.method)).train()  # it remembers nothing of this
    optimizer = build_optimizer(student, config)
    set_rate(optimizer, 0.0)  # as much work, but weights that stay what they are

    burn_in = max(0, min(stop, schedule.burn_in) - start) if work.method.uses_unlabeled else stop - start
    total, probed = 0.0, 0
    for updates, step, unlabeled_batch in (
        (burn_in, 0, 0),
        (stop - start - burn_in, schedule.burn_in, data.unlabeled_batch),
    ):
        if not updates:
            continue
        item = step * schedule.accumulate
        load, (labeled, unlabeled) = _load(lambda item=item: data[item])  # type: ignore[misc]
        last = schedule.steps - 1 if unlabeled_batch else 0
        progress = Progress(last, schedule.burn_in, schedule.ramp, schedule.steps)

        def micro(a: Batch = labeled, b: Batch | None = unlabeled, progress: Progress = progress) -> None:
            _micro_step(work, module, a, b, progress)

        def update() -> None:
            try:
                if config.clip > 0:
                    torch.nn.utils.clip_grad_norm_(student.parameters(), config.clip)
                optimizer.step()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise update_memory_error(error) from error
            optimizer.zero_grad()
            teacher.update(student, 0.999)

        # The first time is slower, and is a small part of a run. It takes the most memory that a step may take.
        micro(b=unlabeled and doubled_images(unlabeled, len(unlabeled) if data.doubled_share else 0))
        update()
        computing = 0.0
        for count, part in _counts(data.doubled_share * len(unlabeled)) if unlabeled else [(0, 1.0)]:
            usual = unlabeled and doubled_images(unlabeled, count)
            computing += part * _timed(partial(micro, b=usual), repeats, work.fabric.device)
            probed += repeats
        updating = _timed(update, 1, work.fabric.device)
        probed += 1
        images = len(data.labeled) + (len(data.unlabeled) if unlabeled_batch else 0)
        drawn = updates * schedule.accumulate * (data.batch + unlabeled_batch)
        loading = load.seconds(data.batch + unlabeled_batch, drawn, images, _fits(work, images)) / max(1, workers)
        steps = updates * (schedule.accumulate * computing + updating)
        total += max(steps, loading) if workers else steps + loading
    evaluations = sum(schedule.evaluates_after(s + 1) for s in range(start, stop))
    if work.judge is not None and evaluations:
        total += _evaluations(work.judge, student, evaluations, work.fabric)
    return total, probed


def _counts(expected: float) -> list[tuple[int, float]]:
    """Whole numbers on both sides of an expected one, each with its part of the time."""
    low = math.floor(expected)
    above = expected - low
    return [(low, 1.0)] if above < 1e-6 else [(low, 1.0 - above), (low + 1, above)]


def doubled_images(batch: Batch, count: int) -> Batch:
    """An unlabelled batch in which so many images have a double view, of any pixels."""
    if batch.weak_double is None:
        return batch
    pixels = batch.weak_double.new_zeros(count, *batch.weak_double.shape[1:])
    return replace(batch, weak_double=pixels, doubled=torch.arange(count))


def _micro_step(work: Work, module: TrainingStep, labeled: Batch, unlabeled: Batch | None, progress: Progress) -> None:
    device = work.fabric.device
    try:
        with work.fabric.autocast():
            losses = module(Given(labeled.to(device), unlabeled.to(device) if unlabeled else None, progress))
            stacked = torch.stack(list(losses.values()))
        stacked.detach().tolist()
        stacked.sum().backward()  # type: ignore[no-untyped-call]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        losses = stacked = None  # else the failed step would stay in memory
        raise out_of_memory_error(
            module, labeled, unlabeled, progress, work.config, device, error, work.fabric.autocast
        ) from error


def _evaluations(judge: Judge, model: Detector, count: int, fabric: Fabric) -> float:
    """Seconds of ``count`` evaluations of teacher and student: a batch of images, and COCO's metrics in full."""
    size = min(len(judge.table), judge.batch)
    part = Judge(judge.table.subset(range(size)), judge.image_size, judge.batch, area_ranges=judge.area_ranges)

    def detections() -> list[Detections]:
        return part.detections(model)

    started = time.perf_counter()
    found = detections()
    first = time.perf_counter() - started
    again = _timed(detections, 1, fabric.device)
    started = time.perf_counter()
    every = [found[i % size] for i in range(len(judge.table))]
    coco_metrics(judge.table, every, area_ranges=judge.area_ranges)
    metrics = time.perf_counter() - started
    best_score(judge.table, every)  # of the teacher alone
    scored = time.perf_counter() - started
    batches = len(judge.table) / size
    return max(0.0, first - again) * batches + count * (2 * again * batches + metrics + scored)


def _load(read: Callable[[], T]) -> tuple[_Load, T]:
    started = time.perf_counter()
    read()
    first = time.perf_counter() - started
    started = time.perf_counter()
    batch = read()
    return _Load(first, time.perf_counter() - started), batch


def _timed(what: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Mean seconds of a call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(repeats):
        what()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / repeats


def cache_bytes(work: Work) -> tuple[int, int]:
    """Bytes of all training images and of all val images as they are kept, shrunk; whatever the limits."""
    size = work.config.image_size or 0

    def mean(sides: list[tuple[int, int]], longest: float) -> float:
        kept = [3 * w * h * min(1.0, longest / max(w, h)) ** 2 for w, h in sides if w and h]
        return sum(kept) / max(1, len(kept))

    labeled = mean([sample.size for sample in work.data.labeled], size * max(1.0, work.config.views.scale_max))
    images = len(work.data.labeled) + len(work.data.unlabeled)
    val = 0.0
    if work.judge is not None:
        entries = work.judge.table.images
        val = len(entries) * mean([(e.width, e.height) for e in entries], 2.0 * size)
    return round(labeled * images), round(val)


def cache_to_come(work: Work) -> int:
    """Bytes that the caches will take, up to their limits (ours alone: worker processes count for themselves)."""
    limit = work.data.cache * 2**30
    training, val = cache_bytes(work)
    return round((0 if work.config.workers else min(limit, training)) + min(limit / 2, val))


def _fits(work: Work, images: int) -> float:
    training, _ = cache_bytes(work)
    every = len(work.data.labeled) + len(work.data.unlabeled)
    wanted = training * images / max(1, every)
    return min(1.0, work.data.cache * 2**30 / max(1.0, wanted))


def peak_memory(device: torch.device) -> int | None:
    """Most bytes in use so far: allocated on the GPU, or by this process since it began; None where unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type != "cpu" or sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
