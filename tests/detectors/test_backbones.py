"""Backbones: those whose maps do not fit are refused when they are chosen, and to look at them changes nothing."""

from __future__ import annotations

import pytest
import torch

from sedet.detectors import backbones
from sedet.detectors.backbones import Backbone
from sedet.errors import ConfigError


@pytest.mark.parametrize("name", ["efficientformer_l1", "inception_v3"])  # one size only; maps without padding
def test_a_backbone_whose_maps_do_not_fit_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"backbone '{name}' takes images of one size only, or .*choose a conv"):
        Backbone(name, "none")


def test_the_probe_changes_neither_weights_nor_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> tuple[Backbone, torch.Tensor]:
        torch.manual_seed(3)
        return Backbone("lcnet_035", "none"), torch.get_rng_state()

    probes = []
    probe = backbones._probe
    monkeypatch.setattr(backbones, "_probe", lambda *given: (probes.append(given[-1]), probe(*given)))
    probed, after = made()
    monkeypatch.setattr(backbones, "KNOWN", ("lcnet_035",))
    plain, expected = made()
    assert probes == ["lcnet_035"]
    assert torch.equal(after, expected) and probed.body.training == plain.body.training
    before, now = plain.state_dict(), probed.state_dict()
    assert before.keys() == now.keys() and all(torch.equal(before[name], now[name]) for name in before)


def test_a_probe_leaves_the_statistics_of_norms_alone() -> None:
    body, indices = backbones._create("lcnet_035")
    before = {name: value.clone() for name, value in body.state_dict().items()}
    backbones._probe(body, indices, "lcnet_035")
    assert body.training and all(torch.equal(value, before[name]) for name, value in body.state_dict().items())


@pytest.mark.parametrize("name", backbones.KNOWN)
def test_backbones_that_are_not_probed_would_pass(name: str) -> None:
    backbones._probe(*backbones._create(name), name)


def test_what_a_file_describes_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "_probe", None)  # to call it would be an error
    Backbone("lcnet_035", "none", pretrained_norm=True)
