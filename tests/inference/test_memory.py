"""What a network needs is known before it runs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dlaseg import create_model
from dlaseg.inference import memory
from dlaseg.inference.memory import ENOUGH_PER_PIXEL, MARGIN, MemoryCheck
from dlaseg.inference.predictor import Predictor

MEASURE = """
import sys, torch
from pathlib import Path
from dlaseg import create_model
from dlaseg.inference.memory import MemoryCheck
from dlaseg.inference.predictor import Predictor
torch.set_num_threads(1)
name, stride, precision = sys.argv[1], int(sys.argv[2]), sys.argv[3]
predictor = Predictor(create_model(name, 19, stride), device="cpu", precision=precision)
check = MemoryCheck(predictor.backend)
def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = status("VmRSS")
predictor.predict(torch.zeros(1, 3, 1500, 2000, dtype=torch.uint8))
print((status("VmHWM") - before) / check.needed(1500, 2000))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "stride"), [("dla34", 4), ("dla60x_c", 2)])
def test_a_process_needs_what_was_estimated(name, stride, precision):
    words = [sys.executable, "-c", MEASURE, name, str(stride), precision]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert 0.6 < float(done.stdout) < 1


def test_the_estimate_counts_the_tensors_that_live_at_the_same_time(monkeypatch):
    class Network(torch.nn.Module):
        def coarse_logits(self, x):  # (1, 3, H, W) -> (1, 1, H, W)
            first = x.repeat(1, 10, 1, 1)
            first.relu_()  # in place
            view = first[:, :5]
            second = view.sum(1, keepdim=True)
            del first, view
            return second.repeat(1, 20, 1, 1)[:, :1] * torch.ones(7).cumsum(0)[0]

    class Backend:
        device = torch.device("cpu")
        metadata = create_model("dla46_c", 2).metadata

        def run(self, images):
            return Network().coarse_logits(images.float())

    check = MemoryCheck(Backend())
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    check.check(Path("any"), 300, 300)
    # bytes: the image, the image as floats, the larger of: ten copies and their sum; the sum and its twenty copies.
    # Of the ones and their sums, those that are alive at the same time do not depend on the image
    assert check.needed(300, 300) == MARGIN * (3 + 12 + max(120 + 4, 4 + 80)) * 300 * 300 + 2 * 7 * 4


@pytest.mark.parametrize(
    ("available", "height", "width", "measured"),
    [
        (0, 256, 256, False),  # the image that would be measured
        (4096 * 1000 * 2000, 1000, 2000, False),
        (4096 * 1000 * 2000 - 1, 1000, 2000, True),
    ],
)
def test_only_an_image_that_might_not_fit_costs_a_measurement(monkeypatch, available, height, width, measured):
    check = MemoryCheck(Predictor(create_model("dla46_c", 2), device="cpu").backend)
    monkeypatch.setattr(memory, "available_memory", lambda: available)
    check.check(Path("any"), height, width)
    assert (check.measured is not None) == measured


@pytest.mark.parametrize("name", ["dla34", "dla60", "dla102x2"])
def test_networks_need_much_less_than_what_is_taken_for_enough(name):
    check = MemoryCheck(Predictor(create_model(name, 19, stride=2), device="cpu").backend)
    assert check.needed(1000, 1000) < ENOUGH_PER_PIXEL * 1000 * 1000 / 4
