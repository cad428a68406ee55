"""What the trainer adds to the bare step: promised are at most 3 % of a run of 100 steps.

Bare: forward, loss, backward and update of a loop without anything else, on normalised images that are there, with the
network, loss, optimizer, precision and memory layout of the trainer's. Trainer: `train_one_epoch` with TensorBoard, on
the same images as the loader hands them over, uint8. The two take turns in one process, a block of steps each. What a
run writes once an epoch is timed apart, and counted as once in 100 steps.

    python benchmarks/trainer_overhead.py [--blocks 20] [--steps 5] [--model dla34 dla46_c] [--batch 4] [--size 352 480]

On a machine that is busy otherwise, take processor time, and one thread, since several wait for each other:

    OMP_NUM_THREADS=1 python benchmarks/trainer_overhead.py --processor-time
"""

import argparse
import cProfile
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dlaseg.config import Config, DataConfig, ModelConfig, TrainConfig
from dlaseg.data.loading import EpochBatches
from dlaseg.data.tensors import normalize
from dlaseg.device import memory_format, pick_device, reduced_precision
from dlaseg.factory import create_model
from dlaseg.memory import keep_freed_memory
from dlaseg.training.distributed import DistributedContext
from dlaseg.training.losses import PixelLoss
from dlaseg.training.optimizers import make_optimizer
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.state import Progress, initial_state
from dlaseg.training.step import step_function
from dlaseg.training.stopping import StopRequest
from dlaseg.training.trackers import open_trackers
from dlaseg.training.trainer import Run, save, train_one_epoch

CLASSES, RUN = 11, 100


class Ready:
    """A loader whose batches are there.

    Args:
        images: (N, 3, H, W) uint8.
        targets: (N, H, W) uint8.
        count: batches of an epoch.
    """

    dataset = None

    def __init__(self, images: Tensor, targets: Tensor, count: int):
        self.batch: tuple[Tensor, Tensor, list[str]] = (images, targets, [])
        self.count = count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
        return iter([self.batch] * self.count)


def contenders(name: str, options: argparse.Namespace, folder: Path) -> tuple[Callable[[], None], Run]:
    """A block of bare steps, and the run that the trainer's blocks are of; both learn the same network."""
    torch.manual_seed(0)
    device = pick_device(options.device)
    config = Config(
        data=DataConfig(workers=0),
        model=ModelConfig(name, stride=options.stride, root_kernel_size=1),
        train=TrainConfig(epochs=10**6, batch_size=options.batch, lr=1e-4, power=0, device=options.device),
    )
    images = torch.randint(0, 256, (options.batch, 3, *options.size), dtype=torch.uint8)
    targets = torch.randint(0, CLASSES, (options.batch, *options.size), dtype=torch.uint8)
    targets[:, : options.size[0] // 20] = 255
    task, own = Segmentation(config), DistributedContext(0, 1, device)
    model, criterion = create_model(name, CLASSES, options.stride, 1), PixelLoss(config.train.losses, options.stride)
    state = initial_state(model, config.train, device)
    sampler = EpochBatches(options.steps * options.batch, options.batch, 0)
    step = step_function(task, state, criterion, sampler.batches, own)
    run = Run(task, own, folder, None, None, state, cast(Any, Ready(images, targets, options.steps)), sampler, step)

    inputs = normalize(images.to(device), model.mean, model.std).contiguous(memory_format=memory_format(device))
    there, optimizer = targets.to(device), make_optimizer(model, config.train, device)
    lower = reduced_precision(config.train.precision, device)

    def bare() -> None:
        for _ in range(options.steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, lower or torch.bfloat16, enabled=lower is not None):
                outputs = model.training_outputs(inputs)
            criterion(outputs, there, criterion.normalizers(there)).backward()
            optimizer.step()

    return bare, run


def timed(block: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    """Seconds that a block takes."""
    start = clock()
    block()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return clock() - start


def compare(name: str, options: argparse.Namespace) -> None:
    """Prints every alternation of a network, and what the trainer adds."""
    clock = time.process_time if options.processor_time else time.perf_counter
    with tempfile.TemporaryDirectory() as written:
        bare, run = contenders(name, options, Path(written))
        device = run.dist.device
        with open_trackers(["tensorboard"], Path(written), 0) as trackers:

            def trainer() -> None:
                run.state.progress = Progress()
                train_one_epoch(run, StopRequest(), trackers)
                run.state.epoch += 1

            seconds: dict[str, list[float]] = {"bare": [], "trainer": []}
            for turn in range(-1, options.blocks):  # one to warm up
                order = [("bare", bare), ("trainer", trainer)]
                for kind, block in order if turn % 2 else reversed(order):
                    took = timed(block, device, clock) / options.steps
                    if turn >= 0:
                        seconds[kind].append(took)
                if turn >= 0:
                    last = {kind: times[-1] for kind, times in seconds.items()}
                    print(f"{name}  {turn:>2}  bare {last['bare']:.4f} s, trainer {last['trainer']:.4f} s", flush=True)
            save(run)
            checkpoint = statistics.median(timed(lambda: save(run), device, time.perf_counter) for _ in range(5))
            if options.profile:
                profile = cProfile.Profile()
                profile.runcall(trainer)
                pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    step, ours = (statistics.median(times) for times in seconds.values())
    pairs = sorted(one / other - 1 for other, one in zip(*seconds.values(), strict=True))
    quarter = len(pairs) // 4
    middle = f"{pairs[quarter]:+.2%} to {pairs[-1 - quarter]:+.2%}"
    once = checkpoint / (RUN * step)
    print(f"{name}: step bare {step:.4f} s, trainer {ours:.4f} s: {ours / step - 1:+.2%} of the medians")
    print(f"{name}: {statistics.median(pairs):+.2%} as the median of the pairs, the middle half {middle}")
    print(f"{name}: a checkpoint takes {checkpoint:.3f} s, once in {RUN} steps {once:+.2%}", flush=True)


def main() -> None:
    """Compares for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=20, help="alternations")
    parser.add_argument("--steps", type=int, default=5, help="of a block")
    parser.add_argument("--model", nargs="+", default=["dla34", "dla46_c"])
    parser.add_argument("--stride", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=[352, 480])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processor-time", action="store_true", help="rather than that of the clock on the wall")
    parser.add_argument("--profile", action="store_true", help="show where the time of one more block goes")
    options = parser.parse_args()
    if pick_device(options.device).type == "cpu":
        keep_freed_memory()
    for name in options.model:
        compare(name, options)


if __name__ == "__main__":
    main()
