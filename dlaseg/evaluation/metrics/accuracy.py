"""Scores a classifier on a split: counts of samples, each once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from dlaseg.data.loading import batches
from dlaseg.data.tensors import normalize
from dlaseg.device import memory_format
from dlaseg.models.dla import DLA
from dlaseg.models.eval_mode import eval_mode


@dataclass(frozen=True)
class Accuracies:
    """How often a classifier is right.

    Attributes:
        hits1: samples whose target is the class with the highest logit.
        hits5: it is among the five highest; of all, where there are fewer classes.
        samples: how many were counted.
    """

    hits1: int
    hits5: int
    samples: int

    @property
    def top1(self) -> float:
        """Share of the samples."""
        return self.hits1 / self.samples

    @property
    def top5(self) -> float:
        """Share of the samples."""
        return self.hits5 / self.samples


def evaluate_classifier(model: DLA, loader: Sequence[Any] | DataLoader[Any]) -> Accuracies:
    """Scores a classifier on every sample that a loader gives.

    Args:
        model: a classifier, on the device to compute on; its mode is restored afterwards.
        loader: of batches (images (N, 3, H, W) uint8, targets (N,) int64), such as `ordered_loader` makes.

    Raises:
        UserError: an unreadable image.
    """
    device = next(model.parameters()).device
    hits, samples = torch.zeros(2, dtype=torch.int64, device=device), 0
    with eval_mode(model), torch.inference_mode():
        progress = tqdm(batches(loader), total=len(loader), desc="score", unit="batch", leave=False, disable=None)
        for images, targets in progress:
            inputs = normalize(images.to(device, non_blocking=True), model.metadata.mean, model.metadata.std)
            logits = model(inputs.contiguous(memory_format=memory_format(device)))
            places = rank(logits.float(), targets.to(device))
            hits += torch.stack([(places < k).sum() for k in (1, 5)])
            samples += len(targets)
    hits1, hits5 = hits.tolist()
    return Accuracies(hits1, hits5, samples)


def rank(logits: Tensor, targets: Tensor) -> Tensor:
    """How many classes stand before the target, by logit; among equals the lower class id stands first.

    So a network that answers the same for all classes is right once in C samples, not always; and where a logit is no
    number, the target stands behind it.

    Args:
        logits: (N, C) float.
        targets: (N,) int64, 0 to C - 1.

    Returns:
        (N,) int64, 0 to C - 1.

    Example:
        >>> rank(torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]]), torch.tensor([2, 2])).tolist()
        [1, 2]
    """
    own = logits.gather(1, targets[:, None])  # (N, 1)
    after = torch.arange(logits.shape[1], device=logits.device) > targets[:, None]  # (N, C)
    behind = (logits < own) | ((logits == own) & after)
    return logits.shape[1] - 1 - behind.sum(1)
