"""Class-uniform sampling: a share of an epoch's crops is drawn by class, so that rare classes are seen often.

Yang et al., Dense Prediction with Attentive Feature Aggregation, WACV 2023, https://arxiv.org/abs/2111.00770, as in
https://github.com/SysCV/dla-afa, `afa/data/uniform.py`. The idea is that of Rota Bulo et al., In-Place Activated
BatchNorm for Memory-Optimized Training of DNNs, CVPR 2018, https://arxiv.org/abs/1712.02616, and of Zhu et al.,
Improving Semantic Segmentation via Video Propagation and Label Relaxation, CVPR 2019, https://arxiv.org/abs/1812.01593.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlaseg.data.label_counts import map_in_threads
from dlaseg.data.loading import Key, Point
from dlaseg.data.pairs import SegmentationDataset
from dlaseg.errors import UnreadableFileError, UserError
from dlaseg.label_images import read_label_file
from dlaseg.labels import IGNORE_INDEX

Centroids = NDArray[np.int64]
"""(M, 4), a row for each image, tile and class that occurs in it: train id, index of the image, row and column."""


def tile_centroids(train_ids: NDArray[np.uint8], tile: int) -> NDArray[np.int64]:
    """The centroid of each class in each tile of a label map.

    Args:
        train_ids: (H, W) uint8, 255 = ignore.
        tile: height and width of the tiles, which lie side by side from the top left corner. What remains at the right
            and at the bottom belongs to none. Along a side that is shorter, a tile is as long as the side.

    Returns:
        (K, 3) train id, row and column: means over the class's pixels in the tile, rounded down. Tile by tile, and
        by train id in each.
    """
    height, width = train_ids.shape
    found: list[tuple[int, int, int]] = []
    for top in range(0, max(1, height // tile) * tile, tile):
        for left in range(0, max(1, width // tile) * tile, tile):
            part = train_ids[top : top + tile, left : left + tile]
            rows, columns = _counts_by_row(part), _counts_by_row(part.T)
            pixels = rows.sum(0)
            for label in pixels[:IGNORE_INDEX].nonzero()[0].tolist():
                row, column = (np.arange(len(n)) @ n[:, label] // pixels[label] for n in (rows, columns))
                found.append((label, top + int(row), left + int(column)))
    return np.array(found, np.int64).reshape(-1, 3)


def _counts_by_row(train_ids: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each id occurs in each row of (H, W): (H, 256)."""
    height = len(train_ids)
    places = train_ids + np.arange(0, 256 * height, 256)[:, None]
    return np.bincount(places.ravel(), minlength=256 * height).reshape(height, 256)


def split_centroids(dataset: SegmentationDataset, tile: int, skip_unreadable: bool = False) -> Centroids:
    """Reads every label map of a split, and computes its centroids.

    Args:
        dataset: the split; every image has a label map.
        tile: see `tile_centroids`.
        skip_unreadable: whether label maps that cannot be read have no centroids.

    Raises:
        UserError: a label map that cannot be read, or a label outside the label map; names the first such file.
    """

    def read(index: int) -> Centroids:
        try:
            labels = read_label_file(dataset.label_file(index), dataset.max_pixels)
        except UnreadableFileError:
            if not skip_unreadable:
                raise
            return np.empty((0, 4), np.int64)
        return np.insert(tile_centroids(dataset.encode(labels, dataset.pairs[index]), tile), 1, index, axis=1)

    return np.concatenate([*map_in_threads(read, range(len(dataset)), f"centroids of {dataset.split}")])


def samples_per_class(length: int, share: float, num_classes: int) -> int:
    """The samples of an epoch that are drawn for each class: int(length * share / num_classes).

    Args:
        length: samples of an epoch, the number of images.
        share: of these samples, above 0, at most 1.
        num_classes: number of classes of the data set, also those that occur nowhere.

    Raises:
        UserError: not even one.
    """
    count = int(length * share / num_classes)
    if not count:
        least = min(1.0, (1000 * num_classes // length + 1) / 1000)
        remedy = "use 0" if num_classes > length else f"use {least} or more, or 0"
        raise UserError(
            f"data.class_uniform {share}: less than one of {length} training images for each of {num_classes} "
            f"classes: {remedy}"
        )
    return count


@dataclass(frozen=True, eq=False)
class ClassUniformDraw:
    """Draws the samples of an epoch, in an order that depends on (seed, epoch) alone; see `EpochBatches.draw`.

    For each class that occurs, `count` of its centroids, without replacement until all of them are drawn, then again
    in the same order; for all other samples, images without replacement.

    Attributes:
        centroids: of the split.
        length: number of images, and of samples in an epoch.
        count: samples of each class in an epoch, see `samples_per_class`.
        seed: seed of the draw and of the order.
    """

    centroids: Centroids
    length: int
    count: int
    seed: int

    def __call__(self, epoch: int) -> list[Key]:
        """The samples of an epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        samples: list[tuple[int, Point | None]] = []
        for label in np.unique(self.centroids[:, 0]):
            of_class = self.centroids[self.centroids[:, 0] == label]
            drawn = of_class[np.resize(rng.permutation(len(of_class)), self.count)]
            samples += [(index, (row, column)) for _, index, row, column in drawn.tolist()]
        images = rng.permutation(self.length)[: self.length - len(samples)]
        samples += [(index, None) for index in images.tolist()]
        return [Key(epoch, number, *samples[number]) for number in rng.permutation(self.length).tolist()]
