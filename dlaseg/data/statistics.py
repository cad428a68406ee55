"""Statistics of a data set: images, sizes, and pixels of each class."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median, median_low

from dlaseg.data.label_counts import CountedFiles, LabelCounts, count_labels
from dlaseg.data.pairs import SegmentationDataset
from dlaseg.errors import UserError
from dlaseg.images import read_size
from dlaseg.labels import IGNORE_INDEX
from dlaseg.metadata import reduction
from dlaseg.text import escaped, padded, width

LISTED = 25
"""Most sizes and folders that are listed."""

SAMPLED_SIZES = 100
"""Most images whose sizes are read for the typical one."""


@dataclass(frozen=True)
class SplitStatistics:
    """Statistics of the label maps of one split.

    Attributes:
        split: name of the split.
        groups: number of images in each folder (in Cityscapes, each city), by name.
        sizes: number of label maps of each (height, width), without those that were skipped.
        pixels: pixels of each class, in the label map's order.
        images: number of images that contain each class.
        image_pixels: for each class, all pixels that are not ignored in the images that contain the class.
        ignored: ignored pixels.
        beside_ignored: classes of the label maps that have ignored pixels.
        without_ignored: classes of the label maps that have none.
    """

    split: str
    groups: dict[str, int]
    sizes: dict[tuple[int, int], int]
    pixels: tuple[int, ...]
    images: tuple[int, ...]
    image_pixels: tuple[int, ...]
    ignored: int
    beside_ignored: frozenset[int] = frozenset()
    without_ignored: frozenset[int] = frozenset()

    @property
    def all_pixels(self) -> int:
        """Pixels of all classes and the ignored ones."""
        return sum(self.pixels) + self.ignored

    def sizes_text(self) -> str:
        """The most frequent sizes, each with its number of label maps."""
        return _listed([f"{height} x {width} ({count})" for (height, width), count in self.sizes.items()])


def statistics(
    dataset: SegmentationDataset, counted: CountedFiles | None = None, skip_unreadable: bool = False
) -> SplitStatistics:
    """Reads every label map of a split, and the header of every image.

    Args:
        dataset: the split.
        counted: see `count_labels`; None to read every file.
        skip_unreadable: see `count_labels`.

    Raises:
        UserError: an image without a label map, or as `count_labels`; names the file.
    """
    dataset.require_labels()
    return summed(dataset, filter(None, count_labels(dataset, {} if counted is None else counted, skip_unreadable)))


def summed(dataset: SegmentationDataset, counted: Iterable[LabelCounts]) -> SplitStatistics:
    """The statistics of a split from the counts of its label maps."""
    pixels, images, image_pixels = Counter[int](), Counter[int](), Counter[int]()
    groups = Counter(pair.name.rpartition("/")[0] or "." for pair in dataset.pairs)
    sizes: Counter[tuple[int, int]] = Counter()
    beside_ignored, without_ignored = set[int](), set[int]()
    for counts in counted:
        scored = counts.height * counts.width - counts.pixels.get(IGNORE_INDEX, 0)
        pixels.update(counts.pixels)
        images.update(counts.pixels.keys())
        image_pixels.update(dict.fromkeys(counts.pixels, scored))
        sizes[counts.height, counts.width] += 1
        (beside_ignored if IGNORE_INDEX in counts.pixels else without_ignored).update(counts.pixels)
    train_ids = range(dataset.label_map.num_classes)
    return SplitStatistics(
        dataset.split,
        dict(sorted(groups.items())),
        dict(sizes.most_common()),
        tuple(pixels[label] for label in train_ids),
        tuple(images[label] for label in train_ids),
        tuple(image_pixels[label] for label in train_ids),
        pixels[IGNORE_INDEX],
        frozenset(beside_ignored - {IGNORE_INDEX}),
        frozenset(without_ignored),
    )


def median_short_side(dataset: SegmentationDataset, max_short_side: int | None = None) -> int | None:
    """Median of the shorter sides of images as a network gets them, from the headers of some.

    Args:
        dataset: the images; those that are read are evenly spaced.
        max_short_side: larger images are reduced, see `reduction`.

    Returns:
        Pixels; None if no header can be read.
    """
    sides = []
    for pair in dataset.pairs[:: -(-len(dataset) // SAMPLED_SIZES) or 1]:
        try:
            height, width = read_size(pair.image, dataset.max_pixels)
        except UserError:  # what reads all of them tells of it
            continue
        sides.append(round(min(height, width) / reduction(height, width, max_short_side)))
    return median_low(sides) if sides else None


def statistics_table(names: Sequence[str], splits: Sequence[SplitStatistics]) -> str:
    """The splits side by side: images; share of the pixels, and images, of each class; then sizes and folders.

    Args:
        names: names of the classes.
        splits: statistics of data with these classes.
    """
    names = list(map(escaped, names))
    widest = max(map(width, (*names, "ignored")))
    lines = [" " * widest + "".join(f"  {split.split:>20}" for split in splits)]
    lines.append(f"{'images':<{widest}}" + "".join(f"  {sum(split.groups.values()):>20}" for split in splits))
    lines += ["", f"{'class':<{widest}}" + "".join(f"  {'pixels':>9}  {'images':>9}" for _ in splits)]
    for i, name in enumerate(names):
        cells = (f"  {_percent(split.pixels[i], split.all_pixels):>9}  {split.images[i]:>9}" for split in splits)
        lines.append(padded(name, widest) + "".join(cells))
    ignored = (f"  {_percent(split.ignored, split.all_pixels):>9}  {'':>9}" for split in splits)
    lines.append((f"{'ignored':<{widest}}" + "".join(ignored)).rstrip())
    for split in splits:
        lines += ["", f"{split.split}: height x width {split.sizes_text()}"]
        if list(split.groups) != ["."]:
            groups = _listed([f"{escaped(group)} {count}" for group, count in split.groups.items()])
            lines.append(f"{split.split}: folders ({len(split.groups)}): {groups}")
    return "\n".join(lines)


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:LISTED]) + (f" and {len(texts) - LISTED} more" if len(texts) > LISTED else "")


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.3%}" if whole else "-"


def median_frequency(statistics: SplitStatistics) -> list[float]:
    """Median frequency balancing: weight of a class = median of all classes' frequencies / frequency of the class.

    The frequency of a class is its share of the pixels of the images that show it: Eigen and Fergus, Predicting Depth,
    Surface Normals and Semantic Labels with a Common Multi-Scale Convolutional Architecture, ICCV 2015,
    https://arxiv.org/abs/1411.4734. Only scored pixels are counted, since ignored pixels do not contribute to the loss.

    Args:
        statistics: pixel counts of the training split.

    Returns:
        One positive number for each class. A class that no image shows has weight 1, as if its frequency were the
        median; only label smoothing uses that weight.

    Examples:
        Class 0 fills 60 of 100 pixels; class 1 fills 20 of the 50 pixels of the one image that shows it; class 2 fills
        20 of 100 pixels.

        >>> pixels, images, image_pixels = (60, 20, 20, 0), (2, 1, 2, 0), (100, 50, 100, 0)
        >>> median_frequency(SplitStatistics("train", {".": 2}, {(5, 10): 2}, pixels, images, image_pixels, ignored=0))
        [0.6666666666666667, 1.0, 2.0, 1.0]
    """
    frequencies = [
        pixels / image_pixels if image_pixels else None
        for pixels, image_pixels in zip(statistics.pixels, statistics.image_pixels, strict=True)
    ]
    present = [frequency for frequency in frequencies if frequency is not None]
    return [1.0 if frequency is None else median(present) / frequency for frequency in frequencies]
