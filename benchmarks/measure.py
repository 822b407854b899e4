"""Measure one cell: the shared burn-in, the training, the judgement, the rows. Each part is done once.

A run lies in ``work/runs/NAME-ID/``; beside it ``NAME-ID.json`` keeps commits and times and says when it is
finished, and ``NAME-ID.lock`` keeps a second runner away. After an interruption a run continues from its last
checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import rows
from benchmarks.inputs import CellData, area_ranges, cell_data, judged_table
from benchmarks.plan import PLACES, THRESHOLDS, Cell, Job, Recipe, burn_in_folder, load_recipe, make_job
from benchmarks.provenance import Provenance, machine, versions
from sedet.config import TrainConfig
from sedet.detectors.build import Detector
from sedet.detectors.file import load_detector
from sedet.detectors.regions import Detections
from sedet.errors import ConfigError, DataError
from sedet.evaluation.coco import Metrics, coco_metrics
from sedet.evaluation.pseudo_labels import pseudo_label_quality
from sedet.evaluation.stored import save_detections
from sedet.settings import to_dict
from sedet.training.plan import resolve_device
from sedet.training.unattended import Busy, finish_run, is_locked
from sedet.training.validate import Judge


@dataclass(frozen=True)
class Setting:
    """Where and with what cells are measured.

    Attributes:
        data: folder of the data sets; work: for runs and detections, ignored by git; results: for rows.
        reason: why val is opened.
        extra: settings of a variant of one's own, for trials on dev.
        on_machine: device, threads, workers, cache: what changes no number.
    """

    data: Path
    work: Path
    results: Path
    provenance: Provenance
    recipes: Path
    reason: str = ""
    replace_rows: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    on_machine: Mapping[str, Any] = field(default_factory=dict)


def measure(cell: Cell, setting: Setting, wait: bool = True) -> str:
    """Measure a cell, or what is missing of it.

    Args:
        wait: for another runner that trains the burn-in.

    Returns:
        What was done, one line.

    Raises:
        Busy: another runner is at it, or at its burn-in.
        SedetError: anything a user can mend.
    """
    refuse(cell, setting)
    recipe, data, job = planned(cell, setting)
    target = setting.results / f"{cell.name}.json"
    known = rows.read_result(target)
    if known is not None and setting.provenance.for_tables and known["rows"][0]["commit"].endswith("-dirty"):
        known = None  # measured from a changed tree: not for tables
    if known is not None and not setting.replace_rows:
        if known["config_id"] == job.config_id:
            return f"{cell.name}: done before"
        raise ConfigError(
            f"{target} was measured with other settings or data (its configuration is {known['config_id']}, now "
            f"{job.config_id}): give the recipe another name, or --replace it"
        )

    config = replace(job.config, **setting.on_machine)
    folder = setting.work / "runs" / f"{cell.run_name}-{job.config_id}"
    if is_locked(folder.with_name(f"{folder.name}.lock")):
        raise Busy(f"another runner is at {folder.name}")
    burn = burn_in_folder(setting.work, cell, job)
    burn_config = replace(job.burn_in, out=str(burn), stop=job.burn_in_steps, **setting.on_machine)
    burn_record = finish_run(burn_config, burn, setting.provenance.commit, wait=wait)
    config = replace(config, out=str(folder), start=str(burn))
    record = finish_run(config, folder, setting.provenance.commit)

    if cell.split == "val":
        opening = {"cell": cell.name, "config_id": job.config_id, "reason": setting.reason}
        rows.log_opening(setting.results, {**opening, "commit": setting.provenance.commit, "time": now()})
    judged = {
        teacher: judge_model(cell, setting, folder / name, config)
        for teacher, name in ((True, "best.safetensors"), (False, "student.safetensors"))
    }
    for teacher, (_, detections) in judged.items():
        save_detections(rows.detections_file(setting.work, cell, job.config_id, teacher), detections)
    common = facts(cell, setting, job, data, recipe.trials[cell.method], (burn_record, record), config)
    result = {
        "config_id": job.config_id,
        "rows": [make_row(common, metrics, teacher) for teacher, (metrics, _) in judged.items()],
        "curve": curve(record["rows"]),
        "losses": losses(record["rows"]),
        **({"labels": label_quality(cell, setting, judged[True][1])} if cell.split == "dev" else {}),
        "settings": job.settings,
        "config": {k: v for k, v in to_dict(job.config).items() if k not in PLACES},
    }
    rows.write_json(target, result)
    teacher_ap, student_ap = (judged[t][0].ap for t in (True, False))
    return f"{cell.name}: teacher AP {teacher_ap:.2f}, student AP {student_ap:.2f}, {common['seconds']:.0f} s"


def planned(cell: Cell, setting: Setting) -> tuple[Recipe, CellData, Job]:
    """A cell's recipe, data and settings."""
    recipe = load_recipe(cell.recipe, cell.dataset, setting.recipes)
    data = cell_data(cell, setting.data, setting.work)
    length = wallclock_length(cell, setting) if cell.variant == "wallclock" else None
    return recipe, data, make_job(cell, recipe, data.inputs, setting.extra, length)


def state(cell: Cell, setting: Setting) -> str:
    """``missing``, ``done``, ``other`` (a row of other settings or data), or ``done?`` where the data are not here."""
    known = rows.read_result(setting.results / f"{cell.name}.json")
    if known is None:
        return "missing"
    try:
        return "done" if planned(cell, setting)[2].config_id == known["config_id"] else "other"
    except DataError:
        return "done?"


def refuse(cell: Cell, setting: Setting) -> None:
    """What the rules of evidence forbid."""
    if cell.split == "val":
        if cell.dataset == "demo":
            raise ConfigError("the demo has one set to judge by: leave --split out")
        if not setting.provenance.for_tables:
            raise ConfigError("val is opened from a clean tree only")
        if setting.extra:
            raise ConfigError("val is opened for frozen configurations only, not with --set")
        if not setting.reason.strip():
            raise ConfigError("opening val takes a --reason: it is logged with the configuration")
    if cell.percent == 100 and cell.method != "supervised":
        raise ConfigError("100 percent is the ceiling: method supervised on all the pool's labels")


def wallclock_length(cell: Cell, setting: Setting) -> float:
    """Updates after the burn-in that take the twin as long as SED, as a multiple: from the defaults' rows."""
    after = []
    for method in ("sed", cell.method):
        other = replace(cell, method=method, variant="default")
        for split in (cell.split, "dev"):
            result = rows.read_result(setting.results / f"{replace(other, split=split).name}.json")
            if result is not None:
                row = result["rows"][0]
                after.append(row["seconds"] - row["burn_in_seconds"])
                break
    if len(after) < 2:
        raise ConfigError(f"{cell.name} needs the rows of sed and supervised, variant default, first")
    return float(round(after[0] / after[1], 2))


# --- judgement and rows -------------------------------------------------------------------------------------


def label_quality(cell: Cell, setting: Setting, detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """What the teacher's answers on dev would be worth as hard labels: precision, recall, labels an image."""
    table = judged_table(cell, setting.data, setting.work)
    found = pseudo_label_quality(table, detections, THRESHOLDS)
    return [{key: round(value, 3) for key, value in one._asdict().items()} for one in found]


def judge_model(cell: Cell, setting: Setting, file: Path, config: TrainConfig) -> tuple[Metrics, list[Detections]]:
    """Metrics and detections of a detector file on the cell's split."""
    table = judged_table(cell, setting.data, setting.work)
    loaded = load_detector(file, torch.device(resolve_device(config)))
    if loaded.classes != table.classes:
        raise ConfigError(f"{file} knows {', '.join(loaded.classes)}, but is judged by {', '.join(table.classes)}")
    model: Detector = loaded.model
    judge = Judge(table, loaded.image_size, batch=2 * (config.batch or 8), cache=0)
    detections = judge.detections(model)
    if judge.unread:
        raise ConfigError(f"{judge.unread[0]} cannot be read: a row over fewer images compares with none")
    return coco_metrics(table, detections, area_ranges=area_ranges(cell.dataset)), detections


def facts(
    cell: Cell,
    setting: Setting,
    job: Job,
    data: CellData,
    trials: int,
    records: tuple[dict[str, Any], dict[str, Any]],
    config: TrainConfig,
) -> dict[str, Any]:
    """What both rows of a cell share."""
    device = resolve_device(config)
    burn, own = records
    commits = list(dict.fromkeys([*own["commits"], *burn["commits"], setting.provenance.commit]))
    dirty = [c for c in commits if c.endswith("-dirty")]
    saved = load_detector(setting.work / "runs" / f"{cell.run_name}-{job.config_id}").metadata["config"]
    return {
        "dataset": cell.dataset,
        "percent": cell.percent,
        "fold": cell.fold,
        "seed": cell.seed,
        "method": cell.method,
        "variant": cell.variant,
        "recipe": cell.recipe,
        "split": cell.split,
        "detector": saved["detector"],
        "backbone": saved["backbone"],
        "image_size": saved["image_size"],
        "batch": saved["batch"],
        "rate": saved["rate"],
        "steps": saved["steps"],
        "burn_in_steps": job.burn_in_steps,
        "labeled_images": data.labeled,
        "unlabeled_images": 0 if cell.method == "supervised" else data.pool,
        "left_out": data.left_out,
        "burn_in_ap": own["labels_alone"],
        "trial": bool(setting.extra),
        "trials": trials,
        "seconds": round(burn["seconds"] + own["seconds"], 1),
        "burn_in_seconds": round(burn["seconds"], 1),
        "device": device,
        "machine": machine(device),
        "commit": dirty[0] if dirty else own["commits"][0],
        "commits": commits,
        "config_id": job.config_id,
        "versions": versions(),
        "time": now(),
    }


def make_row(common: dict[str, Any], metrics: Metrics, teacher: bool) -> rows.Row:
    values = metrics.to_dict()
    summary = {key: values.pop(key) for key in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")}
    selection = "last teacher" if teacher else "last student"
    judged = {"judged_images": values["images"], "judged_boxes": values["boxes"], "per_class": values["per_class"]}
    return {**common, "teacher": teacher, "selection": selection, **summary, "ar100": values["ar100"], **judged}


SCORES = ("teacher_ap", "teacher_ap50", "student_ap", "student_ap50")


def curve(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The evaluations on dev while training, burn-in included."""
    return [
        {"step": row["step"], **{k: None if row[k] is None else round(row[k], 3) for k in SCORES}}
        for row in metrics
        if "teacher_ap" in row
    ]


def losses(metrics: list[dict[str, Any]]) -> dict[str, float]:
    """Mean of each weighted loss over the last tenth of the steps."""
    tail = [row for row in metrics if row["step"] > 0.9 * metrics[-1]["step"]]
    keys = [k for k in metrics[-1] if k.startswith(("sup_", "distill_", "scale_"))]
    return {k: round(sum(row[k] for row in tail) / len(tail), 5) for k in keys if all(k in row for row in tail)}


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
