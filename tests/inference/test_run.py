import errno
import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import noise
from PIL import Image

from dlaseg import LabelMap, UserError
from dlaseg.images import ImageFile, read_image
from dlaseg.inference import pipeline, ray_engine, run
from dlaseg.inference.folders import FAILED
from dlaseg.inference.pipeline import BusyClock, infer_sources
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.run import IN_FLIGHT, InferSummary, infer
from dlaseg.inference.sinks import Sink
from dlaseg.inference.sources import find_images
from dlaseg.label_images import read_label_image

LABELS = LabelMap.from_dict({"classes": [{"name": f"c{i}", "id": [10 * i + 7, 100 + i]} for i in range(6)]})


@pytest.fixture(scope="module")
def predictor(weights):
    return Predictor(weights, device="cpu")


@pytest.fixture
def predicted(monkeypatch):
    """The shapes of the predicted images."""
    shapes = []
    call = Predictor.__call__

    def counted(self, image):
        shapes.append(image.shape)
        return call(self, image)

    monkeypatch.setattr(Predictor, "__call__", counted)
    return shapes


def random_image(height=20, width=30, seed=0):
    """Smooth enough for a JPEG to keep it about as it is."""
    noise = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR))


def save(path, image=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_image() if image is None else image).save(path, **options)
    return path


def files(folder):
    """All files but the settings."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "infer.json"
    )


def expected_ids(predictor, image):
    return LABELS.decode(predictor(image))


def test_a_folder_of_every_kind_of_picture(weights, predictor, tmp_path):
    root, out = tmp_path / "in", tmp_path / "out"
    image = random_image(33, 50)
    grey = image[..., 0]
    save(root / "plain.png", image)
    save(root / "one.bmp", image[:1, :1])
    save(root / "deep/er/grey.png", grey)
    save(root / "deep/sixteen.png", grey.astype(np.uint16) * 257)
    save(root / "alpha.png", np.dstack((image, grey)))
    save(root / "upright.jpg", image)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: to be shown turned clockwise by 90 degrees
    save(root / "turned.jpg", image, exif=exif)
    assert infer(weights, root, out, device="cpu") == InferSummary(7, 0, [])

    wanted = {
        "plain": image,
        "one": image[:1, :1],
        "deep/er/grey": np.dstack((grey, grey, grey)),
        "deep/sixteen": np.dstack((grey, grey, grey)),
        "alpha": image,
        "upright": read_image(root / "upright.jpg"),
        "turned": np.rot90(read_image(root / "upright.jpg"), -1),
    }
    assert files(out) == sorted(f"{kind}/{name}.png" for kind in ("ids", "color", "overlay") for name in wanted)
    for name, pixels in wanted.items():
        ids = read_label_image(out / f"ids/{name}.png")
        assert ids.shape == pixels.shape[:2]
        np.testing.assert_array_equal(ids, expected_ids(predictor, pixels), err_msg=name)
        color = read_image(out / f"color/{name}.png")
        np.testing.assert_array_equal(color, LABELS.colorize(LABELS.encode(ids)))
        overlay = read_image(out / f"overlay/{name}.png")
        np.testing.assert_allclose(overlay, (color + pixels.astype(float)) / 2, atol=0.5)
    assert len(np.unique(read_label_image(out / "ids/plain.png"))) > 1
    assert set(np.unique(read_label_image(out / "ids/plain.png"))) <= {7, 17, 27, 37, 47, 57}


def test_a_single_file_and_chosen_kinds(weights, tmp_path):
    path = save(tmp_path / "in" / "a.jpg")
    save(tmp_path / "in" / "b.jpg")
    assert infer(weights, str(path), str(tmp_path / "out"), save=["color"], device="cpu").written == 1
    assert files(tmp_path / "out") == ["color/a.png"]
    assert infer(weights, [path, tmp_path], tmp_path / "both", ["color"], device="cpu").written == 3
    assert files(tmp_path / "both") == ["color/a.png", "color/in/a.png", "color/in/b.png"]


def test_the_kinds_come_from_any_iterable(weights, tmp_path):
    infer(weights, save(tmp_path / "a.png"), tmp_path / "out", save=iter(["ids", "probabilities", "color"]))
    assert files(tmp_path / "out") == ["color/a.png", "ids/a.png", "probabilities/a.npz"]


def test_the_precision_reaches_the_network(weights, tmp_path):
    image = random_image(64, 96)
    path = save(tmp_path / "a.png", image)
    assert infer(weights, path, tmp_path / "out", ["ids"], device="cpu", precision="bfloat16").written == 1
    lower = Predictor(weights, device="cpu", precision="bfloat16")
    np.testing.assert_array_equal(read_label_image(tmp_path / "out/ids/a.png"), expected_ids(lower, image))
    with pytest.raises(UserError, match="precision float16: GPUs only"):
        infer(weights, path, tmp_path / "other", device="cpu", precision="float16")
    assert not (tmp_path / "other").exists()


def test_broken_files_are_reported_and_the_others_are_processed(weights, predictor, tmp_path):
    root, out = tmp_path / "in", tmp_path / "out"
    good = {f"{i}.png": random_image(10 + i, 20, seed=i) for i in range(9)}
    for name, image in good.items():
        save(root / name, image)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for name in ("2 cut.png", "3 cut.jpg"):
        content = save(root / name, noise).read_bytes()
        (root / name).write_bytes(content[: len(content) // 2])
    (root / "4 empty.png").touch()
    (root / "5 text.png").write_text("not a picture")
    (root / "6 dangling.png").symlink_to(root / "nowhere.png")
    (root / "7 loop.png").symlink_to(root / "7 loop.png")

    summary = infer(weights, root, out, save=["ids"], device="cpu")
    broken = ["2 cut.png", "3 cut.jpg", "4 empty.png", "5 text.png", "6 dangling.png", "7 loop.png"]
    assert [path for path, _ in summary.failed] == [root / name for name in broken]
    assert all(message.startswith(f"{path}: ") and "\n" not in message for path, message in summary.failed)
    assert (summary.written, summary.skipped) == (len(good), 0)
    assert files(out) == sorted(f"ids/{name}" for name in good)
    for name, image in good.items():
        np.testing.assert_array_equal(read_label_image(out / "ids" / name), expected_ids(predictor, image))


def test_a_second_run_writes_only_missing_results(weights, predicted, tmp_path):
    root, out = tmp_path / "in", tmp_path / "out"
    for i in range(3):
        save(root / f"{i}.png", random_image(10 + i, 9))
    assert infer(weights, root, out, save=["ids", "color"], device="cpu") == InferSummary(3, 0, [])
    stamps = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    predicted.clear()

    assert infer(weights, root, out, save=["ids", "color"], device="cpu") == InferSummary(0, 3, [])
    assert predicted == []

    (out / "ids/1.png").unlink()
    assert infer(weights, root, out, save=["ids", "color"], device="cpu") == InferSummary(1, 2, [])
    assert predicted == [(11, 9, 3)]
    now = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    assert now.keys() == stamps.keys()
    assert [name for name in stamps if now[name] != stamps[name]] == ["ids/1.png"]


def test_overwrite_replaces_all_results(weights, predictor, predicted, tmp_path):
    path, out = save(tmp_path / "in" / "a.png", random_image(12, 9)), tmp_path / "out"
    infer(weights, path.parent, out, device="cpu")
    image = random_image(14, 9, seed=1)
    save(path, image)
    predicted.clear()
    assert infer(weights, path.parent, out, overwrite=True, device="cpu") == InferSummary(1, 0, [])
    assert predicted == [(14, 9, 3)]
    for kind in ("ids", "color", "overlay"):
        assert read_image(out / kind / "a.png").shape == (14, 9, 3)


def test_an_output_folder_inside_the_input_is_not_searched(weights, tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "sub" / "b.png")
    out = tmp_path / "sub" / "out"
    assert infer(weights, tmp_path, out, save=["color"], device="cpu") == InferSummary(2, 0, [])
    assert infer(weights, tmp_path, out, save=["color", "ids"], device="cpu") == InferSummary(2, 0, [])
    assert files(out) == ["color/a.png", "color/sub/b.png", "ids/a.png", "ids/sub/b.png"]


@pytest.mark.parametrize(
    ("names", "output", "message"),
    [
        (["in/a.jpg"], "in", "input and output are one folder"),
        ([], "out", "no such file or folder"),
    ],
)
def test_wrong_use_writes_nothing(weights, predicted, tmp_path, names, output, message):
    for name in names:
        save(tmp_path / name)
    with pytest.raises(UserError, match=message):
        infer(weights, tmp_path / "in", tmp_path / output, device="cpu")
    assert predicted == []
    assert files(tmp_path) == names
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine", [infer, ray_engine.infer])
def test_an_empty_path_is_not_the_working_folder(engine, weights, tmp_path, monkeypatch):
    picture = save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    for input, output in (("", "out"), ([picture, ""], "out"), ("a.png", "")):
        with pytest.raises(UserError, match=r"^'': an empty path"):
            engine(weights, input, output)
    assert list(tmp_path.iterdir()) == [picture]


def test_an_input_is_never_overwritten(weights, tmp_path):
    path = save(tmp_path / "color" / "a.png")
    before = path.read_bytes()
    with pytest.raises(UserError, match="would replace this input"):
        infer(weights, path, tmp_path, overwrite=True, device="cpu")
    assert path.read_bytes() == before
    assert files(tmp_path) == ["color/a.png"]


def test_a_full_disk_ends_the_run_early_and_leaves_complete_files(weights, predictor, predicted, tmp_path, monkeypatch):
    root, out = tmp_path / "in", tmp_path / "out"
    image = random_image(9, 9)
    for i in range(4 * IN_FLIGHT):
        save(root / f"{i:02}.png", image)
    write_bytes, calls = Path.write_bytes, itertools.count()  # counts right from several threads

    def until_full(self, content):
        if self.suffix == ".png" and next(calls) >= 3:
            write_bytes(self, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", until_full)
        with pytest.raises(UserError, match=r"\.png: cannot be written \(No space left on device\): make room"):
            infer(weights, root, out, save=["ids"], device="cpu")
    assert len(predicted) <= 3 + IN_FLIGHT + 1
    whole = files(out)
    assert len(whole) == 3
    for name in whole:
        np.testing.assert_array_equal(read_label_image(out / name), expected_ids(predictor, image))

    summary = infer(weights, root, out, save=["ids"], device="cpu")
    assert summary == InferSummary(4 * IN_FLIGHT - 3, 3, [])
    assert files(out) == [f"ids/{i:02}.png" for i in range(4 * IN_FLIGHT)]


def test_an_output_that_looks_like_an_image_is_refused(weights, tmp_path):
    path = save(tmp_path / "a.png")
    with pytest.raises(
        UserError, match=r"result\.PNG: the last path is a folder, .*: use a folder's name, such as .*result$"
    ):
        infer(weights, path, tmp_path / "result.PNG", device="cpu")
    assert not (tmp_path / "result.PNG").exists()


def test_what_is_no_network_is_refused(predictor, network, tmp_path):
    path = save(tmp_path / "a.png")
    for wrong, message in (
        (predictor, "Predictor: not a network of dlaseg: give one that create_model or load_model returned"),
        (None, "NoneType: not a network of dlaseg"),
        (torch.nn.DataParallel(network), "DataParallel: wraps the network, which is needed itself: give model.module"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            infer(wrong, path, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_the_failures_of_an_earlier_run_are_removed(network, tmp_path):
    path, out = save(tmp_path / "a.png"), tmp_path / "out"
    for overwrite in (False, True):
        infer(network, path, out, device="cpu")
        (out / FAILED).write_text("image,error\n")
        infer(network, path, out, device="cpu", overwrite=overwrite)
        assert not (out / FAILED).exists()


def test_auto_says_that_it_stays_with_torch_if_many_images_are_left(network, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run, "FEW", 2)
    caplog.set_level("INFO", "dlaseg")
    paths, out = [save(tmp_path / "in" / f"{name}.png") for name in "abcd"], tmp_path / "out"
    for count, messages in ((1, 0), (2, 0), (4, 1), (4, 0)):  # of the last ones, all are there
        caplog.clear()
        infer(network, paths[:count], out, ["ids"], backend="torch" if count == 1 else "auto", device="cpu")
        assert caplog.messages == [
            f"{out}: holds results of torch, so torch runs the network: use another output folder, or --overwrite, "
            "to let --backend auto choose"
        ] * messages  # fmt: skip


def test_an_output_that_is_a_file_is_refused(weights, tmp_path):
    path = save(tmp_path / "a.png")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(
        UserError, match=r"file: results cannot be written to a file: the last path is the output folder"
    ):
        infer(weights, path, tmp_path / "file", device="cpu")
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match=r"loop: results cannot be written to a link that leads nowhere: the last path"):
        infer(weights, path, tmp_path / "loop", device="cpu")


def test_an_image_too_large_for_the_device_is_reported_and_the_others_are_processed(weights, tmp_path, monkeypatch):
    for i in range(3):
        save(tmp_path / "in" / f"{i}.png", random_image(10 + i, 9))
    call = Predictor.__call__

    def little_memory(self, image):
        if image.shape[0] == 11:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return call(self, image)

    monkeypatch.setattr(Predictor, "__call__", little_memory)
    summary = infer(weights, tmp_path / "in", tmp_path / "out", save=["ids"], device="cpu")
    path = tmp_path / "in" / "1.png"
    assert [p for p, _ in summary.failed] == [path]
    assert summary.failed[0][1].startswith(f"{path}: 11 x 9 pixels: not enough memory")
    assert summary.written == 2
    assert files(tmp_path / "out") == ["ids/0.png", "ids/2.png"]


@pytest.mark.parametrize(("small", "most_ahead"), [(1 << 20, IN_FLIGHT), (8, 1)])
def test_few_images_are_in_memory_at_a_time(weights, tmp_path, monkeypatch, small, most_ahead):
    monkeypatch.setattr(pipeline, "SMALL", small)
    count = 5 * IN_FLIGHT
    for i in range(count):
        save(tmp_path / "in" / f"{i:02}.png", random_image(3, 3))
    read, written, ahead, behind = [], [], [], []

    def counted_read(file):
        read.append(file.path)
        return decode(file)

    def slow_write(self, source, image, labels, kinds, probabilities):
        time.sleep(0.02)
        written.append(source)

    def quick_predict(self, image):
        if not ahead:
            time.sleep(0.1)  # time enough to read all, were nothing to hold the readers back
        ahead.append(len(read) - len(ahead))
        behind.append(len(ahead) - 1 - len(written))
        return np.zeros(image.shape[:2], np.uint8)

    decode = ImageFile.read
    monkeypatch.setattr(ImageFile, "read", counted_read)
    monkeypatch.setattr(Sink, "write", slow_write)
    monkeypatch.setattr(Predictor, "__call__", quick_predict)
    assert infer(weights, tmp_path / "in", tmp_path / "out", device="cpu").written == count
    assert max(ahead) <= most_ahead + 2  # one waits for the network
    assert max(behind) <= IN_FLIGHT + 1
    assert len(read) == len(written) == count
    assert max(ahead) > 1  # and it does read ahead


def test_small_images_are_computed_side_by_side(network, tmp_path, monkeypatch):
    together = threading.Barrier(2, timeout=60)
    segment = Predictor.segment

    def wait(self, *arguments):
        together.wait()  # until two threads are here
        return segment(self, *arguments)

    for number in range(6):
        save(tmp_path / f"{number}.png", random_image(seed=number))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        predictor = Predictor(network, "openvino", "cpu")
        expected = {path.stem: predictor(path) for path in tmp_path.glob("*.png")}
        monkeypatch.setattr(Predictor, "segment", wait)
        sink = Sink(tmp_path / "out", predictor.label_map, ["ids"], ids="train")
        summary = infer_sources(predictor, sink, find_images(tmp_path))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert (summary.written, summary.predicted) == (6, 6)
    assert summary.network_seconds > 0
    assert predictor.backend.streams == 1
    for name, labels in expected.items():
        np.testing.assert_array_equal(read_label_image(tmp_path / f"out/ids/{name}.png"), labels)


def test_the_time_of_threads_that_run_together_counts_once(monkeypatch):
    now = 0.0
    monkeypatch.setattr(pipeline, "perf_counter", lambda: now)
    clock = BusyClock()

    def nested(depth):
        """Calls in each other count as threads do that run at the same time."""
        nonlocal now
        now += 1
        if depth:
            clock.time(nested, depth - 1)
        now += 1

    clock.time(nested, 2)
    now += 10
    with pytest.raises(TypeError):
        clock.time(nested, "a mistake")
    assert clock.seconds == 6 + 1


def test_a_table_that_is_not_of_an_earlier_run_stays(network, tmp_path):
    path, out = save(tmp_path / "a.png", noise(20, 30)), tmp_path / "out"
    out.mkdir()
    (out / FAILED).write_text("student,reason\n")
    infer(network, path, out, ["ids"], device="cpu")
    assert (out / FAILED).read_text() == "student,reason\n"
