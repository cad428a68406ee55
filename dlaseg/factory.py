"""Networks by name, with fresh weights or a file's; and networks from our own files."""

from pathlib import Path

import torch

from dlaseg.device import pick_device
from dlaseg.errors import UserError
from dlaseg.models.dla import DLA, VARIANTS
from dlaseg.models.segmenter import DLASeg
from dlaseg.models.skip_init import SkipInit
from dlaseg.weights.checkpoints import read_checkpoint
from dlaseg.weights.download import fetch
from dlaseg.weights.files import load_backbone_weights, load_weights, read_saved
from dlaseg.weights.layouts import recognize


def list_models() -> list[str]:
    """The names of the ten variants."""
    return list(VARIANTS)


def create_backbone(
    name: str,
    num_classes: int | None = None,
    in_channels: int = 3,
    root_kernel_size: int = 1,
    weights: str | Path | None = None,
) -> DLA:
    """Makes a DLA.

    Args:
        name: one of `list_models()`.
        num_classes: for a classifier; None for a backbone that returns six feature maps.
        in_channels: of the input.
        root_kernel_size: 1, the layout of published weights, or 3.
        weights: a file or a hub name, as for `load_backbone_weights`; None for fresh weights.

    Raises:
        UserError: an unknown name, a value out of range, or weights that do not fit.

    Example:
        >>> import torch
        >>> backbone = create_backbone("dla46_c")
        >>> [tuple(f.shape[1:]) for f in backbone(torch.zeros(1, 3, 64, 64))][-2:]
        [(128, 4, 4), (256, 2, 2)]
    """
    if name not in VARIANTS:
        raise UserError(f"model {name!r}: unknown; the variants are {', '.join(VARIANTS)}")
    depths, channels, block, residual_root = VARIANTS[name]
    backbone = DLA(depths, channels, block, residual_root, in_channels, num_classes, root_kernel_size)
    backbone.arguments = {
        "name": name,
        "num_classes": num_classes,
        "in_channels": in_channels,
        "root_kernel_size": root_kernel_size,
    }
    if weights is not None:
        load_backbone_weights(backbone, weights, "weights")
    return backbone


def create_model(
    name: str,
    num_classes: int,
    stride: int = 2,
    root_kernel_size: int = 3,
    in_channels: int = 3,
    weights: str | Path | None = None,
    backbone_weights: str | Path | None = None,
) -> DLASeg:
    """Makes a segmentation network.

    Args:
        name: one of `list_models()`.
        num_classes: channels of the logits.
        stride: output stride 2, 4 or 8.
        root_kernel_size: of the backbone's aggregation nodes, 3 or 1 (the layout of published weights).
        in_channels: of the input.
        weights: a file or a hub name for the whole network, as for `load_weights`; None for fresh weights.
        backbone_weights: the same for the backbone alone, as for `load_backbone_weights`.

    Raises:
        UserError: an unknown name, a value out of range, or weights that do not fit.

    Example:
        >>> import torch
        >>> model = create_model("dla46_c", num_classes=19)
        >>> tuple(model(torch.zeros(2, 3, 33, 50)).shape)
        (2, 19, 33, 50)
    """
    if weights is not None and backbone_weights is not None:
        raise UserError(
            f"weights {weights} and backbone_weights {backbone_weights}: the one would undo the other: give one"
        )
    model = DLASeg(create_backbone(name, None, in_channels, root_kernel_size), num_classes, stride)
    model.arguments = {
        "name": name,
        "num_classes": num_classes,
        "stride": stride,
        "root_kernel_size": root_kernel_size,
        "in_channels": in_channels,
    }
    if weights is not None:
        load_weights(model, weights)
    if backbone_weights is not None:
        load_backbone_weights(model, backbone_weights)
    return model


def model_of(source: str | Path) -> DLASeg:
    """Makes the segmentation network that a file holds, whoever wrote it, with its weights.

    Args:
        source: as for `load_weights`.

    Raises:
        UserError: no such weights, or not a segmentation network's.
    """
    found = recognize(read_checkpoint(fetch(source, "weights")))
    if found.stride is None or found.num_classes is None:
        raise UserError(f"{source}: {found}: no segmentation network, it has no decoder")
    return create_model(
        found.name, found.num_classes, found.stride, found.root_kernel_size, found.in_channels, weights=source
    )


def load_model(path: str | Path, device: str | torch.device = "cpu") -> DLASeg:
    """Reads a weights file of ours.

    Args:
        path: written by `save_model`.
        device: where the weights go, as in `pick_device`.

    Returns:
        The model in eval mode.

    Raises:
        UserError: no such file or device, another format, damaged, or not exactly the model's weights.
    """
    device = pick_device(str(device))
    saved = read_saved(Path(path))
    try:
        with SkipInit():
            model = create_model(**saved.meaning.arguments)
    except (UserError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error
    saved.fill(model)
    return model.to(device).eval()
