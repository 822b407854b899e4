from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sedet.data.duplicates import repeated, same_pictures
from sedet.data.formats import read_table
from sedet.data.sources import find_images, unlabeled_pool
from sedet.data.table import AnnotationTable
from sedet.errors import DataError

from .sets import SHARED, coco, picture, save, write

needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the data sets are not at {SHARED}")


def names(paths: list[Path], root: Path) -> list[str]:
    return [p.relative_to(root).as_posix() for p in paths]


def tree(root: Path) -> Path:
    for seed, name in enumerate(["b.PNG", "a.jpg", "sub/deep/c.Jpeg", "sub/.d.png", ".hidden/e.png"]):
        save(root / name, seed)
    write(root / "notes.txt", "x")
    write(root / "sub" / "annotations.json", "{}")
    return root


def test_folders_are_searched_to_the_bottom_in_order(tmp_path: Path) -> None:
    tree(tmp_path)
    assert names(find_images([str(tmp_path)]), tmp_path) == ["a.jpg", "b.PNG", "sub/deep/c.Jpeg"]


def test_globs_lists_and_files_join_without_repeats(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    (tmp_path / "again.png").symlink_to(root / "a.jpg")
    listing = write(tmp_path / "list.txt", f"# three\ndata/b.PNG\n\n./data/../data/a.jpg\n{root}/a.jpg\n")
    assert names(find_images([str(listing)]), tmp_path) == ["data/a.jpg", "data/b.PNG"]
    assert names(find_images([f"{root}/*.jp*g"]), tmp_path) == ["data/a.jpg"]
    assert len(find_images([f"{root}/**/*"])) == 3
    assert names(find_images([f"{tmp_path}/d?ta"]), root) == ["a.jpg", "b.PNG", "sub/deep/c.Jpeg"]
    everything = find_images([f"{root}/**/*", str(listing), str(root), str(tmp_path / "again.png")])
    assert len(everything) == 3 and everything == sorted(everything)
    assert find_images([]) == []


def test_a_name_with_glob_characters_is_a_file_first(tmp_path: Path) -> None:
    path = save(tmp_path / "a[1].png")
    assert find_images([str(path)]) == [path]


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("nothing", "no such file or folder"),
        ("empty", "no images in this folder"),
        ("*.webp", "no image fits this pattern"),
        ("set.json", "annotations are never read"),
        ("a.xml", "annotations are never read"),
        ("data.yaml", "annotations are never read"),
        ("blank.txt", "this list is empty"),
        ("lost.txt", "2 listed images do not exist, the first in line 1"),
        ("notes.txt", "line 2: 'set.json' is no image"),
        ("binary.txt", "cannot be read as text"),
        ("program.py", "no image and no list"),
        ("", "empty name"),
    ],
)
def test_wrong_sources_say_what_to_give(tmp_path: Path, source: str, match: str) -> None:
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    for name in ("set.json", "a.xml", "data.yaml", "program.py"):
        write(tmp_path / name, "{}")
    save(tmp_path / "a.png")
    write(tmp_path / "blank.txt", "\n# nothing\n")
    write(tmp_path / "lost.txt", "x.png\na.png\ny.png\n")
    write(tmp_path / "notes.txt", "a.png\nset.json\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x9f")
    with pytest.raises(DataError, match=match) as caught:
        find_images([str(tmp_path / source) if source else ""])
    assert caught.value.todo


# Copies


def encoded(image: Image.Image, path: Path, **options: object) -> Path:
    data = io.BytesIO()
    image.save(data, "PNG" if path.suffix == ".png" else "JPEG", **options)
    path.write_bytes(data.getvalue())
    return path


def test_copies_are_found_and_other_pictures_are_not(tmp_path: Path) -> None:
    originals = [save(tmp_path / f"{i}.jpg", i, 240, 180) for i in range(12)]
    image = picture(3, 240, 180)
    small = image.resize((120, 90), Image.Resampling.LANCZOS)
    copies = [
        encoded(image, tmp_path / "png.png"),
        encoded(image, tmp_path / "q15.jpg", quality=15),
        encoded(small, tmp_path / "small.jpg", quality=80),
        encoded(image.resize((300, 300)), tmp_path / "stretched.png"),
    ]
    same = tmp_path / "same.jpg"
    same.write_bytes(originals[5].read_bytes())
    mirrored = encoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), tmp_path / "mirrored.png")
    found = same_pictures([*copies, same, mirrored], originals)
    assert [None if m is None else (m.index, m.exact) for m in found] == [(3, False)] * 4 + [(5, True), None]
    bytes_alone = same_pictures([*copies, same], originals, near=False)
    assert [m is not None for m in bytes_alone] == [False] * 4 + [True]
    assert repeated(originals, near=True) == [None] * 12
    within = repeated([originals[3], *copies, originals[5], same], near=True)
    assert [m is not None for m in within] == [False, True, True, True, True, False, True]
    assert all(m.index < i for i, m in enumerate(within) if m is not None)


def test_a_turned_copy_is_the_same_picture(tmp_path: Path) -> None:
    stored = save(tmp_path / "exif.jpg", 4, 200, 120, orientation=6)
    upright = encoded(picture(4, 200, 120).transpose(Image.Transpose.ROTATE_270), tmp_path / "up.png")
    assert same_pictures([upright], [stored])[0] is not None


def test_frames_of_a_fixed_camera_differ_by_what_moved(tmp_path: Path) -> None:
    scene = np.asarray(picture(1, 320, 240)).copy()
    paths = []
    for i in range(3):
        frame = scene.copy()
        frame[100:115, 40 + 90 * i : 55 + 90 * i] = (255, 255, 255) if scene[107, 47].mean() < 128 else 0
        paths.append(encoded(Image.fromarray(frame), tmp_path / f"{i}.png"))
    assert repeated(paths, near=True) == [None] * 3


def test_plain_pictures_match_by_bytes_only(tmp_path: Path) -> None:
    paths = []
    for i, grey in enumerate((100, 101, 100)):
        paths.append(encoded(Image.new("RGB", (50, 50), (grey,) * 3), tmp_path / f"{i}.png"))
    found = repeated(paths, near=True)
    assert found[1] is None and found[2] is not None and found[2].exact


def test_a_broken_file_matches_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "a.jpg"
    broken.write_bytes(b"not an image")
    assert same_pictures([broken], [save(tmp_path / "b.jpg")]) == [None]


# The pool


def val_table(folder: Path, count: int, seed: int) -> AnnotationTable:
    return read_table(coco(folder, [[(3, [0, 0, 9, 9])]] * count, size=(200, 150), seed=seed))


def test_the_pool_keeps_labelled_images_and_leaves_val_out(tmp_path: Path) -> None:
    labeled = val_table(tmp_path / "labeled", 3, seed=0)
    val = val_table(tmp_path / "val", 2, seed=100)
    pool = tmp_path / "pool"
    for i, seed in enumerate((0, 1, 50, 51)):  # two of them labelled
        encoded(picture(seed, 200, 150), Path(save(pool / f"p{i}.jpg", seed, 200, 150)), quality=70)
    save(pool / "v0.png", 100, 200, 150)  # val, by content
    encoded(picture(101, 200, 150).resize((100, 75)), pool / "v1.jpg")  # val, made smaller
    (pool / "z.jpg").write_bytes((pool / "p2.jpg").read_bytes())  # a copy within the pool
    got = unlabeled_pool([str(pool), str(tmp_path / "val")], labeled, val)
    assert names(list(got.paths), pool) == ["p0.jpg", "p1.jpg", "p2.jpg", "p3.jpg"]
    # v0.png and val/000.png are equal bytes: one is a duplicate, the other goes with val
    assert (got.left_out_val, got.left_out_labeled, got.duplicates, got.found) == (3, 0, 2, 9)
    assert len(got) + got.left_out_val + got.left_out_labeled + got.duplicates == got.found
    without = unlabeled_pool([str(pool)], labeled, val, exclude_labeled=True)
    assert names(list(without.paths), pool) == ["p2.jpg", "p3.jpg"] and without.left_out_labeled == 2
    assert "2 left out: they are labelled" in without.summary()
    alone = unlabeled_pool([str(pool)], None, None)
    assert len(alone) == 6 and alone.left_out_val == 0
    with pytest.raises(DataError, match="no unlabelled image is left"):
        unlabeled_pool([str(tmp_path / "val")], labeled, val)
    assert len(unlabeled_pool([], labeled, val)) == 0


def test_a_copy_replaced_by_another_picture_is_looked_at_anew(tmp_path: Path) -> None:
    val = val_table(tmp_path / "val", 1, seed=7)
    path = save(tmp_path / "pool" / "a.png", 7, 200, 150)
    save(tmp_path / "pool" / "b.png", 8, 200, 150)
    assert unlabeled_pool([str(tmp_path / "pool")], None, val).left_out_val == 1
    save(path, 9, 200, 150)
    os.utime(path, ns=(1, 1))
    assert unlabeled_pool([str(tmp_path / "pool")], None, val).left_out_val == 0


@needs_data
def test_real_pools_lose_nothing_but_val() -> None:
    train, val = (read_table(SHARED / "bccd", split=s) for s in ("train", "val"))
    pool = unlabeled_pool([str(SHARED / "bccd")], train, val)
    assert (pool.found, pool.left_out_val, pool.duplicates, len(pool)) == (364, 87, 0, 277)


@needs_data
def test_real_copies_are_found(tmp_path: Path) -> None:
    dev = sorted((SHARED / "coco-people" / "dev").iterdir())[:60]
    copies = []
    for i, path in enumerate(dev[:40]):
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        scale = (0.5, 0.75, 1.5)[i % 3]
        rgb = rgb.resize((round(rgb.width * scale), round(rgb.height * scale)), Image.Resampling.BICUBIC)
        copies.append(encoded(rgb, tmp_path / path.name, quality=40 + i))
    found = same_pictures(copies, dev)
    assert [None if m is None else m.index for m in found] == list(range(40))
    assert same_pictures(dev[40:], copies) == [None] * 20


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    save(tmp_path / "real" / "a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "circle").symlink_to(tmp_path / "set")
    assert names(find_images([str(tmp_path / "set")]), tmp_path) == ["set/linked/a.png"]


def test_names_too_long_are_missing_files(tmp_path: Path) -> None:
    for source in ("x" * 5000, str(write(tmp_path / "list.txt", "x" * 5000))):
        with pytest.raises(DataError, match=r"no such file|do not exist"):
            find_images([source])


def test_pictures_of_old_runs_are_no_data(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 1)
    run = tmp_path / "runs" / "first"
    save(run / "curves.png", 2)
    save(run / "pictures" / "step.jpg", 3)
    write(run / "config.yaml", "steps: 1")
    assert len(find_images([str(tmp_path)])) == 3, "a config.yaml alone makes no run folder"
    write(run / "metrics.csv", "step")
    assert names(find_images([str(tmp_path)]), tmp_path) == ["a.png"]
    pool = unlabeled_pool([str(tmp_path)], None, None)
    assert "1 run folder skipped" in pool.summary() and pool.found == 1
    for pattern in ("**/*", "*", "runs/../*"):
        assert names(find_images([f"{tmp_path}/{pattern}"]), tmp_path) == ["a.png"]
    assert len(find_images([str(run)])) == 2 and len(find_images([f"{run}/**/*"])) == 2
