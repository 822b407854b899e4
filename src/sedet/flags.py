"""Command-line flags of a dataclass, parsed by tyro, with errors of one line that name what was meant.

Fields may carry metadata: ``positional`` (an argument without a flag) and ``inline`` (a nested group whose
names stand without a prefix). tyro is imported only when a command is parsed, so that ``sedet --help`` is
instant.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

from sedet.errors import ConfigError
from sedet.settings import coerce, field_docs, hints, is_group, meant, nearest

if TYPE_CHECKING:
    from tyro.constructors import StructConstructorSpec, StructTypeInfo

Options = TypeVar("Options")

POSITIONAL = {"positional": True}
INLINE = {"inline": True}


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag: the setting it sets, the setting's type, and how it is typed (``off``: for switches)."""

    name: str
    hint: Any
    on: str
    off: str | None

    @property
    def is_list(self) -> bool:
        return typing.get_origin(self.hint) is tuple


def flags_of(cls: type, prefix: str = "") -> dict[str, Flag]:
    """Every flag that ``cls`` answers to, by setting."""
    found: dict[str, Flag] = {}
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name, hint in hints(cls).items():
        if fields[name].metadata.get("positional"):
            continue
        if is_group(hint):
            found |= flags_of(hint, prefix if fields[name].metadata.get("inline") else f"{prefix}{name}.")
            continue
        on, off = (f"--{prefix}{part}{name}".replace("_", "-") for part in ("", "no-"))
        found[prefix + name] = Flag(prefix + name, hint, on, off if hint is bool else None)
    return found


def scan(cls: type, argv: Sequence[str]) -> dict[str, list[str]]:
    """The settings that flags in ``argv`` name, each with the words after it.

    Raises:
        ConfigError: a flag that ``cls`` does not know (names the nearest); a list that is empty, or given in two
            parts, of which a parser would keep one.
    """
    known = flags_of(cls)
    typed_as = {flag.on: flag for flag in known.values()} | {f.off: f for f in known.values() if f.off}
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for word in argv:
        if word == "--":
            break
        if not word.startswith("--"):
            current.append(word)
            continue
        typed, equals, value = word.partition("=")
        flag = typed_as.get(typed.replace("_", "-"))
        if flag is None:
            if typed == "--help":
                continue
            _unknown(typed, known)
        if flag.is_list and flag.name in found:
            raise ConfigError(f"{typed} is given twice; name everything after one: {typed} A B")
        current = found[flag.name] = [value] if equals else []
    for flag in known.values():
        if flag.is_list and found.get(flag.name) == []:
            raise ConfigError(f"{flag.on} needs at least one value")
    return found


def _unknown(typed: str, known: dict[str, Flag]) -> NoReturn:
    name = typed[2:].replace("-", "_")
    near = nearest(name, known)
    spelled = known[near].on if near else None
    if name.startswith("no_"):  # "--no-sed.scale" for "--sed.no-scale"
        switches = {flag.name: flag.off for flag in known.values() if flag.off}
        spelled = switches.get(nearest(name[3:], switches) or "", spelled)
    raise ConfigError(f"unknown flag {typed}. " + (meant(typed, spelled) if spelled else "See --help"))


def parse(cls: type[Options], argv: Sequence[str], prog: str, default: Options | None = None) -> Options:
    """An instance of ``cls`` from flags over ``default``; ``--help`` prints and exits.

    Raises:
        ConfigError: one line on what is wrong with which flag.
    """
    import tyro

    scan(cls, argv)
    registry = tyro.constructors.ConstructorRegistry()
    registry.struct_rule(_struct_rule)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                cls,
                prog=prog,
                args=list(argv),
                default=tyro.MISSING if default is None else default,
                config=(tyro.conf.DisallowNone,),
                registry=registry,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
    _explain(cls, argv, complaint.getvalue(), prog)


def _struct_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
    """How tyro sees our dataclasses: help from docstrings, no "(default: None)", positionals, inlining."""
    import tyro
    from tyro.constructors import StructConstructorSpec, StructFieldSpec

    cls: Any = info.type
    if not is_group(cls):
        return None
    docs, fields = field_docs(cls), []
    annotate: Any = Annotated  # a type made at run time, which a type checker cannot follow
    for field in dataclasses.fields(cls):
        hint: Any = hints(cls)[field.name]
        default: Any = tyro.MISSING
        if isinstance(info.default, cls):
            default = getattr(info.default, field.name)
        elif field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is None or default in ((), "", tyro.MISSING):
            hint = annotate[hint, tyro.conf.arg(help_behavior_hint="")]
        if field.metadata.get("positional"):
            hint = annotate[hint, tyro.conf.Positional, tyro.conf.PositionalMetavarFromFieldName]
        elif field.metadata.get("inline"):
            hint = annotate[hint, tyro.conf.arg(name="")]
        fields.append(StructFieldSpec(name=field.name, type=hint, default=default, helptext=docs.get(field.name)))
    return StructConstructorSpec(instantiate=cls, fields=tuple(fields))


def _explain(cls: type, argv: Sequence[str], complaint: str, prog: str) -> NoReturn:
    """Say in one line why tyro refused ``argv``."""
    known, given = flags_of(cls), scan(cls, argv)
    see = f"see {prog} --help"
    fields = dataclasses.fields(cls)
    takes_words = any(field.metadata.get("positional") for field in fields)
    for name, words in given.items():
        flag = known[name]
        if flag.off:
            if words and words[0].lower() in ("true", "false", "yes", "no", "1", "0"):
                raise ConfigError(f"{flag.on} takes no value: write {flag.on} or {flag.off}")
            used = 0
        elif flag.is_list:
            coerce(flag.on, words, flag.hint)
            continue
        elif not words:
            raise ConfigError(f"{flag.on} needs a value; {see}")
        else:
            coerce(flag.on, words[0], flag.hint)
            used = 1
        if len(words) > used and not takes_words:
            raise ConfigError(f"unexpected '{words[used]}' after {' '.join([flag.on, *words[:used]])}; {see}")
    if "required" in complaint.lower():
        needs = [
            field.name.upper() if field.metadata.get("positional") else known[field.name].on
            for field in fields
            if field.default is field.default_factory is dataclasses.MISSING and field.name not in given
        ]
        raise ConfigError(f"{prog} needs {' '.join(needs)}; {see}")
    # What remains is about arguments without a flag: tyro's words, without its frame.
    lines = [" ".join(line.strip(" │╭╮╰╯─-").split()) for line in complaint.splitlines()[1:]]
    text = re.split("Perhaps you meant|For full helptext", " ".join(filter(None, lines)))[0]
    raise ConfigError(f"{text.replace('Unrecognized options:', 'unexpected argument:').strip()}; {see}")
