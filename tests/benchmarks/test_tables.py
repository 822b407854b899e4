"""Comparisons, tables and pages: what is worked out from rows, and how it is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import challenges
from benchmarks import compare as comparing
from benchmarks.compare import identity, load_comparisons, still_of, wanted
from benchmarks.pages import demo_part, fill, readme_parts, suite_part
from benchmarks.rows import (
    RESULTS,
    SUITE,
    best_variant,
    load_command,
    load_results,
    read_openings,
)
from benchmarks.tables import render
from sedet.errors import SedetError
from sedet.evaluation.bootstrap import joint_bootstrap, paired_bootstrap
from sedet.evaluation.stored import load_detections, save_detections
from tests.evaluation.cases import random_case

from .cells import COMMIT, ROOT, result


def test_detections_come_back_as_they_were(tmp_path: Path) -> None:
    _, detections = random_case(3)
    save_detections(tmp_path / "d.npz", detections)
    for a, b in zip(detections, load_detections(tmp_path / "d.npz"), strict=True):
        assert torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores) and torch.equal(a.labels, b.labels)


def test_joint_bootstrap_of_one_pair_is_the_paired_one() -> None:
    table, first = random_case(0)
    second = [replace(d, boxes=d.boxes + 3) for d in first]
    expected = paired_bootstrap(table, first, second, draws=50)
    found = joint_bootstrap([(table, first, second)], draws=50)
    assert found is not None and [found[k] for k in ("difference", "low", "high")] == [round(v, 3) for v in expected]
    twice = joint_bootstrap([(table, first, second), (table, second, first)], draws=50)
    assert twice is not None and twice["difference"] == pytest.approx(0) and twice["low"] == pytest.approx(0, abs=1e-9)


def test_joint_bootstrap_knows_every_metric_and_no_other() -> None:
    table, first = random_case(0)
    second = [replace(d, boxes=d.boxes + 3) for d in first]
    for metric in ("ap50", "ap75", "ap_large"):
        expected = paired_bootstrap(table, first, second, draws=20, metric=metric)  # type: ignore[arg-type]
        found = joint_bootstrap([(table, first, second)], draws=20, metric=metric)  # type: ignore[arg-type]
        assert found is not None and found["difference"] == round(expected.difference, 3)
    with pytest.raises(SedetError, match="there is no metric 'ap60'"):
        joint_bootstrap([(table, first, second)], metric="ap60")  # type: ignore[arg-type]


def test_gains_count_over_the_best_twin_on_dev() -> None:
    results = [result(10), result(12, variant="2x"), result(30, percent=100.0), result(18, method="sed")]
    results += [result(40, variant="mine", trial=True)]
    assert best_variant([r["rows"][0] for r in results], dataset="coco-people", percent=10.0) != "mine"
    text = render(results, [], [])
    assert "AP +6.0" in text and "33 %" in text and "One seed, not conclusive" in text
    assert "2 times the updates (best on dev)" in text
    text = render([*results, result(11, variant="wallclock", steps=205)], [], [])  # 30 of them are the burn-in
    assert "took when it was begun (2.5 times the updates)" in text

    # chosen on dev, also where val would choose another
    on_val = [result(20, split="val"), result(11, variant="2x", split="val"), result(21, method="sed", split="val")]
    text = render(results + on_val, [], [])
    assert "judged on val" in text and "AP +10.0" in text


def test_several_seeds_give_mean_and_spread() -> None:
    results = [result(10 + s, seed=s) for s in range(3)] + [result(14 + 2 * s, seed=s, method="sed") for s in range(3)]
    results += [result(90, seed=9, method="sed")]  # without its twin it counts for no gain
    text = render(results, [], [])
    assert "+5.0 ± 1.0" in text and "Ahead in 3 of 3 runs (+4.0, +5.0, +6.0)" in text and "not conclusive" not in text


def test_intervals_and_openings_are_shown() -> None:
    group = {"dataset": "coco-people", "percent": 10.0, "recipe": "cpu", "split": "dev"}
    values = {m: {"difference": 4, "low": 1.26, "high": 6.5, "each": [4]} for m in ("ap", "ap50")}
    sides = [result(10)["rows"][0]], [result(14, method="sed")["rows"][0]]
    made = {**identity(*sides), "metrics": values}
    assert made["first"] == ["supervised", "default"] and all(made[key] == value for key, value in group.items())
    opening = {"cell": "x", "config_id": "y", "commit": COMMIT, "time": "2030-01-01T00:00:00Z", "reason": "the table"}
    text = render([result(10), result(14, method="sed")], [made], [opening])
    assert "[+1.3, +6.5]" in text and "the table" in text and "openings stand below" in text
    assert "has not been opened yet" in render([result(10)], [made], [])
    # rows measured anew, and further seeds, are not those it was worked out from
    anew = [result(10), result(14, method="sed", config_id="other")]
    more = [result(10), result(14, method="sed"), result(11, seed=1), result(13, method="sed", seed=1)]
    for results in (anew, more):
        assert "+6.5" not in render(results, [made], [])
    assert "No rows yet" in render([], [], [])


def test_rows_that_began_elsewhere_are_named() -> None:
    rows = [result(10), result(14, method="sed"), result(13, method="sed", variant="no-half-labeled", burn_in_ap=7.0)]
    assert "began alike" not in render(rows, [], [])  # labels at full size only: another burn-in, on purpose
    other = [result(9, method="csd", burn_in_ap=5.4), result(9, seed=1, burn_in_ap=3.0)]  # no SED of that seed
    text = render(rows + other, [], [])
    assert "Not all began alike" in text and "fold 1, seed 0: SED 5.00, csd default 5.40." in text
    assert "default 3.00" not in text


def test_methods_stand_in_one_table_the_best_first() -> None:
    results = [result(10), result(14, method="sed"), result(30, percent=100.0)]
    assert "### Methods" not in render(results, [], []), "SED alone is no comparison"
    results += [result(15, method="mixpl"), result(12, method="stac", seconds=1800.0)]
    values = {m: {"difference": 4, "low": 1.26, "high": 6.5, "each": [4]} for m in ("ap", "ap50")}
    of = {r["rows"][0]["method"]: [r["rows"][0]] for r in results if r["rows"][0]["percent"] == 10}
    made = [
        {**identity(of["supervised"], of["stac"]), "metrics": values},
        {**identity(of["stac"], of["sed"]), "metrics": {"ap": {"difference": 2, "low": 0.5, "high": 3.5}}},
    ]
    lines = [
        line for line in render(results, made, []).splitlines() if line.startswith(("| mixpl", "| **sed", "| stac"))
    ]
    assert [line.split(" | ")[0] for line in lines] == ["| mixpl", "| **sed**", "| stac"]
    assert lines[0].split(" | ")[7:11] == ["+5.0", "", "25 %", "-1.0"], "SED is behind it"
    assert lines[2].split(" | ")[7:12] == ["+2.0", "[+1.3, +6.5]", "10 %", "+2.0 [+0.5, +3.5]", "30"]
    results.append(result(13, method="dense-teacher", variant="share-0.1"))
    assert "\n| dense-teacher, the surest 10 % of the regions | 13.0 |" in render(results, made, [])
    short = readme_parts(results, made)["methods-table"].splitlines()
    assert "| stac | 12.0\\* |" in short and "| **sed** | 14.0 |" in short


def test_methods_are_compared_over_the_runs_that_all_have() -> None:
    results = [result(10 + f, fold=f) for f in (1, 2)] + [result(14 + f, fold=f, method="sed") for f in (1, 2)]
    results += [result(13, fold=1, method="csd"), result(30, percent=100.0), result(11.5, fold=1, variant="2x")]
    rows = [row for r in results for row in r["rows"]]
    lines = [line for line in render(results, [], []).split("### Methods")[1].splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| **sed**", "| csd", "| supervised, 2 times the updates"]
    assert lines[2].split(" | ")[1] == "15.0", "not the mean over both folds"
    assert lines[3].split(" | ")[7:11] == ["+1.5", "", "8 %", "+2.0"], "over the strongest twin"
    assert "Over all 2 runs of the two SED gains +4.0 ± 0.0 (+4.0, +4.0)." in render(results[:6], [], [])
    elsewhere = [*results, result(50, fold=7, method="mixpl")]  # shares no run with SED: it is left out, not the table
    assert "| csd |" in render(elsewhere, [], []) and "| mixpl |" not in render(elsewhere, [], [])
    near = [result(10), result(14.01, method="sed"), result(14.04, method="csd")]
    text = render(near, [], []).split("### Methods")[1]
    assert 0 < text.index("| csd | 14.0 |") < text.index("| **sed** | 14.0 |"), "what rounds alike is not equal"
    pairs = [(a[0]["method"], a[0]["variant"], b[0]["method"], len(a)) for a, b in wanted(rows)]
    assert ("supervised", "2x", "csd", 1) in pairs and ("supervised", "2x", "sed", 1) in pairs
    assert ("supervised", "default", "sed", 2) in pairs and len(set(pairs)) == len(pairs)


def test_the_strongest_twin_is_chosen_over_shared_runs() -> None:
    rows = [result(a, fold=f)["rows"][0] for f, a in ((1, 20.0), (2, 10.0))]
    rows += [result(19, fold=1, variant="2x")["rows"][0], result(99, fold=3, variant="4x")["rows"][0]]
    assert best_variant(rows, dataset="coco-people") == "default", "19 is more than the mean of 20 and 10, not than 20"
    assert best_variant(rows[2:], dataset="coco-people") == "4x" and best_variant([], dataset="bccd") is None


def test_hard_labels_are_counted_at_their_own_threshold() -> None:
    labels = [
        {"threshold": t, "precision": p, "recall": 0.8, "labels": n}
        for t, p, n in ((0.3, 0.25, 31.0), (0.5, 0.667, 16.4))
    ]
    results = [result(10), result(14, method="sed")]
    assert "labels an image" not in render(results, [], [])
    results += [
        result(9, method="sed", variant=v) | {"labels": labels} for v in ("hard-0.5", "hard-class-0.3", "no-scale")
    ]
    results.append(result(9, method="sed", variant="hard-0.3", trial=True) | {"labels": labels})
    lines = [line for line in render(results, [], []).splitlines() if " 80 % |" in line]
    assert lines == [
        "| hard labels over 0.5 | 16.4 | 67 % | 80 % | 9.0 |",
        "| hard labels over 0.3, class term alone | 31.0 | 25 % | 80 % | 9.0 |",
    ]


def test_marks_are_filled_once_and_again() -> None:
    page = "a <!-- generated: time --> b\n\n<!-- generated: table -->\n\nend\n"
    once = fill(page, {"time": "5 min", "table": "| x |", "absent": "y"})
    assert "a <!-- generated: time --> 5 min <!-- end: time --> b" in once and "\n\n| x |\n\n" in once
    assert fill(once, {"time": "5 min", "table": "| x |"}) == once
    assert "6 min" in fill(once, {"time": "6 min"}) and "5 min" not in fill(once, {"time": "6 min"})
    parts = readme_parts([result(10), result(14, method="sed")], [])
    assert "one seed, not conclusive" in parts["results-table"] and "+4.0" in parts["results-table"]
    more = readme_parts([result(10), result(30, fold=2), result(14, method="sed")], [])
    assert more["results-table"] == parts["results-table"], "a draw that SED was not run on counts for none"


def test_rows_of_a_dirty_tree_are_not_for_tables(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(result(10, commit=f"{COMMIT}-dirty")))
    assert load_results(tmp_path) == []


@pytest.mark.skipif(not list(RESULTS.glob("*.json")), reason="no results yet")
def test_the_results_page_is_up_to_date() -> None:
    text = render(load_results(), load_comparisons(), read_openings())
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == text, "run: python benchmarks/tables.py"


def test_what_readme_says_of_the_test_suite() -> None:
    suite = {"tests": 1010, "failures": 1, "errors": 2, "skipped": 7, "seconds": 290.0, "machine": {"cores": 2}}
    assert suite_part(suite)["test-time"] == "Last measured: 1,000 tests passed in about 5 minutes on 2 cores."
    assert suite_part(None) == {}


def test_what_readme_says_of_the_demo() -> None:
    assert demo_part({"seconds": 465.0, "machine": {"cores": 2}})["demo-time"] == "It takes about 8 minutes on 2 cores."
    assert demo_part(None) == {}


def test_a_suite_measured_on_a_changed_tree_does_not_count(tmp_path: Path) -> None:
    (tmp_path / SUITE).write_text(json.dumps({"commit": f"{COMMIT}-dirty"}))
    assert load_command("suite.json", tmp_path) is None and load_results(tmp_path) == []
    (tmp_path / SUITE).write_text(json.dumps({"commit": COMMIT}))
    assert load_command("suite.json", tmp_path) == {"commit": COMMIT}


def test_the_challenges_page_is_up_to_date() -> None:
    text = challenges.render(challenges.load_analyses())
    assert (ROOT / "docs" / "challenges.md").read_text(encoding="utf-8") == text, "run: python benchmarks/challenges.py"


def test_what_is_said_of_the_challenges_follows_from_the_numbers() -> None:
    def facts(lost: float, iou: float | None, difference: float) -> dict[str, Any]:
        return {
            "false_negatives": {
                "thresholds": [0.3, 0.5],
                "lost": {"all": [0.0, lost]},
                "hard": [{"threshold": 0.3, "precision": 0.1}, {"threshold": 0.5, "precision": 1 - lost / 2}],
            },
            "errors": {"dap": {"localization": 100 * difference}},
            "localization": {"mean_iou": iou},
            "consistency": {"all": {"difference": difference, "iou": 0.8}},
            "calibration": {"from_cut": {"ece": 0.1}},
            "imbalance": {"weights": {"share_of_regions": 0.47, "share_of_weight": 0.506}},
        }

    said = challenges.reading({"twin": facts(0.4, 0.7, 0.2), "SED": facts(0.3, 0.6, 0.2)})
    assert said == (
        "- Against *twin*, SED has: fewer objects lost at 0.5; more labels that are right there. Not: boxes that lie "
        f"better. No difference: {'; '.join(challenges.GOALS[3:])}.\n"
        "- In SED, objects are 47 % of the regions and 51 % of the weight.\n"
    )
    near = challenges.reading({"twin": facts(0.4, 0.7, 0.2), "SED": facts(0.395, 0.709, 0.191)})
    assert f"SED has: nothing better. No difference: {'; '.join(challenges.GOALS)}." in near
    unknown = challenges.reading({"twin": facts(0.4, None, 0.2), "SED": facts(0.5, 0.6, 0.1)})
    assert "lie better" not in unknown and "Not: fewer objects lost at 0.5" in unknown
    assert challenges.reading({"twin": facts(0.4, 0.7, 0.2)}) == ""


def test_a_comparison_is_kept_while_the_rows_are_what_it_compared() -> None:
    """The same settings on another machine have the same identity and other figures."""
    first, second = [{"ap": 40.0}, {"ap": 42.0}], [{"ap": 41.0}, {"ap": 44.0}]
    known = {"metrics": {"ap": {"difference": 1.51}}}
    assert still_of(known, first, second)
    assert not still_of(known, first, [{"ap": 41.0}, {"ap": 43.5}])


def test_a_comparison_is_written_as_soon_as_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an interruption leaves: those made so far, and those from before that come after them."""
    group = {"dataset": "bccd", "percent": 10.0, "recipe": "tiny", "split": "dev", "fold": 1, "seed": 0}
    rows = [
        {**group, "method": m, "variant": "default", "teacher": True, "trial": False, "config_id": m, "ap": ap}
        for m, ap in (("supervised", 1.0), ("sed", 2.0), ("csd", 3.0), ("mixpl", 4.0))
    ]
    monkeypatch.setattr(comparing, "load_rows", lambda _: rows)
    made: list[list[str]] = []

    def compare(first: list[dict[str, Any]], second: list[dict[str, Any]], *_: Path) -> dict[str, Any]:
        what = [first[0]["method"], second[0]["method"]]
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(what)
        ap = {"difference": second[0]["ap"] - first[0]["ap"], "low": 0.0, "high": 9.0}
        return {**identity(first, second), "metrics": {"ap": ap}}

    def kept() -> list[list[str]]:
        return [[c["first"][0], c["second"][0]] for c in load_comparisons(tmp_path)]

    asked = [["supervised", "sed"], ["csd", "sed"], ["supervised", "csd"], ["mixpl", "sed"], ["supervised", "mixpl"]]
    monkeypatch.setattr(comparing, "compare", compare)
    with pytest.raises(KeyboardInterrupt):
        comparing.update(tmp_path, tmp_path, tmp_path)
    assert made == kept() == asked[:2]

    made.clear()
    rows.reverse()  # another order of the rows: what was made is after what is not
    with pytest.raises(KeyboardInterrupt):
        comparing.update(tmp_path, tmp_path, tmp_path)
    assert len(made) == 2 and all(pair not in made for pair in asked[:2]), "kept, not made anew"
    assert all(pair in kept() for pair in [*asked[:2], *made])

    made.clear()
    comparing.update(tmp_path, tmp_path, tmp_path)
    assert len(made) == 1 and sorted(kept()) == sorted(asked)
