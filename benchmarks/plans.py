"""Collect what runs were planned to cost and what they did cost, from the last line of each train.log.

    python benchmarks/plans.py RUN... > benchmarks/trials/plans.json

The plan says time and memory before the first step; a run's log says at its end how far off both were.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml

from benchmarks.provenance import machine, versions

LINE = re.compile(
    r"^(?P<time>\S+ \S+) Measured: (?P<measured>[\d.]+) s, (?P<memory>[\d.]+) GiB of memory\. "
    r"Planned: (?P<planned>[\d.]+) s \([^)]*\), (?P<planned_memory>[\d.]+) GiB"
)
NUMBERS = ("measured", "planned", "memory", "planned_memory")


def cost(run: Path) -> dict[str, Any] | None:
    """Seconds and GiB, planned and measured, of the last part of a run; None where it was not planned."""
    log = run / "train.log"
    found = [m for line in log.read_text().splitlines() if (m := LINE.match(line))] if log.is_file() else []
    if not found:
        return None
    settings = yaml.safe_load((run / "config.yaml").read_text())
    return {
        "name": run.name,
        **{key: settings[key] for key in ("method", "image_size", "batch", "steps")},
        **{key: float(found[-1][key]) for key in NUMBERS},
        "to": found[-1]["time"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Planned and measured cost of runs, as JSON.")
    parser.add_argument("runs", nargs="+", type=Path)
    runs = [found for run in parser.parse_args(arguments).runs if (found := cost(run)) is not None]
    if not runs:
        print("error: none of these runs was planned and ended", file=sys.stderr)
        return 2
    near = sum(abs(r["planned"] / r["measured"] - 1) <= 0.3 for r in runs)
    near_memory = sum(abs(r["planned_memory"] / r["memory"] - 1) <= 0.3 for r in runs)
    facts = {"runs": len(runs), "time_within_30_percent": near, "memory_within_30_percent": near_memory}
    print(json.dumps({**facts, "machine": machine("cpu"), "versions": versions(), "costs": runs}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
