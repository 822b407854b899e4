"""The command ``sedet compare``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedet import settings
from sedet.config import TrainConfig
from sedet.errors import ConfigError, SedetError
from sedet.flags import POSITIONAL, parse, scan
from sedet.text import printable

if TYPE_CHECKING:
    from sedet.compare.cells import Comparison, Pool


@dataclass(frozen=True)
class CompareOptions:
    """Compare methods on equal terms: the same detector, data, burn-in, schedule and evaluator, and one table.

    Draws the labelled parts from fully labelled data. What is done is never done again: the same command goes on
    after an interruption, and with more methods, percents, folds or seeds adds to what is there. The table is of all
    that is in the folder.

    sedet compare data/train.json --val data/val.json --methods supervised sed --percents 5 10 --out comparison
    """

    data: str | None = field(default=None, metadata=POSITIONAL)
    """Fully labelled data: COCO JSON, Pascal VOC folder or YOLO data.yaml. Its images are the unlabelled pool too."""
    val: str | None = None
    """Labelled data to judge by."""
    protocol: str | None = None
    """In their place a published protocol: coco-standard, coco-shots, coco-additional, voc, or a YAML file of yours.
    Other flags win over it."""
    root: str = "."
    """Folder that the protocol's paths are relative to."""
    methods: tuple[str, ...] = ("supervised", "sed")
    """What to compare ("sedet methods" lists them), at choice with settings of its own: dense-teacher:share=0.1"""
    percents: tuple[float, ...] = (10.0,)
    """Labelled shares of the images, percent."""
    shots: tuple[int, ...] = ()
    """In place of percents: labelled images of each class."""
    folds: tuple[int, ...] = (1,)
    """Which draws of the labelled images (1, 2, ...)."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the trainings."""
    ceiling: bool = True
    """Train on all labels too, for the share of the gap that each method closes."""
    out: str = "comparison"
    """Folder to write to, or to go on with."""
    images: str | None = None
    """Folder of the images, where the annotations' own paths do not lead to them."""
    val_images: str | None = None
    """The same for the validation images."""
    unlabeled: tuple[str, ...] = ()
    """More unlabelled images: folders (recursive), list files (.txt) or globs."""
    unlabeled_data: str | None = None
    """Labelled data whose images join the pool without their labels."""
    config: str | None = None
    """YAML file of settings of every training (those of sedet train), over the protocol's. Data, method, seed and guard
    in it do not count: the comparison decides them."""
    set: tuple[str, ...] = ()
    """More of them, as KEY=VALUE: image_size=320 steps=6000 sed.gamma=2"""
    jobs: int | None = None
    """Trainings side by side. Default: one a GPU, or one on the CPU."""
    list: bool = False
    """Only say which cells are done."""


def compare(argv: Sequence[str]) -> int:
    options = parse(CompareOptions, argv, "sedet compare")
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs must be 1 or more, not {options.jobs}")

    from sedet.compare.cells import Comparison, make_cells, shared_settings
    from sedet.compare.variants import with_variant
    from sedet.data.formats import find_source
    from sedet.methods.build import make_method

    base = TrainConfig()
    if options.protocol is not None:
        from sedet.compare.protocols import load_protocol

        protocol = load_protocol(options.protocol, Path(options.root))
        given = {*scan(CompareOptions, argv), *(["data"] if options.data is not None else [])}  # DATA has no flag
        kept = {key: value for key, value in protocol.options.items() if key not in given}
        # What a flag takes the place of goes with what belongs to it.
        for flag, others in (
            ("percents", ["shots"]),
            ("data", ["images", "unlabeled", "unlabeled_data"]),
            ("val", ["val_images"]),
        ):
            kept = {key: value for key, value in kept.items() if flag not in given or key not in others}
        base = own_settings(protocol.settings, options.protocol)
        options = replace(options, **kept)
    if options.config is not None:
        base = own_settings(settings.load_config(options.config, base), options.config)
    if options.data is None or options.val is None:
        what = "DATA" if options.data is None else "--val"
        raise ConfigError(f"{what} is missing: labelled data to draw from, and --val to judge by, or a --protocol")
    shared = shared_settings(base, options.set)
    cells = make_cells(
        options.methods,
        options.percents,
        options.folds,
        options.seeds,
        options.ceiling,
        options.shots,
        bool(options.unlabeled or options.unlabeled_data),
        shared,
    )
    comparison = Comparison(
        options.data,
        options.val,
        options.images,
        options.val_images,
        shared,
        Path(options.out),
        cells,
        options.unlabeled,
        options.unlabeled_data,
    )
    for method, own in dict.fromkeys((cell.method, cell.variant) for cell in cells):  # told before any training
        make_method(replace(with_variant(shared, method, own), method=method))  # type: ignore[arg-type]
    if options.list:
        for place in (options.data, options.val):
            find_source(place)
        list_cells(comparison)
        return 0
    return run(comparison, options.jobs)


def own_settings(config: TrainConfig, file: str) -> TrainConfig:
    """A file's settings, without those that the comparison decides itself.

    Raises:
        ConfigError: they begin with a detector of one's own: methods are compared from the backbone's weights.
    """
    from sedet.compare.cells import OWN

    if config.init:
        raise ConfigError(f"{file}: init: a comparison starts from the backbone's weights. Remove the line")
    defaults = TrainConfig()
    return replace(config, **{name: getattr(defaults, name) for name in OWN})


def try_settings(comparison: Comparison, pool: Pool) -> None:
    """Meet once, before the folder is taken, what would end every training.

    Raises:
        ConfigError: a backbone, weights or a logger that are not there, a batch that cannot be parted, or no burn-in to
            share.
    """
    from sedet.training import plan
    from sedet.training.loggers import check_loggers
    from sedet.training.run import make_detector

    every = len(pool.table)
    given = replace(comparison.settings, method="sed")
    config = plan.resolve(given, plan.resolve_device(given), every, 128, None, every)
    if plan.make_schedule(config).burn_in < 1:
        raise ConfigError(
            f"a burn-in of {config.burn_in:g} of {config.steps} steps is none, and all methods start from one: "
            "give --set burn_in=0.5, or more steps"
        )
    mixed = any(cell.method != "supervised" for cell in comparison.cells)
    plan.check_batch(config if mixed else replace(config, method="supervised"), world=1)
    check_loggers(config.loggers)
    make_detector(config, pool.table.classes, None, None)


def list_cells(comparison: Comparison) -> None:
    from sedet.compare.table import read_row, row_file

    for cell in comparison.cells:
        path = row_file(comparison, cell)
        try:
            state = "missing"
            if path.is_file():
                read_row(path)
                state = "done   "
        except ConfigError:
            state = "damaged"
        print(state, cell.name)


def run(comparison: Comparison, jobs: int | None) -> int:
    """Run what is missing, then write and print the table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from sedet.compare import plot
    from sedet.compare.cells import read_pool
    from sedet.compare.table import COLUMNS, NARROW, caveats, cells_of, summarize, write_tables
    from sedet.compare.work import make_jobs, run_jobs

    devices = find_devices(comparison.settings, jobs)
    threads = comparison.settings.threads
    if threads is None and devices.count("cpu") > 1:
        threads = max(1, (os.cpu_count() or 1) // len(devices))

    def say(line: str) -> None:
        print(printable(line), flush=True)

    pool = read_pool(comparison)
    if pool.left_out:
        say(f"{pool.left_out} images of {comparison.data} are left out: val shows them, or they are copies of others.")
    if not (comparison.out / "comparison.json").is_file():
        try_settings(comparison, pool)
    failed = run_jobs(make_jobs(comparison, pool), comparison.out, devices, threads, say)
    entries = summarize(comparison, pool.val)
    if entries:
        table = Table(*(name for name in COLUMNS if name not in NARROW), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for entry in entries:
            texts = zip(COLUMNS, cells_of(entry), strict=True)
            table.add_row(*(text for name, text in texts if name not in NARROW))
        Console().print(table)
        for line in caveats(entries):
            say(line)
        files = write_tables(comparison, entries)
        plot.draw(entries, comparison.out / "ap.svg")
        files += [comparison.out / "ap.svg", *_report(comparison, entries, pool, say)]
        say(f"Written: {', '.join(map(str, files))}")
    if failed:
        raise SedetError(
            f"{len(failed)} of the trainings failed ({', '.join(failed)}); the same command tries them again"
        )
    return 0


def _report(
    comparison: Comparison, entries: Sequence[dict[str, Any]], pool: Pool, say: Callable[[str], None]
) -> list[Path]:
    """``report.html``; what goes wrong with it is a warning, for the table is there."""
    from sedet.files import write_atomically
    from sedet.reporting.comparison_page import comparison_page

    target = comparison.out / "report.html"
    try:
        write_atomically(target, comparison_page(comparison, entries, pool), durable=False)
    except Exception as error:  # a full disk, a picture that is gone, a bug
        say(f"Warning: the report could not be made ({type(error).__name__}: {' '.join(str(error).split())[:200]})")
        return []
    return [target]


def find_devices(config: TrainConfig, jobs: int | None) -> list[str]:
    """Where jobs run: "cpu", or the number of a GPU, one entry a job at a time."""
    import torch

    from sedet.training.plan import resolve_device

    if resolve_device(config) != "cuda":
        return ["cpu"] * (jobs or 1)
    count = torch.cuda.device_count()
    return [str(i % count) for i in range(jobs or count)]
