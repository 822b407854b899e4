"""What README and the documentation tell a user to type is typed here, and what is made from the code is compared."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from torch.distributed import run as launcher

import sedet
from sedet import api, cli
from sedet.config import ModelConfig, TrainConfig
from sedet.flags import flags_of
from sedet.settings import from_dict
from sedet.training.pictures import Album
from sedet.video import VideoFile
from tests.docs import fiftyone
from tests.training import runs

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

NEEDED = re.compile(r"(?:--resume |sedet (?:label|export|report|analyze) )(runs/[\w-]+)|(runs/[\w-]+)(?=/best)")
"""Runs that a command starts from."""
ELSEWHERE = ("git clone", "make demo", "make test", "make lint", "pip install")
"""Lines that are tested by continuous integration itself."""


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def commands(page: Path) -> list[list[str]]:
    """The words of each command of a page, comments left out; one after the other, and on the CPU."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    lines = [re.sub(r"cuda:\d", "cpu", line.removeprefix("wait; ").removesuffix(" &")) for line in lines]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as the pages speak of it, and trainings of moments whatever they are told."""
    config = runs.data(tmp_path / "made", labeled=14)
    (tmp_path / "data").mkdir()
    for name, source in (("train", "labeled"), ("all", "labeled"), ("val", "val"), ("test", "val")):
        shutil.copytree(tmp_path / "made" / source, tmp_path / "data" / name)
        found = json.loads((tmp_path / "data" / name / "labels.json").read_text())
        for image in found["images"]:
            image["file_name"] = f"{name}/{image['file_name']}"
        (tmp_path / "data" / f"{name}.json").write_text(json.dumps(found))
    for name in ("photos", "new-photos", "more-photos"):
        shutil.copytree(tmp_path / "made" / "unlabeled", tmp_path / name)
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    shutil.copytree(tmp_path / "photos", tmp_path / "moved" / "photos")
    image = next(path for path in (tmp_path / "photos").rglob("*.*"))
    Image.open(image).convert("RGB").save(tmp_path / "street.jpg")
    (tmp_path / "pool.txt").write_text("".join(f"{path}\n" for path in (tmp_path / "photos").rglob("*.*")))
    clip = VideoFile(tmp_path / "clip.mp4", Fraction(10))
    for _ in range(11):
        clip.add(Image.open(image).convert("RGB"))
    clip.finish()

    def quick(found: TrainConfig) -> TrainConfig:
        small: dict[str, Any] = {
            key: getattr(config, key) for key in ("weights", "image_size", "batch", "steps", "device")
        }
        small |= {"backbone": "lcnet_035", "burn_in": 0.5, "eval_every": 2, "threads": 1, "workers": 0, "report": False}
        return replace(complete(found), **small, model=ModelConfig(neck_channels=8, head_convs=1), init=None)

    complete = api.complete
    monkeypatch.setattr(api, "complete", quick)
    for name in ("watch", "finish"):  # pictures take most of the time of a training this small
        monkeypatch.setattr(Album, name, lambda *_: None)
    one_export_serves_all(monkeypatch)
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def one_export_serves_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes most of the time of an export: here it is done once for all pages, and so cannot be judged."""
    from sedet.exporting import export

    for name in ("to_onnx", "to_torch_export"):
        monkeypatch.setattr(export, name, partial(traced, name, getattr(export, name)))
    monkeypatch.setattr(export, "judge", lambda *_: None)


def traced(name: str, make: Callable[..., Any], *given: Any) -> Any:
    if name not in TRACED:
        TRACED[name] = make(*given)
    return copy.deepcopy(TRACED[name])


TRACED: dict[str, Any] = {}


def test_there_is_something_to_type() -> None:
    """The pattern finds the blocks: without this, a change of style would leave every test below without work."""
    assert len(commands(ROOT / "README.md")) > 8 and len(commands(ROOT / "docs" / "index.md")) > 5
    assert sum(len(blocks(page, "python")) for page in PAGES) >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_runs(page: Path, place: Path) -> None:
    for block in blocks(page, "yaml"):
        (place / "my.yaml").write_text(block)
    for words in commands(page):
        typed = " ".join(words)
        if typed.startswith(ELSEWHERE) or "--help" in words:
            continue
        if words[0] == "torchrun":  # which starts several of what is run here once
            found = launcher.parse_args(words[1:])
            assert found.module and found.training_script == "sedet" and int(found.nproc_per_node) > 1, typed
            words = ["sedet", *found.training_script_args]
        assert words[0] == "sedet", f"{page.name} tells to type '{typed}': run it here or name it in ELSEWHERE"
        needed = [given or named for given, named in NEEDED.findall(typed)]
        for run in needed:  # made by another page, or by a command that a reader has run before
            if not (place / run).exists():
                train(run)
        if words[1] in ("train", "predict") and not {"--resume", "--config"} & set(words):
            usual = {"train": "runs/sedet", "predict": "predictions"}[words[1]]
            out = words[words.index("--out") + 1] if "--out" in words else usual
            shutil.rmtree(place / out, ignore_errors=True)  # said twice on one page: the reader takes one of them
        if words[1] == "merge":  # somebody has looked at the proposals and found them right
            shutil.copy(next((place / "labels").rglob("instances.json")), place / "export.json")
        # The trainings of a comparison are tested with it.
        assert cli.main([*words[1:], *(["--list"] if words[1] == "compare" else [])]) == 0, f"{page.name}: {typed}"


def train(out: str) -> None:
    flags = {"--labeled": "data/train.json", "--unlabeled": "photos/", "--val": "data/val.json", "--out": out}
    assert cli.main(["train", *(word for pair in flags.items() for word in pair)]) == 0


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_every_python_block_runs(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FiftyOne, whose database is a program of its own, is stood in for by what its documentation says."""
    monkeypatch.setitem(sys.modules, "fiftyone", fiftyone)  # type: ignore[arg-type]
    if "pydicom" in page.read_text(encoding="utf-8"):
        from pydicom import examples

        (place / "dicom").mkdir()
        shutil.copy(examples.get_path("ct"), place / "dicom" / "scan.dcm")
    shutil.copy(place / "street.jpg", place / "photos" / "street.jpg")
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), {})
    if (place / "dicom").exists():
        (scan,) = (place / "photos").glob(f"{examples.ct.PatientID}_*.png")
        with Image.open(scan) as image:
            assert image.size == (examples.ct.Columns, examples.ct.Rows) and np.ptp(np.asarray(image)) == 65535
    if "fiftyone" in page.read_text(encoding="utf-8"):
        (dataset,) = fiftyone.DATASETS
        (sample,) = dataset.samples
        assert sample.filepath.endswith("street.jpg") and isinstance(sample.fields["sedet"], fiftyone.Detections)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=lambda page: page.stem)
def test_every_yaml_block_is_a_config(page: Path) -> None:
    for block in blocks(page, "yaml"):
        from_dict(yaml.safe_load(block))  # an unknown key or a wrong value is an error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_switches_in_the_text_take_no_value(page: Path) -> None:
    switches = {flag.on for flag in flags_of(TrainConfig).values() if flag.off}
    spans = re.findall(r"`(--[\w.-]+) (?:true|false)`", page.read_text(encoding="utf-8"), re.IGNORECASE)
    assert not switches.intersection(spans)


GENERAL = {"--help", "--config", "--resume", "--debug", "--version"}
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_flags_in_the_text_exist(page: Path) -> None:
    """A command that is named gets flags that it has, a flag named alone is one of some command."""
    of: dict[str, set[str | None]] = {
        name: {word for flag in flags_of(cls).values() for word in (flag.on, flag.off)} if cls else set()
        for name, cls in maker().OPTIONS.items()
    }
    every = set[str | None](GENERAL).union(*of.values())
    assert {"--image-size", "--sed.no-scale", "--no-guard", "--percents"} <= every
    for span in SPAN.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        words = span.split()
        if words[0] == "sedet" or words[0].startswith("--"):  # not another program's
            named = words[1] if len(words) > 1 and words[1] in of else None
            known = every if named is None else of[named] | GENERAL
            used = {re.split("[=:]", word)[0] for word in words if re.match(r"--[a-z]", word)}
            assert used <= known, f"{page.name}: `{span}`"


def maker(name: str = "reference") -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_made_from_the_code_is_up_to_date() -> None:
    made = maker()
    for name, make in made.PAGES.items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == make(), "run: python docs/reference.py"
    assert set(made.OPTIONS) == set(cli.COMMANDS), "a command is missing from the reference"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    assert "What came of it" in text, "the docstrings are in it"
    titles = set(re.findall(r'<h[23] id="([\w.]+)"', text))
    assert {f"sedet.{name}" for name in dir(sedet) if inspect.isfunction(getattr(sedet, name))} <= titles, "by its name"
    plain = re.sub(r"<[^>]+>", "", text)
    assert not re.search(r"^\s*\w+(, \w+)*,\s*$|:(func|class|mod|meth):\w", plain, re.MULTILINE), "a row a name"


def test_the_pictures_are_drawn_by_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Drawn anew they have the size of those on the pages; pixels differ by matplotlib's version."""
    pictures = maker("pictures")
    monkeypatch.setattr(pictures, "HERE", tmp_path)
    pictures.main()
    for name in ("views.png", "weights.png"):
        with Image.open(tmp_path / name) as made, Image.open(ROOT / "docs" / name) as shown:
            assert made.size == shown.size and len(made.convert("RGB").getcolors(1 << 20) or []) > 50
        assert f"]({name})" in (ROOT / "docs" / "how-it-works.md").read_text()
