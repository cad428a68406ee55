"""Training data alone: images per second of two loading processes, and where the time goes, against the plain way.

Scenes are drawn at 1024 x 2048 and smoothed until their PNGs are as large as photographs' (2.3 MB by Pillow, 3.1 MB by
OpenCV, whose rows are filtered in one way only); the label maps hold Cityscapes' ids. What is done to them is the
paper's recipe: scale 0.5 to 2, rotation 10 degrees, jitter 0.4, flip, crop 832 x 832.

Plain: OpenCV and Pillow decode, NumPy looks the ids up, albumentations scales the whole image, then crops and turns.
Ours: what `dlaseg train` does. Both go through the same loader and take turns. The files are in the system's cache, so
that the disk is not measured.

    python benchmarks/data_loading.py [--writer pillow] [--images 64] [--rounds 7] [--workers 2] [--folder DIR]
"""

import argparse
import dataclasses
import math
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from dlaseg.config import AugmentConfig
from dlaseg.data.datasets import open_dataset
from dlaseg.data.loading import EpochBatches, batches, train_loader
from dlaseg.data.pairs import Pair, SegmentationDataset
from dlaseg.data.tensors import to_tensor
from dlaseg.data.transforms import Augmentation
from dlaseg.images import read_image, read_label_image
from dlaseg.synthetic.dataset import synthesize

FILL = (124, 116, 104)
RECIPE = AugmentConfig()


def make(folder: Path, scenes: int, writer: str) -> None:
    """Draws the scenes and writes them again, smoothed."""
    synthesize(folder, {"train": scenes}, 1024, 2048, 0)
    for path in folder.rglob("*.png"):
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if pixels.ndim == 3:
            pixels = cv2.GaussianBlur(pixels, (0, 0), 0.4)
        if writer == "opencv":
            cv2.imwrite(str(path), pixels)
        else:
            Image.fromarray(pixels if pixels.ndim == 2 else pixels[..., ::-1]).save(path)


class PlainDataset(SegmentationDataset):
    """Read the plain way."""

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image and train ids."""
        pair = self.pairs[index]
        return plain_image(pair.image), self.encode(plain_labels(pair.label), pair)

    def encode(self, labels: NDArray[np.integer], pair: Pair) -> NDArray[np.uint8]:
        """Train ids."""
        table = np.full(256, -1, np.int16)
        table[list(self.label_map.ignored)] = 255
        for train_id, ids in enumerate(self.label_map.ids):
            table[list(ids)] = train_id
        encoded = table[labels]
        if encoded.min() < 0:
            raise ValueError(f"{pair.label}: an unknown id")
        return encoded.astype(np.uint8)


def plain_image(path: Path) -> NDArray[np.uint8]:
    """By OpenCV."""
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)


def plain_labels(path: Path) -> NDArray[np.uint8]:
    """By Pillow, checksums and all."""
    with Image.open(path) as picture:
        picture.verify()
    with Image.open(path) as picture:
        return np.asarray(picture)


class PlainAugmentation:
    """The whole image is scaled; a crop with a margin is turned and the margin cut away."""

    def __init__(self) -> None:
        height, width = RECIPE.crop_size
        angle = math.radians(RECIPE.rotation)
        above, beside = (
            math.ceil(side * math.cos(angle) + other * math.sin(angle))
            for side, other in ((height, width), (width, height))
        )
        outside = {"border_mode": cv2.BORDER_CONSTANT, "fill": FILL, "fill_mask": 255}
        low, high = (bound - 1 for bound in RECIPE.scale)
        resize = {"mask_interpolation": cv2.INTER_NEAREST_EXACT, "area_for_downscale": "image"}
        factors = (1 - RECIPE.jitter, 1 + RECIPE.jitter)
        sharper, blurrier = (RECIPE.jitter / 2, RECIPE.jitter), (0.1, 2 * RECIPE.jitter + 0.1)
        self.compose = A.Compose(
            [
                A.RandomScale((low, high), p=1, **resize),
                A.RandomCrop(above, beside, pad_if_needed=True, pad_position="random", **outside),
                A.Rotate(RECIPE.rotation, mask_interpolation=cv2.INTER_NEAREST, p=1, **outside),
                A.CenterCrop(height, width),
                A.ColorJitter(factors, factors, saturation=(1, 1), hue=(0, 0), p=1),
                A.OneOf([A.Sharpen(sharper, lightness=(1, 1)), A.GaussianBlur(sigma_limit=blurrier)], p=0.5),
                A.HorizontalFlip(p=RECIPE.flip),
            ]
        )

    def __call__(self, image: NDArray[np.uint8], target: Any, seed: Sequence[int]) -> tuple[NDArray[np.uint8], Any]:
        """One sample."""
        self.compose.set_random_seed(seed[-1])
        result = self.compose(image=image, mask=target)
        return result["image"], result["mask"]


STAGES = {
    "RandomScale": "scale, crop, rotate",
    "RandomCrop": "scale, crop, rotate",
    "Rotate": "scale, crop, rotate",
    "CenterCrop": "scale, crop, rotate",
    "ColorJitter": "brightness, contrast",
    "OneOf": "sharpness",
    "HorizontalFlip": "flip",
}


def print_stages(plain: PlainDataset, ours: SegmentationDataset, samples: int, batch: int) -> None:
    """Prints what each stage of a sample takes on one core."""
    seconds: dict[str, dict[str, float]] = defaultdict(lambda: {"plain": 0.0, "ours": 0.0})

    def timed(stage: str, kind: str, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        start = time.thread_time()
        result = call(*arguments, **named)
        seconds[stage][kind] += time.thread_time() - start
        return result

    theirs, augmentation = PlainAugmentation(), Augmentation(RECIPE, FILL)
    crops: dict[str, list[torch.Tensor]] = {"plain": [], "ours": []}
    for index in range(-2, samples):
        if index == 0:  # the first ones warm up
            seconds.clear()
        pair = ours.pairs[index]
        rng = np.random.default_rng(index + 2)
        for kind, dataset, read, read_labels in (
            ("plain", plain, plain_image, plain_labels),
            ("ours", ours, read_image, read_label_image),
        ):
            timed(
                "(of both below: reading the file)",
                kind,
                lambda pair=pair: (pair.image.read_bytes(), pair.label.read_bytes()),
            )
            image = timed("decode the image", kind, read, pair.image)
            labels = timed("decode the label map", kind, read_labels, pair.label)
            target = timed("ids to train ids", kind, dataset.encode, labels, pair)
            if kind == "ours":
                image, target = timed("scale, crop, rotate", kind, augmentation._place, image, target, rng)
            compose = theirs.compose if kind == "plain" else augmentation._compose
            sample = {"image": image, "mask": target}
            for transform in compose.transforms:
                transform.set_random_seed(index + 2)
                sample = timed(STAGES[type(transform).__name__], kind, transform, **sample)
            crops[kind] = [to_tensor(sample["image"]), *crops[kind][: batch - 1]]
            timed("collate", kind, torch.stack, crops[kind])
    print(f"{'milliseconds on one core, mean of ' + str(samples):<40} {'plain':>7} {'ours':>7}")
    total = {"plain": 0.0, "ours": 0.0}
    for stage, took in seconds.items():
        share = batch if stage == "collate" else 1
        each = {kind: took[kind] / samples / share * 1e3 for kind in total}
        print(f"{stage:<40} {each['plain']:7.2f} {each['ours']:7.2f}")
        if not stage.startswith("("):
            total = {kind: total[kind] + each[kind] for kind in total}
    print(f"{'sum':<40} {total['plain']:7.2f} {total['ours']:7.2f}")


def pass_over(loader: DataLoader[Any], sampler: EpochBatches, epoch: int) -> float:
    """Images per second of one epoch."""
    sampler.epoch = epoch
    images = 0
    start = time.perf_counter()
    for batch, _ in batches(loader):
        images += len(batch)
    return images / (time.perf_counter() - start)


def main() -> None:
    """Prints the stages, every round, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writer", choices=("pillow", "opencv"), default="pillow")
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--images", type=int, default=64, help="in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="of the scenes, which are drawn where it is missing, and kept")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="loading-"))
    if not (folder / "leftImg8bit").exists():
        make(folder, options.scenes, options.writer)
    opened = open_dataset("cityscapes", folder, "train")
    for pair in opened.pairs:
        print(f"{pair.image.stat().st_size / 1e6:.2f} MB, labels {pair.label.stat().st_size / 1e3:.0f} kB")
    pairs = (opened.pairs * options.images)[: options.images]
    ours = dataclasses.replace(opened, pairs=pairs)
    plain = PlainDataset(opened.name, opened.split, pairs, opened.label_map)
    threads = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(0)  # as in a loading process
    torch.set_num_threads(1)
    print_stages(plain, ours, options.images, options.batch)
    cv2.setNumThreads(threads[0])
    torch.set_num_threads(threads[1])
    loaders = {
        "plain": train_loader(plain, PlainAugmentation(), options.batch, seed=0, workers=options.workers),
        "ours": train_loader(ours, Augmentation(RECIPE, FILL), options.batch, seed=0, workers=options.workers),
    }
    rates: dict[str, list[float]] = {"plain": [], "ours": []}
    for turn in range(-1, options.rounds):  # one round to warm up
        for kind, (loader, sampler) in loaders.items():
            rate = pass_over(loader, sampler, turn + 1)
            print(f"round {turn:>2}  {kind:<5}  {rate:6.1f} images per second", flush=True)
            if turn >= 0:
                rates[kind].append(rate)
    median = {kind: statistics.median(values) for kind, values in rates.items()}
    print(f"median of {options.workers} workers: plain {median['plain']:.1f} images per second, "
          f"ours {median['ours']:.1f}: {median['ours'] / median['plain']:.2f} times as fast")  # fmt: skip
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
