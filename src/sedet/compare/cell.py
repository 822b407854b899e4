"""One cell, in a process of its own: train, judge the last teacher, write the row.

    python -m sedet.compare.cell JOB.json

``JOB.json`` is written by :mod:`sedet.compare.work`. What is done is skipped, what was interrupted goes on.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sedet import settings
from sedet.compare.terms import terms
from sedet.config import TrainConfig
from sedet.data.formats import align_classes, read_table
from sedet.data.write import write_json
from sedet.detectors.file import load_detector
from sedet.errors import SedetError
from sedet.evaluation.coco import coco_metrics
from sedet.evaluation.stored import save_detections
from sedet.origin import commit, device_name
from sedet.text import printable
from sedet.training import plan
from sedet.training.run import versions
from sedet.training.unattended import finish_run, locked
from sedet.training.validate import Judge

SCORES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def work(job: dict[str, Any]) -> None:
    """Do what a job asks for: a burn-in that others start from, or a cell with its row. What is there is left alone.

    Args:
        job: ``config``, the settings; ``cell``, its facts, for the row; ``row`` and ``detections``, the files to write;
            ``burn_in``, the run folder to start from (all None for a burn-in).
    """
    if job["row"] is not None and Path(job["row"]).is_file():  # another runner was at it
        return
    config = settings.from_dict(job["config"])
    folder = Path(config.out)
    version = versions()["sedet"]
    if job["row"] is None:
        burn_in = plan.make_schedule(config).burn_in
        finish_run(replace(config, stop=burn_in), folder, version, wait=True)
        return
    begun = Path(job["burn_in"])  # its name may hold a point, as in 0.5 percent
    burn = json.loads(begun.with_name(f"{begun.name}.json").read_text(encoding="utf-8"))
    record = finish_run(replace(config, start=job["burn_in"]), folder, version, wait=True)
    row = judged(config, folder, Path(job["detections"]))
    device = torch.device(plan.resolve_device(config))
    row |= {
        **job["cell"],
        "settings": terms(settings.load_config(folder / "config.yaml")),  # what it was trained with
        "seconds": round(burn["seconds"] + record["seconds"], 1),
        "burn_in_seconds": round(burn["seconds"], 1),
        "memory": record["memory"],
        "burn_in_ap": record["labels_alone"],
        "selection": "last teacher",
        "device": device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "versions": versions(),
        "commit": commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(Path(job["row"]), row)


def judged(config: TrainConfig, folder: Path, keep: Path) -> dict[str, Any]:
    """Scores of a run's last teacher on val, its detections kept beside."""
    assert config.val is not None
    loaded = load_detector(folder / "best.safetensors", torch.device(plan.resolve_device(config)))
    table = align_classes(read_table(config.val, config.val_images, "val"), loaded.classes)
    judge = Judge(table, loaded.image_size, batch=2 * (config.batch or 8), cache=0)
    detections = judge.detections(loaded.model)
    if judge.unread:
        raise SedetError(f"{judge.unread[0]} cannot be read: a score over fewer images compares with none")
    save_detections(keep, detections)
    metrics = coco_metrics(table, detections)
    return {key: getattr(metrics, key) for key in SCORES} | {"per_class": metrics.to_dict()["per_class"]}


def main(argv: list[str]) -> int:
    try:
        path = Path(argv[0])
        with locked(path.with_suffix(".lock"), wait=True):  # over judging too, for which the run's own is let go
            work(json.loads(path.read_text(encoding="utf-8")))
    except (SedetError, OSError) as error:
        print(printable(f"sedet: error: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
