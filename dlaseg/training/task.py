"""What is learnt. How the learning goes on, epoch after epoch and step by step, is the trainer's."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from dlaseg.config import Config, PretrainConfig
from dlaseg.data.loading import EpochBatches
from dlaseg.training.distributed import Processes

Record = Config | PretrainConfig
Data = TypeVar("Data")
Network = TypeVar("Network")


class Criterion(Protocol):
    """A loss of which the parts of a batch, in one process or in many, add up to that of the whole batch."""

    def norms(self, targets: Tensor, /) -> Tensor:
        """(K,) what these targets weigh in each of the loss's means; those of the parts add up, too."""
        ...

    def __call__(self, logits: Tensor, targets: Tensor, norms: Tensor, /) -> Tensor:
        """A scalar in float32 or finer: the part's share of the loss of a batch whose norms are given."""
        ...


@dataclass(frozen=True)
class Validation:
    """What a network is worth.

    Attributes:
        metrics: a number or None for each of the task's.
        details: further numbers to be drawn as curves, such as each class's IoU.
        picture: (H, W, 3) uint8 RGB, a few images with truth and prediction; None where there is nothing to see.
    """

    metrics: dict[str, float | None]
    details: dict[str, float] = field(default_factory=dict)
    picture: NDArray[np.uint8] | None = None


class Task(ABC, Generic[Data, Network]):
    """Something to learn.

    Attributes:
        config: the record of the run.
        metrics: what validation measures, from its name in the log to what people call it. More is better; the best
            weights are chosen by the first.
    """

    config: Record
    metrics: ClassVar[Mapping[str, str]]

    @abstractmethod
    def open_splits(self) -> tuple[Data, Data]:
        """The training and the validation split; lists files, reads no image."""

    @abstractmethod
    def make_model(self, training: Data) -> Network:
        """The network before the first step, fresh weights drawn from torch's random state."""

    @abstractmethod
    def load_weights(self, model: Network) -> None:
        """Puts in the weights that the record starts from, if it names any; a run that is resumed does without."""

    @abstractmethod
    def train_loader(
        self, training: Data, model: Network, processes: Processes
    ) -> tuple[DataLoader[Any], EpochBatches]:
        """This process's parts of the batches, and the sampler that is told the epoch."""

    @abstractmethod
    def validator(self, validation: Data, processes: Processes) -> Callable[[Network], Validation]:
        """Makes the function that scores a network on the whole split, all processes together, each image once."""

    @abstractmethod
    def criterion(self, training: Data) -> Criterion:
        """The loss."""

    @abstractmethod
    def logits(self, model: Network, inputs: Tensor) -> Tensor:
        """What the loss is taken of, from normalised images (N, 3, H, W); may run in lower precision."""

    @abstractmethod
    def file(self, training: Data, index: int) -> Path:
        """The image of a sample."""

    def on_fit_end(self, output: Path, validation: Data) -> None:
        """Leaves in the run folder what shows how good the best weights are; does nothing unless a task has it."""
