"""Samplers and loaders: the batches do not depend on the number of workers, and resume continues them exactly."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dlaseg.data.tensors import to_tensor
from dlaseg.errors import UnreadableFileError, UserError

Point = tuple[int, int]
"""Row and column of a pixel."""


class Key(NamedTuple):
    """A sample of an epoch.

    Attributes:
        epoch: from 0.
        number: which sample of the epoch; with seed and epoch, the only source of the sample's randomness.
        image: its index in the data set; the number, too, where an epoch shows each image once.
        point: a pixel of the image that the crop contains; None for a crop anywhere.
    """

    epoch: int
    number: int
    image: int
    point: Point | None = None


Draw = Callable[[int], list[Key]]
"""Maps an epoch to its samples, in order."""

Augment = Callable[..., tuple[NDArray[np.uint8], Any]]
"""Maps image, target, seed and, where the sample has one, `point` to image and target, such as `Augmentation`."""


Skipped = tuple[int, str]
"""Index of a sample that cannot be read, and the message of the error."""


class Samples(Protocol):
    """A data set that reads images and their targets by index."""

    def __len__(self) -> int:
        """The number of samples."""
        ...

    def read(self, index: int) -> tuple[NDArray[np.uint8], Any]:
        """An image, (H, W, 3) uint8 RGB, and its target: a label map, (H, W) uint8, or a class id."""
        ...


@dataclass(frozen=True)
class BatchShard:
    """The part of every batch that one process computes, and how it splits this part.

    Attributes:
        rank: rank of the process, from 0.
        world_size: number of processes.
        micro_batches: number of micro-batches that a process splits its part into.
    """

    rank: int = 0
    world_size: int = 1
    micro_batches: int = 1


class EpochBatches(Sampler[list[Key]]):
    """Samples the batches of one epoch in an order that depends on (seed, epoch) alone; drops an incomplete last batch.

    The samples of a batch do not depend on the number of processes and micro-batches, nor do those of a micro-batch
    depend on the number of processes, over which batch norm is synchronised: of each micro-batch, process 0 takes the
    first ones, and so on. Iterating yields the parts of one process, `shard.micro_batches` of them per batch.

    Args:
        length: number of samples in the data set.
        batch_size: samples per batch, summed over all processes and micro-batches.
        seed: seed of the order.
        shard: the part of this process.

    Attributes:
        epoch: the epoch of the next iteration.
        first: number of the batch that the next iteration starts with.
        draw: draws the samples of an epoch, as many as there are images; by default, each image once.

    Raises:
        UserError: too few samples, or a batch that cannot be split evenly.
    """

    def __init__(self, length: int, batch_size: int, seed: int, shard: BatchShard = BatchShard()):
        if length < batch_size:
            raise UserError(
                f"train.batch_size {batch_size}: the training split has only {length} images: use {length} or less"
            )
        divisor = shard.world_size * shard.micro_batches
        if batch_size % divisor:
            raise UserError(
                f"train.batch_size {batch_size}: not a multiple of {divisor} ({shard.world_size} processes x "
                f"train.grad_accum_steps {shard.micro_batches}): use {-(-batch_size // divisor) * divisor}"
            )
        self.length, self.batch_size, self.seed, self.shard = length, batch_size, seed, shard
        self.epoch = self.first = 0
        self.draw: Draw = self._each_image_once

    @property
    def batches(self) -> int:
        """The number of batches per epoch."""
        return self.length // self.batch_size

    def batch(self, epoch: int, number: int) -> list[Key]:
        """All samples of a batch, including those of the other processes."""
        return self.draw(epoch)[number * self.batch_size :][: self.batch_size]

    def __len__(self) -> int:
        return (self.batches - self.first) * self.shard.micro_batches

    def __iter__(self) -> Iterator[list[Key]]:
        keys, shard = self.draw(self.epoch), self.shard
        size = self.batch_size // (shard.world_size * shard.micro_batches)
        for batch in range(self.first, self.batches):
            for micro_batch in range(shard.micro_batches):
                start = batch * self.batch_size + (micro_batch * shard.world_size + shard.rank) * size
                yield keys[start : start + size]

    def _each_image_once(self, epoch: int) -> list[Key]:
        order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
        return [Key(epoch, index, index) for index in order.tolist()]


class _AugmentedSamples(Dataset[Any]):
    def __init__(self, dataset: Samples, augmentation: Augment, seed: int, skip: bool):
        self.dataset, self.augmentation, self.seed, self.skip = dataset, augmentation, seed, skip

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, list[Skipped]] | UserError:
        skipped: list[Skipped] = []
        while True:
            position = (key.image + len(skipped)) % len(self.dataset)
            try:
                image, target = self.dataset.read(position)
                break
            except UnreadableFileError as error:
                if not self.skip:
                    return error
                skipped.append((position, str(error)))
            except UserError as error:  # wrong content of a sound file is never skipped
                return error
            if len(skipped) == len(self.dataset):
                return UserError(f"none of the {len(skipped)} training samples can be read; the first: {skipped[0][1]}")
        # A point is one of the key's own image, not of one that replaces it
        where = {} if key.point is None or skipped else {"point": key.point}
        image, target = self.augmentation(image, target, (self.seed, key.epoch, key.number), **where)
        return to_tensor(image), torch.as_tensor(target), skipped


class _PlainSamples(Dataset[Any]):
    def __init__(self, dataset: Samples):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, list[Skipped]] | UserError:
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
    shard: BatchShard = BatchShard(),
    skip: bool = False,
) -> tuple[DataLoader[Any], EpochBatches]:
    """A loader of augmented training samples.

    Args:
        dataset: reads the samples.
        augmentation: maps image and target to crop and target.
        batch_size: samples per batch, summed over all processes and micro-batches.
        seed: seed of the order and the augmentation.
        workers: number of loading processes.
        shard: the part of each batch that is loaded here.
        skip: whether the next sample replaces one whose files cannot be read. Wrong content, such as a label outside
            the label map, is an error in any case.

    Returns:
        The loader, to be iterated with `batches`, and its sampler, whose `epoch` sets the epoch of the next iteration.
        A micro-batch is images, (N, 3, H, W) uint8, and targets, (N, H, W) uint8, or (N,) int64 if they are class ids.
    """
    sampler = EpochBatches(len(dataset), batch_size, seed, shard)
    samples = _AugmentedSamples(dataset, augmentation, seed, skip)
    return _loader(samples, workers, batch_sampler=sampler), sampler


def whole_image_loader(dataset: Samples, workers: int) -> DataLoader[Any]:
    """A loader of whole images at native size, one at a time, in the data set's order.

    A batch is (image (1, 3, H, W) uint8, target (1, H, W) uint8).
    """
    return ordered_loader(dataset, 1, workers)


def ordered_loader(dataset: Samples, batch_size: int, workers: int) -> DataLoader[Any]:
    """A loader of every sample once, unchanged, in the data set's order; the last batch may be smaller.

    Args:
        dataset: reads the samples; its images have the same size, unless batch_size is 1.
        batch_size: images per batch.
        workers: number of loading processes.
    """
    return _loader(_PlainSamples(dataset), workers, batch_size=batch_size)


def batches(
    loader: Iterable[Any], on_skip: Callable[[int, str], None] | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterates over a loader; an unreadable sample raises its error here, in one line.

    An exception that is raised in a worker would arrive with the traceback of that process.

    Args:
        loader: from this module, or any batches of images and targets.
        on_skip: called with index and error message of each sample that was skipped; of one that several samples came
            across, several times.

    Raises:
        UserError: a sample that cannot be read, or a loading process that ended.
    """
    iterator = iter(loader)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"a loading process ended ({' '.join(str(error).split())}): the system ends processes when memory runs "
                "out: lower data.workers"
            ) from error
        if isinstance(batch, UserError):
            try:
                raise batch
            finally:
                del batch  # the error's traceback holds this frame: the loader's processes would live on for no one
        images, targets, *skipped = batch  # batches from elsewhere have no list of skipped samples
        if on_skip is not None:
            for index, message in chain(*skipped):
                on_skip(index, message)
        yield images, targets


def _collate(samples: list[Any]) -> Any:
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    images, targets, skipped = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(targets), list(chain(*skipped))


def _loader(samples: Dataset[Any], workers: int, **batching: Any) -> DataLoader[Any]:
    if multiprocessing.current_process().daemon:  # such as one of a multiprocessing.Pool, which may start no processes
        workers = 0
    return DataLoader(
        samples,
        collate_fn=_collate,
        num_workers=workers,
        worker_init_fn=_prepare_worker,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # or each iteration would take a number from the caller's
        **batching,
    )


def _prepare_worker(worker: int) -> None:  # noqa: ARG001 - the loader passes it
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group; the training process decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):  # not on Windows and macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # The workers run in parallel already; more threads would compete with the training process for the cores.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _exit_with_parent() -> None:
    """Ends this process when its parent sends SIGTERM or is gone, also while the main thread waits for a file.

    A signal at the parent's death (prctl) would come when the parent's thread ends that made this process, and from the
    server that makes it if processes are started by `forkserver`. So the parent is looked for, once a second.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    # Only `forkserver` puts another process in between; it outlives the parent, whose end then closes the sentinel.
    # With `fork`, other workers hold the sentinel open.
    direct = os.getppid() if multiprocessing.get_start_method() == "forkserver" else parent.pid
    while parent.is_alive() and os.getppid() == direct:
        if hasattr(signal, "sigtimedwait"):
            received = signal.sigtimedwait({signal.SIGTERM}, 1)
            if received is not None and received.si_pid == parent.pid:
                break
        else:
            time.sleep(1)
    os._exit(0)
