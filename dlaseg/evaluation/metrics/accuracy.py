"""Top-1 and top-5 accuracy of a classifier on a split; every sample counts once."""

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
    """Counts of correctly classified samples.

    Attributes:
        correct1: samples whose target has the highest logit.
        correct5: samples whose target is among the five highest logits; all samples if there are fewer classes.
        samples: all samples.
    """

    correct1: int
    correct5: int
    samples: int

    @property
    def top1(self) -> float:
        """Top-1 accuracy, 0 to 1."""
        return self.correct1 / self.samples

    @property
    def top5(self) -> float:
        """Top-5 accuracy, 0 to 1."""
        return self.correct5 / self.samples


def evaluate_classifier(model: DLA, loader: Sequence[Any] | DataLoader[Any]) -> Accuracies:
    """Scores a classifier on every sample of a loader.

    Args:
        model: a classifier, on the device that computes; its mode is restored afterwards.
        loader: of batches (images (N, 3, H, W) uint8, targets (N,) int64), such as `ordered_loader` gives.

    Raises:
        UserError: an unreadable image.
    """
    device = next(model.parameters()).device
    correct, samples = torch.zeros(2, dtype=torch.int64, device=device), 0
    with eval_mode(model), torch.inference_mode():
        progress = tqdm(batches(loader), total=len(loader), desc="score", unit="batch", leave=False, disable=None)
        for images, targets in progress:
            inputs = normalize(images.to(device, non_blocking=True), model.metadata.mean, model.metadata.std)
            logits = model(inputs.contiguous(memory_format=memory_format(device)))
            ranks = rank(logits.float(), targets.to(device))
            correct += torch.stack([(ranks < k).sum() for k in (1, 5)])
            samples += len(targets)
    correct1, correct5 = correct.tolist()
    return Accuracies(correct1, correct5, samples)


def rank(logits: Tensor, targets: Tensor) -> Tensor:
    """Rank of the target among all classes by logit, 0 for the highest; the lower class id wins a tie.

    So a network with equal logits for all classes has top-1 accuracy 1 / C, not 1. NaN logits rank above the target.

    Args:
        logits: (N, C) float.
        targets: (N,) int64, 0 to C - 1.

    Returns:
        (N,) int64, 0 to C - 1.

    Examples:
        >>> rank(torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]]), torch.tensor([2, 2])).tolist()
        [1, 2]
    """
    target_logits = logits.gather(1, targets[:, None])  # (N, 1)
    higher_id = torch.arange(logits.shape[1], device=logits.device) > targets[:, None]  # (N, C)
    behind = (logits < target_logits) | ((logits == target_logits) & higher_id)  # (N, C); false for NaN
    return logits.shape[1] - 1 - behind.sum(1)
