"""What each command can be told: its flags, their defaults and their help. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sedet.config import TrainConfig
from sedet.flags import INLINE, POSITIONAL


@dataclass(frozen=True)
class TrainOptions:
    """Train a detector from few labels and a folder of unlabelled images.

    sedet train --labeled data/train.json --unlabeled photos/ --val data/val.json --out runs/first
    """

    config: str | None = None
    """YAML file of settings, named as the flags; flags given beside it win."""
    resume: str | None = None
    """Continue this run folder as if it had not been interrupted. Needs no other flag, but where its data have moved:
    --labeled, --unlabeled, --val, --images."""
    settings: TrainConfig = field(default_factory=TrainConfig, metadata=INLINE)


@dataclass(frozen=True)
class EvalOptions:
    """Judge a detector on labelled data: COCO metrics, by size and by class.

    sedet eval runs/first/best.safetensors data/val.json
    """

    detector: str = field(metadata=POSITIONAL)
    """Detector file (best.safetensors of a run)."""
    data: str = field(metadata=POSITIONAL)
    """Labelled data: COCO JSON, Pascal VOC folder or YOLO data.yaml."""
    images: str | None = None
    """Folder of the images, where the annotations' own paths do not lead to them."""
    split: str = "val"
    """Part of the data to judge on, where a folder or data.yaml holds several."""
    classes: tuple[str, ...] = ()
    """Judge by these classes alone. Default: all."""
    json: str | None = None
    """Write the metrics to this JSON file too."""
    detections: str | None = None
    """Write the detections to this file: a COCO results list with the data's image and category ids."""
    tiles: int | None = None
    """Judge it with tiles, as sedet predict --tiles: tells what they bring."""
    tile_overlap: float = 0.2
    """Share of a tile that it has in common with the next."""
    tile_whole: bool = True
    """Look at the whole image too, for objects larger than a tile."""
    batch: int = 8
    """Images at a time."""
    device: str = "auto"
    """auto, cpu, cuda, or mps (untested)."""


@dataclass(frozen=True)
class PredictOptions:
    """Find objects in images, large images and videos.

    sedet predict runs/first/best.safetensors photos/ --format coco --draw
    """

    detector: str = field(metadata=POSITIONAL)
    """Detector file (best.safetensors of a run)."""
    sources: tuple[str, ...] = field(metadata=POSITIONAL)
    """Images, folders (recursive), list files (.txt) or globs; video files."""
    out: str = "predictions"
    """Folder to write to. Must be new or empty."""
    format: tuple[Literal["jsonl", "csv", "coco", "yolo"], ...] = ("jsonl",)
    """How detections are written; one or several."""
    draw: bool = False
    """Write the images with their detections drawn, too; of a video a video."""
    score: float | None = None
    """Lowest score of a detection that is written. Default: the detector's best on its val images, else 0.3."""
    max_detections: int = 100
    """Most detections an image, best first (with --tiles: a tile)."""
    tiles: int | None = None
    """Look at images with a longer side in tiles of this side, pixels: for small objects in large images."""
    tile_overlap: float = 0.2
    """Share of a tile that it has in common with the next."""
    tile_whole: bool = True
    """Look at the whole image too, for objects larger than a tile."""
    every: int = 1
    """Of a video, look at every n-th frame."""
    batch: int = 8
    """Images at a time."""
    device: str = "auto"
    """auto, cpu, cuda, or mps (untested)."""


@dataclass(frozen=True)
class SplitOptions:
    """Make a labelled part and a list of unlabelled images from labelled data.

    The parts are seeded and nested: the images of 5 percent are among those of 10 percent.

    sedet split data/train.json --percent 10 --fold 1 --out splits/10-1
    """

    data: str = field(metadata=POSITIONAL)
    """Labelled data: COCO JSON, Pascal VOC folder or YOLO data.yaml."""
    out: str
    """Folder to write to. Must be new or empty."""
    percent: float = 10.0
    """Share of the images that keeps its labels, percent."""
    shots: int | None = None
    """In place of it: images of each class that keep their labels."""
    fold: int = 1
    """Which of the independent draws (1, 2, ...)."""
    seed: int = 0
    """Base of the draw."""
    images: str | None = None
    """Folder of the images, where the annotations' own paths do not lead to them."""
    split: str = "train"
    """Part of the data to draw from, where a folder or data.yaml holds several."""


@dataclass(frozen=True)
class CheckOptions:
    """Find the problems in data before training does. Exit code 0: training would start.

    sedet check data/train.json --unlabeled photos/ --val data/val.json
    """

    data: str = field(metadata=POSITIONAL)
    """Labelled data: COCO JSON, Pascal VOC folder or YOLO data.yaml."""
    unlabeled: tuple[str, ...] = ()
    """Unlabelled images: folders (recursive), list files (.txt) or globs."""
    val: str | None = None
    """Labelled data to judge by."""
    classes: tuple[str, ...] = ()
    """Classes to learn, in this order. Default: all."""
    images: str | None = None
    """Folder of the labelled images, where the annotations' own paths do not lead to them."""
    val_images: str | None = None
    """The same for the validation images."""
    fast: bool = False
    """Decode no image: quicker, but finds neither truncated ones nor near-duplicates."""


@dataclass(frozen=True)
class DemoOptions:
    """Draw a data set, train supervised and SED on it, and show what SED gained. Nothing is downloaded.

    sedet demo
    """

    out: str | None = None
    """Folder to write to. Must be new or empty. Default: sedet-demo, then sedet-demo-2 and so on."""
    seed: int = 0
    """Seed of the scenes and of the trainings."""
    fast: bool = False
    """A few steps only, to see that everything works; its scores mean nothing."""
