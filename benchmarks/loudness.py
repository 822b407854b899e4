"""How loud an unsure teacher is: SED's normaliser V against the regions that lie on objects.

    python benchmarks/loudness.py RUN... --out benchmarks/trials/loudness.json

At the end of a run's burn-in, on its val images, by image: V, the sum of the teacher's squared best scores; how much of
it lies on objects; the locations that FCOS would make positive, which the labelled loss is divided by; and the class
term between the joined answer and the teacher's own at full size: what a student that knows as much would be taught.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.provenance import ROOT, machine, provenance, versions
from benchmarks.rows import write_json
from benchmarks.teacher_sizes import three_answers
from sedet.data.batch import Targets
from sedet.data.formats import align_classes, read_table
from sedet.detectors.build import rebuild_detector
from sedet.evaluation.two_sizes import assign
from sedet.methods.join import join_sizes
from sedet.methods.sed import binary_kl, class_weights
from sedet.settings import load_config
from sedet.training.checkpoint import load_checkpoint
from sedet.training.loop import BURN_IN_FILE


@torch.inference_mode()
def look(run: Path) -> dict[str, Any]:
    """Means over the val images, of the teacher at the end of the burn-in."""
    config = load_config(run / "config.yaml")
    checkpoint = Path(config.start or run) / "checkpoints" / BURN_IN_FILE
    stored = load_checkpoint(checkpoint)
    model = rebuild_detector(stored["facts"]["spec"], checkpoint).eval()
    model.load_state_dict(stored["teacher"])
    assert config.val is not None and config.image_size
    classes = tuple(stored["facts"]["data"]["classes"])
    table = align_classes(read_table(config.val, config.val_images, "val"), classes)
    sums = dict.fromkeys(("normalizer", "on_objects", "positives", "best_score", "class_term"), 0.0)
    position = 0
    for entries, views, _, (full, double, half) in three_answers(model, table, config.image_size):
        joined = join_sizes(full, double, half)
        visible = joined.scores().amax(dim=-1) ** 2 * joined.valid
        weighed = class_weights(joined.logits, full.logits, config.sed) * binary_kl(joined.logits, full.logits)
        sums["class_term"] += float((weighed * joined.valid[..., None]).sum())
        for i, (entry, view) in enumerate(zip(entries, views, strict=True)):
            objects = table.objects[position + i]
            boxes = torch.as_tensor(objects.boxes).float() * (view.width / entry.width)
            target = Targets(boxes, torch.as_tensor(objects.labels).long(), torch.zeros(0, 4))
            positive = assign(model, full, i, target) >= 0
            sums["normalizer"] += float(visible[i].sum())
            sums["on_objects"] += float(visible[i, positive].sum())
            sums["best_score"] += float(visible[i, positive].sqrt().sum())
            sums["positives"] += float(positive.sum())
        position += len(entries)
    images, positives, v = len(table), sums["positives"], sums["normalizer"]
    return {
        "run": run.name,
        "classes": len(classes),
        "images": images,
        "positives_per_image": round(positives / images, 1),
        "normalizer_per_image": round(v / images, 2),
        "normalizer_on_objects": round(sums["on_objects"] / v, 3),
        "best_score_of_positives": round(sums["best_score"] / positives, 3),
        "class_term": round(sums["class_term"] / v, 4),
        "class_term_by_positives": round(sums["class_term"] / positives, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    looks = [look(run) for run in options.runs]
    where = provenance(ROOT.parent / "shared" / "data")
    facts = {"commit": where.commit, "versions": versions(), "machine": machine("cpu")}
    write_json(options.out, {**facts, "runs": looks})
    print(json.dumps(looks, indent=1))


if __name__ == "__main__":
    main()
