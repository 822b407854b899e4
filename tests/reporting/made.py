"""A run folder and a comparison with names that would do harm in a page, made without training."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sedet.compare.cells import Comparison, Pool, make_cells, read_pool, write_data
from sedet.compare.table import FIGURES, row_file
from sedet.config import TrainConfig
from sedet.data.table import AnnotationTable
from sedet.data.write import write_json
from sedet.detectors.file import save_detector
from sedet.detectors.regions import Detections
from sedet.evaluation.coco import coco_metrics
from sedet.evaluation.stored import save_detections
from sedet.settings import save_config
from tests import tiny
from tests.data.sets import coco
from tests.training import runs

SCRIPT = "<script>window.harm = 1</script>"
QUOTE = "\"><img src=x onerror='window.harm=2'>"
FILE = "<img src=x onerror=window.harm=3>&'.png"
METRICS = """step,sup_class,distill_class,teacher_ap,student_ap,teacher_ap_small,labels_precision_best
1,1.5,0.0,,,,
2,1.0,0.0,10.0,12.5,1.0,0.25
3,0.9,0.5,,,,
4,0.8,0.25,15.0,14.0,2.0,0.75
"""


def run_folder(root: Path) -> Path:
    """A finished run of four steps, two of them on labels alone."""
    rng = np.random.default_rng(0)

    def boxes(count: int) -> list[list[tuple[int, list[float]]]]:
        return [[(3 + 4 * (i % 2), [*map(float, rng.integers(0, 24, 2)), 30.0, 20.0])] for i in range(count)]

    config = runs.data(root)
    categories = ((3, SCRIPT), (7, QUOTE))
    coco(root / "labeled", boxes(6), categories=categories)
    coco(root / "val", boxes(4), categories=categories, seed=100)
    first = min((root / "unlabeled").glob("*.png"))
    first.rename(first.with_name(FILE))
    out = root / "run"
    out.mkdir()
    save_config(replace(config, guard=False), out / "config.yaml")
    (out / "metrics.csv").write_text(METRICS)
    (out / "train.log").write_text(f"2026-01-01 10:00:00,123 Classes: {SCRIPT}\n2026-01-01 10:00:00,123 step 1 of 4\n")
    facts = {"step": 4, "metrics": {"ap": 15.0, "best_score": 0.2}, "versions": {"torch": torch.__version__}}
    save_detector(out / "best.safetensors", tiny.detector(2, confident=True), (SCRIPT, QUOTE), 64, facts)
    return out


def comparison_folder(root: Path) -> tuple[Comparison, Pool]:
    """A finished comparison of two methods on half of the labels, beside the data of :func:`run_folder`."""
    own, folder = settings(root / "run"), root / "comparison"
    cells = make_cells(("supervised", "sed"), (50,), (1,), (0,), ceiling=False, more_images=True)
    assert own.val is not None
    chosen = replace(TrainConfig(), device="cpu", image_size=64)
    made = Comparison(own.labeled, own.val, None, None, chosen, folder, cells, own.unlabeled)
    pool = read_pool(made)
    write_data(made, pool)
    # the labels alone find the objects of every other image, those of one class; SED finds all
    some, every = answers(pool.val, step=2), answers(pool.val)
    for number, cell in enumerate(cells):
        found = every if cell.method == "sed" else some
        metrics = coco_metrics(pool.val, found)
        run = folder / "runs" / cell.name
        run.mkdir(parents=True)
        shutil.copy(root / "run" / "best.safetensors", run)
        judged = [{"step": 2, "teacher_ap": 10.0}, {"step": 3}, {"step": 4, "teacher_ap": 15.0 + number}]
        write_json(run.with_name(f"{cell.name}.json"), {"finished": True, "rows": judged})
        row = {key: getattr(metrics, key, None) for key in FIGURES}
        row |= {"seconds": 60.0, "per_class": metrics.to_dict()["per_class"]}
        row |= {"settings": {"burn_in": 0.5}, "steps": 4, "device": "a processor", "versions": {"sedet": "0"}}
        write_json(row_file(made, cell), row)
        save_detections(row_file(made, cell).with_suffix(".npz"), found)
    return made, pool


def answers(table: AnnotationTable, step: int = 1) -> list[Detections]:
    """The truth as detections, on every ``step``-th image; and as sure, each beside its place and one of each class
    where nothing is."""
    found = []
    for i, objects in enumerate(table.objects):
        count = 0 if i % step else len(objects.labels)
        boxes, labels = torch.from_numpy(objects.boxes[:count]), torch.from_numpy(objects.labels[:count])
        beside = boxes + torch.tensor([20.0, 0.0, 20.0, 0.0])
        nothing = torch.tensor([[0.0, 0.0, 3.0, 3.0], [60.0, 44.0, 64.0, 48.0]])
        scores = torch.full((2 * count + 2,), 0.9)
        found.append(
            Detections(torch.cat([boxes, beside, nothing]), scores, torch.cat([labels, labels, torch.tensor([0, 1])]))
        )
    return found


def settings(folder: Path) -> TrainConfig:
    from sedet.settings import load_config

    return load_config(folder / "config.yaml")
