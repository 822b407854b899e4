"""All methods on all data in one table, for README.md: AP, and where SED's lead is outside the noise."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from benchmarks.against import over_all_runs
from benchmarks.compare import SED, compared_methods
from benchmarks.plan import TUNED
from benchmarks.rows import Row, best_variant, select
from benchmarks.values import GROUP, best_twin, bounds, cell_rows, narrowed, spread, table
from sedet.catalog import METHODS
from sedet.training.plan import gigabytes

Kind = tuple[str, str]

LEGEND = (
    "\nAP; the best of each column is bold. \\*: SED's lead is outside the noise of the images (95 %), †: it is behind "
    "outside it; °: there is no interval. *tuned*: where others than the published settings were "
    "best on dev; other lines of rivals have their publications' settings, labels alone their best length. Of several "
    "recipes a column has that with the most methods. *dev*: what settings were chosen on; *val*: what nothing was "
    "chosen by (bccd's test images).\n"
)

LINES = [(method, tuned) for method in ("sed", *(m for m in METHODS if m != "sed")) for tuned in (False, True)]
"""The lines that there may be, in their order: each method as it is, and tuned."""


def columns(rows: Sequence[Row], shown: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each data set, labelled share and detector one group: val where there is one, of those the most methods.

    Of groups with as many methods the first by the recipe's name.
    """
    best: dict[tuple[Any, ...], tuple[tuple[bool, int], dict[str, Any]]] = {}
    for group in shown:
        here = select(listed(rows, group), **group)
        kinds, _ = compared_methods(rows, here)
        if not kinds:
            continue
        key, worth = (group["dataset"], group["percent"], here[0]["detector"]), (group["split"] == "val", len(kinds))
        if key not in best or worth > best[key][0]:
            best[key] = (worth, group)
    return [group for _, group in best.values()]


def listed(rows: Sequence[Row], group: dict[str, Any]) -> list[Row]:
    """All rows, but of a group only those that lines are made of: others are not to narrow the runs that all have."""
    kinds = [kind_of(rows, group, *line) for line in LINES]
    return narrowed(rows, group, lambda r: (r["method"], r["variant"]) in kinds)


def kind_of(rows: Sequence[Row], group: dict[str, Any], method: str, tuned: bool) -> Kind | None:
    """The variant that stands in a method's line, chosen on dev where there are several."""
    if not tuned:
        return (method, best_twin(rows, group) if method == "supervised" else "default")
    cell = {key: group[key] for key in GROUP if key != "split"}
    known = ("default", *TUNED.get(method, {}))
    tried = [r for r in select(rows, **cell, method=method) if r["variant"] in known]
    variant = best_variant(tried, **cell, method=method)
    return None if variant in (None, "default") else (method, str(variant))


def overview(
    rows: Sequence[Row], shown: Sequence[dict[str, Any]], comparisons: Sequence[Any], cost: dict[str, Any] | None = None
) -> str:
    """The table, with what has more runs than its columns below; empty where SED stands alone.

    Args:
        cost: what benchmarks/cost.py measured, for a last column.
    """
    groups = columns(rows, shown)
    lines: dict[tuple[str, bool], list[str]] = {}
    aps: list[dict[tuple[str, bool], float]] = []
    for place, group in enumerate(groups):
        kinds, runs = compared_methods(rows, select(listed(rows, group), **group))
        beside = narrowed(rows, group, lambda r, runs=runs: (r["fold"], r["seed"]) in runs)
        aps.append({})
        for line in LINES:
            kind = kind_of(rows, group, *line)
            if kind not in kinds:
                continue
            found = cell_rows(beside, group, method=kind[0], variant=kind[1])
            low_high = (0.0, 0.0) if kind == SED else bounds(beside, comparisons, group, kind, SED)
            mark = "°" if low_high is None else "\\*" if low_high[0] > 0 else "†" if low_high[1] < 0 else ""
            aps[-1][line] = mean(r["ap"] for r in found)
            lines.setdefault(line, [""] * len(groups))[place] = spread([r["ap"] for r in found]) + mark
    if not lines:
        return ""
    for place, values in enumerate(aps):
        for line, ap in values.items():
            if ap == max(values.values()):
                lines[line][place] = f"**{lines[line][place]}**"
    names = {line: f"**{line[0]}**" if line[0] == "sed" else line[0] + (", tuned" if line[1] else "") for line in lines}
    body = [[names[line], *lines[line]] for line in LINES if line in lines]
    headings, legend = ["", *(_title(rows, group) for group in groups)], LEGEND
    if cost is not None:
        each = {(c["method"], False): told_cost(c) for c in cost["methods"]}  # a setting costs nothing
        body = [[*line, each.get(key, "")] for line, key in zip(body, filter(lines.get, LINES), strict=True)]
        headings, legend = [*headings, "an update"], LEGEND + told_where(cost)
    more = [
        f"\n{_title(rows, group)}: {told}\n"
        for group in groups
        for told in over_all_runs(listed(rows, group), group, comparisons)
    ]
    return (table(headings, body) + legend + "".join(more)).rstrip()


def told_cost(one: dict[str, Any]) -> str:
    return f"{one['seconds']:.2f} s, {gigabytes(one['memory']).removesuffix(' of memory')}"


def told_where(cost: dict[str, Any]) -> str:
    where, beside = cost["machine"], cost["beside"]
    threads = "1 thread" if where["threads"] == 1 else f"{where['threads']} threads"
    load = f", beside {beside} other training{'' if beside == 1 else 's'}" if beside else ""
    cell = f"{cost['dataset']}, {cost['percent']:g} %, `{cost['recipe']}`"
    return f"*an update*: after the burn-in, and the memory's peak ({cell}; {where['processor']}, {threads}{load}).\n"


def _title(rows: Sequence[Row], group: dict[str, Any]) -> str:
    first = select(rows, **group, method="sed")[0]
    where = "" if group["dataset"] == "demo" else f", {group['split']}"
    detector = ", Faster R-CNN" if first["detector"] == "faster_rcnn" else ""
    return f"{group['dataset']}, {first['labeled_images']} labelled{detector}, `{group['recipe']}`{where}"
