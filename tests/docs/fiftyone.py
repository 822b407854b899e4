"""What of FiftyOne the pages use, as its documentation describes it: names, arguments, and what they may hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Detection:
    """``bounding_box``: left, top, width and height as shares of the image."""

    label: str
    bounding_box: list[float]
    confidence: float

    def __post_init__(self) -> None:
        assert isinstance(self.label, str) and 0 <= self.confidence <= 1
        assert len(self.bounding_box) == 4 and all(-1e-6 <= value <= 1 + 1e-6 for value in self.bounding_box)


@dataclass
class Detections:
    detections: list[Detection]


@dataclass
class Sample:
    filepath: str
    fields: dict[str, Detections] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert isinstance(self.filepath, str) and Path(self.filepath).is_file()

    def __setitem__(self, name: str, value: Detections) -> None:
        self.fields[name] = value


@dataclass
class Dataset:
    name: str
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        DATASETS[:] = [self]

    def add_sample(self, sample: Sample) -> None:
        self.samples.append(sample)


DATASETS: list[Dataset] = []
"""The last one made."""
