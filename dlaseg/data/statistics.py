"""Statistics of a data set: images, sizes, and pixels of each class."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from dlaseg.data.pairs import SegmentationDataset
from dlaseg.images import read_label_image
from dlaseg.labels import IGNORE_INDEX
from dlaseg.terminal import escaped


@dataclass(frozen=True)
class SplitStatistics:
    """Statistics of the label maps of one split.

    Attributes:
        split: name of the split.
        groups: number of images in each folder (in Cityscapes, each city), by name.
        sizes: number of images of each (height, width).
        pixels: pixels of each class, in the label map's order.
        images: number of images that contain each class.
        image_pixels: for each class, all pixels that are not ignored in the images that contain the class.
        ignored: ignored pixels.
    """

    split: str
    groups: dict[str, int]
    sizes: dict[tuple[int, int], int]
    pixels: tuple[int, ...]
    images: tuple[int, ...]
    image_pixels: tuple[int, ...]
    ignored: int


def statistics(dataset: SegmentationDataset) -> SplitStatistics:
    """Reads every label map of a split.

    Raises:
        UserError: an image without a label map, a broken file, or a label outside the label map; names the file.
    """
    dataset.require_labels()
    classes = dataset.label_map.num_classes
    pixels, images, image_pixels = (np.zeros(256, np.int64) for _ in range(3))
    groups = Counter(pair.name.rpartition("/")[0] or "." for pair in dataset.pairs)
    sizes: Counter[tuple[int, int]] = Counter()
    for index, pair in enumerate(tqdm(dataset.pairs, desc=dataset.split, unit="img", leave=False, disable=None)):
        train_ids = dataset.encode(read_label_image(dataset.label_file(index)), pair)
        counts = np.bincount(train_ids.ravel(), minlength=256)
        pixels += counts
        images += counts > 0
        image_pixels += (counts > 0) * (train_ids.size - counts[IGNORE_INDEX])
        sizes[train_ids.shape[0], train_ids.shape[1]] += 1
    return SplitStatistics(
        dataset.split,
        dict(sorted(groups.items())),
        dict(sizes.most_common()),
        tuple(pixels[:classes].tolist()),
        tuple(images[:classes].tolist()),
        tuple(image_pixels[:classes].tolist()),
        int(pixels[IGNORE_INDEX]),
    )


def statistics_table(names: Sequence[str], splits: Sequence[SplitStatistics]) -> str:
    """The splits side by side: number of images, and pixels and images of each class; then sizes and folders of each.

    Args:
        names: names of the classes.
        splits: statistics of data with these classes.
    """
    names = list(map(escaped, names))
    width = max(map(len, (*names, "ignored")))
    lines = [f"{'':<{width}}" + "".join(f"  {split.split:>20}" for split in splits)]
    lines.append(f"{'images':<{width}}" + "".join(f"  {sum(split.groups.values()):>20}" for split in splits))
    lines += ["", f"{'class':<{width}}" + "".join(f"  {'pixels':>9}  {'images':>9}" for _ in splits)]
    for i, name in enumerate(names):
        cells = (f"  {_percent(split.pixels[i], sum(split.pixels)):>9}  {split.images[i]:>9}" for split in splits)
        lines.append(f"{name:<{width}}" + "".join(cells))
    ignored = (f"  {_percent(split.ignored, split.ignored + sum(split.pixels)):>9}  {'':>9}" for split in splits)
    lines.append((f"{'ignored':<{width}}" + "".join(ignored)).rstrip())
    for split in splits:
        sizes = ", ".join(f"{height} x {width} ({count})" for (height, width), count in split.sizes.items())
        lines += ["", f"{split.split}: height x width {sizes}"]
        if list(split.groups) != ["."]:
            groups = ", ".join(f"{escaped(group)} {count}" for group, count in split.groups.items())
            lines.append(f"{split.split}: folders ({len(split.groups)}): {groups}")
    return "\n".join(lines)


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.3%}" if whole else "-"
