"""Recipes for CamVid on drives that were held out: each network trains on two drives and is scored on the third.

All networks of a recipe (drives x seeds) train side by side on one GPU, each step as one CUDA graph, and the images are
augmented on the GPU. So the random numbers are not those of `dlaseg train`; the distributions are, but for the order of
the colour changes, and the decoder's upsampling stays bilinear. It runs on a CPU, too, for a few steps.

    python benchmarks/held_out_drives.py --root DIR [--steps 5900] [--seeds 0 1] [--recipes base colours ...]

Prints a line of JSON per recipe: mIoU of each drive, mean over the seeds; and the mean over the drives.
"""

import argparse
import json
import math
from dataclasses import dataclass, replace
from statistics import mean

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dlaseg
from dlaseg.data.datasets import open_dataset
from dlaseg.data.tensors import normalize
from dlaseg.models.base import argmax_logits, upsample_logits
from dlaseg.models.ida import BilinearUpsample

DRIVES = ("0001TP", "0006R0", "0016E5")
CLASS_WEIGHTS = (0.59, 0.49, 1.34, 0.4, 1.03, 0.77, 1.32, 1.32, 0.95, 1.38, 1.42)
IGNORED = 255


@dataclass(frozen=True)
class Recipe:
    """What is varied; names and units of a config's fields, `lovasz` the weight of that loss beside cross-entropy."""

    scale: tuple[float, float] = (0.75, 1.25)
    crop_size: tuple[int, int] = (256, 352)
    jitter: float = 0.3
    saturation: float = 0.0
    hue: float = 0.0
    gamma: float = 0.0
    color_cast: float = 0.0
    batch_size: int = 4
    lr: float = 0.005
    weight_decay: float = 0.01
    warmup_steps: int = 50
    poly_power: float = 0.9
    ema_decay: float = 0.0
    lovasz: float = 0.0


BASE = Recipe()
COLOURS = Recipe(jitter=0.5, saturation=0.4, hue=0.03, gamma=0.4, color_cast=0.15)
AVERAGED = replace(COLOURS, ema_decay=0.998)
RECIPES = {
    "base": BASE,
    "colours": COLOURS,
    "scale": replace(BASE, scale=(0.5, 2.0)),
    "colours+ema": AVERAGED,
    "colours+ema+lovasz": replace(AVERAGED, lovasz=1.0),
}


def uniform(count: int, low: float, high: float, device: torch.device, channels: int = 1) -> Tensor:
    """(count, channels, 1, 1) uniform random numbers."""
    return torch.empty(count, channels, 1, 1, device=device).uniform_(low, high)


def augment(images: Tensor, targets: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Random crops (B, 3, h, w), 0 to 255, and their targets (B, h, w) uint8.

    Args:
        images: (B, 3, H, W) uint8.
        targets: (B, H, W) uint8 train ids.
        recipe: the strengths.
    """
    count, _, full_height, full_width = images.shape
    (height, width), device = recipe.crop_size, images.device
    scale = torch.empty(count, device=device).uniform_(*recipe.scale)
    rows, columns = height / scale / full_height, width / scale / full_width  # the crop's share of the image
    y, x = ((2 * torch.rand(count, device=device) - 1) * (1 - share) for share in (rows, columns))
    flip = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(x)
    crop_to_image = torch.stack([flip * columns, zero, x, zero, rows, y], 1).view(count, 2, 3)
    # Twice the resolution, then averaged: where the image shrinks, pixels are averaged rather than skipped
    fine = F.affine_grid(crop_to_image, [count, 1, 2 * height, 2 * width], align_corners=False)
    grid = F.affine_grid(crop_to_image, [count, 1, height, width], align_corners=False)
    fill = torch.tensor([124.0, 116.0, 104.0], device=device).view(1, 3, 1, 1)
    sampled = F.grid_sample(images.float() - fill, fine, align_corners=False)
    colours = _recolour((F.avg_pool2d(sampled, 2) + fill) / 255, recipe)
    stored = torch.where(targets == IGNORED, 0.0, targets.float() + 1)  # 0 is also what lies outside the image
    crop_targets = F.grid_sample(stored[:, None], grid, "nearest", align_corners=False)[:, 0].round() - 1
    return 255 * colours, torch.where(crop_targets < 0, float(IGNORED), crop_targets).to(torch.uint8)


def _recolour(pixels: Tensor, recipe: Recipe) -> Tensor:
    count, device = len(pixels), pixels.device

    def factor(strength: float, channels: int = 1) -> Tensor:
        return uniform(count, 1 - strength, 1 + strength, device, channels)

    luma = torch.tensor([0.299, 0.587, 0.114], device=device).view(1, 3, 1, 1)
    pixels = pixels * factor(recipe.jitter)
    average = pixels.mean((1, 2, 3), keepdim=True)
    pixels = average + (pixels - average) * factor(recipe.jitter)
    grey = (pixels * luma).sum(1, keepdim=True)
    pixels = grey + (pixels - grey) * factor(recipe.saturation)
    pixels = (_turn_hue(pixels, recipe.hue) if recipe.hue else pixels) * factor(recipe.color_cast, 3)
    pixels = pixels.clamp(1e-4, 1) ** torch.exp(uniform(count, -recipe.gamma, recipe.gamma, device))
    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    changed = torch.rand(count, 1, 1, 1, device=device) < 0.5
    amount = torch.where(changed, uniform(count, -2 * recipe.jitter, 2 * recipe.jitter, device), 0.0)
    return (pixels + amount * (soft - pixels)).clamp(0, 1)  # sharper or softer


def _turn_hue(pixels: Tensor, share: float) -> Tensor:
    """Turns the chroma plane of YIQ by up to a share of half the circle."""
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    y, i, q = torch.einsum("kc,bchw->kbhw", to_yiq.to(pixels), pixels)
    angle = uniform(len(pixels), -share, share, pixels.device)[:, 0] * math.pi
    turned = torch.stack([y, i * angle.cos() - q * angle.sin(), i * angle.sin() + q * angle.cos()])
    return torch.einsum("ck,kbhw->bchw", to_yiq.inverse().to(pixels), turned)


def loss_of(logits: Tensor, targets: Tensor, weights: Tensor, lovasz: float) -> Tensor:
    """Weighted mean cross-entropy, and the Lovász-softmax of the batch; no operation waits for the GPU."""
    scored = targets != IGNORED
    labels = targets.long()
    divisor = torch.where(scored, weights[labels.clamp(max=len(weights) - 1)], 0.0).sum().clamp(min=1)
    loss = F.cross_entropy(logits, labels, weights, ignore_index=IGNORED, reduction="none").sum() / divisor
    if not lovasz:
        return loss
    terms, present = [], []
    for label, probability in enumerate(logits.softmax(1).transpose(0, 1).flatten(1)):
        truth = (labels == label).flatten()
        errors = torch.where(scored.flatten(), (truth.float() - probability).abs(), 0.0)
        errors, order = errors.sort(descending=True)
        sorted_truth, counted = truth[order].float(), scored.flatten()[order].float()
        size = sorted_truth.sum()
        jaccard = 1 - (size - sorted_truth.cumsum(0)) / (size + (counted - sorted_truth).cumsum(0)).clamp(min=1)
        increments = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
        present.append((size > 0).float())
        terms.append(present[-1] * (errors * increments * counted).sum())
    return loss + lovasz * torch.stack(terms).sum() / torch.stack(present).sum().clamp(min=1)


class Trainee:
    """A network, its optimizer, and its training step as a CUDA graph.

    Args:
        recipe: how to train.
        seed: of weights and order.
        train: indices of the images to train on.
        device: to compute on.
    """

    def __init__(self, recipe: Recipe, seed: int, train: Tensor, device: torch.device):
        torch.manual_seed(seed)
        self.recipe, self.train, self.device, self.order = recipe, train, device, train[:0]
        network = dlaseg.create_model("dla46_c", num_classes=len(CLASS_WEIGHTS), stride=4, root_kernel_size=1)
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, BilinearUpsample):  # slow to train on a GPU
                    setattr(module, name, nn.Upsample(scale_factor=child.stride[0], mode="bilinear"))
        self.network = network.to(device).to(memory_format=torch.channels_last).train()
        self.weights = torch.tensor(CLASS_WEIGHTS, device=device)
        self.lr, self.decay = torch.zeros((), device=device), torch.zeros((), device=device)
        on_gpu = device.type == "cuda"
        parameters, decay = self.network.parameters(), recipe.weight_decay
        self.optimizer = torch.optim.AdamW(parameters, self.lr if on_gpu else 0.0, weight_decay=decay, fused=True)
        for group in self.optimizer.param_groups:
            group["capturable"] = on_gpu
        self.current = [tensor for tensor in self.network.state_dict().values() if tensor.is_floating_point()]
        self.average = [tensor.clone() for tensor in self.current]
        shape = (recipe.batch_size, *recipe.crop_size)
        self.images = torch.zeros(shape[0], 3, *shape[1:], device=device).to(memory_format=torch.channels_last)
        self.targets = torch.zeros(shape, dtype=torch.uint8, device=device)
        self.stream = torch.cuda.Stream() if on_gpu else None
        self.graph = self._captured() if on_gpu else None

    def _compute(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        coarse = self.network.coarse_logits(normalize(self.images, *self._mean_and_std()))
        logits = upsample_logits(coarse.float(), self.network.stride, *self.targets.shape[1:])
        loss_of(logits, self.targets, self.weights, self.recipe.lovasz).backward()
        self.optimizer.step()
        if self.recipe.ema_decay:
            torch._foreach_mul_(self.average, self.decay)
            torch._foreach_add_(self.average, torch._foreach_mul(self.current, 1 - self.decay))

    def _mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.network.metadata.mean, self.network.metadata.std

    def _captured(self) -> torch.cuda.CUDAGraph:
        state = [tensor.clone() for tensor in self.network.state_dict().values()]
        average = [tensor.clone() for tensor in self.average]
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(3):
                self._compute()
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph, stream=self.stream):
            self._compute()
        with torch.no_grad():  # undo what the first steps did
            torch._foreach_copy_(list(self.network.state_dict().values()), state)
            torch._foreach_copy_(self.average, average)
            for values in self.optimizer.state.values():
                torch._foreach_zero_(list(values.values()))
        torch.cuda.synchronize()
        return graph

    def next_indices(self) -> Tensor:
        """The next batch: every image once before any comes again."""
        size = self.recipe.batch_size
        if len(self.order) < size:
            shuffled = self.train[torch.randperm(len(self.train), device=self.device)]
            self.order = torch.cat([self.order, shuffled])
        batch, self.order = self.order[:size], self.order[size:]
        return batch

    def step(self, images: Tensor, targets: Tensor, number: int, total: int) -> None:
        """Takes step `number` of `total`."""
        recipe = self.recipe
        warmup = min(1, (number + 1) / recipe.warmup_steps)
        lr = recipe.lr * (1 - number / total) ** recipe.poly_power * warmup
        self.decay.fill_(min(recipe.ema_decay, (1 + number) / (10 + number)))
        if self.graph is None:
            self.images, self.targets = images, targets
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self._compute()
            return
        self.lr.fill_(lr)
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            images.record_stream(self.stream)
            targets.record_stream(self.stream)
            self.images.copy_(images)
            self.targets.copy_(targets)
            self.graph.replay()

    @torch.no_grad()
    def miou(self, images: Tensor, targets: Tensor) -> float:
        """The mIoU, 0 to 100, over the classes that occur, from one confusion matrix."""
        if self.recipe.ema_decay:
            torch._foreach_copy_(self.current, self.average)
        self.network.eval()
        classes = len(CLASS_WEIGHTS)
        matrix = torch.zeros(classes**2, dtype=torch.int64, device=self.device)
        for pixels, labels in zip(images.split(8), targets.split(8), strict=True):
            inputs = normalize(pixels.float(), *self._mean_and_std()).to(memory_format=torch.channels_last)
            coarse = self.network.coarse_logits(inputs)
            found = argmax_logits(coarse, self.network.stride, *labels.shape[1:])
            scored = labels != IGNORED
            matrix += torch.bincount(labels[scored].long() * classes + found[scored].long(), minlength=classes**2)
        matrix = matrix.view(classes, classes).double()
        overlap, truth = matrix.diag(), matrix.sum(1)
        iou = overlap / (truth + matrix.sum(0) - overlap).clamp(min=1)
        return 100 * float(iou[truth > 0].mean())


def main() -> None:
    """Trains and scores each recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="CamVid, as for `dlaseg train`")
    parser.add_argument("--steps", type=int, default=5900)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    dataset = open_dataset("camvid", options.root, "train")
    pairs = [dataset.read(index) for index in range(len(dataset))]
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image, _ in pairs]).to(device)
    targets = torch.stack([torch.from_numpy(target) for _, target in pairs]).to(device)
    names = [pair.name for pair in dataset.pairs]
    drives = {
        drive: torch.tensor([name.startswith(drive) for name in names], device=device).nonzero().flatten()
        for drive in DRIVES
    }
    for name in options.recipes:
        recipe, trainees = RECIPES[name], []
        for drive in DRIVES:
            others = torch.cat([indices for other, indices in drives.items() if other != drive])
            trainees += [(drive, Trainee(recipe, seed, others, device)) for seed in options.seeds]
        for number in range(options.steps):
            batches = torch.cat([trainee.next_indices() for _, trainee in trainees])
            crops, crop_targets = augment(images[batches], targets[batches], recipe)
            size = recipe.batch_size
            split = zip(trainees, crops.split(size), crop_targets.split(size), strict=True)
            for (_, trainee), crop, crop_target in split:
                trainee.step(crop, crop_target, number, options.steps)
        if device.type == "cuda":
            torch.cuda.synchronize()
        scores: dict[str, list[float]] = {drive: [] for drive in DRIVES}
        for drive, trainee in trainees:
            scores[drive].append(trainee.miou(images[drives[drive]], targets[drives[drive]]))
        means = {drive: round(mean(values), 2) for drive, values in scores.items()}
        print(json.dumps({"recipe": name, **means, "mean": round(mean(means.values()), 2)}), flush=True)


if __name__ == "__main__":
    main()
