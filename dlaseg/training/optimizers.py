"""Trainable parameters, optimizer, and moving average of the weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from dlaseg.config.training import BaseTrainConfig
from dlaseg.errors import UserError
from dlaseg.models.base import SegmentationModel
from dlaseg.models.dla import DLA
from dlaseg.training.muon import Muon

Network = SegmentationModel | DLA


def freeze(model: Network, choice: str) -> None:
    """Makes parameters not trainable.

    Args:
        model: `requires_grad` of its parameters is set.
        choice: see `train.freeze`.

    Raises:
        UserError: the backbone of a network that has none by that name.
    """
    if choice.startswith("backbone") and not _backbone_modules(model):
        raise UserError(f"train.freeze {choice}: this network has no module `backbone`: use nothing or norm")
    for module in _frozen_modules(model, choice):
        module.requires_grad_(False)


def train_mode(model: Network, choice: str) -> None:
    """Sets the network to training mode, and frozen modules to eval mode, so that their batch norm statistics stay.

    Args:
        model: its mode is set.
        choice: see `train.freeze`.
    """
    model.train()
    for module in _frozen_modules(model, choice):
        module.eval()


def make_optimizer(model: Network, train: BaseTrainConfig, device: torch.device) -> Optimizer:
    """The config's optimizer of all trainable parameters.

    Each parameter group has a `factor`: its learning rate is the step's learning rate times this factor.

    Raises:
        UserError: a learning rate of the backbone or of attention, for a network without any.
    """
    backbone = {id(parameter) for module in _backbone_modules(model) for parameter in module.parameters()}
    if train.backbone_lr_factor != 1 and not backbone:
        raise UserError(
            f"train.backbone_lr_factor {train.backbone_lr_factor}: this network has no module `backbone`: use 1"
        )
    gates = {id(parameter) for module in _gates(model, train) for parameter in module.parameters()}
    matrices = _matrices(model) if train.optimizer == "muon" else {}
    groups: dict[tuple[float, float, int], list[Tensor]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            factor = train.backbone_lr_factor if id(parameter) in backbone else 1.0
            factor = train.attention_lr_factor if id(parameter) in gates else factor
            decays = train.decay_norm_and_bias or parameter.ndim > 1
            key = factor, train.weight_decay if decays else 0.0, matrices.get(id(parameter), 0)
            groups.setdefault(key, []).append(parameter)
    param_groups: list[dict[str, Any]] = [
        {"params": parameters, "factor": factor, "weight_decay": weight_decay, "matrices": count}
        for (factor, weight_decay, count), parameters in groups.items()
    ]
    fused = device.type in ("cpu", "cuda")  # one pass over the parameters rather than one per operation
    if train.optimizer == "muon":
        return Muon(param_groups, train.lr, fused=fused)
    for group in param_groups:
        del group["matrices"]
    if train.optimizer == "adamw":
        return AdamW(param_groups, train.lr, fused=fused)
    return SGD(param_groups, train.lr, train.momentum, fused=fused)


def _gates(model: Network, train: BaseTrainConfig) -> list[nn.Module]:
    """The modules of attention that learn at another rate.

    Raises:
        UserError: there are none.
    """
    if train.attention_lr_factor == 1:
        return []
    gates = model.gates() if isinstance(model, SegmentationModel) else []
    if not gates:
        raise UserError(f"train.attention_lr_factor {train.attention_lr_factor}: this network has no attention: use 1")
    return gates


def _matrices(model: Network) -> dict[int, int]:
    """The weights that Muon trains, by id: the number of matrices in each, one per group of a convolution.

    All but the first layer and the last ones, which read pixels and write logits, and depthwise and transposed
    convolutions.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    last = model.logit_layers() if isinstance(model, SegmentationModel) else layers[-1:]
    counts = {}
    for layer in layers[1:]:
        if layer in last:
            continue
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        if layer.weight.shape[0] > groups:
            counts[id(layer.weight)] = groups
    return counts


def moving_average(model: Network, decay: float) -> AveragedModel:
    """The exponential moving average of a network's weights and batch norm statistics.

    Args:
        model: the network to average.
        decay: upper limit; the first update copies the weights, and after n updates the decay is min(decay, (1 + n) /
            (10 + n)), so the average soon forgets the first ones.
    """

    def average_(averages: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
        current_decay = min(decay, (1 + int(updates)) / (10 + int(updates)))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(list(averages), list(current), 1 - current_decay)
        else:  # batch norm's num_batches_tracked
            torch._foreach_copy_(list(averages), list(current))

    return AveragedModel(model, multi_avg_fn=average_, use_buffers=True)


def _frozen_modules(model: Network, choice: str) -> list[nn.Module]:
    modules = _backbone_modules(model) if choice in ("backbone", "backbone_and_norm") else []
    if choice in ("norm", "backbone_and_norm"):
        modules += [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return modules


def _backbone_modules(model: Network) -> list[nn.Module]:
    """The module `backbone`, or of a classifier everything but `fc`; nothing for networks with neither."""
    modules = dict(model.named_children())
    if "backbone" in modules:
        return [modules["backbone"]]
    return [module for name, module in modules.items() if name != "fc"] if "fc" in modules else []
