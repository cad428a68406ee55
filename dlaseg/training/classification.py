"""Classification as a task: whole images, scored by top-1 and top-5; what backbones are pretrained by."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from dlaseg.config import PretrainConfig
from dlaseg.data.classification import CenterCrops, ClassificationDataset, open_class_folders
from dlaseg.data.loading import EpochBatches, ordered_loader, train_loader
from dlaseg.data.transforms import CenterCrop, CropAugmentation
from dlaseg.evaluation.accuracy import evaluate_classifier
from dlaseg.models.dla import DLA
from dlaseg.models.factory import create_backbone
from dlaseg.models.weights import load_backbone_weights
from dlaseg.training.task import Task


class Classification(Task[ClassificationDataset, DLA]):
    """Learns the class of an image.

    Args:
        config: the record.
    """

    config: PretrainConfig
    metrics: ClassVar[Mapping[str, str]] = {"top1": "top-1", "top5": "top-5"}

    def __init__(self, config: PretrainConfig):
        self.config = config

    def open_splits(self) -> tuple[ClassificationDataset, ClassificationDataset]:
        """The record's splits, which have the same classes."""
        data = self.config.data
        return open_class_folders(data.root, data.train_split, data.val_split)

    def make_model(self, training: ClassificationDataset) -> DLA:
        """The record's classifier, with the data set's class names."""
        made, names = self.config.model, list(training.class_names)
        model = create_backbone(made.name, len(names), root_kernel_size=made.root_kernel_size)
        model.class_names = names
        return model

    def load_weights(self, model: DLA) -> None:
        """A backbone's, with its classifier if that has as many classes; their names stay the data set's.

        Raises:
            UserError: no such weights, or they do not fit.
        """
        if self.config.model.weights is not None:
            names = model.class_names
            load_backbone_weights(model, self.config.model.weights, "weights")
            model.class_names = names

    def train_loader(
        self,
        training: ClassificationDataset,
        model: DLA,  # noqa: ARG002 - crops lie within the image: nothing to fill
    ) -> tuple[DataLoader[Any], EpochBatches]:
        """Random resized crops."""
        train = self.config.train
        augmentation = CropAugmentation(self.config.augment)
        return train_loader(training, augmentation, train.batch_size, train.seed, self.config.data.workers)

    def validator(self, validation: ClassificationDataset) -> Callable[[DLA], dict[str, float | None]]:
        """Centre crops of the whole split, each once."""
        crops = CenterCrops(validation, CenterCrop(self.config.augment))
        loader = ordered_loader(crops, self.config.train.batch_size, self.config.data.workers)

        def scores(model: DLA) -> dict[str, float | None]:
            found = evaluate_classifier(model, loader)
            return {"top1": found.top1, "top5": found.top5}

        return scores

    def logits(self, model: DLA, inputs: Tensor) -> Tensor:
        """(N, C), one for every class."""
        return model(inputs)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, the mean over the targets (N,)."""
        return F.cross_entropy(logits.float(), targets)
