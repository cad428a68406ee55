"""Networks of other packages, randomly initialised: nothing is downloaded."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dlaseg.errors import UserError, nearest
from dlaseg.inference.backends.graph import require
from dlaseg.metadata import IMAGENET_MEAN, IMAGENET_STD, ModelMetadata
from dlaseg.models.base import SegmentationModel
from dlaseg.models.resizing import crop, pad, round_up


class OtherNetwork(SegmentationModel):
    """Fits a network of another package to the contract of ours, so that the same backends run it.

    Args:
        network: takes (N, 3, H, W) float and gives (N, C, H, W) float, or a dict with these as `out`.
        num_classes: C.
        multiple: the network takes heights and widths that are multiples of it; others are padded.
    """

    def __init__(self, network: nn.Module, num_classes: int, multiple: int):
        super().__init__()
        self.metadata = ModelMetadata.for_segmentation(num_classes, 3)
        self.stride, self.num_classes = 1, num_classes
        self.network, self.multiple = network, multiple

    def coarse_logits(self, x: Tensor) -> Tensor:
        """Logits at full size, which these networks upsample to themselves."""
        height, width = x.shape[-2:]
        logits = self.network(pad(x, round_up(height, self.multiple), round_up(width, self.multiple)))
        return crop(logits["out"] if isinstance(logits, dict) else logits, height, width)


def smp_network(source: str, num_classes: int) -> OtherNetwork:
    """A network of segmentation_models_pytorch.

    Args:
        source: `ARCH:ENCODER`, such as `Unet:resnet18`.
        num_classes: of the logits.

    Raises:
        UserError: the package is missing, an unknown name, or two that do not go together.
    """
    option = f"--against smp:{source}"
    smp: Any = require("segmentation_models_pytorch", "dlaseg[benchmark]")
    arch, _, encoder = source.partition(":")
    _check_name(option, "architecture", arch.lower(), list(smp.MODEL_ARCHITECTURES_MAPPING))
    if not encoder.startswith("tu-"):  # those are timm's, a thousand more
        _check_name(option, "encoder", encoder, smp.encoders.get_encoder_names())
    try:
        network = smp.create_model(arch, encoder, encoder_weights=None, in_channels=3, classes=num_classes)
        multiple = network.encoder.output_stride if network.requires_divisible_input_shape else 1
    except Exception as error:  # of any kind: which go together is known to each architecture alone
        raise UserError(
            f"{option}: segmentation_models_pytorch does not build it ({error}): use another pair"
        ) from error
    return OtherNetwork(network, num_classes, multiple)


def torchvision_network(name: str, num_classes: int) -> OtherNetwork:
    """A segmentation network of torchvision.

    Raises:
        UserError: an unknown name.
    """
    from torchvision.models import get_model, list_models, segmentation

    _check_name(f"--against torchvision:{name}", "network", name, list_models(module=segmentation))
    network = get_model(name, weights=None, weights_backbone=None, num_classes=num_classes)
    return OtherNetwork(network, num_classes, 1)


class OnnxFile:
    """Any ONNX file with an image as input, run by ONNX Runtime on the CPU.

    Args:
        path: the file. Its input is (1, 3, H, W) or (1, H, W, 3), uint8 pixel values or float, for which they are
            normalised with ImageNet's mean and std. Its first output is logits (1, C, h, w), or labels (1, H, W) or
            (1, 1, H, W) of an integer type.

    Raises:
        UserError: onnxruntime is missing, or the file cannot be read or has another input or output.
    """

    def __init__(self, path: str):
        self._option = f"--against onnx:{path}"
        onnxruntime: Any = require("onnxruntime", "dlaseg[onnxruntime]")
        if not Path(path).is_file():
            raise UserError(f"{self._option}: no such file: give an ONNX file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors, which are raised as well
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes, which it does not export
            raise UserError(f"{self._option}: onnxruntime cannot load it ({error}): use another file") from error
        inputs = self._session.get_inputs()
        image = inputs[0]
        kinds = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
        channels = [axis for axis in (1, 3) if len(image.shape) == 4 and image.shape[axis] == 3]
        if len(inputs) != 1 or image.type not in kinds or not channels:
            found = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
            raise UserError(
                f"{self._option}: its inputs are {found}: use a file with one input (1, 3, H, W), uint8 or float"
            )
        self._input, self._dtype, self._channels_last = image, kinds[image.type], channels[0] == 3

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """(H, W, 3) uint8 RGB -> the file's input.

        Raises:
            UserError: the file takes images of another size.
        """
        fixed = self._input.shape[1:3] if self._channels_last else self._input.shape[2:4]
        for want, have in zip(fixed, image.shape[:2], strict=True):
            if isinstance(want, int) and want != have:
                size = " x ".join(map(str, fixed))
                raise UserError(f"{self._option}: takes images of {size} pixels: use --size {size.replace(' x', '')}")
        pixels: NDArray[Any] = image
        if self._dtype == np.float32:
            mean, std = (np.array(values, np.float32) * 255 for values in (IMAGENET_MEAN, IMAGENET_STD))
            pixels = (image - mean) / std
        return np.ascontiguousarray((pixels if self._channels_last else pixels.transpose(2, 0, 1))[None])

    def run(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """The file's first output for its input."""
        output: NDArray[Any] = self._session.run(None, {self._input.name: pixels})[0]
        return output

    def labels(self, output: NDArray[Any], height: int, width: int) -> NDArray[np.uint8]:
        """The file's output -> (H, W) uint8; logits of another size are upsampled.

        Raises:
            UserError: the output is neither logits nor labels.
        """
        if np.issubdtype(output.dtype, np.integer):
            labels = output.squeeze()
            if labels.shape == (height, width):
                return labels.astype(np.uint8)
        elif output.ndim == 4 and np.issubdtype(output.dtype, np.floating):
            logits = torch.from_numpy(output).float()
            if logits.shape[-2:] != (height, width):
                logits = F.interpolate(logits, (height, width), mode="bilinear")
            return logits.argmax(1)[0].to(torch.uint8).numpy()
        raise UserError(
            f"{self._option}: its first output has shape {output.shape}, {output.dtype}: use a file with logits "
            "(1, C, h, w) or labels (1, H, W)"
        )


def _check_name(option: str, what: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise UserError(
            f"{option}: unknown {what} {name!r}: did you mean {nearest(name, known)}? There are {', '.join(known)}"
        )
