"""The classification task, which pretrains backbones: a class for each image, scored by top-1 and top-5."""

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from dlaseg.config.pretraining import PretrainConfig
from dlaseg.data.classification import CenterCroppedDataset, ClassificationDataset, open_class_folders
from dlaseg.data.loading import BatchShard, EpochBatches, ordered_loader, train_loader
from dlaseg.data.transforms import CenterCrop, CropAugmentation
from dlaseg.evaluation.metrics.accuracy import evaluate_classifier
from dlaseg.factory import create_backbone
from dlaseg.models.base import TrainingOutputs
from dlaseg.models.dla import DLA
from dlaseg.training.distributed import DistributedContext
from dlaseg.training.task import Task, Validation
from dlaseg.weights.loading import load_backbone_weights


class ImageCrossEntropy:
    """Cross-entropy, averaged over the targets."""

    def normalizers(self, targets: Tensor) -> Tensor:
        """(1,) float32, the number of targets (N,)."""
        return torch.tensor([float(len(targets))], device=targets.device)

    def __call__(self, outputs: TrainingOutputs, targets: Tensor, normalizers: Tensor) -> Tensor:
        """Loss of the main logits (N, C) plus weight * loss of each auxiliary output (N, C).

        Args:
            outputs: logits of the micro-batch.
            targets: (N,) integer class ids.
            normalizers: (1,) of the whole batch.

        Returns:
            A float32 scalar.
        """
        loss = self._of_logits(outputs.logits, targets, normalizers)
        for logits, _, weight in outputs.auxiliary:
            loss = loss + weight * self._of_logits(logits, targets, normalizers)
        return loss

    def _of_logits(self, logits: Tensor, targets: Tensor, normalizers: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), targets.long(), reduction="sum") / normalizers[0]


class Classification(Task[ClassificationDataset, DLA]):
    """Trains a classifier.

    Args:
        config: of the run.
    """

    config: PretrainConfig
    metrics: ClassVar[Mapping[str, str]] = {"top1": "top-1", "top5": "top-5"}

    def __init__(self, config: PretrainConfig):
        self.config = config

    def open_splits(
        self,
        val_names: Collection[str] | None = None,  # noqa: ARG002 - both splits are folders
    ) -> tuple[ClassificationDataset, ClassificationDataset]:
        """The config's training and validation split, which have the same classes."""
        data = self.config.data
        return open_class_folders(data.root, data.train_split, data.val_split)

    def names(self, split: ClassificationDataset) -> list[str]:
        """Paths below the folder of the split."""
        return [os.fsdecode(file) for file in split.files]

    def part(self, split: ClassificationDataset, indices: slice) -> ClassificationDataset:
        """Some of a split's images."""
        return replace(split, files=split.files[indices], targets=split.targets[indices])

    def classes(self, split: ClassificationDataset) -> dict[str, Any]:
        """The names of the class folders."""
        return {"classes": [{"name": name} for name in split.class_names]}

    def make_model(self, training: ClassificationDataset) -> DLA:
        """The config's classifier, randomly initialised, with the data set's class names."""
        model_config, names = self.config.model, tuple(training.class_names)
        model = create_backbone(model_config.name, len(names), root_kernel_size=model_config.root_kernel_size)
        model.metadata = replace(model.metadata, class_names=names)
        return model

    def load_weights(self, model: DLA) -> None:
        """Loads the config's weights, including the classifier's if it has the same number of classes.

        The class names stay the data set's.

        Raises:
            UserError: the file does not exist, or its weights do not fit the network.
        """
        if self.config.model.weights is not None:
            names = model.metadata.class_names
            load_backbone_weights(model, self.config.model.weights, "weights")
            model.metadata = replace(model.metadata, class_names=names)

    def train_loader(
        self,
        training: ClassificationDataset,
        model: DLA,  # noqa: ARG002 - crops lie within the image: no padding
        dist: DistributedContext,
    ) -> tuple[DataLoader[Any], EpochBatches]:
        """Random resized crops."""
        train, data = self.config.train, self.config.data
        augmentation = CropAugmentation(self.config.augment)
        shard = BatchShard(dist.rank, dist.world_size, train.grad_accum_steps)
        skip = data.on_error == "skip"
        return train_loader(training, augmentation, train.batch_size, train.seed, data.workers, shard, skip)

    def validator(self, validation: ClassificationDataset, dist: DistributedContext) -> Callable[[DLA], Validation]:
        """Centre crops of the whole split."""
        shard = self.part(validation, slice(dist.rank, None, dist.world_size))
        size = max(1, self.config.train.batch_size // dist.world_size)
        loader = ordered_loader(
            CenterCroppedDataset(shard, CenterCrop(self.config.augment)), size, self.config.data.workers
        )

        def validate(model: DLA) -> Validation:
            accuracies = evaluate_classifier(model, loader)
            counts = torch.tensor([accuracies.correct1, accuracies.correct5, accuracies.samples], device=dist.device)
            correct1, correct5, samples = dist.all_reduce_sum_(counts).tolist()
            return Validation({"top1": correct1 / samples, "top5": correct5 / samples})

        return validate

    def criterion(self, training: ClassificationDataset, model: DLA) -> ImageCrossEntropy:  # noqa: ARG002 - needs neither
        """Cross-entropy."""
        return ImageCrossEntropy()

    def image_path(self, training: ClassificationDataset, index: int) -> Path:
        """The image file of a sample."""
        return training.folder / os.fsdecode(training.files[index])
