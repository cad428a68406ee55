"""Videos and cameras: every frame is segmented, times and sizes stay, and nothing half-written is left."""

import io
import json
import pathlib
import re
import signal
import struct
import sys
import threading
import time
from fractions import Fraction

import cv2
import numpy as np
import pytest
from PIL import Image
from video_files import frame_image, number_of, read_video, retime, turn, write_video

from dlaseg import UserError
from dlaseg.cli import main
from dlaseg.inference.captures import AHEAD, Video
from dlaseg.inference.containers import is_whole
from dlaseg.inference.memory import MemoryBudget
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.run import InferSummary, infer
from dlaseg.inference.settings import Settings
from dlaseg.inference.video_writer import Ticks, VideoWriter, writable_rate
from dlaseg.label_images import read_label_image


def files(folder):
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "infer.json"
    )


def frame_names(folder, count, suffix=".png"):
    return [f"{folder}/{number:06}{suffix}" for number in range(count)]


@pytest.fixture
def failing_at(monkeypatch):
    """Makes the prediction of a frame fail, once."""

    def fail(frame, error):
        call, calls = Predictor.__call__, []

        def predict(self, image):
            calls.append(image)
            if len(calls) == frame + 1:
                error()
            return call(self, image)

        monkeypatch.setattr(Predictor, "__call__", predict)

    return fail


def ctrl_c():
    raise KeyboardInterrupt  # a signal may be handled where Python ignores exceptions, such as in a finalizer


@pytest.mark.parametrize(("name", "fourcc"), [("clip.mp4", "mp4v"), ("clip.avi", "MJPG"), ("clip.MKV", "FFV1")])
def test_every_frame_is_segmented(network, tmp_path, name, fourcc):
    path = write_video(tmp_path / "in" / name, rate=29.97, fourcc=fourcc)
    out = tmp_path / "out"
    summary = infer(network, path, out, device="cpu")
    assert summary == InferSummary(written=1)
    images, rate = read_video(path)
    assert summary.predicted == 12
    assert 0 < summary.network_seconds < summary.seconds
    assert files(out) == ["color/clip.mp4", *frame_names("ids/clip", 12), "overlay/clip.mp4"]
    predictor = Predictor(network, device="cpu")
    colors, color_rate = read_video(out / "color/clip.mp4")
    overlays, overlay_rate = read_video(out / "overlay/clip.mp4")
    assert (color_rate, overlay_rate) == pytest.approx((rate, rate), abs=0.001)
    assert len(images) == len(colors) == len(overlays) == 12
    for number, image in enumerate(images):
        labels = predictor(image)
        ids = read_label_image(out / f"ids/clip/{number:06}.png")
        np.testing.assert_array_equal(ids, predictor.label_map.decode(labels))
        color = predictor.label_map.colorize(labels)
        assert np.abs(colors[number] - color.astype(float)).mean() < 12  # by the codec
        assert np.abs(overlays[number] - (color + image.astype(float)) / 2).mean() < 12


def test_frames_have_probabilities_contours_and_train_ids(network, tmp_path):
    path = write_video(tmp_path / "clip.mp4", frames=3)
    out = tmp_path / "out"
    assert infer(network, path, out, ["probabilities", "contours", "ids"], ids="train", device="cpu").written == 1
    names = frame_names("contours/clip", 3, ".json") + frame_names("ids/clip", 3)
    assert files(out) == names + frame_names("probabilities/clip", 3, ".npz")
    labels = Predictor(network, device="cpu")(read_video(path)[0][2])
    np.testing.assert_array_equal(read_label_image(out / "ids/clip/000002.png"), labels)
    areas = {
        feature["properties"]["train_id"]: feature["properties"]["area"]
        for feature in json.loads((out / "contours/clip/000002.json").read_text())["features"]
    }
    assert areas == {i: n for i, n in enumerate(np.bincount(labels.ravel()).tolist()) if n}


def test_a_phone_held_upright(network, tmp_path):
    path = write_video(tmp_path / "clip.mp4", frames=2)
    turn(path)
    assert infer(network, path, tmp_path / "out", device="cpu").written == 1
    assert read_label_image(tmp_path / "out/ids/clip/000000.png").shape == (64, 48)
    shown = read_video(tmp_path / "out/overlay/clip.mp4")[0][0]
    assert shown.shape == (64, 48, 3)
    image = np.rot90(frame_image(0), -1)  # red on the right
    labels = Predictor(network, device="cpu")(read_video(path)[0][0])
    color = Predictor(network, device="cpu").label_map.colorize(labels)
    assert np.abs(shown - (color + image.astype(float)) / 2).mean() < 12


def test_times_stay_where_the_rate_varies(network, tmp_path, monkeypatch):
    """The overlay shows each frame when the input does; every frame has a label map."""
    path = write_video(tmp_path / "clip.mp4")
    durations = [1, 1, 3, 1, 1, 5, 1, 1, 1, 1, 1, 1]
    retime(path, durations)
    monkeypatch.setattr("dlaseg.inference.sinks.overlay", lambda image, color: image)
    assert infer(network, path, tmp_path / "out", ["ids", "overlay"], device="cpu").written == 1
    assert len(list((tmp_path / "out/ids/clip").iterdir())) == 12
    shown, rate = read_video(tmp_path / "out/overlay/clip.mp4")
    begins = np.cumsum([0, *durations[:-1]]) / 10
    assert len(shown) == round((begins[-1]) * rate) + 1
    for place, image in enumerate(shown):
        wanted = np.flatnonzero(begins <= (place + 0.501) / rate)[-1]
        assert 0 <= begins[wanted] - begins[number_of(image)] <= 1 / rate  # of two that are closer, one is shown


def test_a_size_of_odd_numbers_loses_a_row_only_in_videos(network, tmp_path):
    path, height, width = tmp_path / "clip.y4m", 47, 63
    frame = b"FRAME\n" + bytes([100]) * (height * width) + bytes([128]) * (2 * height * width)
    path.write_bytes(f"YUV4MPEG2 W{width} H{height} F10:1 Ip A1:1 C444\n".encode() + 3 * frame)
    assert infer(network, path, tmp_path / "out", device="cpu").written == 1
    assert read_label_image(tmp_path / "out/ids/clip/000002.png").shape == (47, 63)
    assert [image.shape for image in read_video(tmp_path / "out/overlay/clip.mp4")[0]] == 3 * [(46, 62, 3)]


def test_folders_of_images_and_videos(network, tmp_path):
    root, out = tmp_path / "in", tmp_path / "out"
    write_video(root / "street/a.mp4", frames=2)
    write_video(root / "b.avi", frames=2)
    Image.fromarray(frame_image(0)).save(root / "c.png")
    assert infer(network, root, out, ["ids"], device="cpu") == InferSummary(written=3)
    assert files(out) == [*frame_names("ids/b", 2), "ids/c.png", *frame_names("ids/street/a", 2)]
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    assert infer(network, root, out, ["ids"], device="cpu") == InferSummary(skipped=3)
    assert infer(network, root, out, ["ids", "color"], device="cpu") == InferSummary(written=3)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert (out / "color/street/a.mp4").is_file()
    assert infer(network, root / "b.avi", out / "kept", ["ids", "color"], keep_suffix=True, device="cpu").written == 1
    assert files(out / "kept") == ["color/b.avi.mp4", *frame_names("ids/b.avi", 2)]


def test_results_of_two_inputs_never_mix(network, tmp_path):
    root = tmp_path / "in"
    for name in ("a.mp4", "b.mp4", "b.avi"):
        write_video(root / name, frames=2, fourcc="MJPG" if name == "b.avi" else "mp4v")
    (root / "a").mkdir()
    Image.fromarray(frame_image(0)).save(root / "a/x.png")
    summary = infer(network, root, tmp_path / "out", device="cpu")
    assert [path.name for path, _ in summary.failed] == ["a.mp4", "b.avi", "b.mp4"]
    messages = dict(summary.failed)
    assert "its frames would be written beside the results of " in messages[root / "a.mp4"]
    assert "would both be b.mp4: use --keep-suffix" in messages[root / "b.mp4"]
    assert infer(network, root, tmp_path / "kept", keep_suffix=True, device="cpu") == InferSummary(written=4)


def test_a_video_replaces_no_results_of_an_earlier_run(network, tmp_path):
    video, out = write_video(tmp_path / "in/a.mp4", frames=5), tmp_path / "out"
    (tmp_path / "in/a").mkdir()
    Image.fromarray(frame_image(0)).save(tmp_path / "in/a/000003.png")
    assert infer(network, tmp_path / "in", out, ["ids"], device="cpu").written == 1
    before = (out / "ids/a/000003.png").read_bytes()
    summary = infer(network, video, out, ["ids"], device="cpu")
    reason = f"its frames would be written to {out / 'ids/a'}, which holds other files"
    assert summary == InferSummary(failed=[(video, f"{video}: {reason}: use another output folder, or --overwrite")])
    assert files(out) == ["ids/a/000003.png"]
    assert (out / "ids/a/000003.png").read_bytes() == before
    assert infer(network, video, out, ["ids"], overwrite=True, device="cpu") == InferSummary(written=1)
    assert files(out) == frame_names("ids/a", 5)


def test_the_limit_of_tiles_is_recorded_with_the_results_of_videos(network, tmp_path, monkeypatch):
    path, limit = write_video(tmp_path / "clip.avi"), 64 * 10**9
    grid = MemoryBudget.grid

    def tiled(self, *arguments, **options):
        self.tiled = True
        return grid(self, *arguments, **options)

    monkeypatch.setattr(MemoryBudget, "grid", tiled)
    assert infer(network, path, tmp_path / "out", ["ids"], device="cpu", max_memory=limit).written == 1
    assert json.loads((tmp_path / "out/infer.json").read_text())["max_memory"] == limit
    with pytest.raises(UserError, match=r"max_memory"):
        infer(network, path, tmp_path / "out", ["color"], device="cpu", max_memory=limit // 2)
    again = infer(network, path, tmp_path / "out", ["ids"], device="cpu", max_memory=limit, overwrite=True)
    assert (again.written, again.failed) == (1, [])


@pytest.mark.parametrize(("suffix", "fourcc"), [(".avi", "MJPG"), (".mkv", "mp4v")])
def test_a_truncated_video_has_the_results_of_what_can_be_read(network, tmp_path, capfd, suffix, fourcc):
    root, out = tmp_path / "in", tmp_path / "out"
    path = write_video(root / f"cut{suffix}", frames=40, fourcc=fourcc)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    write_video(root / "whole.mp4", frames=2)
    count = len(read_video(path)[0])
    assert 5 < count < 35
    capfd.readouterr()
    summary = infer(network, root, out, ["ids", "color"], device="cpu")
    assert capfd.readouterr().err == ""  # nothing of FFmpeg's
    assert summary.written == 1
    problem = f"{path}: broken or truncated: only {count} of 40 frames can be read; their results were written: "
    assert summary.failed == [(path, f"{problem}replace or repair the file")]
    assert files(out / "ids/cut") == [f"{number:06}.png" for number in range(count)]
    assert len(read_video(out / "color/cut.mp4")[0]) == count
    assert (out / "ids/cut.incomplete").read_text() == f"{problem}replace or repair the file\n"

    again = infer(network, root, out, ["ids", "color"], device="cpu")
    assert (again.written, again.skipped, again.failed) == (0, 1, summary.failed)
    path.write_bytes(content)
    assert infer(network, root, out, ["ids", "color"], device="cpu") == InferSummary(written=1, skipped=1)
    assert files(out / "ids") == [*frame_names("cut", 40), *frame_names("whole", 2)]
    assert files(out / "color") == ["cut.mp4", "whole.mp4"]
    assert len(read_video(out / "color/cut.mp4")[0]) == 40
    assert infer(network, root, out, ["ids", "color"], device="cpu") == InferSummary(skipped=2)


def hole(content):
    return content[: len(content) * 2 // 5] + bytes(len(content) // 5) + content[len(content) * 3 // 5 :]


def without_frames(content):
    """A Matroska file whose frames 10 to 24 are elements without a meaning: a variable frame rate."""
    parts = re.split(rb"\xa3(?=.{1,8}\x81..[\x00\x80])", content, flags=re.DOTALL)  # blocks of the first track
    assert len(parts) == 41
    return b"\xa3".join(parts[:11]) + b"\xec" + b"\xec".join(parts[11:26]) + b"\xa3" + b"\xa3".join(parts[26:])


@pytest.mark.parametrize(
    ("suffix", "fourcc", "damage", "is_broken"),
    [
        (".mkv", "mp4v", hole, True),
        (".mkv", "mp4v", without_frames, False),
        (".avi", "MJPG", lambda content: content[: len(content) * 93 // 100], True),
        (".avi", "MJPG", lambda content: content.replace(b"00dc", b"JUNK", 3), False),  # a count that is wrong by three
    ],
    ids=["hole", "variable-rate", "end", "wrong-count"],
)
def test_a_hole_and_a_missing_end_are_told_from_frames_that_never_were(
    network, tmp_path, suffix, fourcc, damage, is_broken
):
    path = write_video(tmp_path / f"clip{suffix}", frames=40, fourcc=fourcc)
    path.write_bytes(damage(path.read_bytes()))
    summary = infer(network, path, tmp_path / "out", ["ids"], device="cpu")
    assert 15 < summary.predicted < 40
    problem = f"{path}: broken or truncated: only {summary.predicted} of 40 frames can be read; "
    assert [message.startswith(problem) for _, message in summary.failed] == [True] * is_broken
    assert (tmp_path / "out/ids/clip.incomplete").exists() == is_broken


def test_a_file_that_ends_too_early_is_not_whole(tmp_path):
    for suffix, fourcc in ((".mp4", "mp4v"), (".mov", "mp4v"), (".mkv", "mp4v"), (".avi", "MJPG")):
        path = write_video(tmp_path / f"clip{suffix}", frames=2, fourcc=fourcc)
        assert is_whole(path)
        path.write_bytes(path.read_bytes()[:-3])
        assert not is_whole(path)


def test_files_that_are_no_videos_fail_in_one_line_and_the_others_are_done(weights, tmp_path, capfd):
    root, out = tmp_path / "in", tmp_path / "out"
    cut = write_video(root / "cut.mp4", frames=30)
    content = cut.read_bytes()
    cut.write_bytes(content[: len(content) // 2])  # an MP4's index is at its end
    (root / "empty.mov").touch()
    (root / "text.webm").write_text("not a video")
    (root / "dangling.mp4").symlink_to(root / "nowhere.mp4")
    write_video(root / "good.mp4", frames=2)
    assert main(["infer", str(weights), str(root), str(out), "--save", "ids", "--backend", "torch"]) == 2
    printed = capfd.readouterr()
    assert printed.out.startswith("1 written, 0 skipped (already exist), 4 failed")
    lines = printed.err.splitlines()
    assert [line.split(": ")[1].rpartition("/")[2] for line in lines] == [
        "cut.mp4", "dangling.mp4", "empty.mov", "text.webm",
    ]  # fmt: skip
    assert all("not a video that OpenCV reads" in line for line in lines)
    assert files(out) == frame_names("ids/good", 2)


def test_frames_that_are_too_large_are_refused_before_they_are_decoded(network, tmp_path):
    path = write_video(tmp_path / "clip.mp4", frames=2)
    summary = infer(network, path, tmp_path / "out", max_pixels=3000, device="cpu")
    assert "frames of 48 x 64 = 3,072 pixels, the limit is 3,000: raise it (--max-pixels)" in summary.failed[0][1]
    assert files(tmp_path / "out") == []


def test_an_interrupted_video_leaves_nothing_and_is_done_again(network, tmp_path, monkeypatch, failing_at):
    path, out = write_video(tmp_path / "clip.mp4"), tmp_path / "out"
    with monkeypatch.context():
        failing_at(5, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            infer(network, path, out, device="cpu")
        assert files(out) == []
    assert infer(network, path, out, device="cpu").written == 1
    assert len(files(out)) == 14


def test_sigterm_is_handled_as_ctrl_c(weights, tmp_path, capsys, failing_at):
    def unhandled(*_):
        raise AssertionError("SIGTERM")

    path, out = write_video(tmp_path / "clip.mp4"), tmp_path / "out"
    failing_at(5, lambda: signal.raise_signal(signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, unhandled)
    try:
        assert main(["infer", str(weights), str(path), str(out), "--backend", "torch"]) == 130
        assert signal.getsignal(signal.SIGTERM) is unhandled
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "dlaseg infer: interrupted; finished files are complete" in capsys.readouterr().err
    assert [file.name for file in out.iterdir()] == ["infer.json"]


def test_an_interrupted_move_is_done_again(network, tmp_path, monkeypatch):
    path, out = write_video(tmp_path / "clip.mp4", frames=4), tmp_path / "out"
    replace, moved = type(path).replace, []

    def interrupted(self, target):
        if target.parent == out / "ids/clip":
            moved.append(target.name)
            if len(moved) == 3:
                raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            infer(network, path, out, ["ids"], device="cpu")
    assert files(out) == ["ids/clip.incomplete", "ids/clip/000000.png", "ids/clip/000001.png"]
    assert infer(network, path, out, ["ids"], device="cpu") == InferSummary(written=1)
    assert files(out) == frame_names("ids/clip", 4)


def test_a_shorter_video_replaces_all_frames_of_a_longer_one(network, other_network, tmp_path):
    path, out = write_video(tmp_path / "clip.mp4", frames=5), tmp_path / "out"
    infer(network, path, out, ["ids", "color"], device="cpu")
    (out / "ids/clip/mine.png").write_text("no frame")
    write_video(path, frames=3)
    assert infer(network, path, out, ["ids", "color"], overwrite=True, device="cpu").written == 1
    assert files(out) == ["color/clip.mp4", *frame_names("ids/clip", 3), "ids/clip/mine.png"]
    with pytest.raises(UserError, match=r"ids/clip/mine\.png: one of 1 results of other weights"):
        infer(other_network, path, out, ["ids", "color"], overwrite=True, device="cpu")
    (out / "ids/clip/mine.png").unlink()
    with pytest.raises(UserError, match=r"color/clip\.mp4: one of 1 results of other weights"):
        infer(other_network, path, out, ["ids"], overwrite=True, device="cpu")
    assert infer(other_network, path, out, ["ids", "color"], overwrite=True, device="cpu").written == 1


@pytest.mark.parametrize("kind", ["ids", "color"])
def test_a_full_disk_is_one_line_and_leaves_nothing(network, tmp_path, monkeypatch, kind):
    path, out = write_video(tmp_path / "clip.mp4"), tmp_path / "out"
    if kind == "ids":

        def full(self, content):
            raise OSError(28, "No space left on device", str(self))

        monkeypatch.setattr(type(path), "write_bytes", full)
    else:
        monkeypatch.setattr("dlaseg.inference.video_writer.VideoWriter._add", half_written)
    out.mkdir()
    monkeypatch.setattr(Settings, "write", lambda *_: None)  # there was room for this
    with pytest.raises(UserError, match=r"cannot be written.*make room or give another output folder"):
        infer(network, path, out, [kind], device="cpu")
    assert files(out) == []


def half_written(self, picture):
    """OpenCV reports nothing when a disk is full."""
    if self._frames < 4:
        self._writer.write(picture)
    self._frames += 1


def test_frames_are_read_ahead_but_few_at_a_time(network, tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", frames=40)
    read, ahead, entered = [], [], threading.Event()
    decode = Video._read

    def counted(self):
        read.append(decode(self))
        if len(read) > 2:
            entered.set()
        return read[-1]

    def predict(self, image):
        assert entered.wait(60)  # frames are read while the network runs
        ahead.append(len(read) - len(ahead))
        return np.zeros(image.shape[:2], np.uint8)

    monkeypatch.setattr(Video, "_read", counted)
    monkeypatch.setattr(Predictor, "__call__", predict)
    assert infer(network, path, tmp_path / "out", ["ids"], device="cpu").written == 1
    assert len(ahead) == 40
    assert max(ahead) <= AHEAD + 1


def test_a_video_that_memory_does_not_hold_fails_and_the_others_are_done(network, tmp_path, failing_at):
    def full():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    for name in ("a", "b"):
        write_video(tmp_path / f"in/{name}.mp4", frames=4)
    failing_at(2, full)
    summary = infer(network, tmp_path / "in", tmp_path / "out", ["ids"], device="cpu")
    assert (summary.written, len(summary.failed)) == (1, 1)
    assert summary.failed[0][1].startswith(f"{tmp_path / 'in/a.mp4'}: 48 x 64 pixels: not enough memory")
    assert files(tmp_path / "out") == frame_names("ids/b", 4)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ids", "infer.json"]


def test_progress_shows_frames_per_second(network, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    infer(network, write_video(tmp_path / "clip.mp4"), tmp_path / "out", ["ids"], device="cpu")
    assert "clip.mp4: 100%" in sys.stderr.getvalue()
    assert "frame/s" in sys.stderr.getvalue()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere, all names are Unicode")
def test_a_name_that_is_not_utf8(network, tmp_path):
    path = tmp_path / "caf\udce9" / "caf\udce9.mp4"
    pathlib.Path(write_video(tmp_path / "in/plain.mp4", frames=2).parent).rename(path.parent)
    pathlib.Path(path.parent / "plain.mp4").rename(path)
    out = path.parent / "out"
    assert infer(network, path, out, ["ids", "color"], device="cpu").written == 1
    copy = tmp_path / "copy.mp4"
    copy.write_bytes((out / "color" / path.name).read_bytes())
    assert len(read_video(copy)[0]) == 2
    assert len(list((out / "ids/caf\udce9").iterdir())) == 2


@pytest.mark.parametrize("rate", [238.674, 119.837, 90.123456, 29.97002997, 25, 0.1, 999.9, 70000])
def test_any_rate_can_be_written(tmp_path, rate):
    writer = VideoWriter(tmp_path / "a.mp4", 16, 16, writable_rate(rate))
    writer.write(np.zeros((16, 16, 3), np.uint8), 0)
    writer.close()
    assert writable_rate(rate) == pytest.approx(min(rate, 65535), rel=1e-3)


@pytest.mark.parametrize(
    ("times", "places"),
    [
        ([0.0, 0.1, 0.2, 0.3], [0, 1, 2, 3]),
        ([5.0, 5.033, 5.067, 5.1], [0, 0, 1, 1]),  # 30 frames per second into 10
        ([0.0, 0.1, 0.5, 0.6], [0, 1, 5, 6]),
        ([0.0, 0.0, 0.0, 0.0], [0, 1, 2, 3]),  # no timestamps
        ([0.0, 0.1, 90000.0, 90000.1], [0, 1, 2, 3]),  # a clock that was set
        ([3.0, 3.1, 0.0, 0.1], [0, 1, 2, 3]),
    ],
)
def test_the_place_of_frames_in_a_video_of_constant_rate(times, places):
    ticks = Ticks(10)
    assert [ticks.at(seconds) for seconds in times] == places


class FakeCamera:
    """Gives frames; then, none."""

    frames = 1000
    opened = True

    def __init__(self, index, *_):
        self.index, self.count = index, 0

    def isOpened(self):  # noqa: N802
        return self.opened

    def get(self, name):
        return {cv2.CAP_PROP_FRAME_HEIGHT: 48.0, cv2.CAP_PROP_FRAME_WIDTH: 64.0}.get(name, -1.0)

    def read(self):
        self.count += 1
        time.sleep(0.005)
        if self.count > self.frames:
            return False, None
        return True, cv2.cvtColor(frame_image(self.count % 20), cv2.COLOR_RGB2BGR)

    def release(self):
        pass


@pytest.fixture
def camera(monkeypatch):
    """A camera in place of every one that is opened by an index."""
    real = cv2.VideoCapture
    fake = type("OneCamera", (FakeCamera,), {})
    monkeypatch.setattr(cv2, "VideoCapture", lambda source, *a: (real if isinstance(source, str) else fake)(source, *a))
    return fake


def test_a_camera_runs_until_it_is_interrupted(weights, tmp_path, monkeypatch, capsys, camera, failing_at):
    monkeypatch.chdir(tmp_path)
    failing_at(3, ctrl_c)
    camera.frames = 10**9
    assert main(["infer", str(weights), "2", "out", "--backend", "torch"]) == 0
    assert capsys.readouterr().out.startswith("1 written, 0 skipped (already exist), 0 failed")
    out = tmp_path / "out"
    assert files(out) == ["color/camera2.mp4", *frame_names("ids/camera2", 3), "overlay/camera2.mp4"]
    shown, rate = read_video(out / "color/camera2.mp4")
    assert rate == 30
    assert len(shown) >= 1
    with pytest.raises(UserError, match="camera:2: the output holds an earlier recording"):
        infer(weights, "camera:2", "out", device="cpu")


def test_a_camera_that_stops_keeps_what_it_gave(network, tmp_path, camera):
    camera.frames = 4
    summary = infer(network, "camera:0", tmp_path / "out", ["ids"], device="cpu")
    assert len(summary.failed) == 1
    assert "gave no more frames after" in summary.failed[0][1]
    assert files(tmp_path / "out")[0] == "ids/camera0/000000.png"


def test_no_camera_is_one_line(weights, tmp_path, capsys, camera):
    camera.opened = False
    assert main(["infer", str(weights), "camera:7", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("dlaseg infer: camera:7: camera 7 cannot be opened, or does not exist: ")
    assert len(printed.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_may_have_a_cameras_name(network, tmp_path, monkeypatch, camera):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "0/clip.mp4", frames=1)
    assert infer(network, "0", "out", ["ids"], device="cpu").written == 1
    assert files(tmp_path / "out") == ["ids/clip/000000.png"]
    with pytest.raises(UserError, match="camera:0: a camera runs until it is interrupted: give it as the only input"):
        infer(network, ["0", "camera:0"], "other", device="cpu")


def test_an_mp4_of_more_than_four_gigabytes_has_lengths_of_64_bits(tmp_path):
    path = tmp_path / "large.mp4"
    index = struct.pack(">I4s", 8, b"moov")
    path.write_bytes(struct.pack(">I4s4xI4sQ", 12, b"ftyp", 1, b"mdat", 116) + bytes(100) + index)
    assert is_whole(path)
    path.write_bytes(path.read_bytes()[:-20])
    assert not is_whole(path)


def write_y4m(path, height, width, rate=10, frames=3):
    frame = b"FRAME\n" + bytes([100]) * (height * width) + bytes([128]) * (2 * height * width)
    fraction = f"{rate.numerator}:{rate.denominator}"
    path.write_bytes(f"YUV4MPEG2 W{width} H{height} F{fraction} Ip A1:1 C444\n".encode() + frames * frame)
    return path


def test_frames_of_one_row_have_label_maps_but_no_videos(network, tmp_path):
    path = write_y4m(tmp_path / "clip.y4m", 1, 64)
    summary = infer(network, path, tmp_path / "out", device="cpu")
    assert "frames of 1 x 64 pixels: no video can be written of them: use --save ids" in summary.failed[0][1]
    assert infer(network, path, tmp_path / "out", ["ids"], device="cpu") == InferSummary(written=1)
    assert files(tmp_path / "out") == frame_names("ids/clip", 3)


@pytest.mark.parametrize(("rate", "expected"), [(240, 240), (1000, 30), (Fraction(1, 2), 0.5)])
def test_the_ticks_of_a_clock_are_no_rate(tmp_path, rate, expected):
    assert Video(write_y4m(tmp_path / "clip.y4m", 16, 16, rate), 10**6).rate == expected


def test_hidden_files_are_no_results_of_others(network, tmp_path):
    path, out = write_video(tmp_path / "a.mp4", frames=2), tmp_path / "out"
    (out / "ids/a").mkdir(parents=True)
    (out / "ids/a/.DS_Store").touch()
    assert infer(network, path, out, ["ids"], device="cpu") == InferSummary(written=1)


def test_another_kind_of_an_earlier_recording_is_refused_too(network, tmp_path, camera):
    camera.frames = 2
    infer(network, "camera:0", tmp_path / "out", ["ids"], device="cpu")
    with pytest.raises(UserError, match="camera:0: the output holds an earlier recording"):
        infer(network, "camera:0", tmp_path / "out", ["ids", "color"], device="cpu")


def test_an_mp4_whose_end_was_never_copied_is_broken(network, tmp_path):
    path = write_video(tmp_path / "clip.mp4", frames=40)
    content = bytearray(path.read_bytes())
    begin, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    middle = (begin + end) // 2
    content[middle:end] = bytes(end - middle)
    path.write_bytes(content)
    summary = infer(network, path, tmp_path / "out", ["ids"], device="cpu")
    assert 15 < summary.predicted < 30
    assert "broken or truncated: only" in summary.failed[0][1]
