"""Classification as a task: whole images, scored by top-1 and top-5; what backbones are pretrained by."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from dlaseg.config import PretrainConfig
from dlaseg.data.classification import CenterCroppedDataset, ClassificationDataset, open_class_folders
from dlaseg.data.loading import BatchShard, EpochBatches, ordered_loader, train_loader
from dlaseg.data.transforms import CenterCrop, CropAugmentation
from dlaseg.evaluation.metrics.accuracy import evaluate_classifier
from dlaseg.factory import create_backbone
from dlaseg.models.dla import DLA
from dlaseg.training.distributed import Processes
from dlaseg.training.task import Task, Validation
from dlaseg.weights.loading import load_backbone_weights


class ImageCrossEntropy:
    """Cross-entropy, the mean over the targets."""

    def norms(self, targets: Tensor) -> Tensor:
        """(1,) how many targets (N,) there are."""
        return torch.tensor([float(len(targets))], device=targets.device)

    def __call__(self, logits: Tensor, targets: Tensor, norms: Tensor) -> Tensor:
        """A scalar from logits (N, C) and targets (N,), integers."""
        return F.cross_entropy(logits.float(), targets.long(), reduction="sum") / norms[0]


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
        model.metadata = replace(model.metadata, class_names=tuple(names))
        return model

    def load_weights(self, model: DLA) -> None:
        """A backbone's, with its classifier if that has as many classes; their names stay the data set's.

        Raises:
            UserError: no such weights, or they do not fit.
        """
        if self.config.model.weights is not None:
            names = model.metadata.class_names
            load_backbone_weights(model, self.config.model.weights, "weights")
            model.metadata = replace(model.metadata, class_names=names)

    def train_loader(
        self,
        training: ClassificationDataset,
        model: DLA,  # noqa: ARG002 - crops lie within the image: nothing to fill
        processes: Processes,
    ) -> tuple[DataLoader[Any], EpochBatches]:
        """Random resized crops."""
        train, data = self.config.train, self.config.data
        augmentation = CropAugmentation(self.config.augment)
        shard = BatchShard(processes.rank, processes.world_size, train.grad_accum_steps)
        skip = data.on_error == "skip"
        return train_loader(training, augmentation, train.batch_size, train.seed, data.workers, shard, skip)

    def validator(self, validation: ClassificationDataset, processes: Processes) -> Callable[[DLA], Validation]:
        """Centre crops of the whole split, each once."""
        mine = slice(processes.rank, None, processes.world_size)
        own = replace(validation, files=validation.files[mine], targets=validation.targets[mine])
        size = max(1, self.config.train.batch_size // processes.world_size)
        loader = ordered_loader(
            CenterCroppedDataset(own, CenterCrop(self.config.augment)), size, self.config.data.workers
        )

        def scores(model: DLA) -> Validation:
            found = evaluate_classifier(model, loader)
            counts = torch.tensor([found.correct1, found.correct5, found.samples], device=processes.device)
            correct1, correct5, samples = processes.sum_(counts).tolist()
            return Validation({"top1": correct1 / samples, "top5": correct5 / samples})

        return scores

    def criterion(self, training: ClassificationDataset) -> ImageCrossEntropy:  # noqa: ARG002 - all classes weigh alike
        """Cross-entropy."""
        return ImageCrossEntropy()

    def file(self, training: ClassificationDataset, index: int) -> Path:
        """An image."""
        return training.folder / os.fsdecode(training.files[index])

    def logits(self, model: DLA, inputs: Tensor) -> Tensor:
        """(N, C), one for every class."""
        return model(inputs)
