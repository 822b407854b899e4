"""A detector ready to use, on images of any kind, and its results."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sedet.data.images import read_image
from sedet.detectors.file import LoadedDetector, load_detector
from sedet.detectors.inference import detect
from sedet.detectors.regions import Detections
from sedet.errors import ConfigError, SedetError

if TYPE_CHECKING:
    import supervision

ImageLike = str | Path | Image.Image | NDArray[np.uint8] | Tensor
Pixels = NDArray[np.uint8]
Source = TypeVar("Source")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Result:
    """The detections of one image, best first.

    Attributes:
        boxes: float32 [n, 4], xyxy in pixels of the original image, within it.
        scores: float32 [n] in 0..1.
        labels: int64 [n], indices into the detector's classes.
        names: the class name of each detection.
        path: the image's file; None for an image that was given as pixels.
        width: of the original image, pixels.
        height: the same.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: tuple[str, ...]
    path: Path | None
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.names)

    def numpy(self) -> dict[str, NDArray[Any]]:
        """``boxes``, ``scores`` and ``labels`` as NumPy arrays."""
        return {"boxes": self.boxes.numpy(), "scores": self.scores.numpy(), "labels": self.labels.numpy()}

    def to_dict(self) -> dict[str, Any]:
        """For JSON: boxes to a thousandth of a pixel, scores to five places."""
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), self.names, strict=True)
        return {
            "path": None if self.path is None else str(self.path),
            "width": self.width,
            "height": self.height,
            "detections": [
                {"box": [round(v, 3) for v in box], "score": round(score, 5), "label": label, "name": name}
                for box, score, label, name in rows
            ],
        }

    def to_supervision(self) -> supervision.Detections:
        """As Roboflow supervision's Detections, with ``class_name`` in its data.

        Raises:
            SedetError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise SedetError("supervision is not installed: pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy().astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def to_fiftyone(self) -> Any:
        """As FiftyOne's ``Detections``, a label field of a sample: boxes as shares of the image, x, y, width, height.

        Raises:
            SedetError: FiftyOne is not installed.
        """
        try:
            import fiftyone
        except ImportError as error:
            raise SedetError("FiftyOne is not installed; pip install fiftyone brings it") from error
        size = torch.tensor([self.width, self.height], dtype=torch.float32)
        corner, sides = self.boxes[:, :2] / size, (self.boxes[:, 2:] - self.boxes[:, :2]) / size
        rows = zip(torch.cat([corner, sides], dim=1).tolist(), self.scores.tolist(), self.names, strict=True)
        return fiftyone.Detections(
            detections=[fiftyone.Detection(label=name, bounding_box=box, confidence=score) for box, score, name in rows]
        )

    def draw(self, image: ImageLike | None = None) -> Image.Image:
        """A picture of the detections; small images are enlarged.

        Args:
            image: the image that was predicted on. Default: read from ``path``.

        Raises:
            SedetError: no image is given and there is no path, or its size is another one.
        """
        from sedet.reporting.draw import draw_boxes

        if image is None:
            if self.path is None:
                raise SedetError("draw needs the image: this one was not read from a file")
            image = self.path
        pixels, _ = as_pixels(image)
        if pixels.shape[:2] != (self.height, self.width):
            size = f"{pixels.shape[1]} x {pixels.shape[0]}"
            raise SedetError(f"the image to draw on is {size}, the detections are of {self.width} x {self.height}")
        names = dict(zip(self.labels.tolist(), self.names, strict=True))
        return draw_boxes(pixels, self.boxes, self.labels, names, self.scores)


class Predictor:
    """A detector ready to use.

    Attributes:
        model: the network, in evaluation mode.
        classes: class names by label.
        category_ids: the id of each class in the labels it was trained on, for COCO files.
        image_size: long side that images are resized to, pixels.
        metadata: what the file says of its training.
        score: the score detections are cut at by default: the best on its val images, or 0.3.
        device: where it runs.
    """

    full_size = False
    """Whether it needs large images in full size, where others are given shrunk ones."""

    def __init__(self, loaded: LoadedDetector, device: torch.device) -> None:
        self.model = loaded.model
        self.classes = loaded.classes
        self.category_ids = loaded.category_ids
        self.image_size = loaded.image_size
        self.metadata = loaded.metadata
        self.score = loaded.score
        self.device = device
        self._most = sys.maxsize  # images that fit in memory, as far as is known

    def __repr__(self) -> str:
        return f"Predictor({len(self.classes)} classes, {self.image_size} px, {self.device})"

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self, image: ImageLike, score: float | None = ..., max_detections: int = ..., batch: int = ...
    ) -> Result: ...

    @overload
    def predict(
        self, image: Sequence[ImageLike], score: float | None = ..., max_detections: int = ..., batch: int = ...
    ) -> list[Result]: ...

    def predict(
        self,
        image: ImageLike | Sequence[ImageLike],
        score: float | None = None,
        max_detections: int = 100,
        batch: int = 8,
    ) -> Result | list[Result]:
        """Find objects.

        Args:
            image: one image or a list of them, each a path (turned by its EXIF orientation), a PIL image
                (taken as it is), a uint8 RGB array [height, width, 3] (OpenCV's are BGR: turn them round) or
                a uint8 RGB tensor [3, height, width]. Grey arrays and tensors will do too.
            score: lowest score of a detection. Default: the detector's own (``score``).
            max_detections: most detections an image, best first.
            batch: images at a time.

        Returns:
            A result, or for a list a list of them.

        Raises:
            ImageError: a file that cannot be read.
            ConfigError: a score, ``max_detections`` or ``batch`` out of range.
            SedetError: pixels of another shape or type, or no memory for a single image.
        """
        # What is no image either (None, of cv2.imread and a wrong path) is told like one in a list.
        if isinstance(image, (str, Path, Image.Image, np.ndarray, Tensor)) or not isinstance(image, Iterable):
            return self.predict([image], score, max_detections, batch)[0]
        score = self.score if score is None else score
        check_score(score)
        check_most(max_detections)
        results: list[Result] = []
        for part in batches(image, batch):
            decoded = [as_pixels(one) for one in part]
            found = self.detect([pixels for pixels, _ in decoded], score, max_detections)
            for (pixels, path), detections in zip(decoded, found, strict=True):
                height, width = pixels.shape[:2]
                results.append(self.result(detections, (width, height), path))
        return results

    def detect(self, images: Sequence[Pixels], score_threshold: float, max_detections: int) -> list[Detections]:
        """Detections of decoded images in their own pixels. A batch that memory cannot hold is parted.

        Raises:
            SedetError: there is no memory for a single image.
        """
        found: list[Detections] = []
        while len(found) < len(images):
            part = images[len(found) : len(found) + self._most]
            try:
                found += detect(self.model, part, self.image_size, score_threshold, max_detections)
                continue
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
            # Outside of the handler, which holds the failed batch's memory.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(part) == 1:
                raise SedetError(
                    f"there is not enough memory on {self.device} for one image at {self.image_size} px; "
                    "close other programs, or use --device cpu"
                )
            self._most = (len(part) + 1) // 2
            log.warning("a batch of %d images does not fit in memory; trying %d", len(part), self._most)
        return found

    def result(self, found: Detections, size: tuple[int, int], path: Path | None) -> Result:
        """The result of detections in original pixels, clipped to the image's ``size`` (width, height)."""
        limit = torch.tensor([*size, *size], dtype=torch.float32)
        boxes = torch.minimum(found.boxes.float().cpu().clamp(min=0), limit)
        names = tuple(self.classes[label] for label in found.labels.tolist())
        return Result(boxes, found.scores.float().cpu(), found.labels.cpu(), names, path, *size)


def load(path: str | Path, device: str | torch.device | None = "auto") -> Predictor:
    """Load a detector file (``best.safetensors`` of a run, or the run's folder).

    Args:
        path: the file.
        device: auto or None (a GPU where there is one), cpu, cuda, cuda:1, or mps (untested).

    Raises:
        CheckpointError: missing, damaged, or not written by sedet.
        ConfigError: there is no such device, or the path is none.
    """
    check_place(path)
    chosen = choose_device(device)
    return Predictor(load_detector(Path(path), chosen), chosen)


def check_place(path: object) -> None:
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"a detector is loaded from the path of its file, not from {type(path).__name__}")


def choose_device(name: str | torch.device | None) -> torch.device:
    """The device of a name; auto and None take CUDA where there is one.

    Raises:
        ConfigError: there is no such device here.
    """
    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ConfigError(f"there is no device '{name}'; use auto, cpu, cuda or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"there is no device '{name}': PyTorch finds {torch.cuda.device_count()} CUDA GPUs")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("there is no device 'mps' here; use auto or cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"the device '{name}' is not supported; use auto, cpu, cuda or mps")
    return device


def check_score(score: float, name: str = "score") -> None:
    if isinstance(score, str):  # of a form or the environment
        raise ConfigError(f"{name} must be a number from 0 to 1, not the text {score!r}")
    if not 0 <= score <= 1:
        raise ConfigError(f"{name} must be from 0 to 1, not {score}")


def check_most(max_detections: int) -> None:
    if isinstance(max_detections, str) or max_detections < 1:
        raise ConfigError(f"max_detections must be 1 or more, not {max_detections!r}")


def as_pixels(image: ImageLike) -> tuple[Pixels, Path | None]:
    """uint8 [height, width, 3] RGB of any kind of image that ``Predictor.predict`` takes, and its path.

    Raises:
        ImageError: a file that cannot be read.
        SedetError: pixels of another shape or type.
    """
    if isinstance(image, (str, Path)):
        return read_image(Path(image)), Path(image)
    if isinstance(image, Image.Image):
        return _from_pil(image), None
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3):
            raise SedetError(
                f"a tensor of {image.dtype} {list(image.shape)} is no image: give uint8 [3, height, width], RGB"
            )
        array: NDArray[Any] = image.detach().cpu().permute(1, 2, 0).numpy()
    elif isinstance(image, np.ndarray):
        array = image
        if array.dtype != np.uint8:
            raise SedetError(f"an array of {array.dtype} is no image: give uint8 [height, width, 3], RGB, 0..255")
        if array.ndim == 2:
            array = array[..., None]
        if array.ndim != 3 or array.shape[2] not in (1, 3):
            hint = "turn the channels last" if array.ndim == 3 and array.shape[0] in (1, 3) else "RGB"
            raise SedetError(f"an array {list(image.shape)} is no image: give uint8 [height, width, 3], {hint}")
    else:
        raise SedetError(f"{type(image).__name__} is no image: give a path, a PIL image, an array or a tensor")
    if 0 in array.shape:
        raise SedetError(f"an image of {array.shape[1]} x {array.shape[0]} pixels is empty")
    if array.shape[2] == 1:
        array = array.repeat(3, axis=2)
    return np.require(array, requirements=["C", "W"]), None  # PyTorch wants memory it could write to


def _from_pil(image: Image.Image) -> Pixels:
    if image.mode.startswith(("I", "F")):
        raise SedetError(f"a PIL image of mode {image.mode} has more than 8 bits: convert it, or give its path")
    if image.mode == "La":  # Pillow turns it into nothing else
        image = image.convert("LA")
    if "A" in image.mode or "transparency" in image.info:  # on white, as files are read
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if 0 in image.size:
        raise SedetError(f"an image of {image.width} x {image.height} pixels is empty")
    return np.array(image.convert("RGB"))


def batches(items: Iterable[Source], size: int) -> Iterator[list[Source]]:
    if size < 1:
        raise ConfigError(f"batch must be 1 or more, not {size}")
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)
