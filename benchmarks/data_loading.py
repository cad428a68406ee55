"""Speed of data loading: images per second of loading processes, compared with plain OpenCV and albumentations.

The images are drawn scenes of 1024 x 2048, smoothed until their PNGs are as large as those of photographs (2.3 MB by
Pillow, 3.1 MB by OpenCV, which filters all rows in one way); the label maps hold Cityscapes ids. The augmentation is
the paper's: scale 0.5 to 2, rotation 10 degrees, jitter 0.4, flip, crop 832 x 832.

plain: OpenCV and Pillow decode, NumPy maps the ids, albumentations scales the whole image, then crops and rotates
ours:  what `dlaseg train` does

Both use the same loader and are measured in turns. The files are in the system's cache: the disk is not measured.

    python benchmarks/data_loading.py [--writer pillow] [--images 64] [--rounds 7] [--workers 2] [--folder DIR]
"""

import argparse
import dataclasses
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from dlaseg.config.segmentation import AugmentConfig
from dlaseg.data.datasets import open_dataset
from dlaseg.data.loading import EpochBatches, batches, train_loader
from dlaseg.data.pairs import Pair, SegmentationDataset
from dlaseg.data.transforms import Augmentation
from dlaseg.synthetic.dataset import synthesize

FILL = (124, 116, 104)
RECIPE = AugmentConfig()


def write_scenes(folder: Path, scenes: int, writer: str) -> None:
    """Draws the scenes, smooths them and writes them again."""
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
    """A split that is read by OpenCV and Pillow."""

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
    """Reads an image by OpenCV."""
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)


def plain_labels(path: Path) -> NDArray[np.uint8]:
    """Reads a label map by Pillow, with its checksums."""
    with Image.open(path) as picture:
        picture.verify()
    with Image.open(path) as picture:
        return np.asarray(picture)


class PlainAugmentation:
    """Scales the whole image, crops with a margin, rotates, and removes the margin."""

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
        """Augments one sample."""
        self.compose.set_random_seed(seed[-1])
        result = self.compose(image=image, mask=target)
        return result["image"], result["mask"]


def pass_over(loader: DataLoader[Any], sampler: EpochBatches, epoch: int) -> float:
    """Images per second of one epoch."""
    sampler.epoch = epoch
    images = 0
    start = time.perf_counter()
    for batch, _ in batches(loader):
        images += len(batch)
    return images / (time.perf_counter() - start)


def main() -> None:
    """Prints every round and the medians."""
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
        write_scenes(folder, options.scenes, options.writer)
    opened = open_dataset("cityscapes", folder, "train")
    for pair in opened.pairs:
        print(f"{pair.image.stat().st_size / 1e6:.2f} MB, labels {pair.label.stat().st_size / 1e3:.0f} kB")
    pairs = (opened.pairs * options.images)[: options.images]
    ours = dataclasses.replace(opened, pairs=pairs)
    plain = PlainDataset(opened.name, opened.split, pairs, opened.label_map)
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
