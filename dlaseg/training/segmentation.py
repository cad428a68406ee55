"""The segmentation task: a class for each pixel, scored by mIoU."""

import logging
import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from dlaseg.config.segmentation import Config
from dlaseg.data.check.splits import frames_on_both_sides
from dlaseg.data.class_uniform import ClassUniformDraw, samples_per_class, split_centroids
from dlaseg.data.datasets import SegmentationDataset, open_dataset
from dlaseg.data.label_check import check_labels, check_scored
from dlaseg.data.label_counts import CountedFiles, read_counts, write_counts
from dlaseg.data.loading import BatchShard, EpochBatches, train_loader, whole_image_loader
from dlaseg.data.names import abbreviated
from dlaseg.data.splits import check_no_common_image, check_no_copies, divide
from dlaseg.data.statistics import SplitStatistics, median_frequency, median_short_side, statistics
from dlaseg.data.transforms import Augmentation
from dlaseg.errors import MissingSplitError, UserError
from dlaseg.evaluation.evaluator import ScoredImage, evaluate_predictor
from dlaseg.evaluation.metrics.confusion import ConfusionMatrix
from dlaseg.evaluation.scoring import evaluate
from dlaseg.factory import create_model
from dlaseg.images import read_image
from dlaseg.inference.predictor import Predictor
from dlaseg.labels import LabelMap
from dlaseg.models.base import SegmentationModel
from dlaseg.models.segmenter import DLASeg
from dlaseg.run_folder import BEST_WEIGHTS, LABEL_COUNTS
from dlaseg.training.distributed import DistributedContext
from dlaseg.training.pixel_loss import PixelLoss
from dlaseg.training.task import Task, Validation
from dlaseg.visualize import Row, comparison_grid
from dlaseg.weights.loading import load_backbone_weights, load_weights

logger = logging.getLogger(__name__)

PICTURES = 4
"""Number of validation images in the picture of a validation, spread evenly over the split."""

READ_IMAGES = 10
"""Number of training images that are read before a run, so that what they tell is told now."""

FEW_STEPS, ENOUGH_STEPS = 400, 1200
"""Fewer steps are told, and how many the message names: docs/experiments.md, "Few images"."""


class Segmentation(Task[SegmentationDataset, DLASeg]):
    """Trains a segmentation network.

    Args:
        config: of the run.
    """

    config: Config
    metrics: ClassVar[Mapping[str, str]] = {"miou": "mIoU"}

    def __init__(self, config: Config):
        self.config = config
        self._counted: tuple[LabelMap, CountedFiles] | None = None
        self._statistics: SplitStatistics | None = None

    def open_splits(self, val_names: Collection[str] | None = None) -> tuple[SegmentationDataset, SegmentationDataset]:
        """The config's training and validation split, which have no image in common."""
        data = self.config.data
        training = self._open_split(data.train_split, data.train_list)
        if data.val_share is None:
            try:
                validation = self._open_split(data.val_split, data.val_list)
            except MissingSplitError as error:
                raise MissingSplitError(
                    f"{error}; --data.val_share 0.1 draws validation images from the others"
                ) from error
        else:
            training, validation = divide(training, data.val_share, data.split_seed, val_names)
        check_no_common_image(training, validation)
        training.require_labels()
        validation.require_labels()
        return training, validation

    def _open_split(self, split: str, names: str | None) -> SegmentationDataset:
        data = self.config.data
        return open_dataset(data.dataset, data.root, split, data.images, data.labels, data.classes, names)

    def names(self, split: SegmentationDataset) -> list[str]:
        """The names of the pairs."""
        return [pair.name for pair in split.pairs]

    def part(self, split: SegmentationDataset, indices: slice) -> SegmentationDataset:
        """Some of a split's pairs."""
        return replace(split, pairs=split.pairs[indices])

    def classes(self, split: SegmentationDataset) -> dict[str, Any]:
        """The label map."""
        return split.label_map.to_dict()

    def check_data(
        self, training: SegmentationDataset, validation: SegmentationDataset, output: Path, dist: DistributedContext
    ) -> None:
        """Reads all label maps and the headers of all images, in rank 0: what is wrong ends the run now, not in hours.

        Built-in data sets are no exception: a broken copy is as costly, and a resumed run reads only what has changed.

        Raises:
            UserError: a file that cannot be read, an image and a label map of different sizes, a label outside the
                label map, label maps that look misread, see `count_labels` and `check_labels`, or a validation split of
                copies of training images or without a pixel that is scored.
        """
        data, option = self.config.data, "--data.on_missing_class"

        def check() -> SplitStatistics:
            check_no_copies(training, validation)
            for pair in training.pairs[:: -(-len(training) // READ_IMAGES) or 1]:
                with suppress(UserError):  # those that are broken are named by what reads all of them
                    read_image(pair.image, training.max_pixels)  # tells if it is nearly black
            if data.val_share is not None and (frames := frames_on_both_sides(training, validation)):
                logger.warning(
                    "data.val_share %g draws neighbours of a sequence for both splits, such as %s (validation) and %s: "
                    "the score is too high for other places; divide whole sequences by data.train_list and "
                    "data.val_list", data.val_share, *frames,
                )  # fmt: skip
            counted = read_counts(output / LABEL_COUNTS, training.label_map)
            train_statistics = statistics(training, counted, skip_unreadable=data.on_error == "skip")
            val_statistics = statistics(validation, counted)
            self._counted = training.label_map, counted
            for split, found, for_training in ((training, train_statistics, True), (validation, val_statistics, False)):
                check_labels(split, found, for_training, data.on_missing_class, option)
            check_scored(validation, val_statistics, data.on_missing_class, option)
            return train_statistics

        self._statistics = dist.run_on_rank0(check)

    def on_fit_start(self, output: Path) -> None:
        """Writes the counts of `check_data` for the next start."""
        if self._counted is not None:
            write_counts(output / LABEL_COUNTS, *self._counted)

    def make_model(self, training: SegmentationDataset) -> DLASeg:
        """The config's network, randomly initialised, with the data set's label map.

        Raises:
            UserError: the number of class weights differs from the number of classes; or losses of auxiliary outputs,
                which the network does not have.
        """
        model_config, weights = self.config.model, self.config.train.class_weights
        classes = training.label_map.num_classes
        if isinstance(weights, list) and len(weights) != classes:
            raise UserError(
                f"train.class_weights has {len(weights)} numbers, the data set {classes} classes: "
                "give one number for each class, in the order of the classes"
            )
        model = create_model(
            model_config.name,
            classes,
            model_config.stride,
            model_config.root_kernel_size,
            decoder=model_config.decoder,
            head=model_config.head,
            scales=model_config.scales,
            activation=model_config.activation,
        )
        has_auxiliary = model.scales is not None or len(model.logit_layers()) > 1
        if self.config.train.auxiliary_losses is not None and not has_auxiliary:
            raise UserError("train.auxiliary_losses: this network has no auxiliary outputs: use null")
        model.metadata = replace(
            model.metadata,
            label_map=training.label_map,
            max_short_side=model_config.max_short_side,
            training_short_side=median_short_side(training, model_config.max_short_side),
        )
        return model

    def load_weights(self, model: DLASeg) -> None:
        """Loads the config's weights or backbone weights; the label map stays the data set's.

        Raises:
            UserError: the file does not exist, or its weights do not fit the network.
        """
        model_config, own = self.config.model, model.metadata
        if model_config.backbone_weights is not None:
            load_backbone_weights(model, model_config.backbone_weights)
        if model_config.weights is not None:
            load_weights(model, model_config.weights)
            file_labels = model.metadata.labels
            model.metadata = replace(
                model.metadata,
                label_map=own.label_map,
                max_short_side=own.max_short_side,
                training_short_side=own.training_short_side,
            )
            if file_labels is not own.labels and file_labels.names != own.labels.names:
                logger.warning("weights %s: its classes are %s", model_config.weights, ", ".join(file_labels.names))

    def train_loader(
        self, training: SegmentationDataset, model: SegmentationModel, dist: DistributedContext
    ) -> tuple[DataLoader[Any], EpochBatches]:
        """Random crops, padded with the mean colour; with data.class_uniform, rank 0 reads all label maps before.

        Raises:
            UserError: fewer images for each micro-batch of all processes than the network needs, and as
                `train_loader`, `samples_per_class` and `split_centroids`.
        """
        train, data = self.config.train, self.config.data
        smallest = model.smallest_batch * train.grad_accum_steps  # batch norm sees the images of all processes
        if train.batch_size < smallest:
            raise UserError(
                f"train.batch_size {train.batch_size}: this network needs {model.smallest_batch} images at a time x "
                f"train.grad_accum_steps {train.grad_accum_steps}, since batch norm after global pooling sees one "
                f"value for each image: use {smallest} or more"
            )
        if train.batch_size // (dist.world_size * train.grad_accum_steps) < model.smallest_batch and dist.is_main:
            logger.info(
                "one image at a time in each process: batch norm after global pooling sees %d values, those of all "
                "processes", train.batch_size // train.grad_accum_steps,
            )  # fmt: skip
        fill = [m * 255 for m in model.metadata.mean]
        augmentation = Augmentation(self.config.augment, fill, self.config.model.max_short_side)
        shard = BatchShard(dist.rank, dist.world_size, train.grad_accum_steps)
        skip = data.on_error == "skip"
        loader, sampler = train_loader(training, augmentation, train.batch_size, train.seed, data.workers, shard, skip)
        if data.class_uniform:
            images = len(training)
            count = samples_per_class(images, data.class_uniform, training.label_map.num_classes)
            centroids = dist.run_on_rank0(lambda: split_centroids(training, data.class_uniform_tile, skip))
            sampler.draw = ClassUniformDraw(centroids, images, count, train.seed)
        return loader, sampler

    def advise(self, model: SegmentationModel, batches: int) -> None:
        """Tells of frozen random weights, few steps, mirrored sides, and crops that do not fit the images.

        Crops of a quarter of the shorter side show no whole thing of photographs. Those that are twice as large are
        mostly padding: of images of 90 x 120, they learn no more, from eight times as many pixels.
        """
        train, crop = self.config.train, min(self.config.augment.crop_size)
        if train.freeze != "nothing" and not model.metadata.origin:
            logger.warning(
                "train.freeze %s without weights: what is frozen stays random: set model.backbone_weights or "
                "model.weights", train.freeze,
            )  # fmt: skip
        if train.epochs * batches < FEW_STEPS:
            logger.warning(
                "%d steps (%d epochs) are few for a network to learn: --train.epochs %d makes about %d",
                train.epochs * batches, train.epochs, -(-ENOUGH_STEPS // batches), ENOUGH_STEPS,
            )  # fmt: skip
        if self.config.augment.flip and (sides := model.metadata.mirrored_classes):
            logger.warning(
                "augment.flip %g mirrors images, so that %r looks like %r and keeps its label: set --augment.flip 0",
                self.config.augment.flip, *sides,
            )  # fmt: skip
        side, scale = model.metadata.training_short_side, sum(self.config.augment.scale) / 2
        shown = round(crop / scale)
        if side is not None and 2 * side <= shown:
            fitting = max(64, 32 * math.ceil(side * scale / 32))
            logger.warning(
                "crops of %d are mostly padding, since the images have a shorter side of about %d pixels: "
                "--augment.crop_size '[%d,%d]' learns as much in less time", crop, side, fitting, fitting,
            )  # fmt: skip
        if side is not None and side >= 4 * shown and self.config.model.max_short_side is None:
            logger.warning(
                "the images have a shorter side of about %d pixels, of which crops show %d: if things are larger, "
                "--model.max_short_side %d trains and computes at a smaller size", side, shown, 2 * crop,
            )  # fmt: skip

    def validator(
        self, validation: SegmentationDataset, dist: DistributedContext
    ) -> Callable[[SegmentationModel], Validation]:
        """Whole images at native size; one confusion matrix for the whole split."""
        shard = self.part(validation, slice(dist.rank, None, dist.world_size))
        loader = whole_image_loader(shard, min(self.config.data.workers, 1))
        shown = np.linspace(0, len(shard) - 1, PICTURES).round().astype(int).tolist()
        labels = validation.label_map

        def validate(model: SegmentationModel) -> Validation:
            rows: list[Row] = []

            def on_image(scored: ScoredImage) -> None:
                if scored.index in shown:
                    rows.append((scored.image, scored.target, scored.prediction))

            confusion = ConfusionMatrix(labels.num_classes)
            if len(shard):
                limit = model.metadata.max_short_side or 0  # set, so that no epoch tells of the size of images
                predictor = Predictor(model, device=str(dist.device), max_short_side=limit)
                confusion = evaluate_predictor(predictor, shard, loader=loader, on_image=on_image)
            matrix = dist.all_reduce_sum_(torch.from_numpy(confusion.matrix).to(dist.device))
            confusion.matrix = matrix.cpu().numpy()
            if dist.is_main:
                _warn_of_one_class(confusion, labels)
            scores = confusion.scores()
            ious = zip(labels.names, scores.iou, strict=True)
            details = {f"iou/{name}": iou for name, iou in ious if iou is not None}
            return Validation({"miou": scores.miou}, details, comparison_grid(rows, labels) if rows else None)

        return validate

    def on_fit_end(self, output: Path, validation: SegmentationDataset) -> None:
        """Writes `report.html` and `scores.json` of the best weights; tells of classes that they never find."""
        best = output / BEST_WEIGHTS
        if best.exists():  # absent if no validation gave an mIoU
            workers, device = min(self.config.data.workers, 1), self.config.train.device
            scores = evaluate(best, validation, output, workers=workers, device=device)
            ious = {name: each["iou"] for name, each in scores["classes"].items()}
            if any(ious.values()) and (missed := [name for name, iou in ious.items() if iou == 0]):
                logger.warning(
                    "classes of which no pixel of the validation images is found: %s: train for more steps, add images "
                    "that show them, or set --train.class_weights median_frequency", abbreviated(missed),
                )  # fmt: skip

    def criterion(self, training: SegmentationDataset, model: SegmentationModel) -> PixelLoss:
        """The config's losses; the class weights may depend on the pixels of the training split."""
        train, weights = self.config.train, self.config.train.class_weights
        if weights == "median_frequency":
            weights = median_frequency(self._statistics or statistics(training))
            pairs = zip(training.label_map.names, weights, strict=True)
            logger.info("class weights %s", ", ".join(f"{name} {weight:.3g}" for name, weight in pairs))
        return PixelLoss(train.losses, model.stride, weights, auxiliary_terms=train.auxiliary_losses)

    def image_path(self, training: SegmentationDataset, index: int) -> Path:
        """The image file of a pair."""
        return training.pairs[index].image


def _warn_of_one_class(confusion: ConfusionMatrix, labels: LabelMap) -> None:
    """Logs a warning if a network predicts nothing but one of several classes."""
    (predicted,), (occurring,) = confusion.matrix.sum(0).nonzero(), confusion.matrix.sum(1).nonzero()
    if len(predicted) == 1 and len(occurring) > 1:
        logger.warning(
            "all pixels of the validation images are predicted as %r: usual after few steps; later, look at the label "
            "maps (dlaseg data check) and the learning rate", labels.names[predicted[0]],
        )  # fmt: skip
