"""Segmentation as a task: pixels, scored by mIoU."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dlaseg.config import Config
from dlaseg.data.datasets import SegmentationDataset, open_dataset
from dlaseg.data.loading import EpochBatches, train_loader, whole_image_loader
from dlaseg.data.transforms import Augmentation
from dlaseg.errors import UserError
from dlaseg.evaluation.evaluator import evaluate
from dlaseg.evaluation.scoring import score
from dlaseg.models.factory import create_model
from dlaseg.models.segmenter import DLASeg
from dlaseg.models.weights import load_backbone_weights, load_weights
from dlaseg.training.losses import pixel_cross_entropy
from dlaseg.training.task import Task

logger = logging.getLogger(__name__)


class Segmentation(Task[SegmentationDataset, DLASeg]):
    """Learns the class of every pixel.

    Args:
        config: the record.
    """

    config: Config
    metrics: ClassVar[Mapping[str, str]] = {"miou": "mIoU"}

    def __init__(self, config: Config):
        self.config = config

    def open_splits(self) -> tuple[SegmentationDataset, SegmentationDataset]:
        """The record's splits of its data set."""
        data = self.config.data
        training, validation = (
            open_dataset(data.dataset, data.root, split, data.images, data.labels, data.classes)
            for split in (data.train_split, data.val_split)
        )
        return training, validation

    def make_model(self, training: SegmentationDataset) -> DLASeg:
        """The record's network, with the data set's label map.

        Raises:
            UserError: not as many class weights as classes.
        """
        made, weights = self.config.model, self.config.train.class_weights
        classes = training.label_map.num_classes
        if weights is not None and len(weights) != classes:
            raise UserError(
                f"train.class_weights has {len(weights)} numbers, the data set {classes} classes: "
                "give one a class, in their order"
            )
        model = create_model(made.name, classes, made.stride, made.root_kernel_size)
        model.label_map = training.label_map
        return model

    def load_weights(self, model: DLASeg) -> None:
        """A whole network's or a backbone's; the label map stays the data set's.

        Raises:
            UserError: no such weights, or they do not fit.
        """
        made, labels = self.config.model, model.label_map
        if made.backbone_weights is not None:
            load_backbone_weights(model, made.backbone_weights)
        if made.weights is not None:
            load_weights(model, made.weights)
            theirs, model.label_map = model.label_map, labels
            if theirs is not labels and theirs.names != labels.names:
                logger.warning("weights %s: its classes are %s", made.weights, ", ".join(theirs.names))

    def train_loader(self, training: SegmentationDataset, model: DLASeg) -> tuple[DataLoader[Any], EpochBatches]:
        """Random crops; what lies outside an image has the mean colour."""
        train = self.config.train
        augmentation = Augmentation(self.config.augment, fill=[m * 255 for m in model.mean])
        return train_loader(training, augmentation, train.batch_size, train.seed, self.config.data.workers)

    def validator(self, validation: SegmentationDataset) -> Callable[[DLASeg], dict[str, float | None]]:
        """Whole images at native size, one confusion matrix."""
        loader = whole_image_loader(validation, min(self.config.data.workers, 1))
        return lambda model: {"miou": evaluate(model, validation, loader=loader).scores().miou}

    def conclude(self, output: Path, validation: SegmentationDataset) -> None:
        """`report.html` and `scores.json` of the best weights; they are the log's, in more detail."""
        best = output / "best.safetensors"
        if best.exists():  # not if validation has nothing to score
            workers, device = min(self.config.data.workers, 1), self.config.train.device
            score(best, validation, output, workers=workers, device=device, sheet=False)

    def logits(self, model: DLASeg, inputs: Tensor) -> Tensor:
        """(N, C, H / stride, W / stride), at the decoder's resolution."""
        return model.coarse_logits(inputs)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the pixels that are not ignored, at the size of the targets (N, H, W)."""
        weights = self.config.train.class_weights
        on_device = None if weights is None else torch.tensor(weights, device=logits.device)
        return pixel_cross_entropy(logits, targets, self.config.model.stride, on_device)
