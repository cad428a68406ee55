"""What is traced: a network with the steps before and after it that an exported file does itself."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlaseg.data.tensors import normalize
from dlaseg.inference.backends.conversion import trace
from dlaseg.inference.backends.torch import fold_batch_norm
from dlaseg.models.base import SegmentationModel, upsample_logits
from dlaseg.models.resizing import crop


class ExportedNetwork(nn.Module):
    """From the input to the output of an exported file.

    Args:
        model: is copied; its batch norms are folded into the convolutions.
        input: one of `INPUTS`.
        output: one of `OUTPUTS`.
    """

    def __init__(self, model: SegmentationModel, input: str, output: str):
        super().__init__()
        self.model = fold_batch_norm(model)
        self.input, self.output = input, output
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """One of `INPUTS` to one of `OUTPUTS`."""
        if self.input == "pixels":
            metadata = self.model.metadata
            # Copied, not viewed: how a view is strided, a trace would ask, and then refuse some sizes
            image = image.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
            image = normalize(image, metadata.mean, metadata.std)
        coarse = self.model.coarse_logits(image)
        height, width = image.shape[-2:]
        if self.output == "coarse_logits":
            return coarse
        if self.output == "logits":
            return upsample_logits(coarse, self.model.stride, height, width)
        full = F.interpolate(coarse, scale_factor=float(self.model.stride), mode="bilinear")
        return crop(full.argmax(1).to(torch.uint8), height, width)  # of bytes: cheaper than of logits


def trace_network(model: SegmentationModel, input: str, output: str) -> torch.export.ExportedProgram:
    """Traces a model for export, see `ExportedNetwork` and `trace`."""
    network, channels = ExportedNetwork(model, input, output), model.metadata.in_channels
    if input == "pixels":
        return trace(network, torch.zeros(2, 97, 131, channels, dtype=torch.uint8), rows=1)
    return trace(network, torch.zeros(2, channels, 97, 131))
