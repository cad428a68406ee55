"""Where another engine computes, labels come without torch, which takes a second and half a gigabyte to import."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlaseg import save_model
from dlaseg.inference.backends.conversion import convert
from dlaseg.inference.network import WeightsFile
from dlaseg.inference.run import infer

COMMANDS = """
import json, sys
from dlaseg.cli import main
for command in json.loads(sys.argv[1]):
    assert main(command) == 0, command
    print("torch" if "torch" in sys.modules else "none", *command)
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50 + number, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def imported_by(commands):
    """Of each command, whether torch is imported after it: `torch` or `none`."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line.split()[0] for line in done.stdout.splitlines() if line.startswith(("torch", "none"))]


def test_labels_of_an_exported_file_come_without_torch(folder, tmp_path):
    assert imported_by([["infer", "camvid-int8", str(folder), str(tmp_path / "out")]]) == ["none"]


@pytest.mark.slow
def test_labels_come_without_torch_where_another_engine_computes(network, folder, tmp_path):
    weights = tmp_path / "weights.safetensors"
    save_model(network, weights)
    large = tmp_path / "large.png"
    Image.fromarray(np.zeros((1400, 1000, 3), np.uint8)).save(large)
    convert(network, WeightsFile(weights).key)  # by torch, once for these weights
    runs = {
        "auto": [str(weights), "--backend", "auto", "--device", "cpu"],
        "onnxruntime": [str(weights), "--backend", "onnxruntime"],
        "tiles": [str(weights), "--backend", "openvino", "--max-memory", "800MB"],
        "probabilities": [str(weights), "--backend", "openvino", "--save", "probabilities"],
    }
    commands = [
        ["infer", weights, str(large if name == "tiles" else folder), str(tmp_path / name), *options]
        for name, (weights, *options) in runs.items()
    ]
    assert imported_by(commands) == ["none"] * 3 + ["torch"]

    infer(weights, folder, tmp_path / "here", backend="openvino", device="cpu", save=["ids"])
    for number in range(3):
        ids = [np.asarray(Image.open(tmp_path / name / f"ids/{number}.png")) for name in ("here", "auto")]
        np.testing.assert_array_equal(*ids)
    assert json.loads((tmp_path / "tiles/infer.json").read_text())["max_memory"] is not None  # there were tiles
