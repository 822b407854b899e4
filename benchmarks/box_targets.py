"""How well the boxes lie that SED's box term could teach, at the end of a run's burn-in, on val.

    python benchmarks/box_targets.py RUN... --out benchmarks/trials/box-targets.json

For each region that answers for an object, by the detector's own assignment: IoU of the teacher's box with the object,
weighed by the square of its joined score as the box term is. The student starts as the teacher does: a target teaches
only what it has over the teacher's own boxes at full size. A look behind the method, not a result.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.provenance import ROOT, provenance, versions
from benchmarks.rows import write_json
from benchmarks.teacher_sizes import three_answers
from sedet.data.batch import Targets
from sedet.data.formats import align_classes, read_table
from sedet.detectors.build import rebuild_detector
from sedet.evaluation.two_sizes import assign
from sedet.methods.join import join_sizes, paired_iou
from sedet.methods.vote import voted_boxes
from sedet.settings import load_config
from sedet.training.checkpoint import load_checkpoint
from sedet.training.loop import BURN_IN_FILE


@torch.inference_mode()
def look(run: Path) -> dict[str, Any]:
    """Mean IoU, and share of 0.75 and more, of each kind of target: of all classes, and of each."""
    config = load_config(run / "config.yaml")
    checkpoint = Path(config.start or run) / "checkpoints" / BURN_IN_FILE
    stored = load_checkpoint(checkpoint)
    model = rebuild_detector(stored["facts"]["spec"], checkpoint).eval()
    model.load_state_dict(stored["teacher"])
    classes = tuple(stored["facts"]["data"]["classes"])
    assert config.val is not None and config.image_size
    table = align_classes(read_table(config.val, config.val_images, "val"), classes)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    looks = [look(run) for run in options.runs]
    where = provenance(ROOT.parent / "shared" / "data")
    write_json(options.out, {"commit": where.commit, "versions": versions(), "runs": looks})
    print(json.dumps(looks, indent=1))


if __name__ == "__main__":
    main()
