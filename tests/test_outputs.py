"""Names of the files that predictions go to."""

from __future__ import annotations

from pathlib import Path

import pytest

from sedet.errors import ConfigError
from sedet.outputs import check_formats, check_new, output_names, write_text


def names(*paths: str) -> list[tuple[str, str]]:
    return output_names([Path(path) for path in paths])


def test_names_are_below_the_folder_all_share() -> None:
    assert names("/data/a/1.jpg", "/data/b/1.jpg") == [("a/1.jpg", "a/1"), ("b/1.jpg", "b/1")]
    assert names("/data/a/1.jpg") == [("1.jpg", "1")]
    assert names() == []


def test_files_that_differ_in_ending_or_case_get_different_names() -> None:
    stems = [stem for _, stem in names("/d/a.jpg", "/d/a.png", "/d/A.JPG", "/d/a.jpg.png", "/d/b.jpg")]
    assert len({stem.casefold() for stem in stems}) == 5
    assert stems[-1] == "b" and stems[3] == "a.jpg"


def test_accents_written_in_two_ways_are_told_apart() -> None:
    stems = [stem for _, stem in names("/d/\u00e9.jpg", "/d/e\u0301.jpg")]
    assert len({stem.replace("e\u0301", "\u00e9") for stem in stems}) == 2


def test_nothing_leads_out_of_the_output_folder() -> None:
    for name, stem in names("/d/x/../../etc/1.jpg", "/d/2.jpg"):
        assert ".." not in Path(name).parts and ".." not in Path(stem).parts
        assert not Path(stem).is_absolute()


def test_a_name_as_long_as_a_name_can_be(tmp_path: Path) -> None:
    write_text(tmp_path / ("x" * 251 + ".txt"), "whole")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["whole"]


def test_formats() -> None:
    assert check_formats("csv") == ("csv",)
    assert check_formats(["coco", "csv", "coco"]) == ("coco", "csv")
    for wrong in ("xml", [], ["csv", "JSON"]):
        with pytest.raises(ConfigError, match="there are: jsonl, csv, coco, yolo"):
            check_formats(wrong)


def test_an_empty_folder_is_new(tmp_path: Path) -> None:
    check_new(tmp_path)
    check_new(tmp_path / "absent" / "deep")
    (tmp_path / "x").touch()
    with pytest.raises(ConfigError, match="in use"):
        check_new(tmp_path)
