"""What there is to choose from is told as it is."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

import pytest

from sedet.catalog import DETECTORS, METHODS
from sedet.config import TrainConfig
from sedet.detectors import build
from sedet.errors import ConfigError
from sedet.methods.build import make_method
from sedet.methods.method import Method
from sedet.settings import hints


def test_the_settings_offer_what_the_catalog_lists() -> None:
    assert list(METHODS) == list(get_args(hints(TrainConfig)["method"]))
    assert list(DETECTORS) == list(get_args(hints(TrainConfig)["detector"])) == list(build.DETECTORS)
    groups = {f.name for f in fields(TrainConfig)}
    for entry in METHODS.values():
        assert entry.group in groups | {""} and set(entry.detectors) <= set(DETECTORS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("detector", DETECTORS)
def test_methods_refuse_detectors_they_are_not_defined_for(method: str, detector: str) -> None:
    config = TrainConfig(method=method, detector=detector)  # type: ignore[arg-type]
    if detector in METHODS[method].detectors:
        assert isinstance(make_method(config), Method)
    else:
        with pytest.raises(ConfigError, match=f"{method} is defined for the detector"):
            make_method(config)
