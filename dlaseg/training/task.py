"""The interface between the trainer and one kind of training: data, model, loss and validation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from dlaseg.config.pretraining import PretrainConfig
from dlaseg.config.segmentation import Config
from dlaseg.data.loading import EpochBatches
from dlaseg.models.base import TrainingOutputs
from dlaseg.training.distributed import DistributedContext

RunConfig = Config | PretrainConfig
Data = TypeVar("Data")
Network = TypeVar("Network")


class Criterion(Protocol):
    """A loss that may be computed in micro-batches: their losses add up to the loss of the whole batch."""

    def normalizers(self, targets: Tensor, /) -> Tensor:
        """(K,) the divisors of the loss's means, counted on these targets; those of micro-batches add up."""
        ...

    def __call__(self, outputs: TrainingOutputs, targets: Tensor, normalizers: Tensor, /) -> Tensor:
        """Loss of a micro-batch, auxiliary outputs included.

        Args:
            outputs: logits of the micro-batch.
            targets: integers, as the task's loader gives them.
            normalizers: (K,) of the whole batch.

        Returns:
            A scalar, float32 or float64.
        """
        ...


@dataclass(frozen=True)
class Validation:
    """The result of a validation.

    Attributes:
        metrics: a number or None for each of the task's metrics.
        details: further numbers for the curves, such as the IoU of each class.
        picture: (H, W, 3) uint8 RGB, some images with ground truth and prediction; None if there is nothing to show.
    """

    metrics: dict[str, float | None]
    details: dict[str, float] = field(default_factory=dict)
    picture: NDArray[np.uint8] | None = None


class Task(ABC, Generic[Data, Network]):
    """One kind of training.

    The network has `metadata: ModelMetadata` and `training_outputs(inputs)`, see `dlaseg.models.base`.

    Attributes:
        config: of the run.
        metrics: of the validation: the name in the log and the name for people. Higher is better; the first one decides
            which weights are the best.
    """

    config: RunConfig
    metrics: ClassVar[Mapping[str, str]]

    @abstractmethod
    def open_splits(self, val_names: Collection[str] | None = None) -> tuple[Data, Data]:
        """The training split and the validation split; lists files, reads no image.

        Args:
            val_names: of a run that resumes, the names of the images that it validates on. A task that draws these
                images itself draws them no second time.
        """

    @abstractmethod
    def names(self, split: Data) -> list[str]:
        """The names of a split's images, in its order; they do not depend on where the data set is."""

    @abstractmethod
    def part(self, split: Data, indices: slice) -> Data:
        """Some of a split's images."""

    @abstractmethod
    def classes(self, split: Data) -> dict[str, Any]:
        """The classes as the content of a classes file, for checkpoints: only dicts, lists, strings and numbers."""

    def check_data(self, training: Data, validation: Data, output: Path, dist: DistributedContext) -> None:
        """Checks the content of both splits before `criterion` is called; writes nothing. By default, no check.

        Args:
            training: the training split.
            validation: the validation split.
            output: the run folder, which may hold results of an earlier check.
            dist: the processes that train.
        """

    @abstractmethod
    def make_model(self, training: Data) -> Network:
        """A randomly initialised network; draws from torch's global generator."""

    @abstractmethod
    def load_weights(self, model: Network) -> None:
        """Loads the weights that the config starts from, if any; a resumed run does not call it."""

    @abstractmethod
    def train_loader(
        self, training: Data, model: Network, dist: DistributedContext
    ) -> tuple[DataLoader[Any], EpochBatches]:
        """The loader of this process's micro-batches, and its sampler, whose `epoch` the trainer sets."""

    def advise(self, model: Network, batches: int) -> None:
        """Tells, before a run begins, of what lets a network learn little. By default, nothing.

        Args:
            model: the network.
            batches: number of batches per epoch.
        """

    @abstractmethod
    def validator(self, validation: Data, dist: DistributedContext) -> Callable[[Network], Validation]:
        """A function that scores a network on the whole split: each image once, shared among the processes."""

    @abstractmethod
    def criterion(self, training: Data, model: Network) -> Criterion:
        """The loss."""

    @abstractmethod
    def image_path(self, training: Data, index: int) -> Path:
        """The image file of a sample."""

    def on_fit_start(self, output: Path) -> None:
        """Writes what the task adds to the run folder before the first epoch; nothing by default."""

    def on_fit_end(self, output: Path, validation: Data) -> None:
        """Writes what the task adds to the run folder after the last epoch; nothing by default."""
