"""A method with settings of its own, beside the same method without them: ``dense-teacher:share=0.1``.

So that every method can be tuned from the one burn-in, and so that the table can say how often each was.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from sedet import settings
from sedet.catalog import METHODS
from sedet.config import TrainConfig
from sedet.errors import ConfigError
from sedet.training.plan import sed_defaults

HINT = "Settings are given as METHOD:KEY=VALUE,KEY=VALUE, such as dense-teacher:share=0.1"
NAMED = re.compile(r"[\w.,=+-]*")
"""What settings may look like: they become part of the names of files."""
FOLLOWS = {"sed.overlay": "sed.student_view", "sed.box_weight": "sed.quality_weight"}
"""What follows from which setting where it is not given (:func:`sedet.training.plan.sed_defaults`)."""
LONGEST = 160
"""Names of files end at 255 bytes."""


def parse_method(text: str, shared: TrainConfig) -> tuple[str, str]:
    """A method's name, and its own settings in one spelling: ``share=0.1,weight=2.0``, sorted by name.

    What the comparison has anyway is left out, so that no training is measured twice under two names.

    Args:
        shared: the settings of every training of the comparison.

    Raises:
        ConfigError: an unknown method or setting, or a value that it does not take.
    """
    method, _, own = text.partition(":")
    if method not in METHODS:
        near = settings.nearest(method, METHODS)
        hint = f"Did you mean '{near}'?" if near else f"There are: {', '.join(METHODS)}"
        raise ConfigError(f"there is no method '{method}'. {hint}")
    if ":" not in text:
        return method, ""
    given = _pairs(text, method, own)
    group = METHODS[method].group
    kept = dict(sorted(given.items()))
    wanted = with_variant(shared, method, kept)
    for key in [*kept]:  # what is so without it
        less = {other: value for other, value in kept.items() if other != key}
        if with_variant(shared, method, less) == wanted:
            kept = less
    now = settings.to_dict(wanted)[group]
    told = ",".join(f"{key}={_told(now[key])}" for key in kept)
    if len(told) > LONGEST or not NAMED.fullmatch(told):
        raise ConfigError(
            f"{text}: these settings make no name of a file: give fewer, and with --set what all trainings may have"
        )
    return method, told


def with_variant(config: TrainConfig, method: str, own: str | dict[str, Any]) -> TrainConfig:
    """The settings of a training with those of its method's own group changed, and what follows from them filled in.

    Args:
        config: as they were given; what follows from others must not be filled in yet.

    Raises:
        ConfigError: an unknown setting, or a value that it does not take.
    """
    if own:
        given = _pairs(f"{method}:{own}", method, own) if isinstance(own, str) else own
        config = settings.validate(settings.from_dict({METHODS[method].group: given}, config))
    return replace(config, sed=sed_defaults(config.sed))


def own_names(method: str, own: str) -> set[str]:
    """The dotted names of the settings that a variant changes, itself or by what follows from it."""
    given = {f"{METHODS[method].group}.{word.partition('=')[0]}" for word in own.split(",") if word}
    return given | {FOLLOWS[name] for name in given & FOLLOWS.keys()}


def _pairs(text: str, method: str, own: str) -> dict[str, Any]:
    import yaml

    group = METHODS[method].group
    if not group:
        raise ConfigError(f"{text}: {method} has no settings of its own; --set changes those of all trainings")
    found: dict[str, Any] = {}
    for word in own.split(","):
        key, equals, value = (part.strip() for part in word.partition("="))
        key = key.removeprefix(f"{group}.")
        if not (key and equals and value):
            raise ConfigError(f"{text}: '{word}' is no setting. {HINT}")
        if ":" in value:  # which YAML may take for a number of minutes
            raise ConfigError(f"{text}: '{value}' is no value. {HINT}")
        if key in found:
            raise ConfigError(f"{text}: {key} is given twice")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{text}: '{value}' cannot be read as a value") from error
    return found


def _told(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
