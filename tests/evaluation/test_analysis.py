"""Answers at two sizes against loops, for every detector; and the command: numbers, plots, and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sedet import cli
from sedet.config import SEDConfig, ViewConfig
from sedet.data.batch import Targets, pixels
from sedet.data.formats import read_table
from sedet.data.images import read_image
from sedet.data.views import canvas_side, half_view, plain_view, stack_views, view_targets
from sedet.detectors.backbones import Backbone
from sedet.detectors.build import Detector, build_detector
from sedet.detectors.faster_rcnn import FasterRCNN
from sedet.detectors.fcos import FCOS
from sedet.detectors.file import load_detector, save_detector
from sedet.detectors.regions import HALF_LEVELS, Regions
from sedet.detectors.retinanet import RetinaNet, RetinaNetSpec
from sedet.detectors.rpn import assign_anchors
from sedet.evaluation.analysis import NUMBERS, REPORT, analyze
from sedet.evaluation.challenge_plots import consistency
from sedet.evaluation.challenges import size_bins
from sedet.evaluation.two_sizes import TwoSizes, agreement, level_counts, measure, weight_sums
from sedet.judge import evaluate
from sedet.predictor import Predictor, load
from tests import tiny
from tests.detectors.test_faster_rcnn import network

from .naive import iou

PLOTS = {
    "false_negatives.png",
    "localization.png",
    "sizes.png",
    "consistency.png",
    "imbalance.png",
    "calibration.png",
    "errors.png",
}


def retinanet() -> RetinaNet:
    torch.manual_seed(0)
    model = RetinaNet(RetinaNetSpec(2, tiny.BACKBONE, 8, 1, pretrained_norm=False), Backbone(tiny.BACKBONE, "none"))
    with torch.no_grad():
        model.classification_head.cls_logits.weight.mul_(30)
        model.classification_head.cls_logits.bias.zero_()
        model.regression_head.bbox_reg.weight.mul_(5)
    return model


DETECTORS: dict[str, Callable[[], Detector]] = {
    "fcos": lambda: tiny.detector(2, confident=True),
    "retinanet": retinanet,
    "faster_rcnn": lambda: network(2),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.dataset(tmp_path_factory.mktemp("data"), labeled=1, unlabeled=1, val=4)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    save_detector(path, DETECTORS["fcos"](), ("red", "blue"), 64, {})
    return path


# --- answers at two sizes -----------------------------------------------------------------------------------


def two_answers() -> tuple[Regions, Regions]:
    """Three regions of one level; the half view answers in its own, half as large, pixels."""
    probability = torch.tensor([[[0.8, 0.1], [0.5, 0.5], [0.2, 0.6]]])
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 20, 20], [20, 20, 40, 40]]])
    points = torch.tensor([[4.0, 4], [12, 12], [30, 30]])
    full = tiny.regions(probability.logit(), boxes, None, points, torch.tensor([8.0, 8, 16]))
    other = torch.tensor([[[0.5, 0.1], [0.5, 0.4], [0.1, 0.9]]])
    half_boxes = torch.tensor([[[0.0, 0, 5, 5], [0, 0, 10, 5], [30, 30, 40, 40]]])
    return full, tiny.regions(other.logit(), half_boxes, None, points / 2, torch.tensor([4.0, 4, 8]))


def test_agreement_by_hand() -> None:
    full, half = two_answers()
    found = agreement(full, half, 0, torch.tensor([1, 0, -1]), torch.tensor([1, 0]))
    assert found["difference"].tolist() == pytest.approx([0.3, 0.1], abs=1e-6)  # the first answers for a class 0
    assert found["iou"].tolist() == pytest.approx([1.0, 0.5])
    found = agreement(full, half, 0, torch.tensor([-1, -2, 0]), torch.tensor([1]))
    assert found["difference"].tolist() == pytest.approx([0.3]) and found["iou"].tolist() == [0]
    assert found["score_full"].tolist() == pytest.approx([0.6]) and found["score_half"].tolist() == pytest.approx([0.9])


def test_weights_and_levels_by_hand() -> None:
    full, half = two_answers()
    target = tiny.targets((0, 0, 0, 10, 10), ignore=[[25, 25, 35, 35]])
    weights = weight_sums(full, half, 0, target, SEDConfig())
    assert weights == pytest.approx(np.array([[1, 0.3], [1, 0.1]]), abs=1e-6)  # the third is ignored
    weights = weight_sums(full, half, 0, tiny.targets((0, 0, 0, 10, 10)), SEDConfig(gamma=2.0))
    assert weights == pytest.approx(np.array([[1, 0.09], [2, 0.01 + 0.1**2 + 0.3**2]]), abs=1e-6)
    full.valid[0, 1] = False
    assert level_counts(full, 0, torch.tensor([0, -1, -1])).tolist() == [[1, 0, 0], [0, 1, 0]]
    full.valid[0, 1] = True
    assert level_counts(full, 0, torch.tensor([0, -2, -1])).tolist() == [[1, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"sed": {"reweight": "none", "gamma": 2.0, "weight": 9.0}}, ("none", 2.0)),
        ({"sed": {"gamma": 0.5}}, ("discrepancy", 0.5)),
        ({"sed": {"gamma": "x"}}, ("discrepancy", 1.0)),
        ({"sed": 3}, ("discrepancy", 1.0)),
        (None, ("discrepancy", 1.0)),
    ],
)
def test_regions_are_weighed_as_in_the_detectors_own_training(
    config: object, wanted: tuple[str, float], data: Path, tmp_path: Path
) -> None:
    save_detector(tmp_path / "best.safetensors", DETECTORS["fcos"](), ("red", "blue"), 64, {"config": config})
    weights = measure(load(tmp_path, "cpu"), read_table(data / "val.json")).weights()
    assert (weights["reweight"], weights["gamma"]) == wanted


@pytest.mark.parametrize("name", list(DETECTORS))
def test_two_sizes_against_loops(name: str, data: Path, tmp_path: Path) -> None:
    save_detector(tmp_path / "best.safetensors", DETECTORS[name](), ("red", "blue"), 64, {})
    predictor = load(tmp_path, "cpu")
    model, table = predictor.model, read_table(data / "val.json")
    table = table.with_classes(("blue", "red"))  # in another order than the detector's
    sizes = measure(predictor, table)
    regions: list[dict[str, float]] = []
    levels = {stride: [0, 0, 0] for stride in (8.0, 16.0, 32.0, 64.0, 128.0)}
    weights, without = {"inside": [0, 0.0], "outside": [0, 0.0]}, 0
    for entry, objects in zip(table.images, table.objects, strict=True):
        view = plain_view(read_image(entry.path), 64)
        target = view_targets(view, objects, ViewConfig())
        target = Targets(target.boxes, 1 - target.labels, target.ignore)
        images, content = stack_views([view], canvas_side(64))
        halves, _ = stack_views([half_view(view)], canvas_side(64) // 2)
        with torch.no_grad():
            full = model(pixels(images), content)
            half = model(pixels(halves), content // 2, HALF_LEVELS)
        if isinstance(model, FCOS):
            index = model.assign(full, 0, target)
        else:
            index = assign_anchors(full, 0, target) if isinstance(model, FasterRCNN) else model.assign(full, 0, target)
        without += sum(n not in index.tolist() for n in range(len(target.labels)))
        for r, goal in enumerate(index.tolist()):
            if not full.valid[0, r]:
                continue
            levels[full.strides[r].item()][0 if goal >= 0 else 1 if goal == -1 else 2] += 1
            p, q = full.logits[0, r].double().sigmoid(), half.logits[0, r].double().sigmoid()
            x, y = full.points[r].tolist()
            inside = any(b[0] < x < b[2] and b[1] < y < b[3] for b in target.boxes.tolist())
            group = weights["inside" if inside else "outside"]
            group[0] += 1
            group[1] += float((p - q).abs().sum())
            if goal >= 0:
                c = 0 if isinstance(model, FasterRCNN) else int(target.labels[goal])
                box = target.boxes[goal].tolist()
                regions.append(
                    {
                        "side": math.sqrt((box[2] - box[0]) * (box[3] - box[1])) / 64,
                        "difference": abs(float(p[c] - q[c])),
                        "score_full": float(p[c]),
                        "score_half": float(q[c]),
                        "iou": iou(full.boxes[0, r].tolist(), [2 * v for v in half.boxes[0, r].tolist()]),
                    }
                )
    found = sizes.consistency()
    assert found["all"]["regions"] == len(regions) > 5
    for key in ("difference", "score_full", "score_half", "iou"):
        assert found["all"][key] == pytest.approx(sum(r[key] for r in regions) / len(regions), abs=1e-5)
        for row, (low, high) in zip(found["by_size"], size_bins(), strict=True):
            own = [r[key] for r in regions if low <= r["side"] < high]
            assert row["regions"] == len(own)
            assert row[key] == pytest.approx(sum(own) / len(own) if own else math.nan, abs=1e-5, nan_ok=True)
    assert found["all"]["difference"] > 1e-3
    total = sum(len(o) for o in table.objects)
    assert sizes.unassigned == without and found["all"]["objects"] == total - without
    for row in sizes.levels():
        assert [row["foreground"], row["background"], row["ignored"]] == levels[row["stride"]]
    assert [row["level"] for row in sizes.levels()] == ["P3", "P4", "P5", "P6", "P7"]
    told = sizes.weights()
    for part, (count, weight) in weights.items():
        assert told[part]["regions"] == count and told[part]["total"] == pytest.approx(weight, rel=1e-4)
        assert told[part]["mean"] == pytest.approx(weight / count, rel=1e-4)
    (n_in, w_in), (n_out, w_out) = weights.values()
    assert told["share_of_regions"] == pytest.approx(n_in / (n_in + n_out))
    assert told["share_of_weight"] == pytest.approx(w_in / (w_in + w_out), rel=1e-4)
    assert told["mean_ratio"] == pytest.approx(w_in / n_in * n_out / w_out, rel=1e-4)


def test_no_images_at_two_sizes() -> None:
    sizes = TwoSizes()
    assert sizes.levels() == [] and math.isnan(sizes.weights()["share_of_weight"])
    assert math.isnan(sizes.consistency()["all"]["difference"])


# --- the whole ----------------------------------------------------------------------------------------------


def test_the_command(data: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import matplotlib

    before = matplotlib.rcParams["backend"]
    argv = ["analyze", str(detector.parent), "--data", str(data / "val.json"), "--out", str(tmp_path / "a")]
    assert cli.main([*argv, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    for word in ("False negatives", "Localization", "Sizes", "Imbalance", "Calibration", "missed", "9 files"):
        assert word in printed
    assert {file.name for file in (tmp_path / "a").iterdir()} == PLOTS | {NUMBERS, REPORT}
    page = (tmp_path / "a" / REPORT).read_text(encoding="utf-8")
    for word in ("AP50", "As labels", "Calibration error", "data:image/jpeg", "on 4 of 4 images that it is judged by"):
        assert word in page
    for name in PLOTS:
        with Image.open(tmp_path / "a" / name) as picture:
            assert picture.format == "PNG" and np.asarray(picture.convert("L")).std() > 5
            assert picture.width >= 1000
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == [] and matplotlib.rcParams["backend"] == before  # a notebook's own stay what they are
    facts = json.loads((tmp_path / "a" / NUMBERS).read_text())
    metrics = evaluate(detector, data / "val.json", device="cpu")
    assert facts["ap"] == pytest.approx(metrics.ap, abs=1e-5) and facts["objects"] == metrics.boxes
    assert facts["errors"]["ap50"] == pytest.approx(metrics.ap50, abs=1e-5)
    assert set(facts) >= {"false_negatives", "localization", "sizes", "consistency", "imbalance", "calibration"}
    assert cli.main(argv) == 2  # the folder is in use now
    assert "is in use" in capsys.readouterr().err


def test_pseudo_labels_of_other_images(
    data: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["analyze", str(detector), "--data", str(data / "val.json"), "--out", str(tmp_path / "a"), "--device", "cpu"]
    assert cli.main([*argv, "--unlabeled", "absent"]) == 2
    assert "there is no such file or folder" in capsys.readouterr().err and not (tmp_path / "a").exists()
    assert cli.main([*argv, "--unlabeled", str(data / "unlabeled")]) == 0
    page = (tmp_path / "a" / REPORT).read_text(encoding="utf-8")
    assert "on 1 of 1 unlabelled images, evenly taken. Nobody has checked these boxes." in page
    assert 'id="data"' in page and ">unlabelled<" in page


def consistency_title(facts: dict[str, Any]) -> str:
    from matplotlib.figure import Figure

    figure = Figure()
    consistency(facts, figure)
    title: str = figure.axes[0].get_title()
    return title


@pytest.mark.parametrize("name", ["retinanet", "faster_rcnn"])
def test_the_other_detectors(name: str, data: Path, tmp_path: Path) -> None:
    save_detector(tmp_path / "best.safetensors", DETECTORS[name](), ("red", "blue"), 64, {})
    found = analyze(tmp_path, data / "val.json", device="cpu")
    assert found.files == () and not (tmp_path / "analysis").exists()
    facts = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert facts["consistency"]["all"]["regions"] > 0
    assert facts["first_stage"] == (name == "faster_rcnn") == any("first stage" in note for note in facts["notes"])
    assert found.table().row_count > 30
    assert consistency_title(found.facts).endswith("(first stage)") == (name == "faster_rcnn")


def test_notes_say_when_half_size_was_never_learnt(data: Path, tmp_path: Path) -> None:
    def notes(**config: Any) -> list[str]:
        save_detector(tmp_path / "best.safetensors", DETECTORS["fcos"](), ("red", "blue"), 64, {"config": config})
        found: list[str] = analyze(tmp_path, data / "val.json", device="cpu").facts["notes"]
        return found

    assert notes(half_size=True, method="supervised") == []
    assert "never trained at half size" in notes(half_size=False, method="supervised")[0]
    assert notes(half_size=False, method="sed", sed={"scale": True}) == []


NAMES = ("$\\frac{1", "_hidden $", "[bold]evil\x1b[31m[/nonsense]\nline", "日本 " + "long" * 20)


def test_names_from_outside_are_shown_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    folder = tiny.dataset(tmp_path / "[red]$x", labeled=1, unlabeled=1, val=4)
    content = json.loads((folder / "val.json").read_text())
    content["categories"] = [{"id": n + 1, "name": name} for n, name in enumerate(NAMES)]
    for n, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = n % 4 + 1
    (folder / "val.json").write_text(json.dumps(content))
    save_detector(folder / "best.safetensors", tiny.detector(4, confident=True), NAMES, 64, {})
    argv = ["analyze", str(folder / "best.safetensors"), "--data", str(folder / "val.json"), "--device", "cpu"]
    assert cli.main([*argv, "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err and "Glyph" not in captured.err
    facts = json.loads((tmp_path / "out" / NUMBERS).read_text())
    assert set(facts["false_negatives"]["objects_by_class"]) == set(NAMES)
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


@pytest.mark.parametrize("classes", [("red",), ("red", "blue")])
def test_a_detector_that_finds_nothing(data: Path, tmp_path: Path, classes: tuple[str, ...]) -> None:
    model = tiny.detector(len(classes))
    with torch.no_grad():
        model.classification_head.cls_logits.bias.fill_(-50)
    save_detector(tmp_path / "best.safetensors", model, classes, 64, {})
    out = tmp_path / "out"
    found = analyze(tmp_path, data / "val.json", classes=classes, out=out, device="cpu")
    facts = json.loads((out / NUMBERS).read_text())
    assert facts["ap"] == 0 and facts["errors"]["counts"]["missed"] == facts["objects"]
    assert facts["localization"]["mean_iou"] is None and facts["calibration"]["all"]["ece"] is None
    assert facts["false_negatives"]["lost"]["all"][0] == 1 and facts["imbalance"]["levels"][0]["background"] > 0
    assert found.table().row_count > 10


def test_a_loaded_detector_and_a_table_will_do(data: Path, detector: Path) -> None:
    predictor = Predictor(load_detector(detector), torch.device("cpu"))
    found = analyze(predictor, read_table(data / "val.json"))
    assert found.facts["ap"] == analyze(detector, data / "val.json", device="cpu").facts["ap"]


def test_nothing_stays_of_what_cannot_be_written(
    data: Path, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sedet.evaluation import analysis

    written: list[Path] = []

    def full(path: Path, content: bytes, **_: object) -> None:
        if len(written) == 3:
            raise OSError(28, "No space left on device", str(path))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        written.append(path)

    monkeypatch.setattr(analysis, "write_atomically", full)
    monkeypatch.setattr(analysis, "plots", lambda _: dict.fromkeys(PLOTS, b"drawn"))
    with pytest.raises(OSError, match="No space left"):
        analyze(detector, data / "val.json", out=tmp_path / "out", device="cpu")
    assert len(written) == 3 and not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "sedet analyze needs DETECTOR --data"),
        (["{detector}"], "sedet analyze needs DETECTOR --data"),
        (["absent", "--data", "{val}"], "absent: there is no such detector file"),
        (["{detector}", "--data", "absent.json"], "there is no such file or folder"),
        (["{detector}", "--data", "{empty}"], "there are no boxes to measure by"),
        (["{detector}", "--data", "{val}", "--out", "{used}"], "is in use: it holds files already"),
        (["{detector}", "--data", "{val}", "--out", "{val}"], "is a file"),
        (["{detector}", "--data", "{val}", "--out", "{val}/x"], "is no folder. Give --out another place"),
        (["{detector}", "--data", "{val}", "--batch", "0"], "--batch must be 1 or more"),
        (["{detector}", "--data", "{val}", "--classes", "green"], "does not know the class 'green'"),
        (["{detector}", "--data", "{broken}"], "none of the 1 images can be read"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    argv: list[str],
    message: str,
    data: Path,
    detector: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    content = json.loads((data / "val.json").read_text())
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").touch()
    Image.new("RGB", (64, 48)).save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:-40])
    one = {"images": [{"id": 0, "file_name": "b.png", "width": 64, "height": 48}]}
    one["annotations"] = [a for a in content["annotations"] if a["image_id"] == 0]
    (tmp_path / "broken.json").write_text(json.dumps({**content, **one}))
    (tmp_path / "empty.json").write_text(json.dumps({**content, **one, "annotations": []}))
    places = {"val": data / "val.json", "detector": detector, "used": tmp_path / "used"}
    places |= {name: tmp_path / f"{name}.json" for name in ("broken", "empty")}
    words = [word.format(**places) for word in argv]
    assert cli.main(["analyze", *words]) == 2
    captured = capsys.readouterr()
    (line,) = [x for x in captured.err.splitlines() if not x.startswith("sedet: warning:")]
    assert line.startswith("sedet: error: ") and message in line and captured.out == ""
    assert not (tmp_path / "analysis").exists()


def test_a_detector_of_the_usual_sizes_is_measured_too(data: Path, tmp_path: Path) -> None:
    """Built as training builds it, without the shortcuts of the small ones above."""
    torch.manual_seed(0)
    model = build_detector("faster_rcnn", tiny.BACKBONE, 2, tiny.MODEL, "none")
    save_detector(tmp_path / "best.safetensors", model, ("red", "blue"), 64, {})
    assert analyze(tmp_path, data / "val.json", device="cpu").facts["images"] == 4
