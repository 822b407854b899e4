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
from sedet.video import VideoFile, find_videos, frames, is_video, rate_of
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


def written(path: Path, seconds: float = 4, sound: float = 0) -> Path:
    """Noise in ten frames a second, which the codec cannot pack: half the bytes are half the frames."""
    noise = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        heard = container.add_stream("pcm_s16le", rate=8000, layout="mono") if sound else None
        for _ in range(round(10 * seconds)):
            pixels = noise.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
        for _ in range(round(sound)):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
            silence.sample_rate = 8000
            container.mux(heard.encode(silence))
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv"])
@pytest.mark.parametrize("every", [1, 7])
def test_a_cut_video_is_no_whole_one(tmp_path: Path, name: str, every: int) -> None:
    """FFmpeg reads to the end of the bytes and says nothing, though the header tells of more."""
    path = written(tmp_path / name)
    assert len(list(frames(path, every))) == len(range(0, 40, every))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"breaks off after [12]\d frames \([12]\.\d of 4\.0 s\)"):
        list(frames(path, every))


@pytest.mark.parametrize("ending", [".mkv", ".mp4", ".wmv"])
def test_a_video_may_be_shorter_than_its_sound(tmp_path: Path, ending: str) -> None:
    assert len(list(frames(written(tmp_path / f"a{ending}", seconds=2, sound=6)))) == 20


def test_frames_that_a_player_does_not_show_are_not_missed(tmp_path: Path) -> None:
    """Trimmed on a phone: the file holds all frames, and an edit list says to begin at the third second."""
    with av.open(str(written(tmp_path / "a.mp4"))) as whole, av.open(str(tmp_path / "b.mp4"), "w") as trimmed:
        source = whole.streams.video[0]
        copy = trimmed.add_stream_from_template(source)
        for packet in whole.demux(source):
            if packet.dts is not None:
                packet.pts, packet.dts = (round(t - 3 / source.time_base) for t in (packet.pts, packet.dts))
                packet.stream = copy
                trimmed.mux(packet)
    assert len(list(frames(tmp_path / "b.mp4"))) == 10


def test_a_single_frame_is_whole(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.avi", "a.mkv"):
        assert len(list(frames(written(tmp_path / name, seconds=0.1)))) == 1


def test_a_cut_video_is_reported_after_its_frames(detector: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "a.mkv")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = predict_sources(detector, [str(path)], tmp_path / "out", every=5, device="cpu")
    assert done.frames > 1 and len(done.skipped) == 1 and "breaks off after" in done.skipped[0]


def test_a_quoted_glob_of_videos(detector: Path, tmp_path: Path) -> None:
    """As a shell would expand it; a file that has such a name is meant itself."""
    clips = [video(tmp_path / "in" / name, count=1) for name in ("b.mp4", "a.mp4", "c[1].mp4")]
    (tmp_path / "in" / "folder.mp4").mkdir()
    found = find_videos([str(clips[0]), str(tmp_path / "in" / "*.mp4")])
    assert [path.name for path in found] == ["b.mp4", "a.mp4", "c[1].mp4"]
    assert find_videos([str(clips[2])]) == [clips[2]]
    done = predict_sources(detector, [str(tmp_path / "in" / "[ab].mp4")], tmp_path / "out", device="cpu")
    assert done.frames == 2
    with pytest.raises(DataError, match=r"\*\.mkv: no video matches"):
        predict_sources(detector, [str(tmp_path / "in" / "*.mkv")], tmp_path / "none", device="cpu")


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
