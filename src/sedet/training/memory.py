"""When a batch does not fit: find out, and say, which would."""

from __future__ import annotations

import gc
import re
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import torch
from torch import nn

from sedet.config import TrainConfig
from sedet.data.batch import Batch
from sedet.errors import OutOfMemory
from sedet.methods.method import Progress
from sedet.training.step import Given

MESSAGES = re.compile(
    r"out of memory|can't allocate memory|could not create a (memory object|primitive(?! descriptor))"  # oneDNN's last
)
LOADING = re.compile(
    r"dataloader worker \(pid.*(killed by signal: (killed|bus error)|exited unexpectedly)|shared memory\(shm\)"
    r"|unable to write to file </torch_"
)


USUAL_CACHE, LARGEST_CACHE = 2.0, 16.0
"""GiB for decoded images: where the free memory is unknown, and at most."""
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""A container's limit and use, bytes, as version 2 and 1 of the kernel's control groups tell them."""


def cache_limit(wanted: float | None) -> float:
    """Memory for decoded images, GiB: what was asked for, else a quarter of what is free."""
    if wanted is not None:
        return wanted
    free = free_memory()
    return USUAL_CACHE if free is None else min(LARGEST_CACHE, free / 4 / 2**30)


def free_memory() -> int | None:
    """Bytes that this process may still take without swapping: of the machine, or of its container; None: unknown."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    for limit, used in CGROUPS:
        with suppress(OSError, ValueError):  # version 2 says "max" where there is none
            found.append(max(0, int(Path(limit).read_text("ascii")) - int(Path(used).read_text("ascii"))))
    return min(found, default=None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or on the CPU."""
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and MESSAGES.search(text) is not None
    )


def is_lost_worker(error: BaseException) -> bool:
    """Whether an error means that a process which loads images was killed, or had no shared memory to send them."""
    return isinstance(error, RuntimeError) and LOADING.search(str(error).lower()) is not None


def out_of_memory_error(
    module: nn.Module,
    labeled: Batch,
    unlabeled: Batch | None,
    progress: Progress,
    config: TrainConfig,
    device: torch.device,
    failed: BaseException,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> OutOfMemory:
    """Try the step with ever smaller parts of the batch; the error names the largest that fits.

    Args:
        failed: the error that was raised; what its frames hold in memory is let go.
        autocast: precision of the step, where ``module`` does not bring it.
    """
    traceback.clear_frames(failed.__traceback__)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # trying again would wait for the other processes
        return OutOfMemory(
            f"out of memory with {len(labeled)} labelled images a process at image_size {config.image_size}: use a "
            "smaller --batch, --accumulate to keep the batch in parts, or a smaller --image-size"
        )
    size = len(labeled)
    while size > 1:
        size //= 2
        share = size / len(labeled)
        part = unlabeled.first(max(1, round(share * len(unlabeled)))) if unlabeled is not None else None
        if not _fits(module, labeled.first(size), part, progress, device, autocast):
            continue
        pieces = -(-(config.batch or len(labeled)) // size)
        return OutOfMemory(
            f"out of memory with {len(labeled)} labelled images a batch at image_size {config.image_size}; {size} fit. "
            + _advice(config, size, pieces, len(unlabeled) * config.accumulate if unlabeled is not None else 0),
            pieces,
        )
    if len(labeled) > 1 and device.type != "cuda":  # a CPU's memory may stay in pieces: another process may do better
        return OutOfMemory(
            f"out of memory with {len(labeled)} labelled images a batch at image_size {config.image_size}, and no "
            "batch that fits was found: try --batch 1 or a smaller --image-size"
        )
    more = f" and {len(unlabeled)} unlabelled" if unlabeled is not None and len(labeled) == 1 else ""
    return OutOfMemory(
        f"out of memory with a single labelled image{more} at image_size {config.image_size}: use a smaller "
        "--image-size, a smaller --backbone" + (" or a smaller --ratio" if more else "")
    )


def update_memory_error(failed: BaseException) -> OutOfMemory:
    """Memory ran out after the losses, at the weights' update: it needs the same for batches of any size."""
    traceback.clear_frames(failed.__traceback__)
    return OutOfMemory(
        "out of memory at the update of the weights, which a smaller --batch does not mend: end other programs that "
        "use memory, or use a smaller --backbone"
    )


def _fits(
    module: nn.Module,
    labeled: Batch,
    unlabeled: Batch | None,
    progress: Progress,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]],
) -> bool:
    """Whether a step fits; nothing of it stays in memory."""
    module.zero_grad(set_to_none=True)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        with autocast():
            losses = module(Given(labeled.to(device), unlabeled.to(device) if unlabeled else None, progress))
            total = torch.stack(list(losses.values())).sum()
        total.backward()  # type: ignore[no-untyped-call]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _advice(config: TrainConfig, size: int, pieces: int, unlabeled: int) -> str:
    """What can be done where ``size`` of the labelled images of a batch fit; only what will be accepted."""
    if config.start:
        return "A run with --start keeps the batch of its burn-in: train one with a smaller --batch, and start from it"
    batch = config.batch or size
    parts = next((p for p in range(pieces, batch + 1) if batch % p == 0 and unlabeled % p == 0), None)
    keep = f", or --accumulate {parts} to keep the batch in parts," if parts is not None else ""
    return f"Use --batch {size}{keep} or a smaller --image-size"
