"""What there is to choose from, a line each. Nothing heavy is imported here: ``sedet methods`` reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One method.

    Attributes:
        text: what it does, in a line.
        group: the field of the settings that is its own; "" if it has none.
        detectors: the architectures it is defined for.
    """

    text: str
    group: str
    detectors: tuple[str, ...]


DETECTORS = {
    "fcos": "FCOS (ICCV 2019): dense, a region a location, with centerness",
    "retinanet": "RetinaNet (ICCV 2017): dense, nine anchors a location",
    "faster_rcnn": "Faster R-CNN (NeurIPS 2015) with a feature pyramid: two stages",
}

DENSE = ("fcos", "retinanet")
ALL = tuple(DETECTORS)

METHODS = {
    "sed": Entry("Scale-Equivalent Distillation (CVPR 2022): soft targets for two sizes of an image", "sed", ALL),
    "supervised": Entry("the same loop on the labels alone: the twin of every comparison", "", ALL),
    "stac": Entry("STAC (2020): labels made once, at the end of the burn-in", "stac", ALL),
    "unbiased-teacher": Entry(
        "Unbiased Teacher (ICLR 2021): classes of confident boxes, focal loss, no boxes", "unbiased_teacher", ALL
    ),
    "soft-teacher": Entry(
        "Soft Teacher (ICCV 2021): background weighed by the teacher, boxes that jitter little",
        "soft_teacher",
        ("faster_rcnn",),
    ),
    "dense-teacher": Entry(
        "Dense Teacher (ECCV 2022): the surest hundredth of all locations as soft labels", "dense_teacher", ("fcos",)
    ),
    "pseco": Entry(
        "PseCo (ECCV 2022): regions chosen by their predictions, boxes by agreement, two sizes",
        "pseco",
        ("faster_rcnn",),
    ),
    "csd": Entry("CSD (NeurIPS 2019): the same answers for an image and its mirror image", "csd", DENSE),
    "consistent-teacher": Entry(
        "Consistent-Teacher (CVPR 2023): a threshold a class from its scores, assignment by cost",
        "consistent_teacher",
        DENSE,
    ),
    "mixpl": Entry("MixPL (2023): pseudo-labelled images mixed and set as mosaics", "mixpl", ALL),
}
