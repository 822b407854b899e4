"""Build a method from the settings."""

from __future__ import annotations

from sedet.catalog import METHODS
from sedet.config import TrainConfig
from sedet.errors import ConfigError
from sedet.methods.consistent_teacher import ConsistentTeacher
from sedet.methods.csd import CSD
from sedet.methods.dense_teacher import DenseTeacher
from sedet.methods.method import Method
from sedet.methods.mixpl import MixPL
from sedet.methods.pseco import PseCo
from sedet.methods.sed import SED
from sedet.methods.soft_teacher import SoftTeacher
from sedet.methods.stac import STAC
from sedet.methods.supervised import Supervised
from sedet.methods.unbiased_teacher import UnbiasedTeacher


def make_method(config: TrainConfig) -> Method:
    """The method that the settings ask for.

    Raises:
        ConfigError: it is not defined for their detector.
    """
    entry = METHODS[config.method]
    if config.detector not in entry.detectors:
        known = " and ".join(entry.detectors)
        raise ConfigError(f"{config.method} is defined for the detector {known}, not for {config.detector}")
    if config.method == "sed" and config.sed.overlay > 0:
        if config.detector == "faster_rcnn":
            raise ConfigError("sed.overlay is defined for dense detectors: fcos and retinanet")
        if config.sed.targets == "hard":
            raise ConfigError("sed.overlay needs soft targets: leave sed.targets hard out, or use the method mixpl")
    half_size, erase_limit = config.half_size, config.views.erase_limit
    match config.method:
        case "supervised":
            return Supervised(half_size)
        case "dense-teacher":
            return DenseTeacher(config.dense_teacher, half_size, erase_limit)
        case "consistent-teacher":
            return ConsistentTeacher(config.consistent_teacher, half_size, erase_limit)
        case "csd":
            return CSD(config.csd, half_size, erase_limit)
        case "mixpl":
            return MixPL(config.mixpl, half_size, erase_limit)
        case "pseco":
            return PseCo(config.pseco, half_size, erase_limit)
        case "soft-teacher":
            return SoftTeacher(config.soft_teacher, half_size, erase_limit)
        case "stac":
            return STAC(config.stac, half_size, erase_limit)
        case "unbiased-teacher":
            return UnbiasedTeacher(config.unbiased_teacher, half_size, erase_limit)
        case "sed":
            return SED(config.sed, half_size, erase_limit)
    raise AssertionError(config.method)
