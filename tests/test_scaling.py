import math
import runpy
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dlaseg import create_backbone, create_model, list_models
from dlaseg.models.cost import network_cost, segmentation_costs
from dlaseg.training.cpu import batch_norm
from dlaseg.training.cpu.batch_norm import synchronize

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "scaling.py"

scaling = SimpleNamespace(**runpy.run_path(str(SCRIPT)))


traffic = cache(scaling.traffic)

FEW = ("dla34", "dla46x_c", "dla169")  # plain blocks, groups, and residuals between levels


def test_page_equals_script_output(capsys):
    runpy.run_path(str(SCRIPT), run_name="__main__")
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == page, "python benchmarks/scaling.py > docs/scaling.md"


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in list_models()]
)
def test_parameters_and_channels_equal_the_state_dict(name):
    with torch.device("meta"):
        state = create_model(name, 19, stride=2, root_kernel_size=3).state_dict()
    channels = [len(tensor) for key, tensor in state.items() if key.endswith("running_var")]
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert traffic(name).norms == tuple(channels)
    assert traffic(name).parameters == sum(t.numel() for key, t in state.items() if not key.endswith(buffers))


def test_macs_are_for_one_crop():
    assert traffic("dla46x_c").macs == segmentation_costs("dla46x_c", 19, 832, 832)[2, 3].macs


def test_training_flop_equals_torchs_count_plus_the_image_gradient():
    # Only the backbone: torch's counter ignores the groups of the decoder's layers in their weight gradients
    with torch.device("meta"):
        backbone, image = create_backbone("dla34"), torch.empty(1, 3, 832, 832)
    counted = scaling.Traffic("dla34", 0, (), network_cost(backbone, 832, 832).macs)
    with FlopCounterMode(display=False) as counter:
        sum(feature.sum() for feature in backbone(image)).backward()
    image_gradient = 2 * 7 * 7 * 3 * 16 * 832 * 832
    assert counted.training_flop == counter.get_total_flops() + image_gradient
    assert image_gradient < 0.02 * traffic("dla46_c").training_flop


def test_batch_norm_sends_the_counted_bytes(monkeypatch):
    sent = []

    def all_gather(results, tensor):
        assert tensor.dtype == torch.float32
        sent.append(("gather", tensor.numel()))
        for result in results:
            result.copy_(tensor)

    def all_reduce(tensor):
        assert tensor.dtype == torch.float32
        sent.append(("reduce", tensor.numel()))

    monkeypatch.setattr(batch_norm.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(batch_norm.distributed, "all_gather", all_gather)
    monkeypatch.setattr(batch_norm.distributed, "all_reduce", all_reduce)
    model = synchronize(create_model("dla46_c", 19), torch.device("cpu"))
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    counted = traffic("dla46_c")
    expected = [("gather", 2 * channels + 1) for channels in counted.norms]
    expected += [("reduce", 2 * channels) for channels in counted.norms]
    assert sorted(sent) == sorted(expected)
    assert counted.norm_calls == len(sent)
    # In a ring of two, each process sends the numbers of both kinds once
    assert counted.norm_bytes(2) == 4 * sum(numbers for _, numbers in sent)


def ring(values):
    """Ring all-reduce of (P, P x n) numbers; returns each process's sums, and how many numbers each process sent."""
    world_size = len(values)
    pieces = np.stack(np.split(values, world_size, axis=1), axis=1)  # (process, piece, n)
    sent = 0
    for adds in (True, False):  # first the sums are computed, then distributed
        for turn in range(world_size - 1):
            moving = [(p, (p - turn + (not adds)) % world_size) for p in range(world_size)]
            copies = [pieces[p, piece].copy() for p, piece in moving]
            for (p, piece), numbers in zip(moving, copies, strict=True):
                pieces[(p + 1) % world_size, piece] = numbers + adds * pieces[(p + 1) % world_size, piece]
            sent += copies[0].size
    return pieces.reshape(world_size, -1), sent


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_formulas_equal_a_simulated_ring(world_size):
    values = np.random.default_rng(0).integers(0, 9, (world_size, 5 * world_size))
    sums, sent = ring(values)
    assert (sums == values.sum(0)).all()
    assert scaling.all_reduce_bytes(values.shape[1], world_size) == pytest.approx(4 * sent)
    # The second half of an all-reduce is an all-gather of the pieces
    assert scaling.all_gather_bytes(5, world_size) == 4 * sent / 2


def test_ceiling_computed_by_hand():
    network = scaling.Traffic("dla0", parameters=10**6 - 42, norms=(8, 12), macs=10**9)
    assert network.gradient_bytes(2) == 4 * (10**6 - 42)
    assert network.norm_bytes(2) == 4 * (17 + 25 + 16 + 24)
    assert network.norm_bytes(3) == pytest.approx(4 * (2 * (17 + 25) + 4 / 3 * (16 + 24)))
    assert network.step_bytes(2) == 4 * (10**6 + 40)
    # A link that sends one step per second
    gbit = 32 * (10**6 + 40) / 1e9
    assert network.ceiling(gbit, world_size=2, images=4) == pytest.approx(4)
    assert network.ceiling(gbit, world_size=2, images=2) == pytest.approx(2)
    assert network.norm_calls == 4
    assert network.tflops_per_gbit == pytest.approx(network.ceiling(1) * 6e-3)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.06601, "0.0660"), (0.9999, "1.00"), (1, "1.00"), (9.994, "9.99"), (99.96, "100"), (1247.3, "1250")],
)
def test_numbers_have_three_significant_digits(value, text):
    assert scaling.figures(value) == text
    assert math.isclose(float(text), value, rel_tol=0.005)
