"""Flags of ``sedet report``. Nothing heavy is imported here: the help reads it."""

from __future__ import annotations

from dataclasses import dataclass, field

from sedet.flags import POSITIONAL


@dataclass(frozen=True)
class ReportOptions:
    """Make the report of a run folder (again): verdict, curves, errors and pseudo labels in one HTML file.

    Training writes it by itself; this makes it for a run that was interrupted, for other data, or beside its twin.

    sedet report runs/first --data data/test.json --out test-report.html
    """

    folder: str = field(metadata=POSITIONAL)
    """Run folder that sedet train wrote, finished or not."""
    data: str | None = None
    """Labelled data to judge by, in place of the run's own validation labels."""
    images: str | None = None
    """Folder of their images, where the annotations' own paths do not lead to them."""
    split: str = "val"
    """Part of the data to judge on, where a folder or data.yaml holds several."""
    twin: str | None = None
    """Run folder of the supervised twin, to tell what unlabelled images added."""
    out: str | None = None
    """File to write. Default: report.html in the folder; one that is there is replaced."""
    batch: int = 8
    """Images at a time."""
    device: str = "auto"
    """auto, cpu, cuda, or mps (untested)."""
