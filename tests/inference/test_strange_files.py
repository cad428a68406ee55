"""Files that cannot be done as they are: each is named, and the others are done."""

import cv2
import numpy as np
import pytest
from image_files import noise, save
from PIL import Image

from dlaseg import UserError
from dlaseg.cli import main
from dlaseg.images import ImageFile
from dlaseg.inference import memory, run, sinks
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.run import InferSummary, infer
from dlaseg.label_images import read_label_image


def save_animation(path, frames=3, **options):
    pictures = [Image.fromarray(noise(seed=seed)) for seed in range(frames)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], **options)
    return path


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


def expected(network, image):
    predictor = Predictor(network, device="cpu")
    return predictor.label_map.decode(predictor(image))


ALLOCATION_ERRORS = [
    MemoryError("Unable to allocate 9.0 GiB for an array"),
    cv2.error("OpenCV(5.0) (-4:Insufficient memory) Failed to allocate 9 bytes in function 'OutOfMemoryError'"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("could not create a memory object"),
]


@pytest.mark.parametrize(
    ("where", "error"),
    [
        *(("network", error) for error in ALLOCATION_ERRORS),
        *((where, error) for where in ("reading", "writing") for error in ALLOCATION_ERRORS[:2]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_image_that_memory_does_not_hold_is_named_and_the_others_are_done(
    network, tmp_path, monkeypatch, error, where
):
    for name, height in (("a", 10), ("b", 300), ("c", 12)):
        save(tmp_path / f"in/{name}.png", noise(height, 300))
    owner, function = {
        "network": (Predictor, "__call__"),
        "reading": (ImageFile, "read"),
        "writing": (sinks, "overlay"),
    }[where]
    call = getattr(owner, function)

    def little_memory(*arguments):
        result = call(*arguments)
        if result.shape[0] == 300:
            raise error
        return result

    monkeypatch.setattr(owner, function, little_memory)
    summary = infer(network, tmp_path / "in", tmp_path / "out", ["overlay"], device="cpu")
    ((path, message),) = summary.failed
    assert path == tmp_path / "in/b.png"
    assert message.startswith(f"{path}: ")
    assert "not enough memory" in message
    if where == "network":
        assert "300 x 300 pixels: not enough memory: allow less with --max-memory" in message
    assert summary.written == 2
    assert files(tmp_path / "out") == ["overlay/a.png", "overlay/c.png"]


def test_another_error_of_the_network_is_no_matter_of_memory(network, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes differ")

    save(tmp_path / "in/a.png")
    monkeypatch.setattr(Predictor, "__call__", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        infer(network, tmp_path / "in", tmp_path / "out", device="cpu")


def test_a_large_image_is_decoded_only_when_its_turn_comes(network, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "LARGE", 500)
    events = []
    read, call, write = ImageFile.read, Predictor.__call__, sinks.Sink.write
    monkeypatch.setattr(ImageFile, "read", lambda self: events.append("read") or read(self))
    monkeypatch.setattr(Predictor, "__call__", lambda self, image: events.append("predict") or call(self, image))
    monkeypatch.setattr(sinks.Sink, "write", lambda *arguments: (write(*arguments), events.append("write")))
    for i in range(4):
        save(tmp_path / f"in/{i}.png")
    assert infer(network, tmp_path / "in", tmp_path / "out", device="cpu").written == 4
    assert events == ["read", "predict", "write"] * 4


def test_too_many_pixels_are_refused_before_decoding(weights, tmp_path, capsys):
    save(tmp_path / "in/a.png", noise(20, 30))
    save(tmp_path / "in/b.png", noise(10, 30))
    words = ["infer", str(weights), str(tmp_path / "in"), str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--max-pixels", "599"]) == 2
    printed = capsys.readouterr()
    assert (
        "a.png: 20 x 30 = 600 pixels, the limit is 599: make it smaller, or raise the limit (--max-pix" in printed.err
    )
    assert printed.out.startswith("1 written, 0 skipped (already exist), 1 failed")
    assert main([*words, "--max-pixels", "600"]) == 0
    assert main([*words, "--max-pixels", "0"]) == 2


def test_files_that_differ_in_the_suffix_are_refused_and_the_others_are_done(weights, tmp_path, capsys):
    for name in ("cmyk.jpg", "cmyk.tif", "sub/cmyk.jpg", "other.png"):
        save(tmp_path / "in" / name)
    words = ["infer", str(weights), str(tmp_path / "in"), str(tmp_path / "out"), "--save", "ids", "--device", "cpu"]
    assert main(words) == 2
    printed = capsys.readouterr()
    root = tmp_path / "in"
    assert printed.err.splitlines() == [
        f"dlaseg infer: {root / one}: its result and that of {root / other} would both be cmyk.png: use --keep-suffix, "
        "or rename one"
        for one, other in (("cmyk.jpg", "cmyk.tif"), ("cmyk.tif", "cmyk.jpg"))
    ]
    assert printed.out.splitlines()[0] == f"2 written, 0 skipped (already exist), 2 failed  {tmp_path / 'out'}"
    assert files(tmp_path / "out") == ["ids/other.png", "ids/sub/cmyk.png"]

    words[3] = str(tmp_path / "kept")
    assert main([*words, "--keep-suffix"]) == 0
    names = ["cmyk.jpg.png", "cmyk.tif.png", "other.png.png", "sub/cmyk.jpg.png"]
    assert files(tmp_path / "kept") == [f"ids/{name}" for name in names]


def test_several_inputs_keep_their_relative_paths(weights, tmp_path, capsys):
    for name in ("day/x/1.png", "day/2.png", "night/3.jpg", "single.png"):
        save(tmp_path / name)
    inputs = [str(tmp_path / name) for name in ("day", "night", "single.png", "day/2.png", "single.png")]
    words = ["infer", "--save", "ids", "--device", "cpu", str(weights), *inputs, "--overwrite", str(tmp_path / "out")]
    assert main(words) == 0
    assert files(tmp_path / "out") == ["ids/2.png", "ids/3.png", "ids/single.png", "ids/x/1.png"]
    assert capsys.readouterr().out.startswith("4 written, ")
    summary = infer(weights, [tmp_path / "day", str(tmp_path / "night")], tmp_path / "two", device="cpu")
    assert summary.written == 3


def test_inputs_with_the_same_relative_path_are_refused_alone(network, tmp_path):
    for name in ("one/a.png", "two/a.png", "two/b.png"):
        save(tmp_path / name)
    summary = infer(network, [tmp_path / "one", tmp_path / "two"], tmp_path / "out", ["ids"], device="cpu")
    assert [path for path, _ in summary.failed] == [tmp_path / "one/a.png", tmp_path / "two/a.png"]
    assert "use two output folders" in summary.failed[0][1]
    assert files(tmp_path / "out") == ["ids/b.png"]


def test_a_forgotten_output_overwrites_no_image(weights, tmp_path, capsys):
    before = {path: path.read_bytes() for path in (save(tmp_path / "a.png"), save(tmp_path / "b.png"))}
    assert main(["infer", str(weights), *map(str, before), "--device", "cpu"]) == 2
    assert "b.png: results cannot be written to a file: the last path is the output" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(UserError, match="no input"):
        infer(weights, [], tmp_path / "out", device="cpu")


@pytest.mark.parametrize(
    "suffix", ["gif", "avif", "tif", *(pytest.param(suffix, marks=pytest.mark.slow) for suffix in ("png", "webp"))]
)
def test_the_first_of_several_frames_is_taken_and_that_is_said(weights, tmp_path, capsys, suffix):
    path = save_animation(tmp_path / f"in/a.{suffix}")
    save(tmp_path / "in/b.png")
    words = ["infer", str(weights), str(tmp_path / "in"), str(tmp_path / "out"), "--save", "ids", "--device", "cpu"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.err == f"dlaseg infer: {path}: only the first of 3 frames or pages: --all-frames takes all\n"
    counts = "2 written, 0 skipped (already exist), 0 failed, 1 with their first frame only"
    assert printed.out.splitlines()[0] == f"{counts}  {tmp_path / 'out'}"
    np.testing.assert_array_equal(read_label_image(tmp_path / "out/ids/a.png"), expected(weights, path))


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_all_frames(network, tmp_path, suffix):
    path = save_animation(tmp_path / f"in/s/a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    save(tmp_path / "in/b.png")
    options = {"save": ["ids"], "device": "cpu", "all_frames": True}
    summary = infer(network, tmp_path / "in", tmp_path / "out", **options)
    assert (summary.written, summary.first_frame_only) == (4, [])
    assert files(tmp_path / "out") == ["ids/b.png", *(f"ids/s/a/{i:04}.png" for i in range(3))]
    for i in range(3):
        with Image.open(path) as picture:
            picture.seek(i)
            image = np.asarray(picture.convert("RGB"))
        np.testing.assert_array_equal(read_label_image(tmp_path / f"out/ids/s/a/{i:04}.png"), expected(network, image))

    (tmp_path / "out/ids/s/a/0001.png").unlink()
    summary = infer(network, tmp_path / "in", tmp_path / "out", **options)
    assert (summary.written, summary.skipped) == (1, 3)
    assert len(files(tmp_path / "out")) == 4


def test_a_broken_frame_fails_and_those_before_it_are_done(network, tmp_path):
    path = save_animation(tmp_path / "in/a.webp", lossless=True)
    content = bytearray(path.read_bytes())
    start = content.rindex(b"ANMF") + 40
    content[start : start + 60] = bytes(60)
    path.write_bytes(content)
    (tmp_path / "in/b.gif").write_bytes(b"GIF89a")
    summary = infer(network, tmp_path / "in", tmp_path / "out", ["ids"], device="cpu", all_frames=True)
    assert [p.name for p, _ in summary.failed] == ["a.webp", "b.gif"]
    assert files(tmp_path / "out") == ["ids/a/0000.png", "ids/a/0001.png"]


def test_a_tiff_of_floats_is_not_called_broken(network, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.ones((4, 5), np.float32)).save(tmp_path / "in/a.tif")
    summary = infer(network, tmp_path / "in", tmp_path / "out", device="cpu")
    assert "a.tif: pixels of type float32; images have 8 or 16 bits per channel: convert" in summary.failed[0][1]


def test_an_image_that_fits_not_even_in_tiles_is_named_and_never_decoded(network, tmp_path, monkeypatch):
    pages = [Image.fromarray(noise(*size)) for size in ((20, 30), (600, 700), (20, 30))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    save(tmp_path / "b.jpg", noise(600, 700))
    monkeypatch.setattr(memory, "available_memory", lambda: 10**6)
    read, decoded = ImageFile.read, []
    monkeypatch.setattr(ImageFile, "read", lambda self: decoded.append(self.path) or read(self))
    inputs = [tmp_path / "a.tif", tmp_path / "b.jpg"]
    summary = infer(network, inputs, tmp_path / "out", ["ids"], device="cpu", all_frames=True)
    assert [path.name for path, _ in summary.failed] == ["a.tif", "b.jpg"]
    for path, message in summary.failed:
        assert message.startswith(f"{path}: 600 x 700 pixels: not enough memory; in the smallest tiles, it needs about")
    assert decoded == inputs[:1]
    assert files(tmp_path / "out") == ["ids/a/0000.png"]


def test_all_frames_are_found_below_a_limit_of_ones_own(network, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "MAX_PIXELS", 10)
    frames = [Image.fromarray(noise(30, 40, seed=seed)) for seed in range(3)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    options = {"device": "cpu", "all_frames": True, "max_pixels": 10**6}
    assert infer(network, tmp_path / "a.tif", tmp_path / "out", ["ids"], **options) == InferSummary(written=3)
