"""What a network needs is known before it runs, and tiles keep it within the limit."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from dlaseg import UserError, create_model
from dlaseg.inference import memory
from dlaseg.inference.backends.base import UNKNOWN_PER_PIXEL
from dlaseg.inference.backends.live_bytes import LiveBytes
from dlaseg.inference.backends.torch import TorchBackend
from dlaseg.inference.grid import Axis
from dlaseg.inference.memory import ENOUGH_PER_PIXEL, FACTOR, LARGE, MemoryBudget
from dlaseg.inference.predictor import Predictor

MEASURE = """
import sys, torch
from pathlib import Path
from dlaseg import create_model
from dlaseg.inference.predictor import Predictor
torch.set_num_threads(1)
name, stride, precision = sys.argv[1], int(sys.argv[2]), sys.argv[3]
predictor = Predictor(create_model(name, 19, stride), device="cpu", precision=precision)
needed = predictor.memory.needed(1500, 2000)
def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = status("VmRSS")
predictor.predict(torch.zeros(1, 3, 1500, 2000, dtype=torch.uint8))
print((status("VmHWM") - before) / needed)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "stride"), [("dla34", 4), ("dla60x_c", 2)])
def test_a_process_needs_what_was_estimated(name, stride, precision):
    words = [sys.executable, "-c", MEASURE, name, str(stride), precision]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert 0.6 < float(done.stdout) < 1


class FakeBackend:
    """Runs a function of a float image on the CPU."""

    device = "cpu"
    metadata = create_model("dla46_c", 2).metadata
    stride, multiple, scales = 2, 32, None

    def __init__(self, coarse_logits):
        self.coarse_logits = coarse_logits
        self.runs = 0

    def run(self, images):
        self.runs += 1
        return self.coarse_logits(images.float())

    def memory_needed(self):
        return TorchBackend.memory_needed(self)


def network(x):  # (1, 3, H, W) -> (1, 1, H, W)
    first = x.repeat(1, 10, 1, 1)
    first.relu_()  # in place
    view = first[:, :5]
    second = view.sum(1, keepdim=True)
    del first, view
    return second.repeat(1, 20, 1, 1)[:, :1] * torch.ones(7).cumsum(0)[0]


# Bytes per pixel: the image, the image as floats, ten copies and their sum or (less) the sum and its twenty copies
PER_PIXEL = 3 + 12 + max(120 + 4, 4 + 80)


@pytest.fixture
def used(monkeypatch):
    """The process holds 100 MB: what matters is what is free."""
    monkeypatch.setattr(memory, "used_memory", lambda: 10**8)
    return 1 << 28  # rounded up


def budget(limit, backend=None, scales=(1.0,), flip=False):
    return MemoryBudget(backend or FakeBackend(network), limit, scales, flip)


def test_the_estimate_counts_the_tensors_that_live_at_the_same_time():
    # Of the ones and their sums, those that are alive at the same time do not depend on the image
    assert budget(None).needed(320, 320) == FACTOR * PER_PIXEL * 320 * 320 + 2 * 7 * 4


@pytest.mark.parametrize("computes", [False, True])
def test_the_estimate_counts_what_a_cpu_without_bfloat16_copies_in_a_convolution(monkeypatch, computes):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: computes)
    image = torch.zeros(1, 4, 8, 8, dtype=torch.bfloat16)
    layers = {  # and the values that it copies: those below the kernel, for 4 x 4 or 8 x 8 pixels
        nn.Conv2d(4, 6, 3, stride=2, padding=1): 4 * 9 * 16,
        nn.Conv2d(4, 6, 3, padding=1, groups=2): 2 * 9 * 64,
        nn.Conv2d(4, 6, 1): 0,
        nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1): 6 * 16 * 64,
    }
    for layer, copied in layers.items():
        with torch.inference_mode(), LiveBytes(image) as live:
            result = layer.bfloat16()(image)
        assert live.peak[True] == image.nbytes + result.nbytes + (0 if computes else 2 * copied)


@pytest.mark.parametrize(
    ("free", "height", "width", "measured"),
    [
        (0, 256, 256, False),  # the image that would be measured
        (ENOUGH_PER_PIXEL * 1024 * 2048, 1024, 2048, False),
        (ENOUGH_PER_PIXEL * 1024 * 2048 - 1, 1024, 2048, True),
    ],
)
def test_only_an_image_that_might_not_fit_costs_a_measurement(used, free, height, width, measured):
    backend = FakeBackend(network)
    assert budget(used + free + (free == 0), backend).grid(height, width) is None
    assert backend.runs == measured


@pytest.mark.parametrize(
    "name", ["dla46_c", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dla34", "dla102x2"))]
)
def test_networks_need_much_less_than_what_is_taken_for_enough(name):
    needed = Predictor(create_model(name, 19, stride=2), device="cpu").memory.needed(1000, 1000)
    assert needed < min(ENOUGH_PER_PIXEL / 4, FACTOR * UNKNOWN_PER_PIXEL) * 1000 * 1000


def test_by_default_half_of_what_is_free_is_used(monkeypatch, used):
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * 10**9)
    assert budget(None).max_memory == used + 10**9
    monkeypatch.setattr(memory, "available_memory", lambda: None)  # not known
    unlimited = budget(None)
    assert (unlimited.max_memory, unlimited.large) == (None, LARGE)
    assert unlimited.grid(10**6, 10**6) is None


def test_an_image_is_tiled_only_where_it_does_not_fit(used):
    needed = int(budget(None).needed(6000, 6000)) + 1
    assert budget(used + needed).grid(6000, 6000) is None
    grid = budget(used + needed - 2).grid(6000, 6000)
    assert len(grid.rows.spans) > 1
    # What the caller holds counts: if as a whole, and if in tiles
    assert budget(used + needed).grid(6000, 6000, whole_bytes=2) is not None
    smaller = budget(used + needed - 2).grid(6000, 6000, tiled_bytes=0.8 * needed)
    assert smaller.rows.spans[0][1] < grid.rows.spans[0][1]


@pytest.mark.parametrize(
    ("limit", "height", "width", "side"),
    # the bytes of a tile of that size, and of a row of tiles
    [
        (5 * 10**8, 20_000, 20_000, 768),
        (10**9, 20_000, 20_000, 1280),
        (2 * 10**9, 3_000, 100_000, 768),
        (10**8, 100_000, 500, 768),
        (10**11, 100_000, 100_000, 4096),
    ],
)
def test_tiles_are_as_large_as_the_limit_allows(used, limit, height, width, side):
    grid = budget(used + limit).grid(height, width)
    limited = budget(used + limit)
    assert (grid.rows, grid.columns) == (
        Axis.split(height, side, 32),
        Axis.split(width, side, 32),
    )
    needed = limited.needed(min(side, height), min(side, width)) + 20 * side * width
    assert needed < limit
    side += 256
    assert limited.needed(min(side, height), min(side, width)) + 20 * side * width > 0.9 * limit or side > 4096


@pytest.mark.parametrize(("scales", "multiple"), [((1.0,), 32), ((0.75, 1.25), 128), ((0.5, 1.5), 64), ((1.1,), 32)])
def test_tiles_begin_where_the_network_sees_the_same_pixels_at_each_scale(used, scales, multiple):
    grid = budget(used + 2 * 10**9, scales=scales).grid(9000, 9001)
    starts = [start for axis in (grid.rows, grid.columns) for start, _ in axis.spans]
    assert len(starts) > 2
    assert all(start % multiple == 0 for start in starts)
    assert multiple == 32 or all(start * scale % 32 == 0 for start in starts for scale in scales)


@pytest.mark.parametrize(("scales", "megabytes"), [((1.125,), 250), ((0.6, 1.0), 300), ((0.375,), 500)])
def test_no_tile_is_so_small_that_two_share_all_of_it(used, scales, megabytes):
    with pytest.raises(UserError, match="in the smallest tiles"):  # those that fit would never reach the end
        budget(used + megabytes * 10**6, scales=scales).grid(2000, 3000)
    assert len(budget(used + 7 * 10**8, scales=scales).grid(2000, 3000).rows.seams()) > 0


@pytest.mark.parametrize(("scales", "flip"), [((0.8,), False), ((1.25,), True), ((1.2,), True)])
def test_tiles_that_begin_far_apart_stay_within_the_limit(used, scales, flip):
    for limit in range(250 * 10**6, 600 * 10**6, 50 * 10**6):
        limited = budget(used + limit, scales=scales, flip=flip)
        grid = limited.grid(3000, 3199)
        rows, columns = (max(stop - start for start, stop in axis.spans) for axis in (grid.rows, grid.columns))
        assert limited.needed(rows, columns) + 20 * rows * 3199 <= limit


def test_a_thin_image_needs_what_a_padded_one_does(used):
    needed = int(budget(None).needed(32, 150_016))
    assert budget(None).needed(1, 150_000) == pytest.approx(needed)
    assert budget(used + needed // 2).grid(1, 150_000) is not None


def test_scales_and_mirror_images_need_more(used):
    plain = budget(used + 2 * 10**9).grid(8000, 8000)
    averaged = budget(used + 2 * 10**9, scales=(0.5, 2.0), flip=True).grid(8000, 8000)
    assert averaged.rows.spans[0][1] < plain.rows.spans[0][1]
    assert averaged.rows.margin == 2 * plain.rows.margin  # in the smaller image, it is the same


def test_too_little_memory_is_said_in_one_line(used):
    with pytest.raises(UserError, match=r"max_memory 0\.2 GB: the process holds 0\.268 GB without any image: use more"):
        budget(200_000_000)
    with pytest.raises(UserError, match=r"8000 x 9000 pixels: not enough memory; in the smallest tiles, it needs"):
        budget(used + 10**7).grid(8000, 9000)


def test_images_that_wait_take_a_part_of_the_limit(used):
    assert budget(used + 384 * 10**6).large == 10**6
    assert budget(10**12).large == LARGE


@pytest.mark.parametrize("options", [{"scales": (0.5, 1.0)}, {"flip": True}])
def test_an_average_needs_more_even_if_no_scale_is_larger(options):
    scores = 4 * 2 * 5  # of two classes: at the scaled size and at the image's, probabilities, sums
    assert budget(None, **options).needed(320, 320) == budget(None).needed(320, 320) + scores * 320 * 320


def test_a_network_that_blends_a_smaller_scale_sees_further(used):
    backend = FakeBackend(network)
    backend.scales = (0.5, 1.0)
    plain, blended = (budget(used + 2 * 10**9, each).grid(8000, 8000) for each in (None, backend))
    assert blended.rows.margin == 2 * plain.rows.margin


def test_mirrored_tiles_begin_where_the_network_sees_the_same_pixels(used):
    columns = budget(used + 10**9, flip=True).grid(9000, 9001).columns
    assert len(columns.spans) > 2
    assert all((9001 - stop) % 32 == 0 for _, stop in columns.spans)
