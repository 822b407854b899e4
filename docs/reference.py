"""Makes docs/reference.md and docs/methods.md from the code, so that they cannot say what is not so.

python docs/reference.py
"""

from __future__ import annotations

import ast
import dataclasses
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from sedet import options
from sedet.catalog import DETECTORS, METHODS
from sedet.cli import COMMANDS
from sedet.compare.command import CompareOptions
from sedet.config import TrainConfig
from sedet.evaluation.analyze_options import AnalyzeOptions
from sedet.exporting.options import ExportOptions
from sedet.labeling.options import LabelOptions, MergeOptions
from sedet.reporting.report_options import ReportOptions
from sedet.settings import field_docs, hints, is_group

HERE = Path(__file__).resolve().parent

OPTIONS: Mapping[str, Any] = {
    "demo": options.DemoOptions,
    "check": options.CheckOptions,
    "train": TrainConfig,
    "eval": options.EvalOptions,
    "analyze": AnalyzeOptions,
    "report": ReportOptions,
    "predict": options.PredictOptions,
    "compare": CompareOptions,
    "export": ExportOptions,
    "label": LabelOptions,
    "merge": MergeOptions,
    "methods": None,
    "detectors": None,
    "split": options.SplitOptions,
}


def reference() -> str:
    """Every command with its flags; for ``train`` every setting."""
    parts = [
        "# Commands and settings\n",
        "Made from the code by `python docs/reference.py`. `sedet COMMAND --help` says the same. `--image-size` is\n"
        "the key `image_size` in YAML and the argument of that name in Python; `--sed.gamma` is `gamma` below `sed`.\n"
        "On and off: `--guard`, `--no-guard` (in a group `--sed.no-scale`).\n",
    ]
    for name, (line, _) in COMMANDS.items():
        parts.append(f"## sedet {name}\n\n{line[0].upper()}{line[1:]}.\n")
        if (cls := OPTIONS[name]) is not None:
            parts.append(settings_table(cls))
        if name == "train":
            parts.append("`--config FILE` reads settings from YAML; `--resume RUN` goes on with a run.\n")
            for group, hint in hints(TrainConfig).items():
                if is_group(hint):
                    parts.append(f"### {group}\n\n{' '.join((hint.__doc__ or '').split())}\n")
                    parts.append(settings_table(hint, f"{group}."))
    return "\n".join(parts).rstrip() + "\n"


def settings_table(cls: Any, prefix: str = "") -> str:
    """Name, default and meaning of each field; groups are left out."""
    docs, rows = field_docs(cls), ["| name | default | meaning |", "| --- | --- | --- |"]
    for field in dataclasses.fields(cls):
        if is_group(hints(cls)[field.name]):
            continue
        default = "" if field.default is dataclasses.MISSING else shown(field.default)
        text = docs.get(field.name, "") + choices(hints(cls)[field.name], docs.get(field.name, ""))
        rows.append(f"| `{prefix}{field.name}` | {default} | {escaped(text)} |")
    return "\n".join(rows) + "\n"


def shown(default: object) -> str:
    if default is None or default in ("", ()):
        return ""
    if isinstance(default, tuple):
        return "`" + " ".join(map(str, default)) + "`"
    return f"`{default}`"


def choices(hint: Any, text: str) -> str:
    """The values there are to choose from, if the text does not name them."""
    hint = next((a for a in typing.get_args(hint) if typing.get_origin(a) is typing.Literal), hint)
    found = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    missing = [str(value) for value in found if str(value) not in text]
    return f" One of {', '.join(map(str, found))}." if missing else ""


def escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def methods() -> str:
    """Each method with the text of its own file."""
    parts = [
        "# Methods and detectors\n",
        "Made from the code by `python docs/reference.py`. Each method is one file in `src/sedet/methods/`, readable\n"
        "alone; the text below is its own. All share burn-in, views, schedule and the labelled loss.\n",
        "| method | what it is | detectors |\n| --- | --- | --- |",
    ]
    parts[-1] += "".join(
        f"\n| [`{n}`](#{n}) | {escaped(e.text)} | {', '.join(e.detectors)} |" for n, e in METHODS.items()
    )
    parts.append("\n| detector | what it is |\n| --- | --- |")
    parts[-1] += "".join(f"\n| `{name}` | {escaped(text)} |" for name, text in DETECTORS.items()) + "\n"
    for name in METHODS:
        source = HERE.parent / "src" / "sedet" / "methods" / f"{name.replace('-', '_')}.py"
        text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        parts.append(f"## {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts).rstrip() + "\n"


PAGES = {"reference.md": reference, "methods.md": methods}


def main() -> None:
    for name, make in PAGES.items():
        (HERE / name).write_text(make(), encoding="utf-8")
        print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
