"""Every random draw of the library is a function of (seed, purpose, step, sample): never of the number of workers.

Resume, folds and runs on several processes rest on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def derive(seed: int, *keys: int | str) -> int:
    """A 63-bit seed from a base seed and what the draw is for. Stable over runs, machines and versions."""
    text = ":".join([str(seed), *map(str, keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *keys: int | str) -> np.random.Generator:
    """A NumPy generator for one draw."""
    return np.random.Generator(np.random.Philox(key=derive(seed, *keys)))


@contextmanager
def torch_seed(seed: int, *keys: int | str) -> Iterator[None]:
    """Seed torch's global CPU generator inside the block and put its state back after.

    transforms v2 classes draw from the global generator and take no other.
    """
    import torch  # heavy, and splitting data needs none of it

    state = torch.random.get_rng_state()
    try:
        torch.default_generator.manual_seed(derive(seed, *keys))
        yield
    finally:
        torch.random.set_rng_state(state)


def endless_index(seed: int, purpose: str, size: int, position: int) -> int:
    """Index of the sample at ``position`` in an endless stream of shuffled passes over ``size`` samples."""
    epoch, offset = divmod(position, size)
    return int(_permutation(seed, purpose, size, epoch)[offset])


_cache: dict[tuple[int, str, int, int], np.ndarray] = {}


def _permutation(seed: int, purpose: str, size: int, epoch: int) -> np.ndarray:
    key = (seed, purpose, size, epoch)
    if key not in _cache:
        if len(_cache) > 8:
            _cache.clear()
        _cache[key] = generator(seed, purpose, "pass", epoch).permutation(size)
    return _cache[key]
