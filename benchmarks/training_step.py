"""One training step against the plain way of writing it, interleaved.

Plain: float32, contiguous layout, torch's own convolution gradients, LogSoftmax and NLLLoss at full size, the C
library's default memory handling. Ours: what `dlaseg train` does. The two live in processes of their own, since the
memory handling is the process's, and take turns; only one works at a time.

    python benchmarks/training_step.py [--rounds 7] [--model dla34] [--batch 4] [--size 352 480]
"""

import argparse
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import torch
from torch.nn import functional as F

from dlaseg.config import Config, ModelConfig, TrainConfig
from dlaseg.memory import keep_freed_memory
from dlaseg.models.device import memory_format
from dlaseg.models.factory import create_model
from dlaseg.training.segmentation import Segmentation
from dlaseg.training.trainer import TrainState, step_function

CLASSES = 11


def work(kind: str, pipe: Connection, options: argparse.Namespace) -> None:
    """Takes a step whenever asked; answers with (seconds, loss)."""
    torch.manual_seed(0)
    device = torch.device("cpu")
    model = create_model(options.model, CLASSES, options.stride, options.root_kernel_size).train()
    images = torch.randint(0, 256, (options.batch, 3, *options.size), dtype=torch.uint8)
    targets = torch.randint(0, CLASSES, (options.batch, *options.size), dtype=torch.uint8)
    targets[:, : options.size[0] // 20] = 255
    if kind == "ours":
        keep_freed_memory()
        model.to(memory_format=memory_format(device))
        optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=1e-4, fused=True)
        state = TrainState(model, optimizer, epoch=0, step=0, log=[])
        task = Segmentation(Config(model=ModelConfig(stride=options.stride), train=TrainConfig(lr=0.01, power=0)))
        ours = step_function(task, state, steps_per_epoch=10**6, device=device)

        def step() -> float:
            return ours(images, targets)[0]
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


def main() -> None:
    """Prints every round and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", default="dla34")
    parser.add_argument("--stride", type=int, default=2)
    parser.add_argument("--root-kernel-size", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=[352, 480])
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for kind in ("plain", "ours"):
        pipes[kind], far = context.Pipe()
        context.Process(target=work, args=(kind, far, options), daemon=True).start()
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for turn in range(-2, options.rounds):  # two rounds to warm up
        for kind, pipe in pipes.items():
            pipe.send(True)
            took, loss = pipe.recv()
            print(f"round {turn:>2}  {kind:<5}  {took:6.2f} s  loss {loss:.4f}", flush=True)
            if turn >= 0:
                seconds[kind].append(took)
    median = {kind: statistics.median(times) for kind, times in seconds.items()}
    pairs = [ours / plain for ours, plain in zip(seconds["ours"], seconds["plain"], strict=True)]
    ratio = median["ours"] / median["plain"]
    print(f"median: plain {median['plain']:.2f} s, ours {median['ours']:.2f} s, ratio {ratio:.3f}")
    print(f"ratios of the rounds: {', '.join(f'{ratio:.3f}' for ratio in sorted(pairs))}")
    for pipe in pipes.values():
        pipe.send(False)


if __name__ == "__main__":
    main()
