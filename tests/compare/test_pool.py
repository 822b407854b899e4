"""What a comparison reads: what would end its trainings is told before the first of them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from sedet.cli import main
from sedet.compare.cells import read_pool, write_data
from sedet.data.sources import find_images
from sedet.errors import DataError
from tests import tiny
from tests.compare.test_compare import SETTINGS, command, comparison


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Data of its own, to do harm to."""
    folder = tiny.dataset(tmp_path / "data", labeled=4)
    (folder / "settings.yaml").write_text(json.dumps(SETTINGS))  # which is YAML too
    return folder


def test_a_misspelt_class_is_refused_as_by_training(data: Path, tmp_path: Path) -> None:
    one = comparison(data, tmp_path / "c")
    with pytest.raises(DataError, match=r"there is no class 'bleu'\. Did you mean 'blue'\?"):
        read_pool(replace(one, settings=replace(one.settings, classes=("red", "bleu"))))
    pool = read_pool(replace(one, settings=replace(one.settings, classes=("blue",))))
    assert pool.table.classes == pool.val.classes == ("blue",)
    assert 0 < pool.table.class_counts()[0] < read_pool(one).table.class_counts().sum()


def test_val_of_other_classes_is_told_before_any_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = json.loads((data / "val.json").read_text())
    for category in tree["categories"]:
        category["name"] += "s"
    (data / "val.json").write_text(json.dumps(tree))
    assert main(command(data, tmp_path / "c")) == 2
    said = capsys.readouterr().err
    assert f"{data / 'val.json'}: val has no box of a class to learn. Check" in said and said.count("\n") == 1
    assert not (tmp_path / "c").exists()


def test_damaged_val_is_told_before_any_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = data / "val" / "val1.png"
    broken.write_bytes(broken.read_bytes()[:2000])  # its header is whole
    assert main(command(data, tmp_path / "c")) == 2
    said = capsys.readouterr().err
    assert f"{broken}: the image cannot be decoded" in said and "sedet check" in said and said.count("\n") == 1
    assert not (tmp_path / "c").exists()


def test_the_list_of_the_pool_keeps_any_byte_of_a_name(data: Path, tmp_path: Path) -> None:
    odd = data / "unlabeled" / os.fsdecode(b"caf\xe9.png")
    (data / "unlabeled" / "unlabeled0.png").rename(odd)
    one = comparison(data, tmp_path / "c", unlabeled=(str(data / "unlabeled"),))
    pool = read_pool(one)
    for _ in range(2):  # drawn, then found there
        write_data(one, pool)
        listed = find_images([str(tmp_path / "c" / "data" / "p20-f1" / "pool.txt")])
        assert odd in listed and listed == sorted(pool.paths)


@pytest.mark.parametrize("name", ["a\nb.png", "a\u2028b.png"])
def test_a_name_on_two_lines_is_told_before_any_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (data / "unlabeled" / "unlabeled0.png").rename(data / "unlabeled" / name)
    assert main(command(data, tmp_path / "c", "--unlabeled", str(data / "unlabeled"))) == 2
    said = capsys.readouterr().err
    assert "b.png' does not fit on a line of a list. Rename it" in said and said.count("\n") == 1
    assert not (tmp_path / "c").exists()
