"""What exporting a detector costs: AP, size and time of each format and precision; fills docs/export.md.

    python benchmarks/export.py RUN --images FOLDER

AP is that of the run's own val images (dev); int8 is calibrated on other images.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pages import fill
from benchmarks.provenance import ROOT, machine, provenance, versions
from benchmarks.rows import write_json
from benchmarks.tables import write_if_changed
from benchmarks.values import table
from sedet.exporting.export import export
from sedet.exporting.options import Format, Precision
from sedet.settings import load_config

MEASURED = ROOT / "benchmarks" / "trials" / "export.json"
VARIANTS: tuple[tuple[Format, Precision], ...] = (
    ("onnx", "fp32"),
    ("onnx", "fp16"),
    ("onnx", "int8"),
    ("torch-export", "fp32"),
)
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def measure(run: Path, images: Path) -> dict[str, Any]:
    """A record of each variant."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for format, precision in VARIANTS:
            out = Path(folder) / f"{precision}.{format}"
            val, val_images = own_val(run)
            calibrate = [str(images)] if precision == "int8" else []
            done = export(run, out, format, precision, images=calibrate, data=val, data_images=val_images)
            assert done.ap is not None and done.seconds is not None and done.resized is not None
            found.append(
                {
                    "format": format,
                    "precision": precision,
                    "ap": done.ap[1],
                    "ap_pytorch": done.ap[0],
                    "bytes": done.size,
                    "milliseconds": 1000 * done.seconds[1],
                    "milliseconds_pytorch": 1000 * done.seconds[0],
                    "missing": done.resized.missing,
                    "detections": done.resized.detections,
                    "score_difference": done.resized.score,
                }
            )
            print(done, flush=True)
    return {"run": run.name, "detector_bytes": (run / "best.safetensors").stat().st_size, "variants": found}


def own_val(run: Path) -> tuple[str, str | None]:
    config = load_config(run / "config.yaml")
    assert config.val is not None
    return str(config.val), None if config.val_images is None else str(config.val_images)


def part(record: dict[str, Any]) -> str:
    """The table for docs/export.md."""
    first = record["variants"][0]
    size = f"{record['detector_bytes'] / 1e6:.1f}"
    lines = [["PyTorch", f"{first['ap_pytorch']:.1f}", "", size, f"{first['milliseconds_pytorch']:.0f}", ""]]
    for v in record["variants"]:
        name = f"{'ONNX' if v['format'] == 'onnx' else 'torch.export'}, {v['precision']}"
        cost = f"{v['ap'] - v['ap_pytorch']:+.1f}"
        missing = f"{v['missing']} of {v['detections']}"
        lines.append([name, f"{v['ap']:.1f}", cost, f"{v['bytes'] / 1e6:.1f}", f"{v['milliseconds']:.0f}", missing])
    headings = ["", "AP", "cost", "MB", "ms an image", "without a counterpart"]
    where = f"{record['machine']['processor']}, {record['machine']['threads']} thread, image by image"
    return f"`{record['run']}`, {where} (`benchmarks/trials/export.json`):\n\n" + table(headings, lines).rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="left out: only write the page again")
    parser.add_argument("--images", type=Path, help="images to calibrate int8 on")
    options = parser.parse_args()
    if options.run is not None:
        where = provenance(ROOT.parent / "shared" / "data")
        found = measure(options.run, options.images)
        record = {"commit": where.commit, "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        record |= {"versions": versions() | package_versions(), "machine": machine("cpu")}
        write_json(MEASURED, {**record, **found})
    page = ROOT / "docs" / "export.md"
    record = json.loads(MEASURED.read_text(encoding="utf-8"))
    write_if_changed(page, fill(page.read_text(encoding="utf-8"), {"export-table": part(record)}))
    return 0


def package_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in PACKAGES}


if __name__ == "__main__":
    sys.exit(main())
