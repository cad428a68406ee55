"""What runs the network: one call, from normalised images to the decoder's logits."""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dlaseg.device import memory_format, pick_device
from dlaseg.models.segmenter import DLASeg


def _fold_batch_norm(model: DLASeg) -> DLASeg:
    """Merges, in place, every batch norm into the convolution before it, which saves 5 to 10 % of a CPU's time."""
    for module in list(model.modules()):
        # All of the network's modules register a batch norm right after the convolution that it follows
        for (name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return model


class TorchBackend:
    """PyTorch, as it is installed.

    Works on a copy of the model, taken here: the caller's one keeps its mode and its device, and may go on learning.

    Args:
        model: the network.
        device: see `pick_device`.

    Attributes:
        device: where `__call__` computes; images that lie there already are not moved.

    Raises:
        UserError: a device that this machine does not have.
    """

    def __init__(self, model: DLASeg, device: str = "auto"):
        self.device = pick_device(device)
        self._layout = memory_format(self.device)
        folded = _fold_batch_norm(copy.deepcopy(model).eval())
        self._model = folded.to(self.device).to(memory_format=self._layout)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Runs the network.

        Args:
            images: (N, C, H, W) float32, normalised; any H and W from 1 upwards.

        Returns:
            (N, num_classes, ceil32(H) / stride, ceil32(W) / stride) float32 logits on `device`, as from
            `DLASeg.coarse_logits`.
        """
        return self._model.coarse_logits(images.to(device=self.device, memory_format=self._layout))


BACKENDS = {"torch": TorchBackend}
