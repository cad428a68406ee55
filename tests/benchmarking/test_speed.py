import csv
import json
import sys
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch
from dlaseg_testing import CPU, TwoHeads
from PIL import Image

from dlaseg.benchmarking import files, networks, peaks, speed
from dlaseg.benchmarking.candidates import Architecture, make_candidates
from dlaseg.benchmarking.child import in_new_process
from dlaseg.benchmarking.peaks import Segmenting, peak_of_files, peak_of_image
from dlaseg.benchmarking.speed import measure_speed
from dlaseg.benchmarking.speed_report import plots, speed_csv, speed_dict, speed_markdown
from dlaseg.cli import main
from dlaseg.errors import UserError
from dlaseg.files import sha256
from dlaseg.label_images import read_label_image
from dlaseg.weights.download import resolve

ARCHITECTURE = Architecture(num_classes=6, stride=8)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class FakeNetwork:
    """Takes a second to decode, a quarter to prepare, `network` seconds to predict, and so on, times the slowness."""

    device = CPU
    slowness = 1.0

    def __init__(self, clock, network, label):
        self.clock, self.network, self.label = clock, network, label
        self.predicted = 0

    def wait(self, seconds):
        self.clock.now += seconds * FakeNetwork.slowness

    def decode(self, path):
        self.wait(1)
        return np.asarray(Image.open(path))

    def predict(self, image, watch):
        self.predicted += 1
        for phase, seconds in (("prepare", 0.25), ("network", self.network), ("upsample", 0.25)):
            with watch.phase(phase):
                self.wait(seconds)
        labels = np.zeros(image.shape[:2], np.uint8)
        labels[0, 0] = self.label
        return labels

    def encode(self, labels, path):
        self.wait(2)
        Image.fromarray(labels).save(path)


@pytest.fixture
def images(tmp_path):
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    for path, size in zip(paths, [(20, 10), (10, 10)], strict=True):
        Image.new("RGB", size, "gray").save(path)
    return paths


@pytest.fixture
def clock():
    return Clock()


def make_network():
    torch.manual_seed(0)
    return TwoHeads(6)


@pytest.fixture
def small_matrix(monkeypatch):
    monkeypatch.setattr("dlaseg.benchmarking.machine.MATRIX", {"cpu": 64})


@pytest.fixture
def fakes(clock, monkeypatch):
    """What `build` makes: plain PyTorch takes 3.5 seconds for an image, ours takes 1."""
    networks = {"plain": FakeNetwork(clock, 3, 0), "dlaseg": FakeNetwork(clock, 0.5, 1)}
    monkeypatch.setattr(speed, "build", lambda candidate: networks[candidate.family])
    monkeypatch.setattr(speed, "model_of", lambda candidate: TwoHeads(6))

    def matrix_product(precision, device):
        assert (precision, device) == ("float32", CPU)

        seconds = cycle((4, 2, 3))  # the fastest counts

        def multiply():
            clock.now += next(seconds)

        return multiply, 1_000_000

    monkeypatch.setattr(speed, "matrix_product", matrix_product)
    return networks


def measured(images, clock, rounds=3, with_files=False, with_memory=False, pause=None):
    candidates = make_candidates(["dla46_c"], ["plain"], ["torch"], ["float32"], "cpu", ARCHITECTURE)
    return measure_speed(candidates, images, rounds, with_files, with_memory, clock, pause or (lambda seconds: None))


def test_latency_phases_and_ratio_are_those_of_the_clock(images, clock, fakes):
    found = measured(images, clock)
    plain, ours = found.rows
    assert plain.latencies == [3.5] * 6
    assert ours.latencies == [1] * 6
    assert ours.images_per_second == 1
    phases = {phase: ours.phase(phase) for phase in ("decode", "prepare", "network", "upsample", "encode")}
    assert phases == {"decode": 1, "prepare": 0.25, "network": 0.5, "upsample": 0.25, "encode": 2}
    assert str(found.ratio(ours)) == "3.50 (3.50 to 3.50)"
    assert str(found.ratio(plain)) == "1.00 (1.00 to 1.00)"
    assert [network.predicted for network in fakes.values()] == [2 + 3 * 2] * 2  # two for warm-up
    # TwoHeads: 3x3 convolution of 3 to 8 channels and 1x1 of 8 to 6, at half the size; the head of stride 4 is not used
    macs = (27 * 8 + 8 * 6) * (10 * 5 + 5 * 5) / 2
    assert ours.macs == macs
    assert ours.peak_flops == 500_000
    assert ours.share_of_peak == pytest.approx(2 * macs / 0.5 / 500_000)
    assert found.sizes == [(10, 20), (10, 10)]
    _, macs = speed._cost(ours.candidate, [(10, 20), (10, 10), (10, 10)])
    assert macs == (27 * 8 + 8 * 6) * (10 * 5 + 5 * 5 + 5 * 5) / 3


def test_labels_are_compared_with_those_of_plain_pytorch(images, clock, fakes):
    plain, ours = measured(images, clock).rows
    assert plain.equal_labels == 1
    assert ours.equal_labels == pytest.approx(298 / 300)  # of 200 and 100 pixels one each differs


def test_a_round_in_which_the_machine_is_slow_changes_no_ratio(images, clock, fakes, monkeypatch):
    turns, waits = iter(range(9)), []  # of plain, ours and the matrix product, three rounds

    def pause(seconds):
        monkeypatch.setattr(FakeNetwork, "slowness", (0.25, 4.0, 1.0)[next(turns) // 3])

    monkeypatch.setattr(speed, "synchronize", waits.append)
    found = measured(images, clock, pause=pause)
    ours = found.rows[1]
    assert ours.round_seconds == [0.5, 8, 2]
    assert str(found.ratio(ours)) == "3.50 (3.50 to 3.50)"
    assert (ours.images_per_second, ours.phase("network")) == (1, 0.5)  # those of the round of median speed
    assert ours.share_of_peak == pytest.approx(2 * ours.macs / 0.5 / 500_000)
    assert [speed_dict(found)["latency"][1][name] for name in ("p50", "p95")] == [1, 4]
    assert "|  1000.0 |  4000.0 |     1.00 |" in speed_markdown(found)
    assert set(waits) == {CPU}  # at every look at the clock


def test_the_peak_is_that_of_the_device_that_computes_and_int8_has_none(images, clock, fakes, monkeypatch):
    monkeypatch.setattr(speed, "pick_device", lambda name: torch.device("cuda"))  # openvino computes on the CPU
    monkeypatch.setattr(speed, "fingerprint", lambda device: {})
    candidates = make_candidates(["dla46_c"], ["plain"], ["torch"], ["float32"], "auto", ARCHITECTURE)
    candidates += [replace(candidates[1], runs_precision="int8")]
    found = measure_speed(candidates, images, 3, False, False, clock, lambda seconds: None)
    assert [row.peak_flops for row in found.rows] == [500_000, 500_000, None]


def test_from_file_to_file_everything_counts(images, clock, fakes):
    found = measured(images, clock, with_files=True)
    plain, ours = found.files
    assert (plain.seconds, ours.seconds) == ([13, 13, 13], [8, 8, 8])  # two files: 1 + 3.5 + 2, and 1 + 1 + 2
    assert ours.images_per_second == replace(ours, seconds=[4, 8, 16]).images_per_second == 0.25
    assert str(found.ratio(ours)) == "1.62 (1.62 to 1.62)"
    assert ours.equal_labels == pytest.approx(298 / 300)


def test_the_memory_is_that_of_new_processes_which_take_the_largest_image(images, clock, fakes, monkeypatch):
    calls = []

    def in_new_process(function, network, what, threads=None):
        calls.append((function, network.family if threads else network.weights.name, what))
        return len(calls) * 10**6

    monkeypatch.setattr(speed, "in_new_process", in_new_process)
    found = measured(images, clock, with_files=True, with_memory=True)
    assert calls == [
        (files.memory_of_image, "plain", images[0]),
        (files.memory_of_files, "plain", images),
        (peaks.peak_of_image, "dla46_c.safetensors", images[0]),
        (peaks.peak_of_files, "dla46_c.safetensors", images),
    ]
    peaks_found = [row.peak_memory for row in (*found.rows, *found.files)]
    assert peaks_found == [10**6, 3 * 10**6, 2 * 10**6, 4 * 10**6]
    assert [int(row["peak_memory"]) for row in csv.DictReader(speed_csv(found).splitlines())] == peaks_found
    rows = [line.split("|") for line in speed_markdown(found).splitlines() if "dla46_c" in line]
    assert [int(cells[6]) for cells in rows if len(cells) == 10 and "(" in cells[2]] == [1, 3]
    assert [int(cells[4]) for cells in rows if len(cells) == 7] == [2, 4]


@pytest.mark.slow
def test_what_a_process_does_for_its_memory_is_real(images):
    plain, _ = make_candidates(["dla46_c"], ["plain"], ["torch"], ["float32"], "cpu", ARCHITECTURE)
    peaks_of_plain = [files.memory_of_image(plain, images[0], 1), files.memory_of_files(plain, images, 1)]
    how = Segmenting(resolve("camvid-int8"), "openvino", "auto", "cpu", 1)
    peaks_of_engine = [in_new_process(peak_of_image, how, images[0]), in_new_process(peak_of_files, how, images)]
    # It does not import torch, which the plain script does
    assert all(50 << 20 < ours < plain / 2 for ours, plain in zip(peaks_of_engine, peaks_of_plain, strict=True))


def test_no_rounds_are_refused(images, clock, fakes):
    with pytest.raises(UserError, match="--rounds 0: use 1 or more"):
        measured(images, clock, rounds=0)


def test_a_network_of_another_package_that_fails_is_a_row(images, clock, fakes, monkeypatch):
    def predict(image, watch):
        raise RuntimeError("\nnot for this size\n  - and what else\n  - the library says")

    broken = FakeNetwork(clock, 1, 0)
    broken.predict = predict
    monkeypatch.setitem(fakes, "smp", broken)
    candidates = make_candidates(["dla46_c"], ["smp:A:b"], ["torch"], ["float32"], "cpu", ARCHITECTURE)
    found = measure_speed(candidates, images, 1, False, False, clock, lambda seconds: None)
    assert [row.message for row in found.rows] == [None, "RuntimeError: not for this size"]
    text = speed_markdown(found)
    assert "| smp:A:b torch float32 |              failed |" in text
    assert "\nsmp:A:b torch float32: RuntimeError: not for this size" in text
    assert json.loads(json.dumps(speed_dict(found)))["latency"][1]["message"] == "RuntimeError: not for this size"
    monkeypatch.setitem(fakes, "dlaseg", broken)
    with pytest.raises(RuntimeError, match="not for this size"):  # a defect of ours
        measure_speed(candidates, images, 1, False, False, clock, lambda seconds: None)


def test_the_tables_read_well(images, clock, fakes):
    found = measured(images, clock, with_files=True)
    lines = speed_markdown(found).splitlines()
    assert lines[:13] == [
        "From an image in memory to its label map, 10 x 20, 10 x 10, images: 2, rounds: 3. Times as fast as plain "
        "PyTorch dla46_c: median of the rounds (lowest to highest).",
        "",
        "| network               |       times as fast | p50, ms | p95, ms | images/s | memory, MB | of peak | equal "
        "labels |",
        "| --------------------- | ------------------: | ------: | ------: | -------: | ---------: | ------: | "
        "-----------: |",
        "| plain PyTorch dla46_c | 1.00 (1.00 to 1.00) |  3500.0 |  3500.0 |     0.29 |          - |     1 % |    "
        "100.000 % |",
        "| dla46_c torch float32 | 3.50 (3.50 to 3.50) |  1000.0 |  1000.0 |     1.00 |          - |     8 % |     "
        "99.333 % |",
        "",
        "Median milliseconds of each phase; the first and the last are not part of the latency.",
        "",
        "| network               | decode | prepare | network | upsample | encode | parameters, M | GMACs |",
        "| --------------------- | -----: | ------: | ------: | -------: | -----: | ------------: | ----: |",
        "| plain PyTorch dla46_c | 1000.0 |   250.0 |  3000.0 |    250.0 | 2000.0 |          0.00 |  0.00 |",
        "| dla46_c torch float32 | 1000.0 |   250.0 |   500.0 |    250.0 | 2000.0 |          0.00 |  0.00 |",
    ]
    assert lines[14] == (
        "From image files to label PNGs, start-up left out, files: 2, rounds: 3. Times as fast as plain PyTorch "
        "dla46_c, one file after the other."
    )
    assert lines[-1].startswith("Machine: ")


def test_csv_and_json_hold_both_tables(images, clock, fakes):
    found = measured(images, clock, with_files=True)
    rows = list(csv.DictReader(speed_csv(found).splitlines()))
    assert [(row["name"], row["path"]) for row in rows] == [
        ("plain PyTorch dla46_c", "image in memory"),
        ("dla46_c torch float32", "image in memory"),
        ("plain PyTorch dla46_c", "file to file"),
        ("dla46_c torch float32", "file to file"),
    ]
    assert [(row["times_as_fast"], row["p50"], row["network"]) for row in rows[1::2]] == [
        ("3.5", "1.0", "0.5"),
        ("1.625", "", ""),
    ]
    slower = [{phase: 2 * seconds for phase, seconds in sample.items()} for sample in found.rows[1].rounds[0]]
    ours = replace(found.rows[1], rounds=[slower, *found.rows[1].rounds[1:]])
    *_, row = csv.DictReader(speed_csv(replace(found, rows=[found.rows[0], ours], files=())).splitlines())
    assert (row["lowest"], row["highest"]) == ("1.75", "3.5")
    content = json.loads(json.dumps(speed_dict(found)))
    assert content["latency"][0]["rounds"][2][1]["network"] == 3
    assert content["files"][1]["times_as_fast"] == {"median": 1.625, "low": 1.625, "high": 1.625}


def test_the_plot_shows_what_the_leader_board_has(images, clock, fakes):
    found = measured(images, clock)
    assert plots(found, []) == {}
    row = {"weights_sha256": None, "backend": "torch", "precision": "float32", "scales": [1.0], "flip": False}
    assert plots(found, [{**row, "dataset": "camvid val", "miou": 0.5}]) == {}  # the network is not from a file


@pytest.mark.parametrize(
    ("asked", "runs", "scored", "shown"),
    [
        (("torch", "float32"), ("torch", "float32"), ("torch", "float32"), True),
        (("auto", "float32"), ("openvino", "float32"), ("openvino", "float32"), True),
        (("auto", "auto"), ("openvino", "bfloat16"), ("openvino", "bfloat16"), True),
        (("auto", "bfloat16"), ("openvino", "int8+bfloat16"), ("openvino", "int8+bfloat16"), True),
        (("auto", "float32"), ("openvino", "int8"), ("openvino", "int8"), True),
        (("auto", "float32"), ("openvino", "float32"), ("torch", "float32"), False),
        (("torch", "bfloat16"), ("torch", "bfloat16"), ("torch", "float32"), False),
    ],
)
def test_a_point_has_the_backend_and_precision_of_its_score(images, clock, fakes, asked, runs, scored, shown):
    found = measured(images, clock)
    candidate = replace(
        found.rows[1].candidate, backend=asked[0], precision=asked[1], runs_backend=runs[0], runs_precision=runs[1]
    )
    found = replace(found, rows=[replace(found.rows[1], candidate=candidate, weights_sha256="a")])
    row = {"weights_sha256": "a", "backend": scored[0], "precision": scored[1], "scales": [1.0], "flip": False}
    charts = plots(found, [{**row, "dataset": "camvid val", "miou": 0.5}])
    assert list(charts) == (["speed-accuracy-camvid-val.svg"] if shown else [])
    assert not shown or f"1  dla46_c {runs[0]} {runs[1]}" in charts["speed-accuracy-camvid-val.svg"]


def test_each_data_set_of_one_name_has_a_plot(images, clock, fakes):
    found = measured(images, clock)
    found = replace(found, rows=[replace(found.rows[1], weights_sha256="a")])
    row = {"weights_sha256": "a", "backend": "torch", "precision": "float32", "scales": [1.0], "flip": False}
    board = [{**row, "dataset": f"folder val ({root})", "miou": 0.5} for root in ("x/site", "y/site")]
    assert list(plots(found, board)) == [f"speed-accuracy-folder-val-{root}-site.svg" for root in "xy"]


def test_plots_of_names_that_are_alike_are_all_written(images, clock, fakes):
    found = measured(images, clock)
    found = replace(found, rows=[replace(found.rows[1], weights_sha256="a")])
    row = {"weights_sha256": "a", "backend": "torch", "precision": "float32", "scales": [1.0], "flip": False}
    charts = plots(found, [{**row, "dataset": name, "miou": 0.5} for name in ("site a", "site-a", "site/a")])
    assert list(charts) == [f"speed-accuracy-site-a{end}.svg" for end in ("", "-2", "-3")]
    assert "mIoU on site-a" in charts["speed-accuracy-site-a-2.svg"]


@pytest.mark.parametrize(("trained_on", "marked"), [(True, True), (None, False)])
def test_the_plot_marks_what_was_trained_on_the_split(images, clock, fakes, trained_on, marked):
    found = measured(images, clock)
    found = replace(found, rows=[replace(found.rows[1], weights_sha256="a")])
    row = {"weights_sha256": "a", "backend": "torch", "precision": "float32", "scales": [1.0], "flip": False}
    (chart,) = plots(found, [{**row, "dataset": "a", "miou": 0.5, "trained_on": trained_on}]).values()
    assert ("1  dla46_c torch float32 *" in chart) == marked
    assert ("*: trained on images of this split" in chart) == marked


def test_a_network_is_measured_at_the_size_of_the_image():
    (row,) = make_candidates(["camvid"], [], ["torch"], ["float32"], "cpu", ARCHITECTURE)
    predictor = networks.build(row).predictor
    assert predictor.metadata.max_short_side == 540
    assert predictor.max_short_side is None


def test_labels_are_compared_with_files_exported_from_the_same_weights_alone(tmp_path, weights_file):
    copy = tmp_path / "copy.xml"
    rows = make_candidates(
        ["camvid", "camvid-int8", str(copy), str(weights_file)],
        ["plain", f"onnx:{tmp_path / 'copy.onnx'}", "smp:Unet:resnet18"],
        *(["torch"], ["float32"], "cpu", ARCHITECTURE),
    )
    plain = rows[0]
    of_another = replace(plain, source=str(weights_file))
    assert [speed._is_same_network(row, plain) for row in rows] == [True] * 3 + [False] * 4
    assert [speed._is_same_network(row, of_another) for row in rows] == [False] * 4 + [True, False, False]
    for suffix, exported in ((".xml", rows[3]), (".onnx", rows[5])):
        report = {"weights_sha256": networks.exported_from("camvid-int8")}
        copy.with_suffix(f"{suffix}.json").write_text(json.dumps(report))
        assert speed._is_same_network(exported, plain)
        assert not speed._is_same_network(exported, of_another)


def test_the_command_measures_from_file_to_file_and_writes_tables(tmp_path, capsys, small_matrix):
    words = ["dla46_c", "--stride", "8", "--num-classes", "6", "--size", "64", "96", "--count", "2", "--rounds", "1"]
    output = tmp_path / "out"
    more = ["--files", "--no-memory", "--threads", "1", "--device", "cpu", "--output", str(output)]
    assert main(["benchmark", "speed", *words, *more]) == 0
    shown = capsys.readouterr().out
    assert "| plain PyTorch dla46_c |" in shown
    assert (output / "speed.md").read_text().splitlines() == shown.splitlines()[: -len(list(output.iterdir())) - 1]
    assert sorted(path.name for path in output.iterdir()) == ["speed.csv", "speed.json", "speed.md"]
    content = json.loads((output / "speed.json").read_text())
    assert [row["equal_labels"] for row in (*content["latency"], *content["files"])] == pytest.approx([1] * 4, abs=1e-3)
    assert content["machine"]["threads"] == 1
    assert all(row["images"] == 2 for row in content["files"])


@pytest.mark.slow
def test_the_command_takes_weights_and_images(tmp_path, images, weights_file, small_matrix):
    words = [str(weights_file), "--images", str(tmp_path), "--count", "1", "--rounds", "1", "--no-memory"]
    words += ["--device", "cpu", "--leaderboard", str(tmp_path / "leaderboard.json"), "--output", str(tmp_path / "out")]
    (tmp_path / "leaderboard.json").write_text(json.dumps({"rows": [scored_row(weights_file)]}))
    assert main(["benchmark", "speed", *words]) == 0
    content = json.loads((tmp_path / "out/speed.json").read_text())
    assert content["sizes"] == [[10, 20]]
    assert content["latency"][1]["weights_sha256"] == scored_row(weights_file)["weights_sha256"]
    chart = (tmp_path / "out/speed-accuracy-camvid-val.svg").read_text()
    assert "1  plain PyTorch weights.safetensors" in chart
    assert "2  weights.safetensors torch float32" in chart


def test_a_leader_board_without_what_was_timed_is_told(tmp_path, monkeypatch, images, clock, fakes, caplog):
    found = measured(images, clock)
    found = replace(found, rows=[replace(row, weights_sha256="a") for row in found.rows])
    monkeypatch.setattr(speed, "measure_speed", lambda *_: found)
    board = tmp_path / "leaderboard.json"
    row = {"dataset": "a", "weights_sha256": "a", "backend": "torch", "scales": [1.0], "flip": False, "miou": 0.5}
    for precision, message in (
        ("float32", []),
        ("bfloat16", [f"{board}: no row of it has these weights with the backend and precision that were timed, at"]),
    ):
        board.write_text(json.dumps({"rows": [{**row, "precision": precision}]}))
        words = ["dla46_c", "--images", str(images[0]), "--leaderboard", str(board), "--output", str(tmp_path / "out")]
        assert main(["benchmark", "speed", *words]) == 0
        assert [text.partition(" one scale: ")[0] for text in caplog.messages] == message


def scored_row(path):
    row = {"dataset": "camvid val", "weights_sha256": sha256(path), "backend": "torch", "precision": "float32"}
    return row | {"scales": [1.0], "flip": False, "miou": 0.5}


def test_backends_are_measured_side_by_side_and_auto_is_one_of_them(monkeypatch, capsys, small_matrix):
    # A network that takes no time
    for module in (networks, speed):
        monkeypatch.setattr(module, "model_of", lambda candidate: make_network())
    words = ["dla46_c", "--stride", "8", "--num-classes", "6", "--size", "64", "96", "--count", "1", "--rounds", "1"]
    backends = ["--backends", "auto", "openvino", "onnxruntime", "--precisions", "float32", "--device", "cpu"]
    assert main(["benchmark", "speed", *words, *backends, "--against", "plain", "--no-memory"]) == 0
    # `auto` is openvino
    rows = [line.split(" |")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][:5]
    assert [row.strip("| ") for row in rows] == [
        "network",
        "---------------------------",
        "plain PyTorch dla46_c",
        "dla46_c openvino float32",
        "dla46_c onnxruntime float32",
    ]


def test_the_plain_script_and_our_pipeline_write_the_same_files(images, tmp_path):
    candidates = make_candidates(["dla46_c"], ["plain"], ["torch"], ["float32"], "cpu", ARCHITECTURE)
    written = [files.write_labels(speed.build(c), images, tmp_path / c.family) for c in candidates]
    for plain, ours, size in zip(*written, [(10, 20), (10, 10)], strict=True):
        first, second = read_label_image(plain), read_label_image(ours)
        assert first.shape == second.shape == size
        assert (first == second).mean() > 0.99


def test_an_image_that_cannot_be_read_ends_the_measurement(images, tmp_path):
    candidate = make_candidates(["dla46_c"], [], ["torch"], ["float32"], "cpu", ARCHITECTURE)[0]
    images[1].write_bytes(b"")
    with pytest.raises(UserError, match=r"1\.png: the file is empty"):
        files.write_labels(speed.build(candidate), images, tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--backends fast", "backend 'fast': unknown; use one of auto, torch"),
        ("--backends torch openvino", "openvino is not installed: pip install"),
        ("--precisions float64", "precision 'float64': use one of"),
        ("--precisions fp16", "precision 'fp16': use one of"),
        ("--precisions float32 float16 --device cpu", "precision float16: GPUs only"),
        ("--device gpu", "device 'gpu': not on this machine"),
        ("--against onnx:a.onnx", "onnxruntime is not installed: pip install"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_drawn(words, message, monkeypatch, capsys):
    monkeypatch.setattr("dlaseg.benchmarking.pictures.draw_scene", None)
    for package in ("openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    assert main(["benchmark", "speed", "dla46_c", *words.split()]) == 2
    assert capsys.readouterr().err.startswith(f"dlaseg benchmark speed: {message}")


SMALL = ["--size", "64", "64", "--count", "1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dla46_c", "--size", "64", "96", "--images", "a.png"], "--images and --size: use one of the two"),
        (["dla46_c", "--count", "0"], "--count 0: use 1 to 1000 images"),
        (["dla46_c", "--leaderboard", "a.json"], "--leaderboard: needs --output"),
        (["none.safetensors"], "none.safetensors: "),
        (["dla47"], "dla47: no such file, network or built-in weights: did you mean dla34"),
        (["dla46_c:foo"], "dla46_c:foo: unknown decoder 'foo': did you mean afa? There are plain, afa"),
        (["dla46_c", *SMALL, "--backends", "fast"], "backend 'fast': unknown; use one of auto, torch"),
        (
            ["dla46_c", *SMALL, "--backends", "onnxruntime", "--precisions", "bfloat16"],
            "--precisions bfloat16: the backend onnxruntime has none of them: add float32",
        ),
        (["dla46_c", *SMALL, "--precisions", "float64"], "precision 'float64': use one of"),
        (
            ["dla46_c", "--size", "8", "8"],
            "size 8 x 8: a scene is 64 to 1024 pixels high and 64 to 2048 wide: choose a size within, or give images "
            "of your own by --images",
        ),
        (["dla46_c", *SMALL, "--output", "/dev/null"], "/dev/null: cannot be a folder (/dev/null is not a folder): "),
    ],
)
def test_wrong_options_are_one_line(words, message, capsys):
    assert main(["benchmark", "speed", *words]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"dlaseg benchmark speed: {message}")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
