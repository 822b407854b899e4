"""What an update of each method costs on this machine: seconds and memory, from the same burn-in, on labels and pool.

    python benchmarks/cost.py --dataset bccd --percent 2 --recipe cpu-few --threads 1

Each method trains a few updates after the burn-in, twice, in a process of its own; the difference of both times is that
of the updates between. So what a method does once (STAC labels the pool) is not in it, nor are start and end.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch

from benchmarks.inputs import cell_data
from benchmarks.plan import RECIPES, Cell, burn_in_folder, load_recipe, make_job
from benchmarks.provenance import ROOT, machine, provenance, versions
from benchmarks.rows import COST, RESULTS, write_json
from sedet.catalog import METHODS
from sedet.config import TrainConfig
from sedet.errors import SedetError
from sedet.training.unattended import finish_run

SHORT, LONG = 10, 50
"""Updates after the burn-in."""


def timed(config: TrainConfig, start: Path, first: int, folder: Path) -> dict[str, Any]:
    """Seconds an update, and the peak of memory in bytes, of one method."""
    seconds, memory = [], None
    for updates in (SHORT, LONG):
        out = folder / f"{config.method}-{updates}"
        run = replace(config, out=str(out), start=str(start), stop=first + updates)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:  # of its own: for the memory's peak
            record = process.submit(finish_run, run, out, "cost").result()
        seconds.append(record["seconds"])
        memory = record["memory"]
    return {"method": config.method, "seconds": (seconds[1] - seconds[0]) / (LONG - SHORT), "memory": memory}


def measure(cell: Cell, data: Path, work: Path, on_machine: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every method that is defined for the recipe's detector."""
    recipe, inputs = load_recipe(cell.recipe, cell.dataset, RECIPES), cell_data(cell, data, work).inputs
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for method, entry in METHODS.items():
            job = make_job(replace(cell, method=method), recipe, inputs)
            if job.config.detector not in entry.detectors:
                continue
            burn = burn_in_folder(work, cell, job)
            finish_run(
                replace(job.burn_in, out=str(burn), stop=job.burn_in_steps, **on_machine), burn, "cost", wait=True
            )
            found.append(timed(replace(job.config, **on_machine), burn, job.burn_in_steps, Path(folder)))
            print(f"{method}: {found[-1]['seconds']:.2f} s an update", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="bccd")
    parser.add_argument("--percent", type=float, default=2.0)
    parser.add_argument("--recipe", default="cpu-few")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--beside", type=int, default=0, help="other trainings that run on the machine: noted")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "benchmarks")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    cell = Cell(options.dataset, options.percent, 1, "sed", "default", 0, options.recipe, "dev")
    on_machine = {"device": "cpu", "workers": 0, "threads": options.threads or torch.get_num_threads()}
    data = options.data.resolve()
    where = provenance(data)
    try:
        found = measure(cell, data, options.work.resolve(), on_machine)
    except SedetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    about = {"dataset": cell.dataset, "percent": cell.percent, "recipe": cell.recipe, "beside": options.beside}
    here = {**machine("cpu"), "threads": on_machine["threads"]}
    facts = {"commit": where.commit, "versions": versions(), "machine": here}
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json(options.results / COST, {**about, "updates": [SHORT, LONG], "methods": found, **facts, "time": stamp})
    return 0


if __name__ == "__main__":
    sys.exit(main())
