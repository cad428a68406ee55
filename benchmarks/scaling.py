"""What data-parallel training sends, and the speed limit that follows from it: computed from shapes, not measured.

    python benchmarks/scaling.py > docs/scaling.md

A test compares the page with the output.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from dlaseg.factory import create_model, list_models
from dlaseg.models.cost import network_cost
from dlaseg.models.skip_init import SkipInit

CLASSES, CROP = 19, 832  # of the Cityscapes configs
IMAGES = 4  # per process and step
WORLD_SIZE = 8
LINKS = (1, 10, 100, 400)  # Gbit/s in each direction
LATENCY = 100  # microseconds per collective call
FLOAT = 4  # bytes


def all_reduce_bytes(numbers: int, world_size: int) -> float:
    """Bytes that each process of a ring sends, and receives, to sum float32 numbers."""
    return 2 * (world_size - 1) / world_size * numbers * FLOAT


def all_gather_bytes(numbers: int, world_size: int) -> int:
    """Bytes that each process of a ring sends, and receives, if every process contributes so many float32 numbers."""
    return (world_size - 1) * numbers * FLOAT


@dataclass(frozen=True)
class Traffic:
    """What a network makes each process compute and send.

    Attributes:
        name: of the variant.
        parameters: their number.
        norms: channels of every batch norm.
        macs: multiply-adds of a forward pass over one crop.
    """

    name: str
    parameters: int
    norms: tuple[int, ...]
    macs: int

    @property
    def training_flop(self) -> int:
        """FLOP per crop: 2 per multiply-add, 3 times the forward pass (backward: gradients of inputs and of weights).

        Includes the gradient with respect to the image, which is not computed; it is less than 2 %.
        """
        return 2 * 3 * self.macs

    @property
    def norm_calls(self) -> int:
        """Collective calls of synchronised batch norm per step: one per layer forward, one backward."""
        return 2 * len(self.norms)

    @property
    def tflops_per_gbit(self) -> float:
        """TFLOP/s that a process sustains when computing is as fast as sending, per Gbit/s of its link."""
        return self.ceiling(1) * self.training_flop / 1e12

    def gradient_bytes(self, world_size: int) -> float:
        """Bytes that each process sends per update to average the gradients."""
        return all_reduce_bytes(self.parameters, world_size)

    def norm_bytes(self, world_size: int) -> float:
        """Bytes that each process sends per forward and backward pass for synchronised batch norm."""
        gathered = sum(all_gather_bytes(2 * channels + 1, world_size) for channels in self.norms)
        return gathered + sum(all_reduce_bytes(2 * channels, world_size) for channels in self.norms)

    def step_bytes(self, world_size: int) -> float:
        """Bytes that each process sends per step without gradient accumulation."""
        return self.gradient_bytes(world_size) + self.norm_bytes(world_size)

    def ceiling(self, gbit: float, world_size: int = WORLD_SIZE, images: int = IMAGES) -> float:
        """Images per second that a process cannot exceed, even if computing took no time."""
        return images * gbit * 1e9 / 8 / self.step_bytes(world_size)


def traffic(name: str) -> Traffic:
    """Counts for a variant as in the Cityscapes configs: output stride 2, 3x3 aggregation nodes."""
    with torch.device("meta"), SkipInit():
        network = create_model(name, CLASSES, stride=2, root_kernel_size=3).eval()
    norms = tuple(module.num_features for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    cost = network_cost(network, CROP, CROP)
    return Traffic(name, cost.parameters, norms, cost.macs)


def figures(value: float, digits: int = 3) -> str:
    """Formats a positive number with so many significant digits."""
    rounded = float(f"{value:.{digits - 1}e}")  # first, since 99.96 becomes 100
    return f"{rounded:.{max(digits - 1 - math.floor(math.log10(rounded)), 0)}f}"


def span(values: Sequence[float]) -> str:
    """Formats minimum and maximum."""
    return f"{figures(min(values), 2)} to {figures(max(values), 2)}"


def table(networks: Sequence[Traffic]) -> str:
    """One row per network, as Markdown."""
    header = ["network", "gradients, MB", "batch norm, MB", *(f"{gbit} Gbit/s" for gbit in LINKS)]
    lines = [[*header, "TFLOP/s per Gbit/s", "calls per step"]]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for n in networks:
        sent = (n.gradient_bytes(WORLD_SIZE) / 1e6, n.norm_bytes(WORLD_SIZE) / 1e6)
        values = [*sent, *(n.ceiling(gbit) for gbit in LINKS), n.tflops_per_gbit]
        lines.append([f"`{n.name}`", *map(figures, values), str(n.norm_calls)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(networks: Sequence[Traffic]) -> str:
    """The content of docs/scaling.md."""
    shares = {n: [100 * x.norm_bytes(n) / x.step_bytes(n) for x in networks] for n in (WORLD_SIZE, 64)}
    waits = [n.norm_calls * LATENCY / 1e3 for n in networks]
    compact, others = (
        [n.tflops_per_gbit for n in networks if n.name.endswith("_c") == is_compact] for is_compact in (True, False)
    )
    return f"""\
# Scaling: what the network link allows

<!-- Written by `python benchmarks/scaling.py > docs/scaling.md`: edit the script. -->

Training in several processes averages the gradients after each step and synchronises batch norm within it. This page
computes how much each process sends, and how fast training can be at most over a given link. Nothing is measured.

- Synchronised batch norm is {span(shares[WORLD_SIZE])} % of what each of {WORLD_SIZE} processes sends, {span(shares[64])} % with 64 processes.
  The rest is gradients. Of gradients, a process never sends more than twice their size, however many processes there
  are; what it sends for batch norm grows with their number.
- Rule of thumb for {WORLD_SIZE} processes and {IMAGES} images per process and step: each Gbit/s keeps up with {span(others)} TFLOP/s of
  training per process, with {span(compact)} for the compact variants (`_c`). A faster processor waits for the link.
- To train faster over a slow link, use more images per process and step, or accumulate gradients
  (`train.grad_accum_steps`). Gradients are sent once per update, so both raise the limit almost in proportion.
- Latency counts too. Batch norm makes {min(x.norm_calls for x in networks)} to {max(x.norm_calls for x in networks)} small calls per step and waits for each of them. At {LATENCY} us (TCP;
  NCCL inside a machine needs about 20 us) they take {span(waits)} ms per step, whatever the bandwidth. Measure yours with
  nccl-tests [3] at its smallest size.

## Limits with {WORLD_SIZE} processes

Megabytes that each process sends per step, images per second that a process cannot exceed over a link, the TFLOP/s at
which computing is as fast as sending (per Gbit/s), and the collective calls of batch norm.

{table(networks)}

Networks as in the Cityscapes configs: {CLASSES} classes, output stride 2, 3x3 aggregation nodes, crops of {CROP} x {CROP}, {IMAGES} images
per process and step. The limit is proportional to the number of images. MB is 10^6 bytes, T is 10^12.

Bandwidth is per process and direction, nominal; real links deliver less. A ring enters and leaves a machine once, so
the processes of one machine share its network card without dividing it. NVLink of an H100 (SXM) has 450 GB/s per
direction, nine times the 400 Gbit/s.

## How it is computed

- Gradients are float32, 4 bytes per parameter, also under autocast. A ring all-reduce over N processes sends
  2 (N - 1) / N times their size [1]. `DistributedDataParallel` sends them in buckets during the backward pass [2], so
  a step takes between max(computing, gradients) + batch norm and the sum of the three.
- Batch norm with C channels makes two calls, on CPUs as on GPUs. Forward, an all-gather of 2 C + 1 float32 numbers
  (means, variances, count): N - 1 times 4 (2 C + 1) bytes. Backward, an all-reduce of 2 C numbers. With k micro-batches
  per update, both happen k times.
- Training takes three times the forward pass's multiply-adds, 2 FLOP each.

1. Patarasuk, Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", JPDC 69 (2), 2009,
   https://doi.org/10.1016/j.jpdc.2008.09.002
2. Li et al., "PyTorch Distributed", VLDB 2020, https://arxiv.org/abs/2006.15704
3. NVIDIA, https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md
"""  # noqa: E501 - the lines are shorter once the values are filled in


if __name__ == "__main__":
    print(page([traffic(name) for name in list_models()]), end="")
