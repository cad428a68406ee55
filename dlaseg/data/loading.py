"""Samplers and loaders: the same batches whatever the number of workers, and again after a resume."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dlaseg.data.tensors import to_tensor
from dlaseg.errors import UserError

Key = tuple[int, int]
"""(epoch, index): a sample's randomness comes from it and the seed alone."""

Augment = Callable[[NDArray[np.uint8], Any, Sequence[int]], tuple[NDArray[np.uint8], Any]]
"""From image, target and seed to image and target, such as `Augmentation`."""


class Samples(Protocol):
    """A data set: so many images, each with its target."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, index: int) -> tuple[NDArray[np.uint8], Any]:
        """An image, (H, W, 3) uint8 RGB, and its target: a label map, (H, W) uint8, or a class id."""
        ...


class EpochBatches(Sampler[list[Key]]):
    """Batches of one epoch, in an order that comes from (seed, epoch) alone; an incomplete last batch is left out.

    Args:
        length: samples in the data set.
        batch_size: samples in a batch.
        seed: of the order.

    Attributes:
        epoch: the one that the next iteration draws.
    """

    def __init__(self, length: int, batch_size: int, seed: int):
        if length < batch_size:
            raise UserError(
                f"train.batch_size {batch_size}: the training split has only {length} images: use {length} or less"
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length).tolist()
        for batch in range(len(self)):
            yield [(self.epoch, index) for index in order[batch * self.batch_size : (batch + 1) * self.batch_size]]


class _AugmentedSamples(Dataset[Any]):
    def __init__(self, dataset: Samples, augmentation: Augment, seed: int):
        self.dataset, self.augmentation, self.seed = dataset, augmentation, seed

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor] | UserError:
        epoch, index = key
        try:
            image, target = self.dataset.read(index)
        except UserError as error:
            return error
        image, target = self.augmentation(image, target, (self.seed, epoch, index))
        return to_tensor(image), torch.as_tensor(target)


class _PlainSamples(Dataset[Any]):
    def __init__(self, dataset: Samples):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | UserError:
        try:
            image, target = self.dataset.read(index)
        except UserError as error:
            return error
        return to_tensor(image), torch.as_tensor(target)


def train_loader(
    dataset: Samples, augmentation: Augment, batch_size: int, seed: int, workers: int
) -> tuple[DataLoader[Any], EpochBatches]:
    """A loader of training crops.

    Returns:
        The loader, to be iterated through `batches`, and its sampler, whose `epoch` says which epoch comes next.
        A batch is (images (N, 3, H, W) uint8, targets (N, H, W) uint8), or (N,) int64 where targets are class ids.
    """
    sampler = EpochBatches(len(dataset), batch_size, seed)
    samples = _AugmentedSamples(dataset, augmentation, seed)
    return _loader(samples, workers, batch_sampler=sampler), sampler


def whole_image_loader(dataset: Samples, workers: int) -> DataLoader[Any]:
    """A loader of whole images at native size, one at a time, in the data set's order.

    A batch is (image (1, 3, H, W) uint8, target (1, H, W) uint8).
    """
    return ordered_loader(dataset, 1, workers)


def ordered_loader(dataset: Samples, batch_size: int, workers: int) -> DataLoader[Any]:
    """A loader of every sample as it is, once, in the data set's order; the last batch may be smaller.

    Args:
        dataset: its images of one size, unless batch_size is 1.
        batch_size: images in a batch.
        workers: processes that read.
    """
    return _loader(_PlainSamples(dataset), workers, batch_size=batch_size)


def batches(loader: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """The loader's batches; a sample that could not be read is raised here, as its own one-line error.

    Raised inside a worker it would arrive wrapped in that process's traceback.
    """
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _collate(samples: list[Any]) -> Any:
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    images, targets = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(targets)


def _loader(samples: Dataset[Any], workers: int, **how: Any) -> DataLoader[Any]:
    return DataLoader(
        samples,
        collate_fn=_collate,
        num_workers=workers,
        worker_init_fn=_single_threaded,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        **how,
    )


def _single_threaded(worker: int) -> None:  # noqa: ARG001 - the loader calls it so
    # The workers are the parallelism; threads of their own would fight over the cores with the training process.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
