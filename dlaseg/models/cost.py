"""What a network costs: parameters, multiply-adds and activations, counted from shapes alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.flop_counter import conv_flop_count

from dlaseg.models.build import Architecture, build_segmenter
from dlaseg.models.dla import build_backbone
from dlaseg.models.ocr import ObjectContextHead
from dlaseg.models.segmenter import STRIDES
from dlaseg.models.skip_init import SkipInit

# ImageNet top-1 accuracy in % of timm's weights `timm/NAME.in1k`, as timm publishes it, not measured by us:
# https://github.com/huggingface/pytorch-image-models/blob/main/hfdocs/source/models/dla.mdx
PUBLISHED_TOP1 = {
    "dla34": 74.63,
    "dla46_c": 64.88,
    "dla46x_c": 66.01,
    "dla60x_c": 67.93,
    "dla60": 77.04,
    "dla60x": 78.23,
    "dla102": 78.02,
    "dla102x": 78.52,
    "dla102x2": 79.45,
    "dla169": 78.70,
}


@dataclass(frozen=True)
class Cost:
    """What a network is made of, and what one image takes.

    Attributes:
        parameters: how many.
        macs: multiply-adds of all convolutions, transposed ones included. Tables that also count batch norm, such as
            timm's, are larger by two for each of its outputs.
        activations: elements of all convolutions' outputs, as in Radosavovic et al., "Designing Network Design
            Spaces", CVPR 2020, sec. 4, https://arxiv.org/abs/2003.13678.
    """

    parameters: int
    macs: int
    activations: int


class _ShapesOnly(SkipInit):
    """Passes by batch norm too, which changes no shape and takes the longest on the meta device."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is F.batch_norm else super().__torch_function__(func, types, args, kwargs)


def network_cost(network: nn.Module, height: int, width: int, in_channels: int = 3) -> Cost:
    """Counts on the meta device, so without arithmetic and without memory.

    Args:
        network: on any device; left as it is.
        height: of the image, pixels.
        width: of the image, pixels.
        in_channels: of the image.

    Examples:
        >>> network_cost(build_backbone("dla46_c", num_classes=1000), 224, 224)
        Cost(parameters=1301400, macs=574269440, activations=4498024)
    """
    image = torch.empty(1, in_channels, height, width, device="meta")
    tensors = (*network.named_parameters(), *network.named_buffers())
    skeleton = {name: tensor.detach().to("meta", torch.float32) for name, tensor in tensors}
    macs = activations = 0

    def count(layer: nn.Conv2d | nn.ConvTranspose2d, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal macs, activations
        x, weight, y = (list(tensor.shape) for tensor in (inputs[0], layer.weight, output))
        macs += conv_flop_count(x, weight, y, layer.transposed) // 2  # a multiply-add is two operations
        activations += output.numel()

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]

    def count_products(head: ObjectContextHead, _: nn.Module, inputs: tuple[Tensor, Tensor], __: Tensor) -> None:
        nonlocal macs
        macs += head.product_macs(*inputs[0].shape[-2:])

    heads = [module for module in network.modules() if isinstance(module, ObjectContextHead)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    # Of its attention, since rendering calls a head's `outputs` rather than the head
    hooks += [head.attention.register_forward_hook(partial(count_products, head)) for head in heads]
    try:
        # FlopCounterMode finds the same multiply-adds, and makes every operator slower
        with torch.no_grad(), _ShapesOnly():
            functional_call(network, skeleton, image)
    finally:
        for hook in hooks:
            hook.remove()
    return Cost(sum(parameter.numel() for parameter in network.parameters()), macs, activations)


def classifier_cost(name: str, num_classes: int, height: int, width: int) -> Cost:
    """The cost of a variant as a classifier.

    Raises:
        UserError: an unknown name or a value out of range.
    """
    with torch.device("meta"), _ShapesOnly():
        network = build_backbone(name, num_classes).eval()
    return network_cost(network, height, width)


def segmentation_costs(
    name: str, num_classes: int, height: int, width: int, decoder: str = "plain", head: str = "linear"
) -> dict[tuple[int, int], Cost]:
    """The costs of a variant's segmentation networks, by output stride and kernel size of the aggregation nodes.

    Heads that are trained alone count among the parameters.

    Raises:
        UserError: an unknown name or a value out of range.
    """
    costs = {}
    with torch.device("meta"), _ShapesOnly():
        backbones = {size: build_backbone(name, root_kernel_size=size).eval() for size in (1, 3)}
        models = {
            stride: build_segmenter(Architecture(name, num_classes, stride, 1, 3, decoder, head)).eval()
            for stride in STRIDES
        }
    for stride, model in models.items():
        for size, backbone in backbones.items():
            model.backbone = backbone
            costs[stride, size] = network_cost(model, height, width)
    return costs


def cost_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Aligned columns: parameters and activations in millions, multiply-adds in billions.

    Args:
        rows: a network each; the keys are the fields of `Cost`, `published_top1`, and any others.
    """
    units = {
        "parameters": ("parameters, M", 1e6),
        "macs": ("GMACs", 1e9),
        "activations": ("activations, M", 1e6),
        "published_top1": ("top-1, %", 1),
    }
    lines = [[units[key][0] if key in units else key for key in rows[0]]]
    lines += [[f"{row[key] / units[key][1]:.2f}" if key in units else str(row[key]) for key in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([name.ljust(widths[0]), *map(str.rjust, values, widths[1:])]) for name, *values in lines)
