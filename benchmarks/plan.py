"""What is measured: cells, the variants of each method, recipes, and the settings that follow from them."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from sedet.catalog import METHODS
from sedet.config import TrainConfig
from sedet.demo.scenes import DemoData
from sedet.demo.settings import TRIALS, demo_config
from sedet.errors import ConfigError
from sedet.methods.teacher import ema_decay
from sedet.settings import from_dict, to_dict
from sedet.training.plan import sed_defaults

HERE = Path(__file__).resolve().parent
RECIPES = HERE / "recipes.yaml"

DATASETS = ("coco-people", "bccd", "vehicles", "demo")
DEMO_RECIPES = ("demo-hold", "demo-long", "demo")
"""What ``sedet demo`` does, and what it did before."""
SPLITS = ("dev", "val")
"""dev: for everything that looks at scores while deciding. val: for the report, once a frozen configuration."""

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
HARD = {
    "sed.targets": "hard",
    "sed.overlay": 0.0,
    **dict.fromkeys(("sed.class_weight", "sed.box_weight", "sed.quality_weight"), 1.0),
}

TUNED: dict[str, dict[str, dict[str, Any]]] = {
    "consistent-teacher": {"weight-0.5": {"consistent_teacher.weight": 0.5}},
    "csd": {"over-0.1": {"csd.threshold": 0.1}, "over-0.2": {"csd.threshold": 0.2}},
    "dense-teacher": {"share-0.1": {"dense_teacher.share": 0.1}},
    "mixpl": {
        "over-0.5": {"mixpl.threshold": 0.5},
        "over-0.5-mosaic-1": {"mixpl.threshold": 0.5, "mixpl.mosaic_weight": 1.0},
    },
    "stac": {"over-0.7": {"stac.threshold": 0.7}},
    "unbiased-teacher": {
        "over-0.5": {"unbiased_teacher.threshold": 0.5},
        "over-0.6-weight-2": {"unbiased_teacher.threshold": 0.6, "unbiased_teacher.weight": 2.0},
    },
}

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "supervised": {
        "default": {},
        "no-half": {"half_size": False},
        "2x": {"length": 2},
        "4x": {"length": 4},
        "wallclock": {"length": "wallclock"},
    },
    "sed": {
        "default": {},
        "2x": {"length": 2},
        # the ablation: each part away, each choice replaced
        "no-scale": {"sed.scale": False},
        "no-distill": {"sed.distill": False},
        "one-size": {"sed.three_sizes": False},
        "reweight-foreground": {"sed.reweight": "foreground"},
        "reweight-none": {"sed.reweight": "none"},
        "no-reweight": {"sed.reweight": "none", "sed.normalizer": "count"},  # a plain mean over all regions
        "gamma-2": {"sed.gamma": 2.0, "sed.class_weight": 2.0},
        "box": {"sed.box_weight": 1.0, "sed.quality_weight": 1.0},
        "box-one-size": {"sed.box_weight": 1.0, "sed.quality_weight": 1.0, "sed.three_sizes": False},
        "box-smooth-l1": {"sed.box_weight": 1.0, "sed.quality_weight": 1.0, "sed.box_loss": "smooth_l1"},
        "no-box": {"sed.box_weight": 0.0, "sed.quality_weight": 0.0},  # where the recipe has them on
        "overlay": {"sed.overlay": 1.0},
        "classes": {"sed.overlay": 0.0, "sed.box_weight": 0.0},  # the library's default, where the recipe has another
        "no-overlay": {"sed.overlay": 0.0},  # where the recipe has it on
        "sharp": {"sed.student_view": "strong", "sed.sharpness": 2.0},
        "fast-teacher": {"ema_decay": 0.93},
        "weak-view": {"sed.student_view": "weak"},
        "strong-view": {"sed.student_view": "strong"},  # where the recipe has the weak one
        "sharper": {"sed.temperature": 0.5},
        # hard labels with the detector's whole loss, as is usual, and with the class term alone
        **{f"hard-{t}": {**HARD, "sed.threshold": t} for t in THRESHOLDS},
        **{
            f"hard-class-{t}": {**HARD, "sed.box_weight": 0.0, "sed.quality_weight": 0.0, "sed.threshold": t}
            for t in THRESHOLDS
        },
        "no-half-labeled": {"half_size": False},
    },
    # the other methods: as published, their settings scaled by the loop, and with what was chosen for them on dev
    **{
        method: {"default": {}, "2x": {"length": 2}, **TUNED.get(method, {})}
        for method in METHODS
        if method not in ("supervised", "sed")
    },
}
"""Settings of each variant over those of its method. ``length`` multiplies the updates after the burn-in;
``wallclock`` takes as many as SED's time allows."""

ALGORITHM = 4
"""Counts changes of SED's code that change its results without a setting; part of each configuration's name."""
TRAINING = 3
"""The same for what all methods share: detector, views, schedule."""

FIXED = {"report": False, "guard": False, "patience": 0, "stop": None, "start": None}
"""Never the best of several: what is judged is the last teacher."""

PLACES = ("out", "start", "stop", "labeled", "unlabeled", "val", "images", "val_images")
"""Settings that say where things are."""

NOT_NUMBERS = (*PLACES, "device", "threads", "workers", "cache", "save_every", "loggers", "report")
"""Settings that do not change what a training computes, and so are no part of a configuration's name."""


@dataclass(frozen=True, order=True)
class Cell:
    """One training to measure.

    Attributes:
        percent: labelled share of the pool; 100 is the ceiling. The demo has its own share, or 100.
        fold: which images keep their labels (coco-people, bccd, vehicles).
        seed: of the training; for the demo also of its scenes.
        split: what the finished detector is judged on.
    """

    dataset: str
    percent: float
    fold: int
    method: str
    variant: str
    seed: int
    recipe: str
    split: str = "dev"

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.dataset, DATASETS, "data set"),
            (self.method, VARIANTS, "method"),
            (self.split, SPLITS, "split"),
        ):
            if value not in known:
                raise ConfigError(f"there is no {what} '{value}' in the benchmarks; use one of {', '.join(known)}")
        if not 0 < self.percent <= 100:
            raise ConfigError(f"percent must be above 0 and at most 100, not {self.percent:g}")

    @property
    def run_name(self) -> str:
        """The training's name: the same whatever it is judged on."""
        return f"{self.dataset}-{self.percent:g}-f{self.fold}-{self.method}-{self.variant}-s{self.seed}-{self.recipe}"

    @property
    def name(self) -> str:
        return f"{self.run_name}-{self.split}"


@dataclass(frozen=True)
class Recipe:
    """Frozen settings of a family of cells.

    Attributes:
        settings: TrainConfig overrides of all methods: they shape the shared burn-in too.
        methods: overrides of one method, for what comes after the burn-in.
        trials: how often each method was tried on dev before it was frozen.
    """

    name: str
    about: str
    settings: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    trials: Mapping[str, int]


def load_recipe(name: str, dataset: str, path: Path = RECIPES) -> Recipe:
    """A recipe as it stands for one data set.

    Raises:
        ConfigError: there is no such recipe, or it has an unknown part.
    """
    recipes = yaml.safe_load(path.read_text(encoding="utf-8"))
    if name not in recipes:
        raise ConfigError(f"there is no recipe '{name}' in {path.name}; it has {', '.join(recipes)}")
    general = dict(recipes[name])
    special = dict(general.pop("datasets", {}).get(dataset, {}))
    for part in (general, special):
        unknown = set(part) - {"about", "settings", "methods", "trials"}
        if unknown:
            raise ConfigError(f"{path.name}, recipe {name}: unknown part '{unknown.pop()}'")
    methods = {
        method: {**general.get("methods", {}).get(method, {}), **special.get("methods", {}).get(method, {})}
        for method in VARIANTS
    }
    return Recipe(
        name,
        str(special.get("about", general.get("about", ""))),
        {
            **(demo_settings() if name in DEMO_RECIPES else {}),
            **general.get("settings", {}),
            **special.get("settings", {}),
        },
        methods,
        {
            **dict.fromkeys(VARIANTS, 0),
            **(TRIALS if name in DEMO_RECIPES else {}),
            **general.get("trials", {}),
            **special.get("trials", {}),
        },
    )


def demo_settings() -> dict[str, Any]:
    """The settings of ``sedet demo`` itself, but for its paths, method and seed."""
    empty = DemoData(Path(), Path(), Path(), Path(), Path(), (), {}, {})
    config = to_dict(demo_config(empty, seed=0, fast=False))
    return {key: value for key, value in config.items() if key not in (*NOT_NUMBERS, "method", "seed", *FIXED)}


@dataclass(frozen=True)
class Inputs:
    """What a cell's training reads: paths for TrainConfig, and a digest of what they hold."""

    labeled: str
    images: str
    unlabeled: tuple[str, ...]
    val: str
    val_images: str
    digest: str


@dataclass(frozen=True)
class Job:
    """The two trainings of a cell: the burn-in, which cells share, and what follows it.

    Attributes:
        burn_in, config: complete settings but for out, start, stop and the machine's.
        burn_in_steps: updates of the burn-in.
        settings: what differs from the method's default, for the row.
        config_id: names everything that the numbers depend on.
    """

    burn_in: TrainConfig
    config: TrainConfig
    burn_in_steps: int
    settings: dict[str, Any]
    burn_in_id: str
    config_id: str


def burn_in_folder(work: Path, cell: Cell, job: Job) -> Path:
    """Where the burn-in lies that a cell starts from, with others of the same data and settings."""
    return work / "runs" / f"{cell.dataset}-{cell.percent:g}-f{cell.fold}-s{cell.seed}-burn-in-{job.burn_in_id}"


def make_job(
    cell: Cell, recipe: Recipe, inputs: Inputs, extra: Mapping[str, Any] | None = None, length: float | None = None
) -> Job:
    """The settings of a cell.

    Args:
        extra: settings of a variant that is not in VARIANTS (trials on dev).
        length: updates after the burn-in as a multiple of the recipe's, for the variant ``wallclock``.

    Raises:
        ConfigError: an unknown variant or setting, or a recipe without the number of steps.
    """
    known = VARIANTS[cell.method]
    if (cell.variant in known) == bool(extra):
        raise ConfigError(
            f"'{cell.variant}' is a variant of {cell.method} with settings of its own: give your --set another name"
            if extra
            else f"{cell.method} has no variant '{cell.variant}'; it has {', '.join(known)}"
        )
    changes = dict(extra or known[cell.variant])
    times = changes.pop("length", 1)
    if times == "wallclock":
        if length is None:
            raise ConfigError("the variant wallclock needs the rows of both defaults first")
        times = length
    given = {
        "labeled": inputs.labeled,
        "images": inputs.images,
        "val": inputs.val,
        "val_images": inputs.val_images,
        "unlabeled": inputs.unlabeled if cell.method != "supervised" else (),
    }
    base = from_dict({**recipe.settings, **given, **FIXED, "seed": cell.seed})
    if base.steps is None or base.batch is None or base.image_size is None:
        raise ConfigError(f"recipe {recipe.name}: steps, batch and image_size must be written down")
    burn = round((0.25 if base.burn_in is None else base.burn_in) * base.steps)
    if not 0 < burn < base.steps:
        raise ConfigError(f"recipe {recipe.name}: a burn-in of {burn} of {base.steps} steps leaves one part empty")

    # What the burn-in depends on: not the methods' own settings, so that all methods share one. Without
    # half-size labels SED still trains the level its half-size views need: then each has its own.
    half_size = bool(changes.get("half_size", base.half_size))
    shared = {**({"half_size": half_size} if not half_size else {}), "burn_in": burn / base.steps}
    burn_in = from_dict(shared, replace(base, ema_decay=_decay(base, base.steps - burn), **LATER))
    if half_size or cell.method == "supervised":
        burn_in = replace(burn_in, method="supervised", unlabeled=())
    else:
        own = {**recipe.methods[cell.method], **{k: v for k, v in changes.items() if k == "sed.scale"}}
        burn_in = from_dict(own, replace(burn_in, method="sed"))

    config = from_dict({**recipe.methods[cell.method], **changes, "method": cell.method}, base)
    after = max(1, round(times * (base.steps - burn)))
    period = config.eval_every or max(1, base.steps // 12)
    config = replace(
        config,
        steps=burn + after,
        burn_in=burn / (burn + after),
        ramp=config.ramp * base.steps / (burn + after),
        warmup=config.warmup * base.steps / (burn + after),
        eval_every=max(1, round(period * (burn + after) / base.steps)),
        # the twin and SED average over the same window
        ema_decay=_decay(config, after),
    )
    if cell.method == "sed":  # as the training fills it in
        burn_in, config = (replace(c, sed=sed_defaults(c.sed)) for c in (burn_in, config))
    settings = {**recipe.methods[cell.method], **changes, **({"length": times} if times != 1 else {})}
    return Job(burn_in, config, burn, settings, identity(burn_in, inputs), identity(config, inputs, burn_in))


BEFORE = {
    "class_share": 0.5,
    "class_share_end": None,
    "box_share": 1.0,
    "box_gamma": 0.0,
    "box_target": "region",
    "largest_zoom": 4.0,
    "overlay": 0.0,
    "sharpness": 1.0,
}
"""SED's settings that came later, and what they were before there was a choice: no part of a name then."""

LATER: dict[str, Any] = {"hold": 0.0, "ema_end": 0.0}
"""The same for settings of the schedule. They play no part in a burn-in."""

GROUPS = {name: entry.group for name, entry in METHODS.items() if entry.group}
"""The settings that are one method's own."""


def _decay(config: TrainConfig, after: int) -> float:
    return ema_decay(10**9, after) if config.ema_decay is None else config.ema_decay


def identity(config: TrainConfig, inputs: Inputs, burn_in: TrainConfig | None = None) -> str:
    """Twelve hex digits that name a configuration together with its data (and the burn-in it starts from)."""

    def numbers(c: TrainConfig) -> dict[str, Any]:
        found = {key: value for key, value in to_dict(c).items() if key not in NOT_NUMBERS}
        for key, value in LATER.items():
            if found[key] == value:
                del found[key]
        for method, group in GROUPS.items():
            if c.method != method:
                del found[group]  # it plays no part there
        if c.detector != "faster_rcnn":
            del found["model"]["proposals"], found["model"]["roi_samples"]
        if c.method == "csd" and found["csd"]["threshold"] == 0.5:
            del found["csd"]["threshold"]  # it came later
        if c.method == "dense-teacher":
            found["dense_teacher"]["algorithm"] = 2  # 1: no gradient through the focusing factor
        if c.method == "sed":
            found["sed"]["algorithm"] = ALGORITHM
            if c.sed.overlay > 0:
                found["sed"]["overlay_algorithm"] = 2  # 1: images of two sizes were laid over black
            for key, value in BEFORE.items():
                if found["sed"][key] == value:
                    del found["sed"][key]
        return {**found, "training": TRAINING}

    parts = [numbers(config), None if burn_in is None else numbers(burn_in), inputs.digest]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


# --- lists of cells -----------------------------------------------------------------------------------------


def expand(entry: Mapping[str, Any]) -> list[Cell]:
    """The cells of a map whose values are single ones or lists: all combinations, the seed slowest."""
    defaults = {"percent": 10, "fold": 1, "method": "sed", "variant": "default", "seed": 0, "recipe": "cpu"}
    values = {**defaults, "split": "dev", **entry}
    known = [f.name for f in fields(Cell)]
    unknown = set(values) - set(known)
    if unknown or "dataset" not in values:
        raise ConfigError(f"a list of cells needs dataset, and may have {', '.join(known)}; not {unknown or entry}")
    order = ["seed", "fold", *(k for k in known if k not in ("seed", "fold"))]
    choices = [values[k] if isinstance(values[k], list | tuple) else [values[k]] for k in order]
    types = {"percent": float, "fold": int, "seed": int}
    return [
        Cell(**{k: types.get(k, str)(v) for k, v in zip(order, combination, strict=True)})
        for combination in itertools.product(*choices)
    ]


def load_cells(paths: Iterable[Path], changes: Mapping[str, Sequence[Any]] | None = None) -> list[Cell]:
    """The cells of YAML files (lists of maps), each once, in order; ``changes`` replace values of each map."""
    cells: list[Cell] = []
    for path in paths:
        for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
            cells += expand({**entry, **(changes or {})})
    return list(dict.fromkeys(cells))
