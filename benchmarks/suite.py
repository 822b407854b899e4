"""How long the test suite takes on this machine: runs it, and writes what README says of it.

python benchmarks/suite.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.provenance import ROOT, machine, provenance, versions
from benchmarks.rows import RESULTS, SUITE, write_json

COUNTS = ("tests", "failures", "errors", "skipped")


def main() -> int:
    where = provenance(ROOT.parent / "shared" / "data")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = subprocess.run([sys.executable, "-m", "pytest", f"--junitxml={report}"], cwd=ROOT, check=False)
        seconds = time.monotonic() - began
        if not report.is_file():
            print("error: pytest wrote no report", file=sys.stderr)
            return done.returncode or 1
        suites = list(ET.parse(report).getroot().iter("testsuite"))
    counts = {name: sum(int(suite.get(name, 0)) for suite in suites) for name in COUNTS}
    facts = {**counts, "seconds": round(seconds, 1), "commit": where.commit, "versions": versions()}
    write_json(
        RESULTS / SUITE,
        {**facts, "machine": machine("cpu"), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
    )
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
