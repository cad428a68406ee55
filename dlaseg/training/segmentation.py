"""Segmentation as a task: pixels, scored by mIoU."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dlaseg.config import Config
from dlaseg.data.datasets import SegmentationDataset, open_dataset
from dlaseg.data.loading import BatchShard, EpochBatches, train_loader, whole_image_loader
from dlaseg.data.statistics import statistics
from dlaseg.data.transforms import Augmentation
from dlaseg.errors import UserError
from dlaseg.evaluation.evaluator import ScoredImage, evaluate
from dlaseg.evaluation.metrics.confusion import ConfusionMatrix
from dlaseg.evaluation.scoring import score
from dlaseg.factory import create_model
from dlaseg.models.segmenter import DLASeg
from dlaseg.run_folder import BEST_WEIGHTS
from dlaseg.training.class_weights import median_frequency
from dlaseg.training.distributed import Processes
from dlaseg.training.losses import PixelLoss
from dlaseg.training.task import Task, Validation
from dlaseg.visualize import Row, comparison_grid
from dlaseg.weights.loading import load_backbone_weights, load_weights

logger = logging.getLogger(__name__)

PICTURES = 4
"""Validation images that are shown after each validation, spread evenly over the split."""


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
            open_dataset(data.dataset, data.root, split, data.images, data.labels, data.classes, names)
            for split, names in ((data.train_split, data.train_list), (data.val_split, data.val_list))
        )
        training.require_labels()
        validation.require_labels()
        return training, validation

    def make_model(self, training: SegmentationDataset) -> DLASeg:
        """The record's network, with the data set's label map.

        Raises:
            UserError: not as many class weights as classes.
        """
        made, weights = self.config.model, self.config.train.class_weights
        classes = training.label_map.num_classes
        if isinstance(weights, list) and len(weights) != classes:
            raise UserError(
                f"train.class_weights has {len(weights)} numbers, the data set {classes} classes: "
                "give one a class, in their order"
            )
        model = create_model(made.name, classes, made.stride, made.root_kernel_size)
        model.metadata = replace(model.metadata, label_map=training.label_map)
        return model

    def load_weights(self, model: DLASeg) -> None:
        """A whole network's or a backbone's; the label map stays the data set's.

        Raises:
            UserError: no such weights, or they do not fit.
        """
        made, labels = self.config.model, model.metadata.labels
        if made.backbone_weights is not None:
            load_backbone_weights(model, made.backbone_weights)
        if made.weights is not None:
            load_weights(model, made.weights)
            theirs = model.metadata.labels
            model.metadata = replace(model.metadata, label_map=labels)
            if theirs is not labels and theirs.names != labels.names:
                logger.warning("weights %s: its classes are %s", made.weights, ", ".join(theirs.names))

    def train_loader(
        self, training: SegmentationDataset, model: DLASeg, processes: Processes
    ) -> tuple[DataLoader[Any], EpochBatches]:
        """Random crops; what lies outside an image has the mean colour."""
        train, data = self.config.train, self.config.data
        augmentation = Augmentation(self.config.augment, fill=[m * 255 for m in model.metadata.mean])
        shard = BatchShard(processes.rank, processes.world_size, train.grad_accum_steps)
        skip = data.on_error == "skip"
        return train_loader(training, augmentation, train.batch_size, train.seed, data.workers, shard, skip)

    def validator(self, validation: SegmentationDataset, processes: Processes) -> Callable[[DLASeg], Validation]:
        """Whole images at native size, one confusion matrix."""
        own = replace(validation, pairs=validation.pairs[processes.rank :: processes.world_size])
        loader = whole_image_loader(own, min(self.config.data.workers, 1))
        shown = np.linspace(0, len(own) - 1, PICTURES).round().astype(int).tolist()
        labels = validation.label_map

        def scores(model: DLASeg) -> Validation:
            rows: list[Row] = []

            def look(scored: ScoredImage) -> None:
                if scored.index in shown:
                    rows.append((scored.image, scored.target, scored.prediction))

            confusion = ConfusionMatrix(labels.num_classes)
            if len(own):
                confusion = evaluate(model, own, loader=loader, on_image=look)
            counted = processes.sum_(torch.from_numpy(confusion.matrix).to(processes.device))
            confusion.matrix = counted.cpu().numpy()
            found = confusion.scores()
            ious = zip(labels.names, found.iou, strict=True)
            details = {f"iou/{name}": iou for name, iou in ious if iou is not None}
            return Validation({"miou": found.miou}, details, comparison_grid(rows, labels) if rows else None)

        return scores

    def on_fit_end(self, output: Path, validation: SegmentationDataset) -> None:
        """`report.html` and `scores.json` of the best weights; they are the log's, in more detail."""
        best = output / BEST_WEIGHTS
        if best.exists():  # not if validation has nothing to score
            workers, device = min(self.config.data.workers, 1), self.config.train.device
            score(best, validation, output, workers=workers, device=device)

    def criterion(self, training: SegmentationDataset) -> PixelLoss:
        """The record's terms; class weights from the training split's label maps are counted here."""
        train, weights = self.config.train, self.config.train.class_weights
        if weights == "median_frequency":
            weights = median_frequency(statistics(training))
            named = zip(training.label_map.names, weights, strict=True)
            logger.info("class weights %s", ", ".join(f"{name} {weight:.3g}" for name, weight in named))
        return PixelLoss(train.losses, self.config.model.stride, weights)

    def file(self, training: SegmentationDataset, index: int) -> Path:
        """The image of a pair."""
        return training.pairs[index].image

    def logits(self, model: DLASeg, inputs: Tensor) -> Tensor:
        """(N, C, H / stride, W / stride), at the decoder's resolution."""
        return model.coarse_logits(inputs)
