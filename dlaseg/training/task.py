"""Where tasks differ; all else, from the run folder to the training step, is the trainer's."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor
from torch.utils.data import DataLoader

from dlaseg.config import Config, PretrainConfig
from dlaseg.data.loading import EpochBatches

Record = Config | PretrainConfig
Data = TypeVar("Data")
Network = TypeVar("Network")


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
    def train_loader(self, training: Data, model: Network) -> tuple[DataLoader[Any], EpochBatches]:
        """Batches of images (N, 3, H, W) uint8 and targets, and the sampler that is told the epoch."""

    @abstractmethod
    def validator(self, validation: Data) -> Callable[[Network], dict[str, float | None]]:
        """Makes the function that scores a network on the whole split, a number or None for each of `metrics`."""

    def conclude(self, output: Path, validation: Data) -> None:
        """Leaves in the run folder what shows how good the best weights are; does nothing unless a task has it."""

    @abstractmethod
    def logits(self, model: Network, inputs: Tensor) -> Tensor:
        """What the loss is taken of, from normalised images (N, 3, H, W); may run in bfloat16."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """A scalar, in float32; targets int64."""
