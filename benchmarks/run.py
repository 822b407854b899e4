"""Measure cells: one of (data set, percent, fold, method, variant, seed), or a list of them.

    python benchmarks/run.py --dataset coco-people --percent 10 --fold 1 --method sed --seed 0
    python benchmarks/run.py --cells benchmarks/cells/coco-people.yaml
    python benchmarks/run.py --dataset bccd --method supervised sed --seed 0 1 2 --list

Finished cells are skipped, interrupted ones continue. Each writes its rows to benchmarks/results. The tree must be as
committed. What is judged is dev; ``--split val`` opens val, once for each frozen configuration, with a ``--reason``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this tree's code, whatever is installed

import yaml

from benchmarks.inputs import demo_percent
from benchmarks.measure import Setting, measure, state
from benchmarks.plan import DEMO_RECIPES, RECIPES, Cell, expand, load_cells
from benchmarks.provenance import ROOT, provenance
from benchmarks.rows import RESULTS
from sedet.errors import ConfigError, SedetError
from sedet.training.unattended import Busy

KEYS = ("dataset", "percent", "fold", "method", "variant", "seed", "recipe", "split")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("--cells", nargs="+", action="extend", type=Path, default=[], metavar="FILE", help="YAML lists of cells")
    add("--dataset", nargs="+", action="extend", help="coco-people, bccd, vehicles, demo")
    add(
        "--percent",
        nargs="+",
        action="extend",
        type=float,
        help="labelled share of the pool; 100 is the ceiling (default 10)",
    )
    add("--fold", nargs="+", action="extend", type=int, help="which images keep their labels (default 1)")
    add("--method", nargs="+", action="extend", help="supervised (the twin), sed, or another of sedet methods")
    add("--variant", nargs="+", action="extend", help="see benchmarks/plan.py")
    add(
        "--seed",
        nargs="+",
        action="extend",
        type=int,
        help="of the training; for the demo of its scenes too (default 0)",
    )
    add("--recipe", nargs="+", action="extend", help="of benchmarks/recipes.yaml (default cpu)")
    add("--split", nargs="+", action="extend", help="dev (default), or val")
    add("--reason", default="", help="why val is opened; logged")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="a variant of your own, on dev")
    add("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    add("--work", type=Path, default=ROOT / "runs" / "benchmarks", help="runs and detections")
    add("--results", type=Path, default=RESULTS, help="folder of the rows")
    add("--recipes", type=Path, default=RECIPES, help="file of the recipes")
    add("--device", default="auto")
    add("--threads", type=int, help="CPU threads")
    add("--workers", type=int, help="processes that load images")
    add("--minutes", type=float, help="begin no further cell after this time")
    add("--list", action="store_true", help="only say which cells are done, and which are of other settings")
    add("--replace", action="store_true", help="measure again what has a row of other settings")
    add("--allow-dirty", action="store_true", help="run from a changed tree; the rows are not for tables")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        cells = chosen(options)
        if options.list:
            options.allow_dirty = True  # no row is written
            where = setting(options)
            for cell in cells:
                print(f"{state(cell, where):<8}{cell.name}", flush=True)
            return 0
        return work_through(cells, setting(options), options.minutes)
    except SedetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130


def chosen(options: argparse.Namespace) -> list[Cell]:
    """The cells that the flags ask for: those of the lists, with the flags' values in place of theirs."""
    given = {key: getattr(options, key) for key in KEYS if getattr(options, key) is not None}
    if options.cells:
        return load_cells(options.cells, given)
    if "dataset" not in given:
        raise ConfigError("say which cells: --dataset NAME, or --cells FILE")
    cells: list[Cell] = []
    for dataset in given["dataset"]:
        usual = {"percent": demo_percent(), "fold": 0, "recipe": DEMO_RECIPES[0]} if dataset == "demo" else {}
        cells += expand({**usual, **given, "dataset": dataset})
    return list(dict.fromkeys(cells))


def setting(options: argparse.Namespace) -> Setting:
    data = options.data.resolve()
    if options.recipes.resolve() != RECIPES and not options.allow_dirty:
        raise ConfigError(f"rows name a commit, and {options.recipes} is in none: use {RECIPES.name}, or --allow-dirty")
    extra: dict[str, Any] = {}
    for text in options.set:
        key, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"--set takes KEY=VALUE, not '{text}'")
        extra[key] = yaml.safe_load(value)
    on_machine = {"device": options.device, "threads": options.threads, "workers": options.workers}
    return Setting(
        data=data,
        work=options.work.resolve(),
        results=options.results.resolve(),
        provenance=provenance(data, options.allow_dirty),
        recipes=options.recipes,
        reason=options.reason,
        replace_rows=options.replace,
        extra=extra,
        on_machine=on_machine,
    )


def work_through(cells: Sequence[Cell], where: Setting, minutes: float | None) -> int:
    """Measure cells in order; what fails is named and the rest goes on. 0 if none failed."""
    started, failed, later = time.monotonic(), 0, []
    # First what nobody is at; then, waiting for it, what needed a burn-in that another runner was at.
    for wait, queue in ((False, list(cells)), (True, later)):
        for number, cell in enumerate(queue, start=1):
            if minutes is not None and time.monotonic() - started > 60 * minutes:
                left = len(queue) - number + 1 + (0 if wait else len(later))
                print(f"time is up: {left} of {len(cells)} cells left for the same command")
                return 2 if failed else 0
            print(f"[{number}/{len(queue)}] {cell.name}", flush=True)
            try:
                print(measure(cell, where, wait), flush=True)
            except Busy as busy:
                if not wait:
                    later.append(cell)
                print(f"{'left out' if wait else 'later'}: {busy}", flush=True)
            except SedetError as error:
                failed += 1
                print(f"error: {cell.name}: {error}", file=sys.stderr, flush=True)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
