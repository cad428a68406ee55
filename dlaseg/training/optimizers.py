"""Which parameters are learnt, by what, and how fast."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from dlaseg.config import BaseTrainConfig
from dlaseg.models.dla import DLA
from dlaseg.models.segmenter import DLASeg

Network = DLASeg | DLA


def freeze(model: Network, what: str) -> None:
    """Takes parameters out of learning.

    Args:
        model: its parameters' `requires_grad` is set.
        what: see `train.freeze`.
    """
    for module in _frozen(model, what):
        module.requires_grad_(False)


def train_mode(model: Network, what: str) -> None:
    """Sets the network to training mode, what is frozen to evaluation mode, so that its statistics stay, too."""
    model.train()
    for module in _frozen(model, what):
        module.eval()


def make_optimizer(model: Network, train: BaseTrainConfig, device: torch.device) -> Optimizer:
    """The record's optimizer of what is learnt.

    Its parameter groups have a `factor`, which the learning rate of a step is multiplied by.
    """
    backbone = {id(parameter) for module in _backbone(model) for parameter in module.parameters()}
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            factor = train.backbone_lr_factor if id(parameter) in backbone else 1.0
            decays = train.decay_norm_and_bias or parameter.ndim > 1
            groups.setdefault((factor, train.weight_decay if decays else 0.0), []).append(parameter)
    made = [{"params": own, "factor": f, "weight_decay": decay} for (f, decay), own in groups.items()]
    fused = device.type in ("cpu", "cuda")  # one pass over the parameters rather than one per operation
    if train.optimizer == "adamw":
        return AdamW(made, train.lr, fused=fused)
    return SGD(made, train.lr, train.momentum, fused=fused)


def averaged(model: Network, decay: float) -> AveragedModel:
    """The exponential moving average of a network's weights and of batch norm's statistics.

    Args:
        model: what is averaged.
        decay: after n updates min(decay, (1 + n) / (10 + n)), so that the first weights are soon forgotten.
    """

    def blend(averages: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
        own = min(decay, (1 + int(updates)) / (10 + int(updates)))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(list(averages), list(current), 1 - own)
        else:  # batch norm's counts of batches
            torch._foreach_copy_(list(averages), list(current))

    return AveragedModel(model, multi_avg_fn=blend, use_buffers=True)


def _frozen(model: Network, what: str) -> list[nn.Module]:
    modules = _backbone(model) if what in ("backbone", "backbone_and_norm") else []
    if what in ("norm", "backbone_and_norm"):
        modules += [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return modules


def _backbone(model: Network) -> list[nn.Module]:
    if isinstance(model, DLASeg):
        return [model.backbone]
    return [module for name, module in model.named_children() if name != "fc"]
