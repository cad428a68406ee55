"""Networks by name, randomly initialised or with a file's weights; and networks from weights files."""

from collections.abc import Sequence
from pathlib import Path

import torch

from dlaseg.device import pick_device
from dlaseg.errors import UserError
from dlaseg.models.build import Architecture, build_segmenter
from dlaseg.models.dla import DLA, VARIANTS, build_backbone
from dlaseg.models.segmenter import DLASeg
from dlaseg.models.skip_init import SkipInit
from dlaseg.weights.checkpoints import read_checkpoint
from dlaseg.weights.download import resolve
from dlaseg.weights.files import read_model_file
from dlaseg.weights.loading import load_backbone_weights, load_weights
from dlaseg.weights.recognition import recognize


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
    """Makes a DLA backbone or classifier.

    Args:
        name: one of `list_models()`.
        num_classes: of a classifier; None for a backbone that returns six feature maps.
        in_channels: of the input.
        root_kernel_size: of the aggregation nodes: 1 as in published weights, or 3.
        weights: a file, folder or hub name, as for `load_backbone_weights`; None for random initialisation.

    Raises:
        UserError: an unknown name, a value out of range, or weights that do not fit.

    Examples:
        >>> import torch
        >>> backbone = create_backbone("dla46_c")
        >>> [tuple(f.shape[1:]) for f in backbone(torch.zeros(1, 3, 64, 64))][-2:]
        [(128, 4, 4), (256, 2, 2)]
    """
    backbone = build_backbone(name, num_classes, in_channels, root_kernel_size)
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
    decoder: str = "plain",
    head: str = "linear",
    scales: Sequence[float] = (),
    activation: str = "relu",
    norm: str | None = None,
) -> DLASeg:
    """Makes a segmentation network.

    Its input is (N, 3, H, W) float, RGB from 0 to 1 minus `model.metadata.mean`, divided by `model.metadata.std`; for a
    training loop of your own, set the label map, too: `docs/training.md`.

    Args:
        name: one of `list_models()`.
        num_classes: channels of the logits.
        stride: output stride 2, 4 or 8.
        root_kernel_size: of the backbone's aggregation nodes: 3, or 1 as in published weights.
        in_channels: of the input.
        weights: a file, folder or hub name for the whole network, as for `load_weights`; None for random
            initialisation.
        backbone_weights: the same for the backbone alone, as for `load_backbone_weights`.
        decoder: `plain`, iterative deep aggregation; or `afa`, with attention, see `AttentiveDLASeg`.
        head: `linear`, a 1x1 convolution; or `ocr`, object-contextual representations, see `ObjectContextHead`.
        scales: of the image, 0.25 to 4, whose scores the network blends (scale-space rendering), see `RenderedDLASeg`;
            empty for a network of one scale.
        activation: of decoder and head: `relu`, or `leaky_relu` with slope 0.01.
        norm: as for `load_weights`; only with `weights`.

    Raises:
        UserError: an unknown name, a value out of range, or weights that do not fit.

    Examples:
        >>> import torch
        >>> model = create_model("dla46_c", num_classes=19)
        >>> tuple(model(torch.zeros(2, 3, 33, 50)).shape)
        (2, 19, 33, 50)
    """
    if weights is not None and backbone_weights is not None:
        raise UserError(f"weights {weights} and backbone_weights {backbone_weights}: pass at most one of the two")
    if norm is not None and weights is None:
        raise UserError(f"norm {norm}: of a file of weights: give weights, or leave norm out")
    model = build_segmenter(
        Architecture(name, num_classes, stride, root_kernel_size, in_channels, decoder, head, scales, activation)
    )
    if weights is not None:
        load_weights(model, weights, norm)
    if backbone_weights is not None:
        load_backbone_weights(model, backbone_weights)
    return model


def model_from_checkpoint(source: str | Path, norm: str | None = None) -> DLASeg:
    """Makes the segmentation network that a file of any known layout holds, with its weights.

    Args:
        source: as for `load_weights`.
        norm: as for `load_weights`.

    Raises:
        UserError: no such weights, or not a segmentation network's.
    """
    recognized = recognize(read_checkpoint(resolve(source)), norm)
    if recognized.stride is None or recognized.num_classes is None:
        raise UserError(f"{source}: {recognized}: not a segmentation network, it has no decoder")
    return create_model(
        recognized.name,
        recognized.num_classes,
        recognized.stride,
        recognized.root_kernel_size,
        recognized.in_channels,
        weights=source,
        norm=norm,
        **recognized.options,
    )


def load_model(source: str | Path, device: str | torch.device = "cpu") -> DLASeg:
    """Makes the segmentation network of a weights file of ours.

    Args:
        source: a file that `save_model` wrote, the folder of a run or one that `save_pretrained` wrote, a name of
            `list_weights`, or a repository on the Hugging Face hub (`USER/NAME`, or `USER/NAME@REVISION`).
        device: where the weights go, as in `pick_device`.

    Returns:
        The model in eval mode.

    Raises:
        UserError: no such file or device, another format, damaged, or not exactly the model's weights.
    """
    device = pick_device(str(device))
    path = resolve(source)
    metadata, tensors = read_model_file(path)
    with SkipInit():
        model = build_segmenter(Architecture(**metadata.architecture))
    expected = model.state_dict()
    mismatched = sorted(set(expected) ^ set(tensors)) or [
        name
        for name, tensor in tensors.items()
        if tensor.shape != expected[name].shape or tensor.is_floating_point() != expected[name].is_floating_point()
    ]
    if mismatched:
        raise UserError(
            f"{path}: {len(mismatched)} tensors do not fit {metadata.architecture['name']}, first {mismatched[0]!r}"
        )
    model.load_state_dict(tensors)
    model.metadata = metadata
    return model.to(device).eval()
