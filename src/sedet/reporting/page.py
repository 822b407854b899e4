"""Pages: one file, no network, every text from outside escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from sedet.text import printable

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """A page from a template of this package.

    Everything is escaped but what :mod:`sedet.reporting.charts` drew. The page's policy forbids it to load anything and
    to run any script but its own.
    """
    script, style = asset("report.js"), asset("report.css")
    policy = "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            "style-src 'unsafe-inline'",
            f"script-src 'sha256-{digest(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    page = environment().get_template(template)
    return page.render(script=Markup(script), style=Markup(style), policy=policy, **values)


@cache
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["printable"] = lambda text: printable(str(text))
    made.filters["breakable"] = breakable
    made.filters["short"] = short
    return made


def breakable(text: object) -> Markup:
    """A name or path that a line may break after each of its parts."""
    return Markup(re.sub(r"([/\\._-])(?=[^\W\d])", r"\1<wbr>", str(escape(printable(str(text))))))


def short(text: object, longest: int = 24) -> str:
    """A name cut to a length."""
    name = printable(str(text))
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


@cache
def asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
