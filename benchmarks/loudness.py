"""How loud an unsure teacher is: SED's normaliser V against the regions that lie on objects.

    python benchmarks/loudness.py RUN... --out benchmarks/trials/loudness.json

At the end of a run's burn-in, on its val images, by image: V, the sum of the teacher's squared best scores; how much of
it lies on objects; the locations that FCOS would make positive, which the labelled loss is divided by; and the class
term between the joined answer and the teacher's own at full size: what a student that knows as much would be taught.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.provenance import machine
from benchmarks.teacher_sizes import burn_in_teacher, looked, three_answers
from sedet.data.batch import Targets
from sedet.evaluation.two_sizes import assign
from sedet.methods.join import join_sizes
from sedet.methods.sed import binary_kl, class_weights


@torch.inference_mode()
def look(run: Path) -> dict[str, Any]:
    """Means over the val images, of the teacher at the end of the burn-in."""
    model, table, config = burn_in_teacher(run)
    assert config.image_size
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
        "classes": len(table.classes),
        "images": images,
        "positives_per_image": round(positives / images, 1),
        "normalizer_per_image": round(v / images, 2),
        "normalizer_on_objects": round(sums["on_objects"] / v, 3),
        "best_score_of_positives": round(sums["best_score"] / positives, 3),
        "class_term": round(sums["class_term"] / v, 4),
        "class_term_by_positives": round(sums["class_term"] / positives, 4),
    }


if __name__ == "__main__":
    looked(__doc__, look, machine=machine("cpu"))
