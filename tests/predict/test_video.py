"""Videos: which frames, when, how turned; drawn into a video again; broken ones."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sedet import cli
from sedet.detectors.file import save_detector
from sedet.errors import DataError, ImageError
from sedet.predict import predict_sources
from sedet.video import VideoFile, frames, is_video, rate_of
from tests import tiny

av = pytest.importorskip("av")


def video(path: Path, count: int = 12, size: tuple[int, int] = (64, 48), rate: int = 10) -> Path:
    """Grey frames, each a little lighter than the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = VideoFile(path, Fraction(rate))
    for i in range(count):
        file.add(Image.new("RGB", size, (20 * i,) * 3))
    return file.finish()


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "detector.safetensors"
    save_detector(path, tiny.detector(confident=True), ("a", "b", "c"), 64, {})
    return path


def test_every_frame_in_order_with_its_time(tmp_path: Path) -> None:
    seen = list(frames(video(tmp_path / "a.mp4")))
    assert [f.number for f in seen] == list(range(12))
    assert [f.seconds for f in seen] == pytest.approx([i / 10 for i in range(12)])
    assert all(f.pixels.shape == (48, 64, 3) and f.pixels.dtype == np.uint8 for f in seen)
    assert [round(float(f.pixels.mean()) / 20) for f in seen] == list(range(12))
    assert rate_of(tmp_path / "a.mp4") == 10


def test_every_third_frame(tmp_path: Path) -> None:
    assert [f.number for f in frames(video(tmp_path / "a.mp4"), every=3)] == [0, 3, 6, 9]


def test_a_turned_video_is_seen_upright(tmp_path: Path) -> None:
    """A phone held upright writes a wide picture and by how much to turn it."""
    path = tmp_path / "turned.mp4"
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :16] = 255  # the left edge is white
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write the turn")
        stream.set_display_rotation(90)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    pixels = next(frames(path)).pixels
    assert pixels.shape == (64, 48, 3)
    # Turned by 90 degrees against the clock, what was at the left is at the bottom.
    assert pixels[-12:].mean() > 230 and pixels[:-20].mean() < 25


def test_broken_videos(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    for name in ("text.mp4", "empty.mp4", "none.mp4"):
        with pytest.raises(ImageError, match=name):
            list(frames(tmp_path / name))
    whole = video(tmp_path / "a.mp4", count=60).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # its index stands at the end
    with pytest.raises(ImageError, match=r"cut\.mp4"):
        list(frames(tmp_path / "cut.mp4"))


def test_which_names_are_videos() -> None:
    assert is_video("a/CLIP.MP4") and is_video(Path("x.webm")) and not is_video("photos/") and not is_video("a.jpg")


def test_predictions_of_a_video_and_an_image(detector: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = video(tmp_path / "in" / "clip.mp4")
    (tmp_path / "in" / "bad.mp4").write_text("no video")
    Image.new("RGB", (64, 48)).save(tmp_path / "in" / "photo.png")
    sources = [str(tmp_path / "in" / name) for name in ("bad.mp4", "clip.mp4", "photo.png")]
    out = tmp_path / "out"
    done = predict_sources(
        detector, sources, out, format=("jsonl", "coco"), draw=True, score=0.3, every=5, batch=2, device="cpu"
    )
    records = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [r["image"] for r in records] == ["photo.png", "clip.mp4/000000", "clip.mp4/000005", "clip.mp4/000010"]
    assert "frame" not in records[0] and [(r["frame"], r["seconds"]) for r in records[1:]] == [
        (0, 0),
        (5, 0.5),
        (10, 1),
    ]
    assert records[1]["path"] == str(clip) and (records[1]["width"], records[1]["height"]) == (64, 48)
    assert done.images == 4 and done.frames == 3 and " in 1 image and 3 frames, " in str(done)
    assert len(done.skipped) == 1 and "bad.mp4" in (out / "skipped.txt").read_text()
    ids = [image["id"] for image in json.loads((out / "images.coco.json").read_text())["images"]]
    assert len(set(ids)) == 4
    assert (out / "pictures" / "photo.jpg").is_file()
    drawn = list(frames(out / "pictures" / "clip.mp4"))
    assert len(drawn) == 3 and rate_of(out / "pictures" / "clip.mp4") == 2
    assert not list(out.rglob("*.part*"))


def test_what_cannot_be_read_is_told_as_what_it_is(detector: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.png"):
        (tmp_path / name).write_text("neither")

    def told(*names: str) -> str:
        with pytest.raises(DataError) as caught:
            predict_sources(detector, [str(tmp_path / name) for name in names], tmp_path / "out", device="cpu")
        return str(caught.value)

    assert told("a.mp4").startswith(f"{tmp_path / 'a.mp4'}: not a video that can be read")
    assert "none of the 2 videos can be read. The first: " in told("a.mp4", "b.mp4")
    assert "none of the 1 image and 2 videos can be read. The first: " in told("a.mp4", "b.mp4", "c.png")


def test_two_videos_are_drawn_into_two(detector: Path, tmp_path: Path) -> None:
    sources = [str(video(tmp_path / name / "clip.mp4", count)) for name, count in (("one", 2), ("two", 3))]
    out = tmp_path / "out"
    predict_sources(detector, sources, out, draw=True, device="cpu")
    assert [len(list(frames(out / "pictures" / name / "clip.mp4"))) for name in ("one", "two")] == [2, 3]


def test_nothing_to_see(detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(DataError, match="not a video that can be read"):
        predict_sources(detector, [str(tmp_path / "bad.mp4")], tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
    assert cli.main(["predict", str(detector), str(tmp_path / "bad.mp4"), "--every", "0"]) == 2
    assert "--every must be 1 or more" in capsys.readouterr().err
