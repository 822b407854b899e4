"""Collect trial runs (run folders of ``sedet train``) into one JSON, and print them as a Markdown table.

    python benchmarks/trials.py RUN... --name demo-scenes --about "..." --commit HASH > table.md

Of runs made elsewhere (benchmarks/gpu.sh) metrics.csv and train.log are enough; --machine says on what they were made.
Trials are what was tried while developing, on dev, with one seed: they show where to look, not what is true.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml

from benchmarks.provenance import machine, versions
from benchmarks.rows import write_json
from sedet.config import TrainConfig
from sedet.settings import to_dict

HERE = Path(__file__).parent
KEPT = ("step", "teacher_ap", "teacher_ap50", "teacher_ap75", "teacher_ap_medium", "student_ap", "labels_recall_0.5")
"""Of an evaluation, where there is a value."""


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def trial(run: Path) -> dict[str, Any] | None:
    """What a run folder says of a trial; None for one without an evaluation."""
    if not (run / "metrics.csv").is_file():
        return None
    with (run / "metrics.csv").open() as file:
        judged = [row for row in csv.DictReader(file) if row.get("teacher_ap")]
    if not judged:
        return None
    log = (run / "train.log").read_text().splitlines()
    return {
        "name": run.name,
        **(configured(run / "config.yaml") if (run / "config.yaml").is_file() else planned(log)),
        "curve": [
            {key: value for key in KEPT if math.isfinite(value := float(row.get(key) or "nan"))} for row in judged
        ],
        "from": log[0][:19],
        "to": log[-1][:19],
    }


def configured(file: Path) -> dict[str, Any]:
    """What a run's settings say."""
    settings = yaml.safe_load(file.read_text())
    defaults = flat(to_dict(TrainConfig()))
    paths = {"labeled", "unlabeled", "val", "images", "val_images", "out", "start"}
    return {
        "method": settings["method"],
        "labeled": Path(settings["labeled"]).parent.name + "/" + Path(settings["labeled"]).name,
        "settings": {k: v for k, v in flat(settings).items() if k not in paths and v != defaults.get(k)},
        "seed": settings["seed"],
        "steps": settings["steps"],
    }


def planned(log: Sequence[str]) -> dict[str, Any]:
    """The same from the plan that the log begins with: ``  steps     4000: 1200 on the labels alone ...``"""
    lines = [line[24:] for line in log]
    found: dict[str, str] = {}
    for line in lines[lines.index("Plan") + 1 :]:
        if not line.startswith("  "):
            break
        key, value = line[2:12].strip(), line[12:].strip()
        if key:
            found[key] = value
    method, seed = found["method"].split(", seed ")
    return {"method": method, "settings": found, "seed": int(seed), "steps": int(re.split(r"[:;]", found["steps"])[0])}


def markdown(trials: list[dict[str, Any]]) -> str:
    lines = ["| trial | method | step | AP teacher | AP50 | AP student |", "|---|---|---|---|---|---|"]
    for one in trials:
        last = one["curve"][-1]
        lines.append(
            f"| {one['name']} | {one['method']} | {last['step']:.0f}/{one['steps']} | {last['teacher_ap']:.1f} "
            f"| {last['teacher_ap50']:.1f} | {last['student_ap']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--about", required=True)
    parser.add_argument("--commit", required=True, help="the commit, or commits, that the trials ran from")
    parser.add_argument("--machine", type=Path, help="JSON of the versions and the device, if they ran elsewhere")
    options = parser.parse_args()
    here = {"versions": versions(), "device": machine("cpu")}
    trials = [one for run in options.runs if (one := trial(run)) is not None]
    record = {
        "about": options.about,
        "commit": options.commit,
        **(json.loads(options.machine.read_text()) if options.machine else here),
        "trials": trials,
    }
    write_json(HERE / "trials" / f"{options.name}.json", record)
    print(markdown(trials))


if __name__ == "__main__":
    main()
