"""Large images are read, predicted and written some rows at a time; the results are those of the whole image."""

import errno
import json
import re
import resource
import subprocess
import sys
from functools import cache, partial
from itertools import pairwise
from types import SimpleNamespace

import cv2
import image_files
import numpy as np
import pytest
from PIL import Image

from dlaseg import UserError
from dlaseg.cli import main
from dlaseg.image_strips import RowReader
from dlaseg.images import ImageFile
from dlaseg.inference import memory, strips
from dlaseg.inference.grid import Axis, Grid
from dlaseg.inference.memory import MemoryBudget
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.run import InferSummary, infer
from dlaseg.label_images import read_label_image

KINDS = ["ids", "color", "overlay"]


def noise(height=400, width=210, seed=0):
    return image_files.noise(height, width, seed)


def save(path, image=None, **options):
    return image_files.save(path, noise() if image is None else image, **options)


@pytest.fixture(autouse=True)
def used(monkeypatch):
    """What this process holds; earlier tests may have left it gigabytes."""
    monkeypatch.setattr(memory, "used_memory", lambda: 1 << 28)


@pytest.fixture
def tiled(monkeypatch):
    """Images of more than 200 rows are computed in tiles; those of more than 20 are large."""

    def grid(self, height, width, whole_bytes=0, tiled_bytes=0, score_bytes=0):
        self.tiled |= height > 200
        return Grid(Axis.split(height, 160, 32, 32), Axis.split(width, 160, 32, 32)) if height > 200 else None

    monkeypatch.setattr(MemoryBudget, "grid", grid)
    monkeypatch.setattr(memory, "LARGE", 20 * 210)


def pictures(out):
    return {path.relative_to(out).as_posix(): read_label_image(path) for path in sorted(out.rglob("*.png"))}


def test_a_folder_of_large_and_small_images_gives_the_same_pictures(network, tmp_path, request):
    root = tmp_path / "in"
    save(root / "a.png")
    save(root / "b.tif", noise(seed=1), compression="tiff_lzw")
    save(root / "c.jpg", noise(seed=2))
    save(root / "d.png", noise(30, 40))
    save(root / "e.png", noise(10, 20))
    cv2.imwrite(str(root / "f.png"), noise(seed=3).astype(np.uint16) * 255 + 9)
    frames = [Image.fromarray(noise(seed=seed)) for seed in (4, 5)]
    frames[0].save(root / "g.tif", save_all=True, append_images=frames[1:])
    infer(network, root, tmp_path / "whole", device="cpu", all_frames=True)
    request.getfixturevalue("tiled")
    summary = infer(network, root, tmp_path / "tiled", device="cpu", all_frames=True)
    assert summary == InferSummary(written=8)
    assert summary.predicted == 8
    assert 0 < summary.network_seconds < summary.seconds
    whole, tiled = pictures(tmp_path / "whole"), pictures(tmp_path / "tiled")
    assert whole.keys() == tiled.keys()
    assert len(whole) == 3 * 8
    for name, picture in whole.items():
        assert len(np.unique(picture)) > 1
        np.testing.assert_array_equal(tiled[name], picture, err_msg=name)
        assert tiled[name].dtype == picture.dtype


def test_a_limit_below_what_the_whole_image_needs_gives_tiles_and_the_same_pictures(network, tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", noise(1100, 900))
    infer(network, path, tmp_path / "whole", device="cpu")
    needed = Predictor(network, device="cpu").memory.needed(1100, 900)
    spans = []
    call = Predictor.predict_strips
    monkeypatch.setattr(
        Predictor, "predict_strips", lambda self, read, grid: spans.append(grid.rows.spans) or call(self, read, grid)
    )
    summary = infer(network, path, tmp_path / "tiled", device="cpu", max_memory=(1 << 28) + int(needed))
    assert summary.written == 1
    assert len(spans[0]) > 1
    for name, picture in pictures(tmp_path / "whole").items():
        np.testing.assert_array_equal(read_label_image(tmp_path / "tiled" / name), picture)


def test_png_and_tiff_are_never_decoded_as_a_whole(network, tiled, tmp_path, monkeypatch):
    paths = [save(tmp_path / f"in/{name}") for name in ("a.png", "b.tif")]
    rows = []
    read = RowReader.read
    monkeypatch.setattr(ImageFile, "read", None)
    monkeypatch.setattr(
        RowReader, "read", lambda self, top, bottom: rows.append((top, bottom)) or read(self, top, bottom)
    )
    assert infer(network, paths, tmp_path / "out", ["ids"], device="cpu").written == 2
    reads = len(rows) // 2
    assert rows[:reads] == rows[reads:]
    assert rows[0][0] == 0
    assert rows[reads - 1][1] == 400
    assert all(before[1] == after[0] for before, after in pairwise(rows[:reads]))
    assert max(bottom - top for top, bottom in rows) <= 160


def test_the_limit_is_recorded_when_an_image_is_tiled_and_kept(network, tiled, tmp_path):
    def run(names, **options):
        return infer(network, [tmp_path / name for name in names], tmp_path / "out", ["ids"], device="cpu", **options)

    def recorded():
        return json.loads((tmp_path / "out/infer.json").read_text())["max_memory"]

    save(tmp_path / "small.png", noise(20, 30))
    save(tmp_path / "large.png")
    other = save(tmp_path / "other.png")
    run(["small.png"], max_memory=5 * 10**9)
    assert recorded() is None
    run(["small.png", "large.png"], max_memory=np.int64(4 * 10**9))
    assert recorded() == 4 * 10**9
    # The same command, the default limit: the limit of the results goes on
    limits = []
    call = Predictor.predict_strips
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Predictor, "predict_strips", lambda self, *args: limits.append(self.memory.max_memory) or call(self, *args)
        )
        assert run(["large.png", other.name]) == InferSummary(written=1, skipped=1)
    assert limits == [4 * 10**9]
    with pytest.raises(UserError, match=r"holds results of other options \(max_memory 4000000000, now 3000000000\)"):
        run(["large.png"], max_memory=3 * 10**9)
    assert run(["small.png", "large.png", "other.png"], max_memory=3 * 10**9, overwrite=True).written == 3
    assert recorded() == 3 * 10**9


def test_a_killed_run_goes_on(network, tiled, tmp_path, monkeypatch):
    root = tmp_path / "in"
    for name in "abc":
        save(root / f"{name}.png", noise(seed=ord(name)))
    infer(network, root, tmp_path / "expected", device="cpu")
    picture, calls = strips._Picture.write, []

    def killed(self, image, labels):
        calls.append(self)
        if len(calls) == 40:  # in the middle of the second image
            raise KeyboardInterrupt
        picture(self, image, labels)

    with monkeypatch.context() as patch:
        patch.setattr(strips._Picture, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            infer(network, root, tmp_path / "out", device="cpu")
    done = pictures(tmp_path / "out")
    assert 0 < len(done) < 9
    assert infer(network, root, tmp_path / "out", device="cpu").skipped == len(done) // 3
    expected, now = pictures(tmp_path / "expected"), pictures(tmp_path / "out")
    assert expected.keys() == now.keys()
    for name, labels in expected.items():
        np.testing.assert_array_equal(now[name], labels)
    assert not list((tmp_path / "out").rglob(".*.png"))


def test_a_full_disk_is_one_clear_line_and_leaves_no_half_file(network, tiled, tmp_path, monkeypatch):
    path = save(tmp_path / "in/a.png")

    def full(self, rows):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(strips.PngEncoder, "encode", full)
    with pytest.raises(UserError, match=r"ids/a\.png: cannot be written \(No space left on device\): make room"):
        infer(network, path, tmp_path / "out", ["ids"], device="cpu")
    assert [file.name for file in (tmp_path / "out").rglob("*") if file.is_file()] == ["infer.json"]


def test_an_image_that_needs_tiles_fails_alone_where_a_file_gives_labels_alone(network, tiled, tmp_path, monkeypatch):
    for name in "ab":
        save(tmp_path / f"in/{name}.png")
    small = save(tmp_path / "in/c.png", noise(40, 50))

    def refuse(self, what):
        raise UserError(f"{what} logits, and this file gives labels alone: use another")

    monkeypatch.setattr(Predictor, "check_gives_logits", refuse)
    summary = infer(network, tmp_path / "in", tmp_path / "out", ["ids"], device="cpu")
    assert [path.name for path, _ in summary.failed] == ["a.png", "b.png"]
    assert all(message.startswith(f"{path}: the tiles of a large image") for path, message in summary.failed)
    assert summary.written == 1
    assert (tmp_path / "out/ids" / small.name).exists()


def test_a_broken_large_image_is_named_and_the_others_are_done(network, tiled, tmp_path):
    path = save(tmp_path / "in/a.png")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    save(tmp_path / "in/b.png")
    summary = infer(network, tmp_path / "in", tmp_path / "out", device="cpu")
    ((failed, message),) = summary.failed
    assert failed == path
    assert message.startswith(f"{path}: broken (")
    assert list(pictures(tmp_path / "out")) == [f"{kind}/b.png" for kind in sorted(KINDS)]


def test_too_little_memory_for_a_large_image_is_reported(network, tiled, tmp_path, monkeypatch):
    def little(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    save(tmp_path / "in/a.png")
    monkeypatch.setattr(RowReader, "read", little)
    summary = infer(network, tmp_path / "in", tmp_path / "out", device="cpu")
    assert "a.png: 400 x 210 pixels: not enough memory: allow less with --max-memory" in summary.failed[0][1]
    monkeypatch.setattr(RowReader, "read", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        infer(network, tmp_path / "in", tmp_path / "out", device="cpu")


@pytest.mark.parametrize(
    "size", ["4GB", "3.5 gib", *(pytest.param(size, marks=pytest.mark.slow) for size in ("4000MiB", "4000000000"))]
)
def test_sizes_of_the_command(weights, tmp_path, size, capsys):
    path = save(tmp_path / "a.png", noise(20, 30))
    assert main(["infer", str(weights), str(path), str(tmp_path / "out"), "--max-memory", size, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("1 written")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("4XB", "4XB: expected a size, such as 4GB, 1.5GiB or 512MiB"),
        ("-1", "expected a size|expected one argument"),
        ("0GB", "0GB: expected a size"),
        ("0.4B", r"0\.4B: expected a size"),
        ("9" * 310 + "GB", "9GB: expected a size"),
        ("much", "much: expected a size"),
        ("1MB", r"max_memory 1\.0 MB: the process holds .* without any image: use more"),
    ],
)
def test_wrong_sizes_are_one_line(weights, tmp_path, size, message, capsys):
    path = save(tmp_path / "a.png", noise(20, 30))
    assert (
        main(["infer", str(weights), str(path), str(tmp_path / "out"), f"--max-memory={size}", "--device", "cpu"]) == 2
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not (tmp_path / "out").exists()


RUN = """
import sys
import numpy as np
from dlaseg import create_model, infer
from dlaseg.png import PngEncoder
side, path, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
encoder = PngEncoder(side, side, np.dtype(np.uint8), 3)
scene = np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8)
with open(path, "wb") as file:
    for top in range(0, side, 500):
        file.write(encoder.encode(np.tile(scene, (1, side // 500, 1))))
summary = infer(create_model("dla46_c", 19, stride=4), path, out, device="cpu", max_memory=4 * 10**9)
assert (summary.written, summary.failed) == (1, []), summary
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no peak memory of child processes")
def test_400_million_pixels_within_four_gigabytes(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    words = [sys.executable, "-c", RUN, "20000", str(tmp_path / "a.png"), str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Bytes on macOS, KiB elsewhere; of the largest child process so far
    unit = 1 if sys.platform == "darwin" else 1024
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit < 4 * 10**9
    for kind in KINDS:
        with Image.open(tmp_path / f"out/{kind}/a.png") as picture:
            assert picture.size == (20_000, 20_000)


def test_overwriting_without_a_limit_forgets_that_of_the_results(network, tiled, tmp_path):
    path, out = save(tmp_path / "large.png", noise(400, 210)), tmp_path / "out"
    infer(network, path, out, ["ids"], device="cpu", max_memory=3 * 10**9)
    infer(network, path, out, ["ids"], device="cpu", overwrite=True)
    assert json.loads((out / "infer.json").read_text())["max_memory"] != 3 * 10**9


class Later:
    """A pool that does its work when the result is asked for."""

    def __init__(self, threads):
        self.threads = threads

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, function, *arguments):
        return SimpleNamespace(result=cache(partial(function, *arguments)))


def test_waiting_for_rows_is_not_time_of_the_network(network, tiled, tmp_path, monkeypatch):
    read, waits = RowReader.read, []
    monkeypatch.setattr(RowReader, "read", lambda *args: waits.append(1.0) or read(*args))
    monkeypatch.setattr(strips, "ThreadPoolExecutor", Later)
    monkeypatch.setattr(strips, "perf_counter", lambda: sum(waits))  # time goes by in reading alone
    save(tmp_path / "a.png", noise(400, 210))
    summary = infer(network, tmp_path / "a.png", tmp_path / "out", ["ids"], device="cpu")
    assert len(waits) > 1
    assert summary.network_seconds == 0


def test_the_limit_is_recorded_with_kinds_that_are_not_written_in_strips(network, tiled, tmp_path):
    save(tmp_path / "a.png", noise(400, 210))
    infer(network, tmp_path / "a.png", tmp_path / "out", ["contours"], device="cpu", max_memory=4 * 10**9)
    assert json.loads((tmp_path / "out/infer.json").read_text())["max_memory"] == 4 * 10**9


def test_a_limit_of_nothing_is_not_that_of_earlier_results(network, tmp_path):
    path = save(tmp_path / "a.png", noise(20, 30))
    with pytest.raises(UserError, match=r"^max_memory 0\.0 MB: "):
        infer(network, path, tmp_path / "out", ["ids"], device="cpu", max_memory=0)
