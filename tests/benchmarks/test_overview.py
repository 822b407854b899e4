"""All methods on all data in one table."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.compare import identity
from benchmarks.overview import columns, overview
from benchmarks.plan import TUNED
from benchmarks.values import groups

from .cells import result


def told(results: list[dict[str, Any]], comparisons: list[Any] | None = None) -> list[str]:
    rows = [row for r in results for row in r["rows"]]
    return overview(rows, groups(rows), comparisons or []).splitlines()


def lead(first: dict[str, Any], low: float, high: float) -> dict[str, Any]:
    sides = [first["rows"][0]], [result(14, method="sed")["rows"][0]]
    return {**identity(*sides), "metrics": {"ap": {"difference": 0, "low": low, "high": high}}}


def test_a_line_a_method_as_published_and_tuned() -> None:
    assert told([result(10), result(14, method="sed")]) == [], "SED alone is no comparison"
    rivals = [
        result(12, method="mixpl", seconds=1500.0),
        result(15, method="mixpl", variant="over-0.5"),
        result(13, method="unbiased-teacher", variant="over-0.5"),
        result(14.5, method="csd", variant="2x"),
    ]
    results = [result(10), result(14, method="sed", seconds=2100.0), *rivals, result(30, percent=100.0)]
    ahead, behind = lead(rivals[0], 0.5, 3.0), lead(rivals[1], -2.0, -0.5)
    lines = told(results, [ahead, behind, lead(rivals[2], -0.5, 2.0)])
    assert lines[0] == "|  | coco-people, 170 labelled, `cpu`, dev |"
    assert lines[2:7] == [
        "| **sed** | 14.0 |",
        "| supervised | 10.0° |",
        "| unbiased-teacher, tuned | 13.0 |",
        "| mixpl | 12.0\\* |",
        "| mixpl, tuned | **15.0†** |",
    ]
    assert not any("csd" in line for line in lines), "twice the updates is no setting of its own"


def test_a_column_of_each_data_set_share_and_detector() -> None:
    few = [result(10, recipe="a"), result(14, recipe="a", method="sed"), result(11, recipe="a", method="stac")]
    more = [result(ap, recipe="b", method=m) for m, ap in (("supervised", 1), ("sed", 2), ("stac", 3), ("csd", 4))]
    two = [
        result(ap, recipe="c", method=m, detector="faster_rcnn")
        for m, ap in (("supervised", 5), ("sed", 6), ("pseco", 7))
    ]
    results = [*few, *more, *two]
    rows = [row for r in results for row in r["rows"]]
    assert [g["recipe"] for g in columns(rows, groups(rows))] == ["b", "c"], "the most methods"
    lines = told(results)
    assert lines[0] == "|  | coco-people, 170 labelled, `b`, dev | coco-people, 170 labelled, Faster R-CNN, `c`, dev |"
    assert "| **sed** | 2.0 | 6.0 |" in lines and "| pseco |  | **7.0°** |" in lines
    opened = [result(ap, recipe="b", split="val", method=m) for m, ap in (("supervised", 1), ("sed", 2), ("stac", 8))]
    lines = told([*results, *opened])
    assert "170 labelled, `b`, val" in lines[0] and "| stac | **8.0°** |  |" in lines


def test_what_an_update_costs_stands_beside() -> None:
    each = [{"method": m, "seconds": s, "memory": 3 * 2**29} for m, s in (("sed", 1.234), ("mixpl", 0.8))]
    about = {"dataset": "bccd", "percent": 2.0, "recipe": "few", "beside": 1}
    cost = {**about, "methods": each, "machine": {"processor": "p", "threads": 1}}
    results = [result(10), result(14, method="sed"), result(12, method="mixpl")]
    results.append(result(13, method="mixpl", variant="over-0.5"))
    rows = [row for r in results for row in r["rows"]]
    lines = overview(rows, groups(rows), [], cost).splitlines()
    assert "| **sed** | **14.0** | 1.23 s, 1.5 GiB |" in lines and "| mixpl, tuned | 13.0° |  |" in lines
    assert "| supervised | 10.0° |  |" in lines
    assert lines[-1].endswith("(bccd, 2 %, `few`; p, 1 thread, beside 1 other training).")


def test_what_is_tuned_is_chosen_on_dev(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TUNED, "mixpl", {"over-0.5": {}, "over-0.6": {}})
    results = [result(10), result(14, method="sed"), result(10, split="val"), result(14, method="sed", split="val")]
    for variant, dev, val in (("over-0.5", 12, 20), ("over-0.6", 13, 11)):
        results += [result(ap, method="mixpl", variant=variant, split=s) for s, ap in (("dev", dev), ("val", val))]
    assert "| mixpl, tuned | 11.0° |" in told(results)
    results += [result(12.5, method="mixpl"), result(9, method="mixpl", split="val")]
    assert "| mixpl, tuned | 11.0° |" in told(results) and "| mixpl | 9.0° |" in told(results)
    results[-2] = result(13.5, method="mixpl")
    assert not any("tuned |" in line for line in told(results)), "nothing was better than what is published"


def test_what_is_not_listed_narrows_nothing() -> None:
    results = [result(10, fold=f) for f in (1, 2)] + [result(14 + f, fold=f, method="sed") for f in (1, 2)]
    results += [result(12, fold=f, method="stac") for f in (1, 2)] + [result(13, fold=1, method="stac", variant="2x")]
    lines = told(results)
    assert "| **sed** | **15.5 ± 0.7** |" in lines and not any("Over all" in line for line in lines)


def test_an_opened_column_goes_before_one_with_more_methods() -> None:
    opened = [result(ap, recipe="a", split="val", method=m) for m, ap in (("supervised", 1), ("sed", 2), ("stac", 8))]
    more = [result(ap, recipe="b", method=m) for m, ap in (("supervised", 1), ("sed", 2), ("stac", 3), ("csd", 4))]
    assert told([*more, *opened])[0] == "|  | coco-people, 170 labelled, `a`, val |"


def test_an_interval_of_fewer_runs_is_not_given_to_all() -> None:
    results = [result(10, fold=f) for f in (1, 2)] + [result(14, fold=f, method="sed") for f in (1, 2)]
    results += [result(13, fold=f, method="mixpl") for f in (1, 2)] + [result(9, fold=1, method="csd")]
    first = next(r for r in results if r["rows"][0]["method"] == "mixpl")
    one = lead(first, 8.25, 9.75)
    assert one["runs"] == [[1, 0]]
    text = told(results, [one])
    assert "| mixpl | 13.0\\* |" in text, "over the one run that all have"
    assert any("lead over mixpl is +1.0 ± 0.0 (+1.0, +1.0)" in line for line in text) and "9.8" not in "".join(text)


def test_more_runs_than_the_table_has_stand_below() -> None:
    results = [result(10 + f, fold=f) for f in (1, 2)] + [result(14, fold=f, method="sed") for f in (1, 2)]
    results += [result(13 + f / 2, fold=f, method="mixpl") for f in (1, 2)] + [result(9, fold=1, method="csd")]
    lines = told(results)
    assert "| **sed** | **14.0** |" in lines and "| mixpl | 13.5° |" in lines
    text = "\n".join(lines)
    assert "Over all 2 runs of the two SED gains +2.5 ± 0.7 (+3.0, +2.0)." in text
    assert "Over all 2 runs of the two SED's lead over mixpl is +0.2 ± 0.4 (+0.5, +0.0)." in text
