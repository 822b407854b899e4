"""The suite runs in several processes, each on its share of the cores, and so do the programs that tests start."""

from __future__ import annotations

import os

workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if workers > 1:
    # Before PyTorch is imported: more threads than cores make small trainings many times slower.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
