"""Trains a small network on a GPU many times as fast as `dlaseg train` does, from the same config.

A small network's step is limited by the launches of its kernels, and by the processes that decode and augment. Here all
images lie in the GPU's memory and are augmented there, and a step is one CUDA graph of compiled kernels. The random
numbers are not those of `dlaseg train`, and the colour changes have another order and other distributions: hues turn
half as far, and the logarithm of gamma's exponent is uniform. The decoder's upsampling stays bilinear. Images of one
size, every image once in an epoch, cross-entropy, no rotation. On a CPU it runs, too, for a few steps.

    python benchmarks/gpu_training.py train --config CONFIG --root DIR --output RUN
    python benchmarks/gpu_training.py compare --config CONFIG --root DIR [--steps 5900] [--seeds 0 1] [--recipes base]

`train` writes the files of a run folder. `compare` is for CamVid: it trains on two of the three drives and scores the
third, all networks of a recipe (drives x seeds) side by side, and prints a line of JSON per recipe: mIoU of each drive,
mean over the seeds, and the mean over the drives. `--network` trains a network of another package in the same way.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlaseg.benchmarking.others import smp_network
from dlaseg.config.files import to_yaml
from dlaseg.config.reading import read_config
from dlaseg.config.segmentation import AugmentConfig, Config
from dlaseg.data.datasets import SegmentationDataset, open_dataset
from dlaseg.data.tensors import normalize, normalize_
from dlaseg.device import reduced_precision, reproducible
from dlaseg.files import write_json, write_text
from dlaseg.inference.argmax import argmax_logits
from dlaseg.models.ida import BilinearUpsample
from dlaseg.run_folder import BEST_WEIGHTS, CONFIG, ENVIRONMENT, LOG, TRAIN_NAMES, VAL_NAMES
from dlaseg.training.environment import environment
from dlaseg.training.optimizers import make_optimizer
from dlaseg.training.schedules import learning_rate
from dlaseg.training.segmentation import Segmentation
from dlaseg.weights.files import save_model

DRIVES = ("0001TP", "0006R0", "0016E5")
IGNORED = 255

PLAIN = {"jitter": 0.3, "saturation": 0.0, "hue": 0.0, "gamma": 0.0, "color_cast": 0.0}
ADAMW = {"optimizer": "adamw", "weight_decay": 0.01}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "config": {},
    "base": {"augment": PLAIN, "train": {**ADAMW, "ema_decay": 0.0}},
    "scale": {"augment": {**PLAIN, "scale": (0.5, 2.0)}, "train": {**ADAMW, "ema_decay": 0.0}},
    "colours": {"train": {**ADAMW, "ema_decay": 0.0}},
    "colours+ema": {"train": ADAMW},
    "adamw, lr 0.01": {"train": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.05}},
    "muon": {"train": {"optimizer": "muon", "weight_decay": 0.01}},
    "muon, lr 0.002": {"train": {"optimizer": "muon", "lr": 0.002, "weight_decay": 0.01}},
    "muon, lr 0.01": {"train": {"optimizer": "muon", "lr": 0.01, "weight_decay": 0.01}},
    "muon, weight decay 0.1": {"train": {"optimizer": "muon", "weight_decay": 0.1}},
    "muon, weight decay 0.3": {"train": {"optimizer": "muon", "weight_decay": 0.3}},
    "muon, scale": {"augment": {"scale": (0.6, 1.6)}, "train": {"optimizer": "muon", "weight_decay": 0.01}},
}
"""What differs from the config, by section and field."""


@dataclass(frozen=True)
class Images:
    """A split in the device's memory.

    Attributes:
        pixels: (N, 3, H, W) uint8.
        targets: (N, H, W) uint8 train ids.
        names: N names.
    """

    pixels: Tensor
    targets: Tensor
    names: list[str]

    @classmethod
    def read(cls, dataset: SegmentationDataset, device: torch.device) -> "Images":
        """Reads all images of a split."""
        pairs = [dataset.read(index) for index in range(len(dataset))]
        pixels = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image, _ in pairs]).to(device)
        targets = torch.stack([torch.from_numpy(target) for _, target in pairs]).to(device)
        return cls(pixels, targets, [pair.name for pair in dataset.pairs])


def uniform(count: int, low: float, high: float, device: torch.device, channels: int = 1) -> Tensor:
    """(count, channels, 1, 1) uniform random numbers."""
    return torch.empty(count, channels, 1, 1, device=device).uniform_(low, high)


def augment(images: Tensor, targets: Tensor, config: AugmentConfig) -> tuple[Tensor, Tensor]:
    """Random crops (B, 3, h, w), 0 to 255, and their targets (B, h, w) uint8.

    Args:
        images: (B, 3, H, W) uint8.
        targets: (B, H, W) uint8 train ids.
        config: the strengths; rotation is left out.
    """
    count, _, full_height, full_width = images.shape
    (height, width), device = config.crop_size, images.device
    scale = torch.empty(count, device=device).uniform_(*config.scale)
    rows, columns = height / scale / full_height, width / scale / full_width  # the crop's share of the image
    y, x = ((2 * torch.rand(count, device=device) - 1) * (1 - share) for share in (rows, columns))
    flip = torch.where(torch.rand(count, device=device) < config.flip, -1.0, 1.0)
    zero = torch.zeros_like(x)
    crop_to_image = torch.stack([flip * columns, zero, x, zero, rows, y], 1).view(count, 2, 3)
    # Twice the resolution, then averaged: where the image shrinks, pixels are averaged rather than skipped
    fine = F.affine_grid(crop_to_image, [count, 1, 2 * height, 2 * width], align_corners=False)
    grid = F.affine_grid(crop_to_image, [count, 1, height, width], align_corners=False)
    fill = torch.tensor([124.0, 116.0, 104.0], device=device).view(1, 3, 1, 1)
    sampled = F.grid_sample(images.float() - fill, fine, align_corners=False)
    colours = _recolour((F.avg_pool2d(sampled, 2) + fill) / 255, config)
    stored = torch.where(targets == IGNORED, 0.0, targets.float() + 1)  # 0 is also what lies outside the image
    crop_targets = F.grid_sample(stored[:, None], grid, "nearest", align_corners=False)[:, 0].round() - 1
    return 255 * colours, torch.where(crop_targets < 0, float(IGNORED), crop_targets).to(torch.uint8)


def _recolour(pixels: Tensor, config: AugmentConfig) -> Tensor:
    count, device = len(pixels), pixels.device

    def factor(strength: float, channels: int = 1) -> Tensor:
        return uniform(count, 1 - strength, 1 + strength, device, channels)

    luma = torch.tensor([0.299, 0.587, 0.114], device=device).view(1, 3, 1, 1)
    pixels = pixels * factor(config.jitter)
    average = pixels.mean((1, 2, 3), keepdim=True)
    pixels = average + (pixels - average) * factor(config.jitter)
    grey = (pixels * luma).sum(1, keepdim=True)
    pixels = grey + (pixels - grey) * factor(config.saturation)
    pixels = (_turn_hue(pixels, config.hue) if config.hue else pixels) * factor(config.color_cast, 3)
    pixels = pixels.clamp(1e-4, 1) ** torch.exp(uniform(count, -config.gamma, config.gamma, device))
    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    changed = torch.rand(count, 1, 1, 1, device=device) < 0.5
    amount = torch.where(changed, uniform(count, -2 * config.jitter, 2 * config.jitter, device), 0.0)
    return (pixels + amount * (soft - pixels)).clamp(0, 1)  # sharper or softer


def _turn_hue(pixels: Tensor, share: float) -> Tensor:
    """Turns the chroma plane of YIQ by up to a share of half the circle."""
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    y, i, q = torch.einsum("kc,bchw->kbhw", to_yiq.to(pixels), pixels)
    angle = uniform(len(pixels), -share, share, pixels.device)[:, 0] * math.pi
    turned = torch.stack([y, i * angle.cos() - q * angle.sin(), i * angle.sin() + q * angle.cos()])
    return torch.einsum("ck,kbhw->bchw", to_yiq.inverse().to(pixels), turned)


class SlicedUpsample(nn.Module):
    """What `BilinearUpsample` computes before it is trained, of additions that torch.compile joins to one kernel.

    Args:
        untrained: all its kernels are the same multiple of the triangle that interpolates.
    """

    def __init__(self, untrained: BilinearUpsample):
        super().__init__()
        self.factor = untrained.stride[0]
        triangle = BilinearUpsample(1, self.factor).weight
        self.gain = float(untrained.weight.detach().max() / triangle.detach().max())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, factor * H, factor * W)."""
        large = enlarge(x, self.factor, repeat=False)
        return large if self.gain == 1 else self.gain * large


def enlarge(x: Tensor, factor: int, repeat: bool) -> Tensor:
    """Bilinear upsampling (align_corners=False) of (N, C, H, W); outside, the border repeats, or there is zero."""
    for dim in (2, 3):
        size = x.shape[dim]
        first, last = x.narrow(dim, 0, 1), x.narrow(dim, size - 1, 1)
        if not repeat:
            first, last = torch.zeros_like(first), torch.zeros_like(last)
        before = torch.cat([first, x.narrow(dim, 0, size - 1)], dim)
        after = torch.cat([x.narrow(dim, 1, size - 1), last], dim)
        offsets = [(phase + 0.5) / factor - 0.5 for phase in range(factor)]
        phases = [(1 - abs(offset)) * x + abs(offset) * (before if offset < 0 else after) for offset in offsets]
        x = torch.stack(phases, dim + 1).flatten(dim, dim + 1)
    return x


def loss_of(network: Any, pixels: Tensor, targets: Tensor, weights: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Weighted mean cross-entropy of (B, 3, h, w) float, 0 to 255, and (B, h, w) uint8; nothing waits for the GPU.

    The loss of auxiliary outputs is added by their weights.
    """
    inputs = normalize_(pixels, network.metadata.mean, network.metadata.std)
    with torch.autocast(pixels.device.type, dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=False):
        outputs = network.training_outputs(inputs)
    labels = targets.long()
    divisor = torch.where(targets != IGNORED, weights[labels.clamp(max=len(weights) - 1)], 0.0).sum().clamp(min=1)

    def loss(coarse: Tensor, stride: int) -> Tensor:
        logits = enlarge(coarse.to(pixels.dtype), stride, repeat=True)
        return F.cross_entropy(logits, labels, weights, ignore_index=IGNORED, reduction="none").sum() / divisor

    total = loss(outputs.logits, network.stride)
    for auxiliary in outputs.auxiliary:
        total = total + auxiliary.weight * loss(auxiliary.logits, auxiliary.stride)
    return total


class Trainee:
    """A network, its optimizer, and its training step as a CUDA graph.

    Args:
        config: how to train.
        dataset: of which the network learns the classes.
        seed: of weights and order.
        train: indices of the images to train on.
        steps: in all.
        device: to compute on.
        other: a network of segmentation_models_pytorch, ARCH:ENCODER, instead of the config's.
    """

    def __init__(
        self,
        config: Config,
        dataset: SegmentationDataset,
        seed: int,
        train: Tensor,
        steps: int,
        device: torch.device,
        other: str | None = None,
    ):
        torch.manual_seed(seed)
        self.config, self.images, self.order, self.device, self.number = config, train, train[:0], device, 0
        self.schedule = replace(config.train, epochs=steps)  # of one step each
        network: Any = Segmentation(config).make_model(dataset)
        if other is not None:
            network = smp_network(other, network.num_classes)
        self.network = network.to(device).to(memory_format=torch.channels_last).train()
        self.upsampling = [
            (module, name, child, SlicedUpsample(child))
            for module in list(network.modules())
            for name, child in list(module.named_children())
            if isinstance(child, BilinearUpsample)
        ]
        self.slice_upsampling(True)
        self.weights = torch.tensor(config.train.class_weights or [1.0] * network.num_classes, device=device)
        self.decay, self.loss = torch.zeros((), device=device), torch.zeros((), device=device)
        self.optimizer = make_optimizer(network, config.train, device)
        self.loss_of: Any = loss_of
        self.stream = self.graph = None
        state = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
        self.current, self.average = state, [tensor.clone() for tensor in state]
        shape = (config.train.batch_size, *config.augment.crop_size)
        self.pixels = torch.zeros(shape[0], 3, *shape[1:], device=device).to(memory_format=torch.channels_last)
        self.targets = torch.zeros(shape, dtype=torch.uint8, device=device)
        if device.type == "cuda":
            for group in self.optimizer.param_groups:
                group.update(lr=torch.zeros((), device=device), capturable=True)
            self.loss_of = COMPILED_LOSS
            self.stream = torch.cuda.Stream()
            self.graph = self._captured(self.stream)

    def slice_upsampling(self, sliced: bool) -> None:
        """Puts `SlicedUpsample` in the place of the network's own upsampling, or takes it away."""
        for module, name, child, replacement in self.upsampling:
            setattr(module, name, replacement if sliced else child)

    def _compute(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        dtype = reduced_precision(self.config.train.precision, self.device)
        loss = self.loss_of(self.network, self.pixels, self.targets, self.weights, dtype)
        loss.backward()
        self.optimizer.step()
        self.loss += loss.detach()
        torch._foreach_mul_(self.average, self.decay)
        torch._foreach_add_(self.average, torch._foreach_mul(self.current, 1 - self.decay))

    def _captured(self, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        state = [tensor.clone() for tensor in self.network.state_dict().values()]
        average = [tensor.clone() for tensor in self.average]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._compute()
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph, stream=stream):
            self._compute()
        with torch.no_grad():  # undo what the first steps did
            torch._foreach_copy_(list(self.network.state_dict().values()), state)
            torch._foreach_copy_(self.average, average)
            self.loss.zero_()
            for values in self.optimizer.state.values():
                torch._foreach_zero_(list(values.values()))
        torch.cuda.synchronize()
        return graph

    def next_indices(self) -> Tensor:
        """The next batch: every image once before any comes again."""
        size = self.config.train.batch_size
        while len(self.order) < size:
            shuffled = self.images[torch.randperm(len(self.images), device=self.device)]
            self.order = torch.cat([self.order, shuffled])
        batch, self.order = self.order[:size], self.order[size:]
        return batch

    def step(self, pixels: Tensor, targets: Tensor) -> None:
        """Takes the next step."""
        lr = learning_rate(self.schedule, self.number, 1)
        self.number += 1
        decay = min(self.config.train.ema_decay, self.number / (9 + self.number))
        if self.graph is None or self.stream is None:
            self.pixels, self.targets = pixels, targets
            for group in self.optimizer.param_groups:
                group["lr"] = lr * group["factor"]
            self.decay.fill_(decay)
            self._compute()
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            pixels.record_stream(self.stream)
            targets.record_stream(self.stream)
            for group in self.optimizer.param_groups:
                group["lr"].fill_(lr * group["factor"])
            self.decay.fill_(decay)
            self.pixels.copy_(pixels)
            self.targets.copy_(targets)
            self.graph.replay()

    @torch.no_grad()
    def miou(self, images: Images, indices: Tensor) -> float:
        """The averaged network's mIoU, 0 to 1, over the classes that occur, from one confusion matrix."""
        self.wait()
        kept = [tensor.clone() for tensor in self.current]
        torch._foreach_copy_(self.current, self.average)
        self.slice_upsampling(False)
        self.network.eval()
        classes = len(self.weights)
        matrix = torch.zeros(classes**2, dtype=torch.int64, device=self.device)
        for batch in indices.split(8):
            labels = images.targets[batch]
            inputs = normalize(images.pixels[batch], self.network.metadata.mean, self.network.metadata.std)
            coarse = self.network.coarse_logits(inputs.to(memory_format=torch.channels_last))
            found = argmax_logits(coarse, self.network.stride, *labels.shape[1:])
            scored = labels != IGNORED
            matrix += torch.bincount(labels[scored].long() * classes + found[scored].long(), minlength=classes**2)
        self.network.train()
        self.slice_upsampling(True)
        torch._foreach_copy_(self.current, kept)
        counts = matrix.view(classes, classes).double()
        overlap, truth = counts.diag(), counts.sum(1)
        iou = overlap / (truth + counts.sum(0) - overlap).clamp(min=1)
        return float(iou[truth > 0].mean())

    def wait(self) -> None:
        """Waits until the steps are done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def save(self, path: Path) -> None:
        """Writes the averaged network as a weights file; no more steps after it."""
        self.wait()
        torch._foreach_copy_(self.current, self.average)
        self.slice_upsampling(False)
        save_model(self.network.cpu(), path)


COMPILED_LOSS = torch.compile(loss_of, dynamic=False)


def checked_config(path: Path, root: str) -> Config:
    """The config, if this script can follow it."""
    config = read_config(path)
    if not isinstance(config, Config):
        raise SystemExit(f"{path}: the config of a classifier")
    losses = [(loss.name, loss.weight, loss.label_smoothing) for loss in config.train.losses]
    other_losses = losses != [("cross_entropy", 1.0, 0.0)] or config.train.auxiliary_losses is not None
    if other_losses or isinstance(config.train.class_weights, str):
        raise SystemExit(f"{path}: cross-entropy with numbers as class weights is what is supported")
    if config.augment.rotation or config.data.class_uniform:
        raise SystemExit(f"{path}: augment.rotation and data.class_uniform are not supported: use 0")
    for name, supported in (("freeze", "nothing"), ("clip_grad_norm", None), ("patience", None)):
        if getattr(config.train, name) != supported:
            raise SystemExit(f"{path}: train.{name} is not supported: leave it out")
    if config.train.schedule == "step":
        raise SystemExit(f"{path}: train.schedule step is not supported: use poly or cosine")
    return replace(config, data=replace(config.data, root=root))


def train(options: argparse.Namespace, device: torch.device) -> None:
    """Trains one network and writes a run folder: config, environment, log, names, weights of the last epoch."""
    config = checked_config(options.config, options.root)
    if options.epochs is not None:
        config = replace(config, train=replace(config.train, epochs=options.epochs))
    train_split, val_split = Segmentation(config).open_splits()
    training, validation = Images.read(train_split, device), Images.read(val_split, device)
    output: Path = options.output
    output.mkdir(parents=True)
    write_text(output / CONFIG, to_yaml(config))
    command = ["python", "benchmarks/gpu_training.py", *options.arguments]
    write_json(output / ENVIRONMENT, environment() | {"command": command})
    write_text(output / TRAIN_NAMES, "".join(f"{name}\n" for name in training.names))
    write_text(output / VAL_NAMES, "".join(f"{name}\n" for name in validation.names))
    batches = len(train_split) // config.train.batch_size
    everything = torch.arange(len(train_split), device=device)
    trainee = Trainee(config, train_split, config.train.seed, everything, config.train.epochs * batches, device)
    torch.manual_seed(config.train.seed)
    start, rows = time.monotonic(), []
    for epoch in range(1, config.train.epochs + 1):
        for _ in range(batches):
            indices = trainee.next_indices()
            trainee.step(*augment(training.pixels[indices], training.targets[indices], config.augment))
        trainee.wait()
        scored = epoch % config.train.eval_every == 0 or epoch == config.train.epochs
        row: dict[str, Any] = {"epoch": epoch, "step": trainee.number, "loss": float(trainee.loss) / batches}
        row["lr"] = learning_rate(trainee.schedule, trainee.number - 1, 1)
        if scored:
            row["miou"] = trainee.miou(validation, torch.arange(len(val_split), device=device))
            print(json.dumps(row | {"seconds": round(time.monotonic() - start)}), flush=True)
        rows.append(row)
        trainee.loss.zero_()
    write_text(output / LOG, "".join(f"{json.dumps(row)}\n" for row in rows))
    trainee.save(output / BEST_WEIGHTS)


def compare(options: argparse.Namespace, device: torch.device) -> None:
    """Trains and scores each recipe on the held-out drives."""
    base = checked_config(options.config, options.root)
    dataset = open_dataset("camvid", options.root, "train")
    images = Images.read(dataset, device)
    drives = {
        drive: torch.tensor([name.startswith(drive) for name in images.names], device=device).nonzero().flatten()
        for drive in DRIVES
    }
    for name in options.recipes:
        sections = {section: replace(getattr(base, section), **fields) for section, fields in RECIPES[name].items()}
        config, trainees = replace(base, **sections), []
        for drive in DRIVES:
            others = torch.cat([indices for other, indices in drives.items() if other != drive])
            trainees += [(drive, Trainee(config, dataset, seed, others, options.steps, device, options.network))
                         for seed in options.seeds]  # fmt: skip
        for _ in range(options.steps):
            batches = torch.cat([trainee.next_indices() for _, trainee in trainees])
            crops, targets = augment(images.pixels[batches], images.targets[batches], config.augment)
            size = config.train.batch_size
            for (_, trainee), *batch in zip(trainees, crops.split(size), targets.split(size), strict=True):
                trainee.step(*batch)
        scores: dict[str, list[float]] = {drive: [] for drive in DRIVES}
        for drive, trainee in trainees:
            scores[drive].append(100 * trainee.miou(images, drives[drive]))
        means = {drive: round(mean(values), 2) for drive, values in scores.items()}
        print(json.dumps({"recipe": name, **means, "mean": round(mean(means.values()), 2)}), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for function in (train, compare):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.add_argument("--config", type=Path, required=True)
        command.add_argument("--root", required=True, help="of the data set, as for `dlaseg train`")
        command.set_defaults(run=function)
        if function is train:
            command.add_argument("--output", type=Path, required=True, help="a new run folder")
            command.add_argument("--epochs", type=int, help="instead of the config's")
        else:
            command.add_argument("--steps", type=int, default=5900)
            command.add_argument("--network", metavar="ARCH:ENCODER", help="of segmentation_models_pytorch")
            command.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
            command.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    options = parser.parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch._dynamo.config.recompile_limit = 64  # a recipe's shapes and precisions, each once
    with reproducible(options.run is train and read_config(options.config).train.deterministic):
        options.run(options, device)


if __name__ == "__main__":
    main()
