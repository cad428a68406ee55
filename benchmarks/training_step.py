"""Time of one training step: plain PyTorch loops and the trainer of `dlaseg train`, interleaved in one process.

    float32    plain loop: contiguous tensors, float32
    bfloat16   plain loop: channels_last and bfloat16 autocast, which takes two more lines
    step       the trainer's step: normalisation, the loss in little memory, gradient norm, check for non-finite numbers
    trainer    the trainer's epoch on batches in memory: `step`, progress and TensorBoard

The plain loops train an unmodified network by `torch.optim.AdamW` and `nn.CrossEntropyLoss` on logits at full size,
from images that are already normalised. All variants share one setting of the C library, `keep_freed_memory`; plain
programs do not have it and are slower. CPU time is the sum over all threads. It depends less than wall time on what
else the machine does, and the shares of the peak are computed from it: 2 FLOP per multiply-add of the network, three
times the forward pass, relative to large matrix products that the script measures in every round.

    python benchmarks/training_step.py [--model dla46_c dla34] [--steps 4] [--rounds 5] [--profile trainer]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import profile

from dlaseg.config.segmentation import Config, DataConfig, ModelConfig, TrainConfig
from dlaseg.data.loading import EpochBatches
from dlaseg.data.tensors import normalize
from dlaseg.factory import create_model
from dlaseg.labels import LabelMap
from dlaseg.models.cost import network_cost
from dlaseg.models.ida import BilinearUpsample
from dlaseg.training.cpu.convolution import FastConv2d
from dlaseg.training.distributed import distributed_context
from dlaseg.training.run import Run, build
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.state import Progress
from dlaseg.training.stopping import StopRequest
from dlaseg.training.trackers import TensorBoard, open_trackers
from dlaseg.training.trainer import save, train_one_epoch

CLASSES, LR, WEIGHT_DECAY = 11, 0.001, 0.01
MATRIX = 2048  # side of the matrices whose product measures the peak
LABELS = LabelMap.from_dict({"classes": [{"name": str(index)} for index in range(CLASSES)]})

Measurement = tuple[float, float]
"""Wall time and CPU time in seconds."""


class RepeatedBatch:
    """A loader that yields one batch in memory again and again.

    Args:
        images: (N, 3, H, W) uint8.
        targets: (N, H, W) uint8.
        count: batches per epoch.
    """

    dataset = None

    def __init__(self, images: Tensor, targets: Tensor, count: int):
        self.batch, self.count = (images, targets, []), count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
        return iter([self.batch] * self.count)


class InMemorySegmentation(Segmentation):
    """The task of `dlaseg train`, on a batch in memory."""

    def __init__(self, config: Config, images: Tensor, targets: Tensor, steps: int):
        super().__init__(config)
        self.loader = RepeatedBatch(images, targets, steps)

    def check_data(self, training: Any, validation: Any, output: Path, dist: Any) -> None:
        """No label maps to check."""

    def train_loader(self, training: Any, model: Any, dist: Any) -> tuple[Any, EpochBatches]:  # noqa: ARG002
        """The batch, and a sampler that counts as many batches."""
        size = len(self.loader.batch[0])
        return self.loader, EpochBatches(self.loader.count * size, size, 0)


def plain_loop(
    model: nn.Module, images: Tensor, targets: Tensor, steps: int, layout: torch.memory_format, autocast: bool
) -> Callable[[], None]:
    """Returns a function that takes `steps` training steps, as anyone would write them.

    Args:
        model: returns logits (N, C, H, W).
        images: (N, 3, H, W) float32, normalised.
        targets: (N, H, W) int64 train ids.
        steps: per call.
        layout: memory format of weights and images.
        autocast: whether to use bfloat16 autocast.
    """
    for module in model.modules():
        assert not isinstance(module, FastConv2d), "not the plain network"
        if isinstance(module, BilinearUpsample):
            module.__class__ = nn.ConvTranspose2d  # what it is, without its own `forward`
    model, images = model.train().to(memory_format=layout), images.contiguous(memory_format=layout)
    optimizer, loss_function = torch.optim.AdamW(model.parameters(), LR), nn.CrossEntropyLoss(ignore_index=255)

    def train() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                logits = model(images)
            loss_function(logits.float(), targets).backward()
            optimizer.step()

    return train


def trainer_run(name: str, options: argparse.Namespace, images: Tensor, targets: Tensor, folder: Path) -> Run:
    """Builds a run as `dlaseg train` does."""
    config = Config(
        data=DataConfig(workers=0),
        model=ModelConfig(name, options.stride, options.root_kernel_size),
        train=TrainConfig(
            epochs=10**6, batch_size=len(images), optimizer="adamw", lr=LR, weight_decay=WEIGHT_DECAY, device="cpu"
        ),
    )
    task = InMemorySegmentation(config, images, targets, options.steps)
    with distributed_context("cpu") as dist:
        return build(task, dist, SimpleNamespace(label_map=LABELS), None, folder)


def measure(block: Callable[[], object], count: int) -> Measurement:
    """Seconds per step of a block of `count` steps."""
    wall, cpu = time.perf_counter(), time.process_time()
    block()
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def compare(name: str, options: argparse.Namespace, folder: Path) -> None:
    """Measures a network and prints a table, or the profile of one variant."""
    height, width = options.size
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (options.batch, 3, height, width), dtype=torch.uint8)
    targets = torch.randint(0, CLASSES, (options.batch, height, width), dtype=torch.uint8)
    targets[:, : height // 20] = 255
    run = trainer_run(name, options, pixels, targets, folder)

    def plain(layout: torch.memory_format, autocast: bool) -> Callable[[], None]:
        model = create_model(name, CLASSES, options.stride, options.root_kernel_size)
        images = normalize(pixels, model.metadata.mean, model.metadata.std)
        return plain_loop(model, images, targets.long(), options.steps, layout, autocast)

    def trainer_steps() -> None:
        for _ in range(options.steps):
            run.step([(pixels, targets)])

    with open_trackers([TensorBoard], folder, 0) as trackers:

        def trainer_epoch() -> None:
            run.state.progress = Progress()
            train_one_epoch(run, StopRequest(), trackers)
            run.state.epoch += 1

        variants = {
            "float32": plain(torch.contiguous_format, autocast=False),
            "bfloat16": plain(torch.channels_last, autocast=True),
            "step": trainer_steps,
            "trainer": trainer_epoch,
        }
        if options.profile:
            variants[options.profile]()
            with profile() as operators:
                variants[options.profile]()
            print(operators.key_averages().table("self_cpu_time_total", row_limit=30, max_name_column_width=60))
            return
        matrices = [torch.randn(MATRIX, MATRIX, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
        seconds: dict[str, list[Measurement]] = {key: [] for key in (*variants, "peak float32", "peak bfloat16")}
        for turn in range(-1, options.rounds):  # the first round is for warm-up
            blocks = [(key, block, options.steps) for key, block in variants.items()]
            for matrix, key in zip(matrices, ("peak float32", "peak bfloat16"), strict=True):
                blocks.append((key, lambda matrix=matrix: matrix @ matrix, 1))
            for key, block, count in blocks if turn % 2 else reversed(blocks):
                taken = measure(block, count)
                if turn >= 0:
                    seconds[key].append(taken)
        _, saving = measure(lambda: save(run), 1)

    model = create_model(name, CLASSES, options.stride, options.root_kernel_size)
    gflop = options.batch * 3 * 2 * network_cost(model, height, width).macs / 1e9
    print_table(name, gflop, seconds)
    print(f"{name}: a checkpoint takes {saving:.2f} s of CPU time, once per epoch\n", flush=True)


def print_table(name: str, gflop: float, seconds: dict[str, list[Measurement]]) -> None:
    """Prints medians, shares of the peak, and ratios to the plain bfloat16 loop."""
    precisions = ("float32", "bfloat16")
    peaks = {key: 2 * MATRIX**3 / 1e9 / min(cpu for _, cpu in seconds[f"peak {key}"]) for key in precisions}
    walls = {key: 2 * MATRIX**3 / 1e9 / min(wall for wall, _ in seconds[f"peak {key}"]) for key in precisions}
    shown = ", ".join(f"{key} {walls[key]:.0f} GFLOP/s ({peaks[key]:.0f} per second of CPU time)" for key in precisions)
    print(f"{name}: {gflop:.0f} GFLOP per step; measured peak: {shown}")
    print(f"{'variant':<9} {'wall, s':>8} {'CPU, s':>8} {'of peak':>8} {'wall / bfloat16':>16} {'CPU / bfloat16':>15}")
    for key in (key for key in seconds if not key.startswith("peak")):
        wall, cpu = (statistics.median(values) for values in zip(*seconds[key], strict=True))
        wall_ratio, cpu_ratio = (
            statistics.median(one[i] / other[i] for one, other in zip(seconds[key], seconds["bfloat16"], strict=True))
            for i in range(2)
        )
        share = gflop / cpu / peaks["float32" if key == "float32" else "bfloat16"]
        print(f"{key:<9} {wall:>8.3f} {cpu:>8.3f} {share:>8.1%} {wall_ratio:>16.3f} {cpu_ratio:>15.3f}")


def main() -> None:
    """Compares each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["dla46_c", "dla34"])
    parser.add_argument("--steps", type=int, default=4, help="per variant and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--root-kernel-size", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=[256, 352], help="height and width of the images")
    parser.add_argument("--profile", choices=["float32", "bfloat16", "step", "trainer"], help="print its operators")
    options = parser.parse_args()
    for name in options.model:
        with tempfile.TemporaryDirectory() as folder:
            compare(name, options, Path(folder))


if __name__ == "__main__":
    main()
