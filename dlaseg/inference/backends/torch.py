"""PyTorch as it is installed."""

import copy
import logging
import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dlaseg.data.tensors import normalize
from dlaseg.device import gains_from_bfloat16, memory_format, pick_device, reduced_precision
from dlaseg.errors import UserError
from dlaseg.inference.backends.live_bytes import LiveBytes
from dlaseg.models.base import SegmentationModel

logger = logging.getLogger(__name__)

_SIDE = 256  # of the image by which memory is measured, pixels


class TorchBackend:
    """Runs a copy of a model, with batch norm folded into the convolutions: 5 to 10 % less time on a CPU.

    Args:
        model: copied now: it keeps its mode and its device, and training it further changes nothing here.
        device: see `pick_device`.
        precision: `float32`, `bfloat16`, `float16` (GPUs), or `auto` for what training's `auto` takes on the device.
        compile: whether the network is built by `torch.compile`. This takes about a minute at the start, and again for
            each of the few kinds of sizes that it tells apart.
        in_place: whether the model is nobody else's, so that it is changed instead of copied.

    Raises:
        UserError: a device or precision that this machine does not have, no compiler, or as `fold_batch_norm`.
    """

    input, output, arrays = "normalized", "coarse_logits", False

    def __init__(
        self,
        model: SegmentationModel,
        device: str = "auto",
        precision: str = "float32",
        compile: bool = False,
        in_place: bool = False,
    ):
        self.name = "torch-compile" if compile else "torch"
        self._device = pick_device(device)
        self.device = str(self._device)
        self.max_streams = self.streams = 1
        self.metadata, self.stride, self.multiple = model.metadata, model.stride, model.multiple
        self.scales = model.scales
        self._autocast = reduced_precision(precision, self._device, "precision")
        self.precision = str(self._autocast or torch.float32).removeprefix("torch.")
        if self._device.type == "cpu" and self._autocast is not None and not gains_from_bfloat16(self._device):
            logger.warning("precision bfloat16: this CPU computes it more slowly than float32: use float32")
        self._memory_format = memory_format(self._device)
        folded = fold_batch_norm(model, in_place)
        folded = folded.to(self._device).to(memory_format=self._memory_format)
        self._coarse_logits = folded.coarse_logits
        if compile:
            self._coarse_logits = torch.compile(folded.coarse_logits, dynamic=True)
            self._build()

    @torch.inference_mode()
    def run(self, images: Any) -> Any:
        """See `Backend.run`."""
        if isinstance(images, np.ndarray):
            return self.run(torch.from_numpy(images)).cpu().numpy()
        images = images.to(self._device, non_blocking=True)
        if images.dtype == torch.uint8:
            images = normalize(images, self.metadata.mean, self.metadata.std)
        images = images.contiguous(memory_format=self._memory_format)
        with torch.autocast(self._device.type, self._autocast or torch.bfloat16, enabled=self._autocast is not None):
            return self._coarse_logits(images).float()

    def memory_needed(self) -> tuple[float, int]:
        """See `Backend.memory_needed`.

        The tensors that are computed from an image grow with its pixels, those that are computed from the weights
        alone, such as copies in lower precision, do not. So one forward pass of a small image tells both.
        """
        image = torch.zeros(1, self.metadata.in_channels, _SIDE, _SIDE, dtype=torch.uint8, device="cpu")
        with LiveBytes(image) as live:
            self.run(image)
        return live.peak[True] / _SIDE**2, live.peak[False]

    def _build(self) -> None:
        """Compiles the network now, so that what is missing is reported before anything is done."""
        try:
            self.run(torch.zeros(1, self.metadata.in_channels, 97, 161, dtype=torch.uint8, device="cpu"))
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = str(error.inner_exception).strip().partition("\n")[0]
            raise UserError(
                f"backend torch-compile: {reason}: install a C++ compiler, such as g++, or use the backend torch"
            ) from error


def fold_batch_norm(model: SegmentationModel, in_place: bool = False) -> SegmentationModel:
    """Merges every batch norm into the convolution before it, in a copy in float32 and eval mode on the CPU.

    A batch norm is taken to follow the convolution that its module registers right before it. That holds in DLA, but
    not in every family, so the logits of an image of noise are compared. Where they change by more than rounding, the
    model keeps its batch norms.

    Args:
        model: of any floating-point type, on any device.
        in_place: whether the model itself is changed, which saves a third of the time.

    Returns:
        The copy, or the model.

    Raises:
        UserError: metadata of another number of classes than the logits have.
    """
    model = (model if in_place else copy.deepcopy(model)).cpu().float().eval()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, model.metadata.in_channels, 32, 32, generator=generator, device="cpu", dtype=torch.float32)
    with torch.inference_mode():
        expected = model.coarse_logits(noise)
    model.metadata.check(expected.shape[1], model.metadata.in_channels)
    replaced: list[tuple[nn.Module, str, Any]] = []
    for module in list(model.modules()):
        for (_, conv), (name, norm) in pairwise(list(module.named_children())):
            if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm)):
                continue
            if norm.running_mean is None or norm.running_var is None or norm.num_features != conv.out_channels:
                continue
            replaced += [(conv, "weight", conv.weight), (conv, "bias", conv.bias), (module, name, norm)]
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            setattr(module, name, nn.Identity())
    with torch.inference_mode():
        logits = model.coarse_logits(noise)
    largest = float(expected.abs().max())  # NaN for a network that diverged, which is scored all the same
    if not (math.isfinite(largest) and torch.allclose(logits, expected, rtol=0, atol=1e-3 * largest)):
        for module, name, original in reversed(replaced):
            setattr(module, name, original)
    return model
