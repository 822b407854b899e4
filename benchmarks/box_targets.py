"""How well the boxes lie that SED's box term could teach, at the end of a run's burn-in, on val.

    python benchmarks/box_targets.py RUN... --out benchmarks/trials/box-targets.json

For each region that answers for an object, by the detector's own assignment: IoU of the teacher's box with the object,
weighed by the square of its joined score as the box term is. The student starts as the teacher does: a target teaches
only what it has over the teacher's own boxes at full size. A look behind the method, not a result.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.teacher_sizes import burn_in_teacher, looked, three_answers
from sedet.data.batch import Targets
from sedet.evaluation.two_sizes import assign
from sedet.methods.join import join_sizes, paired_iou
from sedet.methods.vote import voted_boxes


@torch.inference_mode()
def look(run: Path) -> dict[str, Any]:
    """Mean IoU, and share of 0.75 and more, of each kind of target: of all classes, and of each."""
    model, table, config = burn_in_teacher(run)
    classes = table.classes
    assert config.image_size
    sums: dict[str, dict[str, list[float]]] = {}
    position = 0
    for entries, views, _, (full, double, half) in three_answers(model, table, config.image_size):
        joined = join_sizes(full, double, half)
        kinds = {"full size": full, "full size, voted": voted_boxes(full)}
        kinds |= {"joined": joined, "joined, voted": voted_boxes(joined)}
        for i, (entry, view) in enumerate(zip(entries, views, strict=True)):
            objects = table.objects[position + i]
            boxes = torch.as_tensor(objects.boxes).float() * (view.width / entry.width)
            labels = torch.as_tensor(objects.labels).long()
            index = assign(model, full, i, Targets(boxes, labels, torch.zeros(0, 4)))
            row = (index >= 0).nonzero().squeeze(1)
            weight, label = joined.scores()[i, row].amax(dim=-1) ** 2, labels[index[row]]
            for kind, regions in kinds.items():
                iou = paired_iou(regions.boxes[i, row], boxes[index[row]])
                for name, chosen in (("all", label >= 0), *((c, label == n) for n, c in enumerate(classes))):
                    total = sums.setdefault(name, {}).setdefault(kind, [0.0, 0.0, 0.0])
                    w, v = weight[chosen], iou[chosen]
                    for k, value in enumerate((w.sum(), (w * v).sum(), (w * (v >= 0.75)).sum())):
                        total[k] += float(value)
        position += len(entries)
    found = {
        name: {k: {"iou": round(b / a, 3), "over_075": round(c / a, 3)} for k, (a, b, c) in kinds.items() if a}
        for name, kinds in sums.items()
    }
    return {"run": run.name, "views": {"scale_max": config.views.scale_max}, "steps": config.steps, "targets": found}


if __name__ == "__main__":
    looked(__doc__, look)
