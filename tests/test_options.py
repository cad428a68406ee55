"""The options of a command reach the function that the command calls, which is replaced here."""

import importlib
import inspect
import signal
from pathlib import Path

import pytest
from dlaseg_testing import write_camvid

from dlaseg.benchmarking.candidates import Architecture
from dlaseg.cli import main
from dlaseg.errors import UserError
from dlaseg.memory import MAX_PIXELS

INFER, RAY = "dlaseg.inference.run.infer", "dlaseg.inference.ray_engine.infer"
EVAL, EXPORT = "dlaseg.evaluation.scoring.evaluate", "dlaseg.export.export.export"
INT8 = "dlaseg.export.int8.export_int8"
SUBMIT = "dlaseg.evaluation.cityscapes.submission.submit"
PREDICTIONS = "dlaseg.evaluation.cityscapes.predictions.score_predictions"
SPEED, ACCURACY = "dlaseg.benchmarking.speed.measure_speed", "dlaseg.benchmarking.accuracy.score_all"

OF_NETWORK = {"flip": True, "scales": [0.5, 1.0], "device": "cpu", "precision": "bfloat16", "max_memory": 10**9}
NETWORK = "--flip --scales 0.5 1 --device cpu --precision bfloat16 --max-memory 1GB"
BY_DEFAULT = {"flip": False, "scales": None, "device": "auto", "precision": "float32", "max_memory": None}


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    root = write_camvid(tmp_path_factory.mktemp("camvid"))
    (root / "classes.yaml").write_text("classes: [a, b]\n")  # which the data set folder needs
    return root


@pytest.fixture
def called(monkeypatch):
    """The arguments that a command calls a function with, which then fails."""

    def arguments_of(path, command):
        module, _, name = path.rpartition(".")
        signature, seen = inspect.signature(getattr(importlib.import_module(module), name)), []

        def record(*arguments, **options):
            seen.append(signature.bind(*arguments, **options).arguments)
            raise UserError("replaced")

        monkeypatch.setattr(path, record)
        assert main(command.split()) == 2
        (arguments,) = seen
        return arguments

    return arguments_of


@pytest.mark.parametrize(
    ("function", "command", "expected"),
    [
        (INFER, "infer w a b out", {
            "weights": "w", "input": ["a", "b"], "output": "out", "save": ["ids", "color", "overlay"],
            "overwrite": False, "backend": "auto", "keep_suffix": False, "all_frames": False, "max_pixels": None,
            "ids": "raw", **BY_DEFAULT,
        }),
        (INFER, f"infer w a out --save ids --overwrite --backend torch --keep-suffix --all-frames --max-pixels 7 "
         f"--ids train {NETWORK}", {
            "weights": "w", "input": ["a"], "output": "out", "save": ["ids"], "overwrite": True, "backend": "torch",
            "keep_suffix": True, "all_frames": True, "max_pixels": 7, "ids": "train", **OF_NETWORK,
        }),
        (RAY, "infer w a out --engine ray", {"max_pixels": MAX_PIXELS, "address": None, "workers": None, "cpus": None}),
        (RAY, f"infer w s3://a out --engine ray --ray-address auto --workers 3 --cpus-per-worker 2 --max-pixels 0 "
         f"--overwrite {NETWORK}", {
            "input": ["s3://a"], "address": "auto", "workers": 3, "cpus": 2, "max_pixels": 0, "overwrite": True,
            **OF_NETWORK,
        }),
        (EVAL, "eval w --dataset camvid --root CAMVID", {
            "output": Path("w-camvid-val"), "workers": 1, "measures": [], "on_missing_class": "stop", "backend": None,
            "padding": "mirror", "keep_others": True, **BY_DEFAULT,
        }),
        (EVAL, f"eval w --dataset folder --root CAMVID --images {{split}} --labels {{split}}annot --output o --workers "
         f"2 --measures boundary calibration --on-missing-class warn --backend torch --padding stretch {NETWORK}", {
            "output": Path("o"), "workers": 2, "measures": ["boundary", "calibration"], "on_missing_class": "warn",
            "backend": "torch", "padding": "stretch", "keep_others": False, **OF_NETWORK,
        }),
        (SUBMIT, f"eval w --dataset cityscapes --root r --submission s --backend torch --padding stretch "
         f"--max-pixels 7 {NETWORK}", {
            "root": Path("r"), "split": "val", "folder": Path("s"), "backend": "torch", "padding": "stretch",
            "max_pixels": 7, **OF_NETWORK,
        }),
        (PREDICTIONS, "eval --predictions a/p --dataset cityscapes --root r", {
            "split": "val", "output": Path("a/p-val"), "workers": None, "measures": [], "max_pixels": MAX_PIXELS,
            "keep_others": True,
        }),
        (PREDICTIONS, "eval --predictions p --dataset cityscapes --root r --split test --output o --workers 2 "
         "--measures boundary --max-pixels 7", {
            "split": "test", "output": Path("o"), "workers": 2, "measures": ["boundary"], "max_pixels": 7,
            "keep_others": False,
        }),
        (EXPORT, "export w f.onnx --input normalized --output logits --compare-images i", {
            "path": Path("f.onnx"), "input": "normalized", "output": "logits", "images": Path("i"),
        }),
        (INT8, "export w f.xml --int8 --dataset camvid --root CAMVID", {
            "max_drop": 0.3, "input": "pixels", "output": "labels", "images": None, "workers": 1,
        }),
        (INT8, "export w f.xml --int8 --dataset camvid --root CAMVID --max-drop 0 --input normalized --output logits "
         "--compare-images i --workers 2", {
            "max_drop": 0, "input": "normalized", "output": "logits", "images": Path("i"), "workers": 2,
        }),
        (SPEED, "benchmark speed dla46_c --size 64 96 --count 1 --rounds 3 --files --no-memory", {
            "rounds": 3, "with_files": True, "with_memory": False,
        }),
        (ACCURACY, "benchmark accuracy --weights w --datasets camvid:CAMVID --workers 3 --device cpu --output o", {
            "weights": ["w"], "output": Path("o"), "workers": 3, "device": "cpu",
        }),
        ("dlaseg.benchmarking.candidates.make_candidates", "benchmark speed dla46_c --stride 8 --root-kernel-size 3 "
         "--num-classes 5 --device cpu --backends openvino --precisions bfloat16 --against onnx:f", {
            "models": ["dla46_c"], "against": ["onnx:f"], "backends": ["openvino"], "precisions": ["bfloat16"],
            "device": "cpu", "architecture": Architecture(num_classes=5, stride=8, root_kernel_size=3),
        }),
        ("dlaseg.benchmarking.machine.limited_cores", "benchmark speed dla46_c --threads 1", {"threads": 1}),
        ("dlaseg.benchmarking.pictures.draw_images", "benchmark speed dla46_c --size 64 96 --count 3", {
            "height": 64, "width": 96, "count": 3,
        }),
        ("dlaseg.benchmarking.pictures.choose_images", "benchmark speed dla46_c --images i --count 3", {
            "path": Path("i"), "count": 3,
        }),
        ("dlaseg.benchmarking.leaderboard.dataset_entry_of", "benchmark accuracy --datasets camvid:a --split test", {
            "split": "test",
        }),
        ("dlaseg.data.check.check.check_dataset", "data check r --dataset folder --splits a b --images i --labels l "
         "--classes c --workers 2", {
            "root": Path("r"), "splits": ["a", "b"], "images": "i", "labels": "l", "classes": "c", "workers": 2,
        }),
        ("dlaseg.data.check.new_classes.new_classes", "data check r --dataset folder --splits a --images i --labels l "
         "--write-classes c.yaml", {"root": Path("r"), "splits": ["a"], "images": "i", "labels": "l"}),
        ("dlaseg.factory.model_from_checkpoint", "weights convert w o --norm inplace", {"norm": "inplace"}),
        ("dlaseg.weights.inspection.inspect_weights", "weights inspect camvid --norm inplace", {"norm": "inplace"}),
        ("dlaseg.inference.predictor.Predictor", "data draft camvid a d.zip --backend torch", {"backend": "torch"}),
        ("dlaseg.synthetic.dataset.synthesize", "data synthesize o --train 1 --val 0 --test 2 --size 64 96 --seed 5", {
            "counts": {"train": 1, "test": 2}, "height": 64, "width": 96, "seed": 5,
        }),
    ],
)  # fmt: skip
def test_options_reach_the_function(called, camvid, tmp_path, monkeypatch, function, command, expected):
    monkeypatch.chdir(tmp_path)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    arguments = called(function, command.replace("CAMVID", str(camvid)))
    assert {name: arguments[name] for name in expected} == expected
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_scores_of_label_maps_in_the_working_folder_go_beside_it(called, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    arguments = called(PREDICTIONS, "eval --predictions . --dataset cityscapes --root r")
    assert arguments["output"] == tmp_path / "mine-val"
