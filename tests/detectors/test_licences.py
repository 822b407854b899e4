"""Pretrained weights that may not be used for everything say so when they are chosen."""

from __future__ import annotations

import logging

import pytest

from sedet.detectors.backbones import tell_licence


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_dinov3_names_its_licence(size: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sedet"):
        tell_licence(f"convnext_{size}.dinov3_lvd1689m")
    assert "dinov3-license" in caplog.text and f"convnext_{size}" in caplog.text


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet50", "lcnet_035"])
def test_free_ones_say_nothing(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sedet"):
        tell_licence(name)
    assert not caplog.text
