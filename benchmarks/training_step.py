"""One training step against the plain way of writing it, interleaved.

Plain: float32, contiguous layout, torch's own convolution gradients, LogSoftmax and NLLLoss at full size, the C
library's default memory handling. Ours: what `dlaseg train` does. The two live in processes of their own, since the
memory handling is the process's, and take turns; only one works at a time.

    python benchmarks/training_step.py [--rounds 7] [--model dla34 dla46_c] [--batch 4] [--size 352 480]
"""

import argparse
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import torch
from torch.nn import functional as F

from dlaseg.config import Config, ModelConfig, TrainConfig
from dlaseg.factory import create_model
from dlaseg.memory import keep_freed_memory
from dlaseg.training.distributed import DistributedContext
from dlaseg.training.losses import PixelLoss
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.state import initial_state
from dlaseg.training.step import step_function

CLASSES = 11


def work(kind: str, name: str, pipe: Connection, options: argparse.Namespace) -> None:
    """Takes a step whenever asked; answers with (seconds, loss)."""
    torch.manual_seed(0)
    device = torch.device("cpu")
    model = create_model(name, CLASSES, options.stride, options.root_kernel_size).train()
    images = torch.randint(0, 256, (options.batch, 3, *options.size), dtype=torch.uint8)
    targets = torch.randint(0, CLASSES, (options.batch, *options.size), dtype=torch.uint8)
    targets[:, : options.size[0] // 20] = 255
    if kind == "ours":
        keep_freed_memory()
        config = Config(model=ModelConfig(stride=options.stride), train=TrainConfig(lr=0.01, power=0))
        state = initial_state(model, config.train, device)
        criterion = PixelLoss(config.train.losses, options.stride)
        ours = step_function(Segmentation(config), state, criterion, 10**6, DistributedContext(0, 1, device))

        def step() -> float:
            return ours([(images, targets)]).loss
    else:
        torch.backends.cpu.get_cpu_capability = lambda: "none"  # torch's own convolution gradients
        optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=1e-4)
        mean = torch.tensor(model.mean).view(1, 3, 1, 1)
        std = torch.tensor(model.std).view(1, 3, 1, 1)

        def step() -> float:
            log_probabilities = F.log_softmax(model((images.float() / 255 - mean) / std), dim=1)
            loss = F.nll_loss(log_probabilities, targets.long(), ignore_index=255)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.item()

    while pipe.recv():
        start = time.perf_counter()
        loss = step()
        pipe.send((time.perf_counter() - start, loss))


def compare(name: str, options: argparse.Namespace) -> None:
    """Prints every round of a network, and by how much more images a second ours gets through."""
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for kind in ("plain", "ours"):
        pipes[kind], far = context.Pipe()
        context.Process(target=work, args=(kind, name, far, options), daemon=True).start()
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for turn in range(-2, options.rounds):  # two rounds to warm up
        for kind, pipe in pipes.items():
            pipe.send(True)
            took, loss = pipe.recv()
            print(f"{name}  round {turn:>2}  {kind:<5}  {took:6.2f} s  loss {loss:.4f}", flush=True)
            if turn >= 0:
                seconds[kind].append(took)
    for pipe in pipes.values():
        pipe.send(False)
    plain, ours = (statistics.median(seconds[kind]) for kind in ("plain", "ours"))
    rounds = sorted(one / other for one, other in zip(seconds["plain"], seconds["ours"], strict=True))
    print(f"{name}: median step plain {plain:.2f} s, ours {ours:.2f} s: {plain / ours:.2f} times the throughput")
    print(f"{name}: the rounds by themselves: {', '.join(f'{ratio:.2f}' for ratio in rounds)}", flush=True)


def main() -> None:
    """Compares each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", nargs="+", default=["dla34", "dla46_c"])
    parser.add_argument("--stride", type=int, default=2)
    parser.add_argument("--root-kernel-size", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=[352, 480])
    options = parser.parse_args()
    for name in options.model:
        compare(name, options)


if __name__ == "__main__":
    main()
