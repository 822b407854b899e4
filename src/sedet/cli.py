"""The command ``sedet``. A subcommand imports what it needs when it runs, so that ``--help`` is instant."""

from __future__ import annotations

import errno
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from sedet import api, settings
from sedet.catalog import DETECTORS, METHODS
from sedet.config import TrainConfig
from sedet.errors import ConfigError, SedetError
from sedet.flags import parse, scan
from sedet.options import (
    CheckOptions,
    DemoOptions,
    EvalOptions,
    PredictOptions,
    SplitOptions,
    TrainOptions,
)
from sedet.signals import TERMINATED, Terminated, terminable
from sedet.text import printable

USAGE_ERROR, BUG, INTERRUPTED, BROKEN_PIPE = 2, 1, 130, 141

# Problems with a path or a disk that a user can mend; any other OSError is shown as a bug.
PATH_ERRORS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}
PATH_ERRORS |= {errno.ENAMETOOLONG}
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


def train(argv: Sequence[str]) -> int:
    prog = "sedet train"
    given = scan(TrainOptions, argv)
    if "--help" in argv or "-h" in argv:
        parse(TrainOptions, argv, prog)
    config, resume = (next(iter(given.get(name, [])), None) for name in ("config", "resume"))
    if resume is not None:
        if config is not None:
            raise ConfigError("--resume continues a run with its own settings: leave --config out")
        base = api.resumed(Path(resume), given.keys() - {"resume"})
    else:
        base = settings.load_config(config) if config is not None else TrainConfig()
    final = parse(TrainOptions, argv, prog, TrainOptions(settings=base)).settings
    final = settings.validate(final) if resume is not None else api.complete(final)

    from sedet.training import run

    run.train(final, resume=Path(resume) if resume is not None else None)
    return 0


def evaluate(argv: Sequence[str]) -> int:
    options = parse(EvalOptions, argv, "sedet eval")
    bounded(batch=(options.batch, 1, None))

    from rich.console import Console

    from sedet.judge import evaluate as judge

    show_warnings()
    metrics = judge(
        options.detector,
        options.data,
        images=options.images,
        split=options.split,
        classes=options.classes,
        batch=options.batch,
        device=options.device,
        json=options.json,
        detections=options.detections,
        tiles=options.tiles,
        tile_overlap=options.tile_overlap,
        tile_whole=options.tile_whole,
        progress=sys.stderr.isatty(),
    )
    Console().print(metrics.table())
    return 0


def analyze(argv: Sequence[str]) -> int:
    from sedet.evaluation.analyze_options import AnalyzeOptions

    options = parse(AnalyzeOptions, argv, "sedet analyze")
    bounded(batch=(options.batch, 1, None))

    from rich.console import Console

    from sedet.evaluation.analysis import analyze as examine

    show_warnings()
    found = examine(
        options.detector,
        options.data,
        images=options.images,
        split=options.split,
        unlabeled=options.unlabeled,
        classes=options.classes,
        out=options.out,
        batch=options.batch,
        device=options.device,
        progress=sys.stderr.isatty(),
    )
    Console().print(found.table())
    print(printable(f"{len(found.files)} files, numbers, plots and the report, written to {options.out}"))
    return 0


def report(argv: Sequence[str]) -> int:
    from sedet.reporting.report_options import ReportOptions

    options = parse(ReportOptions, argv, "sedet report")
    bounded(batch=(options.batch, 1, None))

    from sedet.reporting.report import report as write

    show_warnings()
    file = write(
        options.folder,
        data=options.data,
        images=options.images,
        split=options.split,
        twin=options.twin,
        out=options.out,
        batch=options.batch,
        device=options.device,
        progress=sys.stderr.isatty(),
    )
    print(printable(f"Report: {file} ({file.stat().st_size / 2**20:.1f} MiB). Open it in a browser"))
    return 0


def predict(argv: Sequence[str]) -> int:
    options = parse(PredictOptions, argv, "sedet predict")
    bounded(
        score=(options.score or 0, 0, 1),
        batch=(options.batch, 1, None),
        max_detections=(options.max_detections, 1, None),
        every=(options.every, 1, None),
    )
    if not options.sources:
        raise ConfigError("nothing to predict on: name images, folders, list files or globs after the detector")

    from sedet.predict import predict_sources

    show_warnings()
    summary = predict_sources(
        options.detector,
        options.sources,
        out=options.out,
        format=options.format,
        draw=options.draw,
        score=options.score,
        batch=options.batch,
        device=options.device,
        max_detections=options.max_detections,
        tiles=options.tiles,
        tile_overlap=options.tile_overlap,
        tile_whole=options.tile_whole,
        every=options.every,
        progress=sys.stderr.isatty(),
    )
    print(printable(str(summary)))
    return 0


def label(argv: Sequence[str]) -> int:
    from sedet.labeling.options import LabelOptions

    options = parse(LabelOptions, argv, "sedet label")
    bounded(batch=(options.batch, 1, None), workers=(options.workers, 1, None))

    from dataclasses import asdict

    from sedet.labeling.label import label as label_images

    show_warnings()
    done = label_images(**asdict(options), progress=True)
    print("\n".join(printable(line) for line in str(done).splitlines()))
    return 0


def merge(argv: Sequence[str]) -> int:
    from sedet.labeling.options import MergeOptions

    options = parse(MergeOptions, argv, "sedet merge")

    from dataclasses import asdict

    from sedet.labeling.merge import merge as merge_labels

    show_warnings()
    changes = merge_labels(**asdict(options))
    print("\n".join(printable(line) for line in changes.lines()))
    return 0


def export(argv: Sequence[str]) -> int:
    from sedet.exporting.options import ExportOptions

    options = parse(ExportOptions, argv, "sedet export")

    from dataclasses import asdict

    from sedet.exporting.export import export as export_detector

    show_warnings()
    done = export_detector(**asdict(options))
    print("\n".join(printable(line) for line in str(done).splitlines()))
    return 0


def split(argv: Sequence[str]) -> int:
    options = parse(SplitOptions, argv, "sedet split")
    bounded(percent=(options.percent, 0, 100), fold=(options.fold, 1, None), seed=(options.seed, 0, None))

    from sedet.data.formats import read_table
    from sedet.data.split import split_shots, split_table, write_split

    table = read_table(options.data, images=options.images, split=options.split)
    if options.shots is not None:
        parts = split_shots(table, options.shots, options.fold, options.seed)
    else:
        parts = split_table(table, options.percent, options.fold, options.seed)
    for line in write_split(table, parts, Path(options.out)):
        print(printable(line))
    return 0


def check(argv: Sequence[str]) -> int:
    options = parse(CheckOptions, argv, "sedet check")

    from sedet.data.check import check_data

    report = check_data(
        options.data,
        unlabeled=options.unlabeled,
        val=options.val,
        classes=options.classes,
        fast=options.fast,
        images=options.images,
        val_images=options.val_images,
    )
    print("\n".join(report.lines()))
    return 0 if report.ok else USAGE_ERROR


def demo(argv: Sequence[str]) -> int:
    options = parse(DemoOptions, argv, "sedet demo")
    bounded(seed=(options.seed, 0, None))

    from sedet.demo.run import run_demo

    out = Path(options.out) if options.out is not None else free_folder("sedet-demo")
    run_demo(out, seed=options.seed, fast=options.fast)
    return 0


def compare(argv: Sequence[str]) -> int:
    from sedet.compare.command import compare as run

    return run(argv)


def methods(argv: Sequence[str]) -> int:
    listing_only("methods", argv)
    width = max(len(name) for name in METHODS)
    for name, entry in METHODS.items():
        print(f"{name:<{width}}  {entry.text} [{', '.join(entry.detectors)}]")
    return 0


def detectors(argv: Sequence[str]) -> int:
    listing_only("detectors", argv)
    width = max(len(name) for name in DETECTORS)
    for name, text in DETECTORS.items():
        print(f"{name:<{width}}  {text}")
    return 0


def listing_only(name: str, argv: Sequence[str]) -> None:
    """These commands take no flag but --help, which tells what they do and ends."""
    if argv and argv[0] in ("-h", "--help"):
        print(f"usage: sedet {name} [-h]\n\nList the {name} there are, a line each.\n\nsedet {name}")
        raise SystemExit(0)
    if argv:
        raise ConfigError(f"'sedet {name}' takes no arguments, not '{argv[0]}'")


def bounded(**flags: tuple[float, float, float | None]) -> None:
    """Check (value, lowest, highest or None) of flags."""
    for name, (value, low, high) in flags.items():
        if not (low <= value and (high is None or value <= high)):
            allowed = f"{low} or more" if high is None else f"from {low} to {high}"
            raise ConfigError(f"--{name.replace('_', '-')} must be {allowed}, not {value:g}")


def free_folder(name: str) -> Path:
    """The first of name, name-2, name-3, ... that does not exist."""
    numbered = (Path(name if n == 1 else f"{name}-{n}") for n in itertools.count(1))
    return next(folder for folder in numbered if not folder.exists())


def show_warnings() -> None:
    """Let what the library warns of (a skipped image) reach stderr, one line each."""
    import logging

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage(), prefix="sedet: warning:")

    logger = logging.getLogger("sedet")
    if not logger.handlers:
        logger.addHandler(Lines(logging.WARNING))
        logger.propagate = False


COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "demo": ("draw a data set, train on it, and show what SED gains over the labels alone", demo),
    "check": ("find the problems in your data before training does", check),
    "train": ("train a detector from few labels and a folder of unlabelled images", train),
    "eval": ("judge a detector on labelled data (COCO metrics)", evaluate),
    "analyze": ("measure what makes a detector's answers poor labels: numbers and plots", analyze),
    "report": ("make the report of a run folder: one HTML file", report),
    "predict": ("find objects in images, folders, large images in tiles, and videos", predict),
    "export": ("export a detector as one file for production: ONNX, or torch.export", export),
    "label": ("label folders of images, ranked for annotation, for other tools", label),
    "merge": ("take corrected labels back into the labelled data", merge),
    "compare": ("compare methods on equal terms, with one table", compare),
    "methods": ("list the methods there are, and the detectors each is defined for", methods),
    "detectors": ("list the detectors there are", detectors),
    "split": ("make a labelled part and a list of unlabelled images from labelled data", split),
}

HELP = """usage: sedet COMMAND ...

Better object detectors from few labels and a folder of unlabelled images.

commands:
{commands}

options:
  -h, --help   this text; 'sedet COMMAND --help' tells of one command
  --version    the version
  --debug      show the traceback of an error (also: SEDET_DEBUG=1)

first steps:
  sedet demo
  sedet train --labeled data/train.json --unlabeled photos/
""".format(commands="\n".join(f"  {name:<9} {line}" for name, (line, _) in COMMANDS.items()))


def dispatch(argv: Sequence[str]) -> int:
    """Run the command that ``argv`` names; errors are raised."""
    if not argv:
        print(HELP, end="", file=sys.stderr)
        return USAGE_ERROR
    name, *rest = argv
    if name in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if name in ("--version", "-V"):
        import sedet

        print(f"sedet {sedet.__version__}")
        return 0
    if name not in COMMANDS:
        near = settings.nearest(name, COMMANDS)
        hint = f"Did you mean 'sedet {near}'?" if near else f"Commands: {', '.join(COMMANDS)}"
        raise ConfigError(f"unknown {'flag' if name.startswith('-') else 'command'} '{name}'. {hint}")
    return COMMANDS[name][1](rest)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: the exit code is 0, 2 for what the user can mend, 1 for a bug, 130 for Ctrl-C, 143 for SIGTERM."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("SEDET_DEBUG", "") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    try:
        with terminable():
            code = dispatch(words)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # --help of a command
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt as end:
        say("interrupted", prefix="sedet:")
        return TERMINATED if isinstance(end, Terminated) else INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone; keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        line = mendable(error)
        if line is None or debug:
            traceback.print_exc()
        if line is None:
            say("this is a bug in sedet; please report the lines above with the command you ran")
            return BUG
        say(line)
        return USAGE_ERROR


def mendable(error: Exception) -> str | None:
    """The line for an error that the user can mend, else None."""
    if isinstance(error, SedetError):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        place = f" while writing {error.filename}" if error.filename else ""
        return f"the disk is full{place}. Free some space, then run the command again"
    if isinstance(error, MemoryError):
        return "out of memory. Lower --batch, or in training --image-size, --cache or --workers"
    if isinstance(error, OSError) and error.errno in PATH_ERRORS and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


def say(text: str, prefix: str = "sedet: error:") -> None:
    """One line on stderr. Text from outside (file names) can neither break it nor steer the terminal."""
    line = printable(" ".join(text.split()))
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    print(f"\033[1;31m{prefix}\033[0m" if colour else prefix, line, file=sys.stderr)
