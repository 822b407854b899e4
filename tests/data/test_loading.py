"""Batches as a function of (seed, step): workers, processes, endless streams, EXIF, images that cannot be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image

from sedet.config import ViewConfig
from sedet.data import chance, loading
from sedet.data.batch import Batch
from sedet.data.loading import ImageCache, Sample, StepData, step_loader
from sedet.data.table import Objects
from sedet.errors import ImageError, SedetError
from sedet.training.memory import is_lost_worker

PLAIN = ViewConfig(jitter=0.0, grey=0.0, blur=0.0, erase=False)


def write(path: Path, seed: int, size: tuple[int, int] = (48, 36)) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def samples(folder: Path, count: int, labeled: bool = True) -> list[Sample]:
    folder.mkdir(exist_ok=True)
    rows = []
    for i in range(count):
        path = write(folder / f"{'l' if labeled else 'u'}{i}.png", 10 * i + labeled)
        objects = Objects.build([[4, 4, 30, 30]], [i % 3]) if labeled else None
        rows.append(Sample(path, path.name, (48, 36) if labeled else (0, 0), True, objects))
    return rows


def data(folder: Path, labeled: int = 5, unlabeled: int = 7, **options: Any) -> StepData:
    settings: dict[str, Any] = {
        "batch": 4,
        "unlabeled_batch": 6,
        "image_size": 64,
        "views": ViewConfig(),
        "seed": 3,
        "unlabeled_from": 2,
    }
    settings |= options
    return StepData(samples(folder, labeled), samples(folder, unlabeled, False), **settings)


def same(a: Batch | None, b: Batch | None) -> bool:
    if a is None or b is None:
        return a is b
    tensors = all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("strong", "half", "content", "erased"))
    weak = True
    for name in ("weak", "weak_half", "weak_double", "doubled"):
        mine, other = getattr(a, name), getattr(b, name)
        weak &= (mine is None) == (other is None) and (mine is None or torch.equal(mine, other))
    targets = (a.targets is None) == (b.targets is None) and all(
        torch.equal(x.boxes, y.boxes) and torch.equal(x.labels, y.labels) and torch.equal(x.ignore, y.ignore)
        for x, y in zip(a.targets or (), b.targets or (), strict=True)
    )
    return tensors and weak and targets and a.names == b.names and a.skipped == b.skipped


@pytest.mark.parametrize("zoom", [0.7, 1.0, 1.4])
def test_the_weak_view_comes_at_three_sizes(tmp_path: Path, zoom: float) -> None:
    """The same part of the image at half and double size, cropped ones too; the other views stay what they were."""
    folder = tmp_path / "smooth"
    folder.mkdir()
    rows = []
    for i in range(4):
        grain = np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        path = folder / f"u{i}.png"
        Image.fromarray(grain).resize((160, 120), Image.Resampling.BICUBIC).save(path)
        rows.append(Sample(path, path.name, (0, 0), True, None))
    settings: dict[str, Any] = {
        "batch": 2,
        "unlabeled_batch": 4,
        "image_size": 64,
        "views": replace(PLAIN, scale_min=zoom, scale_max=zoom),
        "seed": 0,
        "unlabeled_from": 0,
    }
    labeled = samples(tmp_path, 2)
    _, got = StepData(labeled, rows, largest_zoom=9.0, **settings)[0]
    _, plain = StepData(labeled, rows, **settings)[0]
    assert got is not None and plain is not None and plain.weak_double is None
    assert torch.equal(got.content, plain.content)
    assert got.weak is not None and got.weak_half is not None and got.weak_double is not None
    assert got.weak_half.shape == (4, 3, 32, 32) and got.weak_double.shape == (4, 3, 128, 128)
    for i, (width, height) in enumerate(got.content.tolist()):
        full = got.weak[i].float()
        shrunk = torch.nn.functional.avg_pool2d(got.weak_double[i].float(), 2)
        inside = (slice(None), slice(1, height - 1), slice(1, width - 1))
        assert (full[inside] - shrunk[inside]).abs().mean() < 3 < full[inside].std()
        assert not got.weak_double[i, :, 2 * height :].any() and not got.weak_double[i, :, :, 2 * width :].any()
        small = torch.nn.functional.avg_pool2d(full, 2)[:, : height // 2, : width // 2]
        assert (small - got.weak_half[i, :, : height // 2, : width // 2]).abs().mean() < 3


def test_images_are_doubled_only_up_to_the_largest_zoom(tmp_path: Path) -> None:
    views = replace(PLAIN, scale_min=0.5, scale_max=1.5)
    every, some = (data(tmp_path, views=views, largest_zoom=zoom) for zoom in (3.0, 2.0))
    doubled = []
    for step in range(2, 5):
        whole, part = every[step][1], some[step][1]
        assert whole is not None and part is not None and whole.doubled is not None and part.doubled is not None
        assert whole.weak_double is not None and part.weak_double is not None
        assert whole.doubled.tolist() == [*range(6)]
        assert torch.equal(part.weak_double, whole.weak_double[part.doubled])
        # An image of 48 x 36 at zoom 1 is 64 x 48; one zoomed further is cropped to 64 pixels in its width.
        assert [i in part.doubled for i in range(6)] == [height <= 48 for height in part.content[:, 1].tolist()]
        doubled += part.doubled.tolist()
    assert 0 < len(doubled) < 18
    _, none = data(tmp_path, views=replace(views, scale_min=1.2), largest_zoom=2.0)[2]
    assert none is not None and none.weak_double is not None and none.doubled is not None
    assert none.weak_double.shape == (0, 3, 128, 128) and none.doubled.tolist() == []


def test_the_share_of_doubled_images_is_told_in_advance(tmp_path: Path) -> None:
    views = replace(PLAIN, scale_min=0.5, scale_max=1.5)
    some = data(tmp_path, views=views, largest_zoom=2.0)
    assert some.doubled_share == pytest.approx(np.log(2) / np.log(3))  # zooms of 0.5 to 1, log-uniform
    batches = [some[step][1] for step in range(2, 42)]
    shown = [len(b.doubled) for b in batches if b is not None and b.doubled is not None]
    assert len(shown) == 40 and np.mean(shown) / 6 == pytest.approx(some.doubled_share, abs=0.1)
    for zoom, share in ((0.0, 0.0), (0.9, 0.0), (3.0, 1.0), (9.0, 1.0)):
        assert data(tmp_path, views=views, largest_zoom=zoom).doubled_share == share
    one = replace(PLAIN, scale_min=1.0, scale_max=1.0)
    assert [data(tmp_path, views=one, largest_zoom=zoom).doubled_share for zoom in (1.9, 2.0)] == [0.0, 1.0]


def test_a_batch_is_what_it_says(tmp_path: Path) -> None:
    labeled, unlabeled = data(tmp_path)[2]
    assert unlabeled is not None and labeled.weak is None and unlabeled.targets is None
    assert labeled.strong.shape == (4, 3, 64, 64) and labeled.half.shape == (4, 3, 32, 32)
    assert unlabeled.weak is not None and unlabeled.weak.shape == unlabeled.strong.shape == (6, 3, 64, 64)
    assert labeled.targets is not None and len(labeled.targets) == len(labeled) == len(labeled.names) == 4
    assert unlabeled.erased.shape == (6, 3, 4) and (unlabeled.content % 2 == 0).all()
    assert all(name.startswith("l") for name in labeled.names)
    for i, erased in enumerate(unlabeled.erased):  # strong and weak differ by photometrics: geometry is one
        width, height = unlabeled.content[i].tolist()
        assert (erased[:, 2] <= width).all() and (erased[:, 3] <= height).all()
        assert not unlabeled.weak[i, :, height:].any() and not unlabeled.strong[i, :, :, width:].any()
    assert data(tmp_path)[1][1] is None  # burn-in
    assert data(tmp_path, unlabeled=0)[5][1] is None


def test_batches_depend_on_seed_and_step_alone(tmp_path: Path) -> None:
    first, again, other = data(tmp_path), data(tmp_path), data(tmp_path, seed=4)
    steps = [first[s] for s in (0, 1, 5)]
    for s, (labeled, unlabeled) in zip((5, 1, 0), reversed(steps), strict=True):  # in another order
        torch.manual_seed(s)
        np.random.seed(s)  # noqa: NPY002 (global state must not matter)
        got = again[s]
        assert same(got[0], labeled) and same(got[1], unlabeled)
    assert not same(first[0][0], other[0][0]) and not same(first[0][0], first[1][0])


@pytest.mark.parametrize("cache", [0.0, 0.1])
def test_workers_change_nothing(tmp_path: Path, cache: float) -> None:
    alone = list(step_loader(data(tmp_path, cache=cache), 1, 5, workers=0, pin=False))
    shared = list(step_loader(data(tmp_path, cache=cache, workers=2), 1, 5, workers=2, pin=False))
    assert len(alone) == len(shared) == 4
    for a, b in zip(alone, shared, strict=True):
        assert same(a[0], b[0]) and same(a[1], b[1])
    late = list(step_loader(data(tmp_path), 3, 5, workers=0, pin=False))  # as after a resume
    assert same(late[0][0], alone[2][0]) and same(late[1][1], alone[3][1])
    assert list(step_loader(data(tmp_path), 5, 5, workers=0, pin=False)) == []


def test_processes_share_each_joint_batch_exactly(tmp_path: Path) -> None:
    joint = data(tmp_path)[3]
    parts = [data(tmp_path, rank=rank, world=2)[3] for rank in (0, 1)]
    for whole, a, b in zip(joint, *parts, strict=True):
        assert whole is not None and a is not None and b is not None
        assert len(a) == len(b) == len(whole) // 2
        merged = Batch(
            strong=torch.cat([a.strong, b.strong]),
            half=torch.cat([a.half, b.half]),
            weak=None if a.weak is None or b.weak is None else torch.cat([a.weak, b.weak]),
            content=torch.cat([a.content, b.content]),
            erased=torch.cat([a.erased, b.erased]),
            targets=None if a.targets is None or b.targets is None else a.targets + b.targets,
            names=a.names + b.names,
            weak_half=None if a.weak_half is None or b.weak_half is None else torch.cat([a.weak_half, b.weak_half]),
        )
        assert same(merged, whole)


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_every_sample_comes_once_a_pass(size: int) -> None:
    passes = [[chance.endless_index(1, "labeled", size, e * size + i) for i in range(size)] for e in range(4)]
    assert all(sorted(p) == list(range(size)) for p in passes)
    if size > 5:
        assert len({tuple(p) for p in passes}) == 4
        assert passes[0] != [chance.endless_index(2, "labeled", size, i) for i in range(size)]
        assert passes[0] != [chance.endless_index(1, "unlabeled", size, i) for i in range(size)]


def test_streams_go_on_across_steps(tmp_path: Path) -> None:
    """A set smaller than, or no multiple of, the batch: no epoch ends early, none is skipped."""
    stream = data(tmp_path, labeled=5, unlabeled=7, unlabeled_from=0)
    labeled = [name for step in range(5) for name in stream[step][0].names]
    unlabeled = [name for step in range(7) for name in stream[step][1].names]  # type: ignore[union-attr]
    assert len(labeled) == 20 and len(unlabeled) == 42
    for names, size in ((labeled, 5), (unlabeled, 7)):
        for start in range(0, len(names), size):
            assert len(set(names[start : start + size])) == size
    later = data(tmp_path, labeled=5, unlabeled=7, unlabeled_from=3)
    assert later[3][1].names == stream[0][1].names  # type: ignore[union-attr]  # the burn-in uses none up


def test_one_labelled_image_is_enough(tmp_path: Path) -> None:
    stream = data(tmp_path, labeled=1, unlabeled=1, unlabeled_from=0)
    labeled, unlabeled = stream[4]
    assert unlabeled is not None and len(labeled) == 4 and len(unlabeled) == 6
    assert len({tuple(size) for size in labeled.content.tolist()}) > 1  # not the same view four times


def test_boxes_follow_their_objects_through_exif_and_shrinking(tmp_path: Path) -> None:
    """All eight orientations of a large JPEG: the box in the batch encloses the bright part."""
    compared = 0
    for orientation in range(1, 9):
        stored = np.full((300, 480, 3), 20, dtype=np.uint8)
        stored[60:180, 240:400] = 240
        path = tmp_path / f"{orientation}.jpg"
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(path, exif=exif, quality=95)
        turned = np.asarray(Image.open(path).transpose(Image.Transpose.ROTATE_270)) if orientation == 6 else None
        from PIL import ImageOps

        upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
        if turned is not None:
            assert np.array_equal(turned, upright)
        rows, columns = (upright.mean(axis=2) > 130).nonzero()
        box = [float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)]
        size = (upright.shape[1], upright.shape[0])
        sample = Sample(path, path.name, size, True, Objects.build([box], [0]))
        raw = Sample(path, path.name, (480, 300), False, Objects.build([[240, 60, 400, 180]], [0]))
        for given in (sample, raw):
            stream = StepData(
                [given], [], batch=4, unlabeled_batch=0, image_size=64, views=PLAIN, seed=orientation, unlabeled_from=0
            )
            batch = stream[0][0]
            assert batch.targets is not None
            for i, target in enumerate(batch.targets):
                if not len(target.boxes):
                    continue
                for image, boxes in ((batch.strong[i], target.boxes), (batch.half[i], target.halved().boxes)):
                    lit = image.float().mean(dim=0) > 130
                    found = [lit.any(dim=0).nonzero(), lit.any(dim=1).nonzero()]
                    extent = [found[0].min(), found[1].min(), found[0].max() + 1, found[1].max() + 1]
                    off = (torch.tensor([float(v) for v in extent]) - boxes[0]).abs().max()
                    assert off < 1.3, (orientation, given.use_exif, extent, boxes)
                    compared += 1
    assert compared > 80


# --- images that cannot be read -----------------------------------------------------------------------------------


def broken(folder: Path, which: list[int], count: int = 5) -> list[Sample]:
    rows = samples(folder, count)
    for i in which:
        content = rows[i].path.read_bytes()
        rows[i].path.write_bytes(content[: len(content) // 2])
    return rows


def stream_of(rows: list[Sample], **options: Any) -> StepData:
    return StepData(
        rows, [], batch=5, unlabeled_batch=0, image_size=64, views=PLAIN, seed=0, unlabeled_from=0, **options
    )


def test_unreadable_images_are_replaced_and_named(tmp_path: Path) -> None:
    rows = broken(tmp_path, [1, 2])
    batch = stream_of(rows)[0][0]
    assert sorted(set(batch.skipped)) == ["l1.png", "l2.png"]
    assert len(batch) == 5 and set(batch.names) == {"l0.png", "l3.png", "l4.png"}
    assert batch.targets is not None
    labels = {name: int(t.labels[0]) for name, t in zip(batch.names, batch.targets, strict=True) if len(t.labels)}
    assert all(labels[name] == int(name[1]) % 3 for name in labels)  # labels are the replacement's own
    whole = samples(tmp_path / "whole", 5)
    assert stream_of(whole)[0][0].skipped == ()
    again = stream_of(rows)[0][0]
    assert same(again, batch)


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_readable_is_one_clear_line(tmp_path: Path, workers: int) -> None:
    rows = broken(tmp_path, [0, 1], 2)
    with pytest.raises(SedetError) as caught:
        list(step_loader(stream_of(rows, workers=workers), 0, 2, workers=workers, pin=False))
    text = str(caught.value)
    assert "none of the 2 labelled images can be read" in text and "sedet check" in text
    assert any(text.startswith(f"{row.path}: ") for row in rows)
    assert "Traceback" not in text and "\n" not in text


def test_the_cache_holds_shrunk_images_up_to_its_limit(tmp_path: Path) -> None:
    first, second = samples(tmp_path, 2)
    size = 24 * 18 * 3
    cache = ImageCache(1.5 * size / 2**30, max_side=24)
    for _ in range(2):
        assert cache.read(first).shape == (18, 24, 3) and cache.read(second).shape == (18, 24, 3)
    first.path.unlink()
    second.path.unlink()
    assert cache.read(first).shape == (18, 24, 3)
    with pytest.raises(ImageError):
        cache.read(second)  # it had no room
    off = ImageCache(0.0, max_side=24)
    with pytest.raises(ImageError):
        off.read(first)


def test_a_cached_image_is_never_changed_by_a_view(tmp_path: Path) -> None:
    cached, plain = data(tmp_path, cache=1.0, unlabeled_from=0), data(tmp_path, cache=0.0, unlabeled_from=0)
    for step in range(4):
        a, b = cached[step], plain[step]
        assert same(a[0], b[0]) and same(a[1], b[1])


# --- chance and batches -----------------------------------------------------------------------------------------------


def test_draws_are_the_same_everywhere() -> None:
    """A change of these numbers would break resumed runs and published splits."""
    assert chance.derive(0) == chance.derive(0) != chance.derive(1)
    assert chance.derive(1, "a", 2) != chance.derive(1, "a", 3)
    assert 0 <= chance.derive(123, "x") < 2**63
    assert chance.generator(0, "geometry", 5).integers(0, 1000, 3).tolist() == [894, 352, 431]
    with chance.torch_seed(0, "x"):
        first = torch.rand(3)
    with chance.torch_seed(0, "x"):
        assert torch.equal(torch.rand(3), first)


def test_the_first_images_of_a_batch(tmp_path: Path) -> None:
    for batch in data(tmp_path)[2]:
        assert batch is not None
        part = batch.first(2)
        assert len(part) == 2 and part.names == batch.names[:2]
        assert torch.equal(part.strong, batch.strong[:2]) and torch.equal(part.half, batch.half[:2])
        assert (part.targets is None) == (batch.targets is None) and part.content.shape == (2, 2)
        assert same(replace(part, targets=part.targets), part) and same(batch.to(torch.device("cpu")), batch)
    batch = data(tmp_path, views=replace(PLAIN, scale_min=0.5, scale_max=1.5), largest_zoom=2.0)[2][1]
    assert batch is not None and batch.doubled is not None and batch.weak_double is not None
    for count in range(1, 7):
        part = batch.first(count)
        assert part.doubled is not None and part.weak_double is not None
        assert part.doubled.tolist() == [i for i in batch.doubled.tolist() if i < count]
        assert torch.equal(part.weak_double, batch.weak_double[: len(part.doubled)])


@pytest.mark.parametrize(
    "error", [ConnectionResetError(104, "Connection reset by peer"), EOFError(), FileNotFoundError(2, "x")]
)
def test_a_batch_lost_with_its_process_says_so(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost:
        def __init__(self, *_: object, **__: object) -> None: ...

        def __iter__(self) -> Lost:
            return self

        def __next__(self) -> None:
            raise error

    monkeypatch.setattr(loading, "DataLoader", Lost)
    with pytest.raises(RuntimeError, match="exited unexpectedly") as caught:
        next(step_loader(MagicMock(), 0, 1, workers=1, pin=False))
    assert is_lost_worker(caught.value)
    with pytest.raises(type(error)):
        next(step_loader(MagicMock(), 0, 1, workers=0, pin=False))
