"""``sedet report``: one file, whatever the run has and whatever its names are; and training that writes it."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sedet import cli
from sedet.data.formats import read_table
from sedet.detectors.file import load_detector
from sedet.errors import ConfigError, SedetError
from sedet.origin import commit, processor_name
from sedet.reporting import report as module
from sedet.reporting.gallery import Budget, error_gallery
from sedet.reporting.judged import judge
from sedet.reporting.page import breakable, environment, short
from sedet.reporting.report import report
from sedet.reporting.run_charts import part_charts
from sedet.reporting.run_folder import read_run
from sedet.settings import save_config
from sedet.training.run import train
from tests.evaluation.cases import make_detections
from tests.training import runs

from .made import FILE, METRICS, QUOTE, SCRIPT, run_folder, settings

LOADS = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}


class Reader(HTMLParser):
    """What a browser would make of a page: its elements, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return report(run, device="cpu").read_text(encoding="utf-8")


def test_the_file_needs_nothing_else(page: str) -> None:
    read = Reader(page)
    wanted = [value or "" for _, attrs in read.elements for name, value in attrs.items() if name in LOADS]
    assert wanted and all(value.startswith(("#", "data:image/jpeg;base64,")) for value in wanted)
    assert not re.search(r"@import|url\((?!#)", page)
    policy = next(attrs["content"] for _, attrs in read.elements if "http-equiv" in attrs)
    assert (policy or "").startswith("default-src 'none'; img-src data:;") and len(page) < 2_000_000
    assert {tag for tag, _ in read.elements}.isdisjoint({"link", "iframe", "object", "embed", "base"})


def test_names_from_outside_stay_text(page: str) -> None:
    read = Reader(page)
    assert [attrs.get("type") for tag, attrs in read.elements if tag == "script"].count(None) == 1, "its own alone"
    assert not any(name.startswith("on") for _, attrs in read.elements for name in attrs)
    text = "".join(read.text)
    for name in (SCRIPT, QUOTE, FILE):
        assert name not in page and name in text
    scripts = page.count("<script") - page.count("<script>window.harm")
    assert scripts == 3, "the sweep, the classes and the program"


def test_everything_is_in_it(page: str) -> None:
    read = Reader(page)
    parts = {attrs.get("id") for tag, attrs in read.elements if tag == "section"}
    assert parts == {
        *("verdict", "training", "quality", "threshold", "confusion", "errors", "pseudo", "data"),
        *("settings", "environment"),
    }
    assert page.index('id="verdict"') < min(page.index(f'id="{part}"') for part in parts - {"verdict", None})
    assert "changed by +2.5 AP" in page, "12.5 of the student at the end of the burn-in, 15 at the end"
    images = [attrs for tag, attrs in read.elements if tag == "img"]
    assert len(images) > 5 and all(attrs.get("alt") for attrs in images)
    drawings = [attrs for tag, attrs in read.elements if tag == "svg" and attrs.get("role") == "img"]
    ids = [attrs["id"] for _, attrs in read.elements if "id" in attrs]
    assert len(drawings) >= 7 and len(ids) == len(set(ids))
    assert all(set((attrs["aria-labelledby"] or "").split()) <= set(ids) for attrs in drawings)


def test_a_run_whose_data_have_moved_has_a_report(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "moved"
    shutil.copytree(run, other)
    gone = replace(settings(run), labeled="gone.json", val="gone.json", unlabeled=("gone",))
    save_config(gone, other / "config.yaml")
    page = report(other, device="cpu").read_text(encoding="utf-8")
    assert page.count("gone") >= 3 and "cannot be read" in page and 'id="quality"' not in page
    elsewhere = report(other, data=settings(run).val, out=tmp_path / "x.html", device="cpu")
    assert 'id="quality"' in elsewhere.read_text(encoding="utf-8")


def test_other_data_are_told_from_the_runs_own(run: Path, tmp_path: Path) -> None:
    other = str(Path(settings(run).labeled))
    page = report(run, data=other, out=tmp_path / "x.html", device="cpu").read_text(encoding="utf-8")
    text = "".join(Reader(page).text)
    assert f"the run's own validation images: {settings(run).val}." in text and "Shipped, on other data" in text
    assert f"{other}: Only 6 images to judge by" in text
    assert "judged by (not the run's own)" in text and "end of burn-in" not in page
    assert "that are not the defaults" not in text, "what the plan filled in is among them"
    assert "Shipped, on other data" not in report(run, device="cpu").read_text(encoding="utf-8")


def test_sizes_at_the_end_of_the_burn_in_are_those_of_the_detector_that_went_on(run: Path) -> None:
    table = read_table(settings(run).val or "")
    judged = judge(table, [make_detections([[0, 0, 9, 9]], [0.5], [0])] * len(table), 0.3)
    folder = read_run(run)
    groups = [chart.columns for chart in part_charts(judged, folder)]
    assert ("", "shipped") in groups, "the student was the better one"
    better = replace(folder, rows=tuple(row | {"student_ap": 1.0} for row in folder.rows))
    assert ("", "end of burn-in", "shipped") in [chart.columns for chart in part_charts(judged, better)]


def test_an_interrupted_run_has_a_report(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "half"
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("best.safetensors", "report.html", "train.log"))
    (other / "metrics.csv").write_text("\n".join(METRICS.splitlines()[:3]))
    page = report(other, device="cpu").read_text(encoding="utf-8")
    assert "has not been judged yet" in page and "step 2 of 4" in page and "no detector in this folder yet" in page
    (other / "metrics.csv").unlink()
    assert "Nothing is known of this detector" in report(other, device="cpu").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "sedet report needs FOLDER"),
        (["absent"], "absent is not a run folder: there is no such folder"),
        (["{empty}"], "it has no config.yaml"),
        (["{run}", "--twin", "{run}"], "both learn from unlabelled images"),
        (["{run}", "--data", "absent.json"], "there is no such file or folder"),
        (["{run}", "--out", "{empty}"], "is a folder; --out takes the file to write"),
        (["{run}", "--out", "{run}/best.safetensors"], "is there already and is no HTML page"),
        (["{run}", "--batch", "0"], "--batch must be 1 or more"),
        (["{damaged}"], "damaged metrics"),
    ],
)
def test_mistakes_cost_a_line_and_nothing_else(
    argv: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    shutil.copy(run / "config.yaml", tmp_path / "damaged")
    (tmp_path / "damaged" / "metrics.csv").write_text("step,teacher_ap\n1,many\n")
    words = [w.format(run=run, empty=tmp_path / "empty", damaged=tmp_path / "damaged") for w in argv]
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["report", *words]) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert sorted(tmp_path.rglob("*")) == before


def test_pictures_have_a_budget(run: Path) -> None:
    table = read_table(settings(run).val or "", None, "val")
    found = [make_detections([[0, 0, 9, 9]], [0.9], [0]) for _ in table.images]
    everything = error_gallery(table, found, 0.5, Budget())
    kinds = {picture.kind for picture in everything.pictures}
    assert {"background", "missed"} <= kinds | {"localization"} and sum(everything.counted.values()) >= len(kinds)
    small = Budget(left=len(everything.pictures[0].uri))
    fewer = error_gallery(table, found, 0.5, small)
    assert len(fewer.pictures) < len(everything.pictures) and small.left_out and small.left >= 0


def test_errors_of_the_gallery_are_where_they_say(run: Path) -> None:
    table = read_table(settings(run).val or "", None, "val")
    found = [make_detections(o.boxes, [0.9], o.labels) for o in table.objects]
    found[1] = make_detections(found[1].boxes, [0.8], 1 - found[1].labels)  # a wrong class
    found[2] = make_detections([], [], [])  # missed
    wrong, missed = error_gallery(table, found, 0.5, Budget()).pictures
    assert (wrong.kind, wrong.name, round(wrong.score, 2)) == ("class", table.images[1].name, 0.8)
    assert (missed.kind, missed.name, missed.score) == ("missed", table.images[2].name, 0.0)
    at = next(mark for mark in missed.marks if mark.kind == "truth").box
    x1, y1, x2, y2 = table.objects[2].boxes[0]
    assert (at[2] - at[0], at[3] - at[1]) == (x2 - x1, y2 - y1) and 0 <= at[0] < missed.width


def test_text_of_pages() -> None:
    text = environment().from_string("{{ a | printable }}{{ b | breakable }}{{ c | short(4) }}")
    assert text.render(a="<\x1b", b="a/<b>.png", c="&longer") == "&lt;\\x1ba/&lt;b&gt;.<wbr>png&amp;lo…"
    assert breakable("41.8 2007_01") == "41.8 2007_01" and short("abc") == "abc"


def test_training_writes_it_and_a_failure_costs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(runs.data(tmp_path), report=True)
    done = train(config)
    assert done.finished and (done.run / "report.html").is_file()
    told = load_detector(done.run).metadata
    assert told["device"] == processor_name() and told["commit"] == commit()
    text = Reader((done.run / "report.html").read_text(encoding="utf-8")).text
    assert "trained on" in text and processor_name() in "".join(text)
    assert f"Report:   {done.run / 'report.html'}" in capsys.readouterr().err

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_report", full)
    again = train(replace(config, out=str(tmp_path / "again")))
    assert again.finished and again.detector is not None and not (again.run / "report.html").exists()
    said = capsys.readouterr().err
    assert "Warning: the report could not be made (OSError: [Errno 28] No space left" in said
    assert f"sedet report {again.run}" in said
    assert (again.run / "metrics.csv").read_bytes() == (done.run / "metrics.csv").read_bytes()


def test_only_known_errors_leave(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("no_such_setting: 1\n")
    with pytest.raises(SedetError, match="no_such_setting"):
        report(tmp_path)
    with pytest.raises(ConfigError, match="not a run folder"):
        report(tmp_path / "absent")
