"""What is in a data set?"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from dlaseg.data.datasets import SegmentationDataset
from dlaseg.images import read_label_image
from dlaseg.labels import IGNORE_INDEX


@dataclass(frozen=True)
class Statistics:
    """One split, as its label maps say.

    Attributes:
        split: its name.
        groups: images in each folder (of Cityscapes, each city), by name.
        sizes: images of each (height, width).
        pixels: of each class, in the label map's order.
        images: that show each class.
        shared: scored pixels, of whatever class, of the images that show each class.
        ignored: pixels that do not count.
    """

    split: str
    groups: dict[str, int]
    sizes: dict[tuple[int, int], int]
    pixels: tuple[int, ...]
    images: tuple[int, ...]
    shared: tuple[int, ...]
    ignored: int


def statistics(dataset: SegmentationDataset) -> Statistics:
    """Reads every label map of a split.

    Raises:
        UserError: a broken file, or a label outside the label map; names the file.
    """
    classes = dataset.label_map.num_classes
    pixels, images, shared = (np.zeros(256, np.int64) for _ in range(3))
    groups = Counter(pair.name.rpartition("/")[0] or "." for pair in dataset.pairs)
    sizes: Counter[tuple[int, int]] = Counter()
    for pair in tqdm(dataset.pairs, desc=dataset.split, unit="img", leave=False, disable=None):
        train_ids = dataset.encode(read_label_image(pair.label), pair)
        counts = np.bincount(train_ids.ravel(), minlength=256)
        pixels += counts
        images += counts > 0
        shared += (counts > 0) * (train_ids.size - counts[IGNORE_INDEX])
        sizes[train_ids.shape[0], train_ids.shape[1]] += 1
    return Statistics(
        dataset.split,
        dict(sorted(groups.items())),
        dict(sizes.most_common()),
        tuple(pixels[:classes].tolist()),
        tuple(images[:classes].tolist()),
        tuple(shared[:classes].tolist()),
        int(pixels[IGNORE_INDEX]),
    )


def statistics_table(names: Sequence[str], found: Sequence[Statistics]) -> str:
    """The splits side by side: images, sizes, shares of the classes; then the folders of each."""
    width = max(len(name) for name in (*names, "ignored"))
    lines = [f"{'':<{width}}" + "".join(f"  {one.split:>20}" for one in found)]
    lines.append(f"{'images':<{width}}" + "".join(f"  {sum(one.groups.values()):>20}" for one in found))
    lines += ["", f"{'class':<{width}}" + "".join(f"  {'pixels':>9}  {'images':>9}" for _ in found)]
    for i, name in enumerate(names):
        cells = (f"  {_share(one.pixels[i], sum(one.pixels)):>9}  {one.images[i]:>9}" for one in found)
        lines.append(f"{name:<{width}}" + "".join(cells))
    ignored = (f"  {_share(one.ignored, one.ignored + sum(one.pixels)):>9}  {'':>9}" for one in found)
    lines.append((f"{'ignored':<{width}}" + "".join(ignored)).rstrip())
    for one in found:
        sizes = ", ".join(f"{height} x {width} ({count})" for (height, width), count in one.sizes.items())
        lines += ["", f"{one.split}: height x width {sizes}"]
        if list(one.groups) != ["."]:
            groups = ", ".join(f"{group} {count}" for group, count in one.groups.items())
            lines.append(f"{one.split}: folders ({len(one.groups)}): {groups}")
    return "\n".join(lines)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3%}" if whole else "-"
