"""How long README's two commands take on this machine: runs them, and writes what README says of them.

python benchmarks/commands.py test
python benchmarks/commands.py demo

To be run where nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.provenance import ROOT, machine, provenance, versions
from benchmarks.rows import DEMO_RUN, RESULTS, SUITE, write_json

COUNTS = ("tests", "failures", "errors", "skipped")


def test(folder: Path) -> tuple[int, dict[str, Any]]:
    """Exit code and counts of the test suite."""
    report = folder / "report.xml"
    done = subprocess.run([sys.executable, "-m", "pytest", f"--junitxml={report}"], cwd=ROOT, check=False)
    if not report.is_file():
        return done.returncode or 1, {}
    suites = list(ET.parse(report).getroot().iter("testsuite"))
    return done.returncode, {name: sum(int(suite.get(name, 0)) for suite in suites) for name in COUNTS}


def demo(folder: Path) -> tuple[int, dict[str, Any]]:
    """Exit code of the demo, and the AP of its detectors."""
    out = folder / "demo"
    done = subprocess.run([sys.executable, "-m", "sedet", "demo", "--out", str(out)], cwd=ROOT, check=False)
    if not (out / "summary.json").is_file():
        return done.returncode or 1, {}
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    rows = [
        {key: row[key] for key in ("method", "variant", "teacher", "seed", "ap", "ap50")} for row in summary["rows"]
    ]
    return done.returncode, {"gain": summary["gain"], "rows": rows}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure one of README's two commands.")
    parser.add_argument("command", choices=("test", "demo"))
    command = parser.parse_args().command
    where = provenance(ROOT.parent / "shared" / "data")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        code, found = (test if command == "test" else demo)(Path(folder))
    seconds = time.monotonic() - began
    if not found:
        print(f"error: make {command} left nothing to measure", file=sys.stderr)
        return code
    facts = {**found, "seconds": round(seconds, 1), "commit": where.commit, "versions": versions()}
    write_json(
        RESULTS / (SUITE if command == "test" else DEMO_RUN),
        {**facts, "machine": machine("cpu"), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
    )
    return code


if __name__ == "__main__":
    raise SystemExit(main())
