"""What reading a source that is malformed must say."""

from __future__ import annotations

from pathlib import Path

import pytest

from sedet.data.formats import read_table
from sedet.errors import DataError, DataErrors


def fails(match: str, source: str | Path, **options: str | Path | None) -> DataError:
    with pytest.raises(DataError, match=match) as caught:
        read_table(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert caught.value.todo, "the message says what to do"
    return caught.value


def found(source: Path) -> list[str]:
    with pytest.raises(DataErrors, match=r"more errors?: sedet check lists all\)") as caught:
        read_table(source, split="train")
    first = caught.value.found[0]
    assert str(caught.value).startswith(f"{first.where}: {first.what} (and ")
    assert all(error.todo for error in caught.value.found)
    return [str(error) for error in caught.value.found]
