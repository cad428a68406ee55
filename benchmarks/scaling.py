"""What training in several processes sends, and how fast that lets it be at most: arithmetic, no measurement.

    python benchmarks/scaling.py > docs/scaling.md

A test compares that page with what this prints.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from dlaseg.factory import create_model, list_models
from dlaseg.models.cost import network_cost
from dlaseg.models.skip_init import SkipInit

CLASSES, CROP, IMAGES = 19, 832, 4  # of the Cityscapes recipes; the images are a process's
WORLDS = (2, 8, 64)
WORLD = 8  # of the tables that are for one number of processes
LINKS = (1, 10, 25, 100, 400)  # Gbit/s, each way
LATENCIES = (20, 100)  # microseconds
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Traffic:
    """What a network makes its processes compute and send.

    Attributes:
        name: of the variant.
        parameters: how many.
        norms: channels of every batch norm.
        macs: multiply-adds of a forward pass over one crop.
    """

    name: str
    parameters: int
    norms: tuple[int, ...]
    macs: int

    @property
    def training_flop(self) -> int:
        """Operations for one crop: two for a multiply-add, and backward takes two products for each of forward's.

        Of the first layer too, whose gradient by the image nobody needs: less than two percent.
        """
        return 2 * 3 * self.macs

    @property
    def norm_calls(self) -> int:
        """Collective calls of the synchronised batch norms in a forward and a backward pass."""
        return 2 * len(self.norms)

    @property
    def tflops_per_gbit(self) -> float:
        """What a processor sustains that computes as fast as the link sends, in 10^12 operations per Gbit."""
        return self.ceiling(1) * self.training_flop / 1e12

    def gradient_bytes(self, world_size: int) -> float:
        """Sent by a process in an update: an all-reduce of all gradients."""
        return all_reduce_bytes(self.parameters, world_size)

    def norm_bytes(self, world_size: int) -> float:
        """Sent by a process in a forward and a backward pass: the synchronised batch norms."""
        gathered = sum(all_gather_bytes(2 * channels + 1, world_size) for channels in self.norms)
        return gathered + sum(all_reduce_bytes(2 * channels, world_size) for channels in self.norms)

    def step_bytes(self, world_size: int) -> float:
        """Sent by a process in a step without accumulation."""
        return self.gradient_bytes(world_size) + self.norm_bytes(world_size)

    def ceiling(self, gbit: float, world_size: int = WORLD, images: int = IMAGES) -> float:
        """Images per second that a process cannot exceed, were computing free."""
        return images * gbit * 1e9 / 8 / self.step_bytes(world_size)


def all_reduce_bytes(numbers: int, world_size: int) -> float:
    """Sent, and received, by every process of a ring for a sum of float32 numbers."""
    return 2 * (world_size - 1) / world_size * numbers * FLOAT


def all_gather_bytes(numbers: int, world_size: int) -> int:
    """Sent, and received, by every process of a ring, each of which gives as many float32 numbers."""
    return (world_size - 1) * numbers * FLOAT


def traffic(name: str) -> Traffic:
    """Of a variant's segmentation network as the recipes make it: output stride 2, 3x3 aggregation nodes."""
    with torch.device("meta"), SkipInit():
        network = create_model(name, CLASSES, stride=2, root_kernel_size=3).eval()
    norms = tuple(module.num_features for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    cost = network_cost(network, CROP, CROP)
    return Traffic(name, cost.parameters, norms, cost.macs)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column to the left, numbers to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figures(value: float, digits: int = 3) -> str:
    """A positive number, rounded to significant digits."""
    rounded = float(f"{value:.{digits - 1}e}")  # 99.96 is 100 from here on
    return f"{rounded:.{max(digits - 1 - math.floor(math.log10(rounded)), 0)}f}"


def span(values: Sequence[float]) -> str:
    """The least and the greatest."""
    return f"{figures(min(values), 2)} to {figures(max(values), 2)}"


def computing_table(networks: Sequence[Traffic]) -> str:
    """What does not depend on how many processes there are."""
    header = ["network", "parameters, M", "gradients, MB", "batch norms", "their channels", "GMACs per image"]
    rows = []
    for n in networks:
        sizes = (n.parameters / 1e6, n.parameters * FLOAT / 1e6)
        rows.append(
            [f"`{n.name}`", *map(figures, sizes), str(len(n.norms)), str(sum(n.norms)), figures(3 * n.macs / 1e9)]
        )
    return table(header, rows)


def sending_table(networks: Sequence[Traffic]) -> str:
    """Megabytes per process and step."""
    header = ["network", *(f"gradients, N = {world_size}" for world_size in WORLDS), "gradients, any N, below"]
    header += [f"batch norm, N = {world_size}" for world_size in WORLDS]
    rows = []
    for n in networks:
        gradients = [*(n.gradient_bytes(world_size) for world_size in WORLDS), 2 * n.parameters * FLOAT]
        norms = [n.norm_bytes(world_size) for world_size in WORLDS]
        rows.append([f"`{n.name}`", *(figures(sent / 1e6) for sent in gradients + norms)])
    return table(header, rows)


def ceiling_table(networks: Sequence[Traffic]) -> str:
    """Images per second and process, and what a processor must sustain to get there."""
    header = ["network", *(f"{gbit} Gbit/s" for gbit in LINKS), "TFLOP/s per Gbit/s"]
    rows = [
        [f"`{n.name}`", *(figures(n.ceiling(gbit)) for gbit in LINKS), figures(n.tflops_per_gbit)] for n in networks
    ]
    return table(header, rows)


def latency_table(networks: Sequence[Traffic]) -> str:
    """The time in which nothing is computed, whatever the bandwidth."""
    header = ["network", "calls per step", *(f"ms at {us} us" for us in LATENCIES)]
    header += [f"steps/s at most, {us} us" for us in LATENCIES]
    rows = []
    for n in networks:
        seconds = [n.norm_calls * us / 1e6 for us in LATENCIES]
        values = [1e3 * s for s in seconds] + [1 / s for s in seconds]
        rows.append([f"`{n.name}`", str(n.norm_calls), *map(figures, values)])
    return table(header, rows)


def summary(networks: Sequence[Traffic]) -> str:
    """What to take from it, for who reads no further."""
    shares = {
        world_size: [100 * n.norm_bytes(world_size) / n.step_bytes(world_size) for n in networks]
        for world_size in (WORLD, 64)
    }
    calls = [n.norm_calls for n in networks]
    waits = [n.norm_calls * LATENCIES[-1] / 1e3 for n in networks]
    compact = [n.tflops_per_gbit for n in networks if n.name.endswith("_c")]
    wide = [n.tflops_per_gbit for n in networks if not n.name.endswith("_c")]
    dla34, dla169 = (
        ", ".join(figures(n.ceiling(gbit)) for gbit in (1, 10, 100)) for n in networks if n.name in ("dla34", "dla169")
    )
    return f"""\
- **The gradients are nearly all of it.** Synchronised batch norm is {span(shares[WORLD])} % of what each of
  {WORLD} processes sends; of 64, {span(shares[64])} %.
- **Rule of thumb.** With {WORLD} processes and {IMAGES} images per process and step, each Gbit/s of a process's link
  keeps up with {span(wide)} TFLOP/s of sustained training, in the compact variants (`_c`) with {span(compact)}.
  A processor that sustains more waits for the link.
- **Which link.** Over 1, 10 and 100 Gbit/s a process of {WORLD} cannot exceed {dla34} images/s with DLA-34
  and {dla169} with DLA-169, the largest.
- **What helps** is more images per process and step, at once or by accumulation: what is sent does not depend on
  them, so the ceiling rises in proportion. More processes cost little, since no number of them makes a process send
  more than twice the gradients.
- **What bandwidth does not shorten:** {min(calls)} to {max(calls)} small calls per step, which synchronised batch
  norm waits for one by one. At {LATENCIES[-1]} us each they take {span(waits)} ms."""


def example(n: Traffic, speed: int = 20, gbit: int = 10) -> str:
    """A step with and without overlap, of processes that compute `speed` images per second."""
    computing = 1e3 * IMAGES / speed  # ms, as all below
    gradients, norms = (8e3 * sent / (gbit * 1e9) for sent in (n.gradient_bytes(WORLD), n.norm_bytes(WORLD)))
    apart = figures(1e3 * IMAGES / (computing + gradients + norms))
    together = figures(1e3 * IMAGES / (max(computing, gradients) + norms))
    return f"""\
An example: if `{n.name}` computed {speed} images/s in each of {WORLD} processes, over {gbit} Gbit/s, a step would be
{figures(computing)} ms of computing, {figures(gradients)} ms of gradients and {figures(norms)} ms of batch norm:
{apart} images/s without overlap, {together} with all of it."""


def page(networks: Sequence[Traffic]) -> str:
    """The whole of docs/scaling.md."""
    return f"""\
# Scaling on paper

<!-- Written by `python benchmarks/scaling.py > docs/scaling.md`: change the script. -->

What training in several processes sends, and the speed that the link between them allows at most. Computed from the
networks' shapes; nothing is measured. Networks as the Cityscapes recipes make them: {CLASSES} classes, output stride 2,
3x3 aggregation nodes. Crops of {CROP} x {CROP}, {IMAGES} images per process and step: the recipes' batch of 16 is then
shared by four processes.

## What to take from this

{summary(networks)}

## What is computed

{computing_table(networks)}

M and G are 10^6 and 10^9, MB is 10^6 bytes. Gradients are float32, 4 bytes per parameter, under bfloat16 autocast too.
Training takes three times the forward pass's multiply-adds (MACs): one product forward, and backward one for the
gradient of the layer's input and one for that of its weights. A MAC is two operations (FLOP).

## What every process sends per step, MB

{sending_table(networks)}

It receives as much at the same time.

Gradients: a ring all-reduce sends 2 (N - 1) / N times their size [1], less than twice, however many processes there
are. `DistributedDataParallel` sends them in buckets while the backward pass goes on [2].

A batch norm of C channels makes two calls. Forward, every process gives 2 C + 1 float32 numbers (means, spreads, how
many values) to all others, for which a ring sends N - 1 times 4 (2 C + 1) bytes: this part grows with N. Backward, 2 C
numbers are added up: 2 (N - 1) / N times 8 C bytes. `torch.nn.SyncBatchNorm` on CUDA and `SynchronizedBatchNorm2d` on
CPU send the same. Not counted: two sums of a few numbers per update, for the loss.

## Images per second that a process cannot exceed, N = {WORLD}

{ceiling_table(networks)}

Images per step x bandwidth / bytes sent per step; with 2 images per step, half of it. The last column is the arithmetic
per second at which a processor meets the ceiling, for each Gbit/s.

The bandwidth is what a process has each way: nominal rates of Ethernet (1 to 100 Gbit/s) and of a 400 Gbit/s network;
less arrives. Inside a machine, NVLink of an H100 (SXM) has 450 GB/s each way, nine times the last of these. Processes
of one machine need not divide its network card among them: a ring enters and leaves the machine once.

**Sum or maximum.** Without overlap a step takes computing + sending, with full overlap max(computing, gradients) +
batch norm, which never overlaps: the next layer waits for it. The truth lies between, for gradients can travel during
the backward pass alone, two thirds of the arithmetic, and the first layers' come last.
{example(next(n for n in networks if n.name == "dla34"))}

**Accumulation** (`train.grad_accum_steps` = k). Gradients are sent once per update, batch norm's numbers once per part:
G + k S bytes per update instead of k (G + S), where G and S are those of the table above. If the parts are as large as
the steps were, the ceiling becomes almost k times as high and the batch k times as large, which the learning rate must
suit. If the same batch is cut into k parts to save memory, gradients per image stay the same, while batch norm's bytes
and calls are k times as many.

## What latency takes, whatever the bandwidth

{latency_table(networks)}

Two calls per batch norm, one after the other. Their latency is assumed: {LATENCIES[0]} us stands for NCCL inside a
machine, {LATENCIES[1]} us for TCP. Measure yours at the smallest size of nccl-tests [3]; it grows with N. No step is
shorter than its calls together; with k parts, each part has as many.

## Sources

1. Patarasuk, Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", Journal of Parallel and
   Distributed Computing 69 (2), 2009, https://doi.org/10.1016/j.jpdc.2008.09.002
2. Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", VLDB 2020,
   https://arxiv.org/abs/2006.15704
3. NVIDIA, "Performance reported by NCCL tests", which counts by the same factors, for trees and other
   algorithms of sends and receives too,
   https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md
"""


if __name__ == "__main__":
    print(page([traffic(name) for name in list_models()]), end="")
