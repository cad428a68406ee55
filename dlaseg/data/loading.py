"""Samplers and loaders: the same batches whatever the number of workers, and again after a resume."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
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


@dataclass(frozen=True)
class BatchShard:
    """Which part of every batch is this process's, and in how many parts it takes that.

    Attributes:
        rank: of the process, from 0.
        world_size: processes that share the batches.
        parts: that a process computes one after the other.
    """

    rank: int = 0
    world_size: int = 1
    parts: int = 1


class EpochBatches(Sampler[list[Key]]):
    """Batches of one epoch, in an order that comes from (seed, epoch) alone; an incomplete last batch is left out.

    A batch is the same whatever the number of processes and parts: process 0 takes its first samples, and so on. What
    is drawn is the parts of this process, `share.parts` of them a batch.

    Args:
        length: samples in the data set.
        batch_size: samples in a batch, over all processes and parts.
        seed: of the order.
        share: this process's.

    Attributes:
        epoch: the one that the next iteration draws.
        first: the batch that it begins with.

    Raises:
        UserError: too few samples, or a batch that cannot be shared evenly.
    """

    def __init__(self, length: int, batch_size: int, seed: int, share: BatchShard = BatchShard()):
        if length < batch_size:
            raise UserError(
                f"train.batch_size {batch_size}: the training split has only {length} images: use {length} or less"
            )
        pieces = share.world_size * share.parts
        if batch_size % pieces:
            raise UserError(
                f"train.batch_size {batch_size}: not a multiple of {pieces} ({share.world_size} processes x "
                f"train.grad_accum_steps {share.parts}): use {-(-batch_size // pieces) * pieces}"
            )
        self.length, self.batch_size, self.seed, self.share = length, batch_size, seed, share
        self.epoch = self.first = 0

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return self.length // self.batch_size

    def batch(self, epoch: int, number: int) -> list[Key]:
        """All samples of a batch, those of the other processes, too."""
        return [(epoch, index) for index in self._order(epoch)[number * self.batch_size :][: self.batch_size]]

    def __len__(self) -> int:
        return (self.batches - self.first) * self.share.parts

    def __iter__(self) -> Iterator[list[Key]]:
        order, share = self._order(self.epoch), self.share
        size = self.batch_size // (share.world_size * share.parts)
        for batch in range(self.first, self.batches):
            for part in range(share.parts):
                start = batch * self.batch_size + (share.rank * share.parts + part) * size
                yield [(self.epoch, index) for index in order[start : start + size]]

    def _order(self, epoch: int) -> list[int]:
        order: list[int] = np.random.default_rng([self.seed, epoch]).permutation(self.length).tolist()
        return order


class _AugmentedSamples(Dataset[Any]):
    def __init__(self, dataset: Samples, augmentation: Augment, seed: int, skip: bool):
        self.dataset, self.augmentation, self.seed, self.skip = dataset, augmentation, seed, skip

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, list[str]] | UserError:
        epoch, index = key
        skipped: list[str] = []
        while True:
            try:
                image, target = self.dataset.read((index + len(skipped)) % len(self.dataset))
                break
            except UserError as error:
                skipped.append(str(error))
                if not self.skip or len(skipped) == len(self.dataset):
                    return error
        image, target = self.augmentation(image, target, (self.seed, epoch, index))
        return to_tensor(image), torch.as_tensor(target), skipped


class _PlainSamples(Dataset[Any]):
    def __init__(self, dataset: Samples):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, list[str]] | UserError:
        try:
            image, target = self.dataset.read(index)
        except UserError as error:
            return error
        return to_tensor(image), torch.as_tensor(target), []


def train_loader(
    dataset: Samples,
    augmentation: Augment,
    batch_size: int,
    seed: int,
    workers: int,
    share: BatchShard = BatchShard(),
    skip: bool = False,
) -> tuple[DataLoader[Any], EpochBatches]:
    """A loader of training crops.

    Args:
        dataset: what is read.
        augmentation: from image and target to crop and target.
        batch_size: samples in a batch, over all processes and parts.
        seed: of order and augmentation.
        workers: processes that read.
        share: which part of a batch is loaded here.
        skip: whether the next sample takes the place of one that cannot be read.

    Returns:
        The loader, to be iterated through `batches`, and its sampler, whose `epoch` says which epoch comes next.
        A part of a batch is (images (N, 3, H, W) uint8, targets (N, H, W) uint8), or (N,) int64 where targets are class
        ids.
    """
    sampler = EpochBatches(len(dataset), batch_size, seed, share)
    samples = _AugmentedSamples(dataset, augmentation, seed, skip)
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


def batches(loader: Iterable[Any], on_skip: Callable[[str], None] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """The loader's batches; a sample that could not be read is raised here, as its own one-line error.

    Raised inside a worker it would arrive wrapped in that process's traceback.

    Args:
        loader: from this module.
        on_skip: called with what was wrong with each sample that another took the place of.

    Raises:
        UserError: a sample that could not be read, or a loading process that died.
    """
    drawn = iter(loader)
    while True:
        try:
            batch = next(drawn)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"a loading process ended ({' '.join(str(error).split())}): the system ends processes when memory is "
                "short: lower data.workers"
            ) from error
        if isinstance(batch, UserError):
            raise batch
        images, targets, *skipped = batch  # a caller's own batches need not know of the latter
        if on_skip is not None:
            for reason in chain(*skipped):
                on_skip(reason)
        yield images, targets


def _collate(samples: list[Any]) -> Any:
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    images, targets, skipped = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(targets), [reason for reasons in skipped for reason in reasons]


def _loader(samples: Dataset[Any], workers: int, **how: Any) -> DataLoader[Any]:
    return DataLoader(
        samples,
        collate_fn=_collate,
        num_workers=workers,
        worker_init_fn=_prepare_worker,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        **how,
    )


def _prepare_worker(worker: int) -> None:  # noqa: ARG001 - the loader calls it so
    # A terminal's Ctrl-C and a scheduler's end reach the whole group; when to stop is the training process's to say
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on Windows and macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, daemon=True).start()
    # The workers are the parallelism; threads of their own would fight over the cores with the training process.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _end_when_told() -> None:
    parent = multiprocessing.parent_process()
    while parent is not None and signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)
