"""Recognises whose weights a file holds by the tensors' names and shapes, and renames them to ours."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from dlaseg.errors import UserError
from dlaseg.models.build import OPTIONS, Architecture, build_segmenter
from dlaseg.models.dla import DLA, VARIANTS, Tree, check_backbone
from dlaseg.models.ida import BilinearUpsample
from dlaseg.models.rendering import SCALES, check_scales
from dlaseg.models.segmenter import STRIDES
from dlaseg.models.skip_init import SkipInit
from dlaseg.weights.checkpoints import HYPER_PARAMETERS, Checkpoint
from dlaseg.weights.entries import decode_metadata
from dlaseg.weights.files import check_numbers, is_ours
from dlaseg.weights.layouts import LAYOUTS
from dlaseg.weights.norms import NORMS, norm_of, plain_norms

Shapes = dict[str, tuple[int, ...]]

HEADS = ("head.weight", "head.bias", "head.classifier.", "head.regions.classifier.", "auxiliary.")
"""What the names of tensors begin with that have as many rows as there are classes."""


@dataclass(frozen=True)
class Recognized:
    """Weights by our names.

    Attributes:
        layout: title of the layout.
        name: the variant, one of `dlaseg.list_models()`.
        root_kernel_size: 1 or 3.
        in_channels: of the input.
        num_classes: of the classifier or the head; None for a backbone without a classifier.
        stride: output stride of a segmentation network, else None.
        backbone: every tensor of the backbone but the classifier's.
        classifier: `fc.weight` and `fc.bias`, or nothing.
        decoder: every tensor of a segmentation network's decoder and head, or nothing.
        unused: the file's names of tensors that no forward pass uses.
        options: those arguments in `OPTIONS` that differ from what is there; the scales are of inference.
        norm_unknown: whether the norm of decoder and head is one of `NORMS`, and the file does not say which.
    """

    layout: str
    name: str
    root_kernel_size: int
    in_channels: int
    num_classes: int | None
    stride: int | None
    backbone: dict[str, Tensor]
    classifier: dict[str, Tensor]
    decoder: dict[str, Tensor]
    unused: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    norm_unknown: bool = False

    def __str__(self) -> str:
        """Such as `timm's classification layout, dla34, 1000 classes`."""
        classes = "no classifier" if self.num_classes is None else f"{self.num_classes} classes"
        stride = "" if self.stride is None else f", stride {self.stride}"
        for option, value in self.options.items():
            stride += f", {option} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        stride += ", norm unknown" if self.norm_unknown else ""
        nodes = "" if self.root_kernel_size == 1 else f", {self.root_kernel_size}x{self.root_kernel_size} nodes"
        inputs = "" if self.in_channels == 3 else f", {self.in_channels} input channels"
        return f"{self.layout}, {self.name}, {classes}{stride}{nodes}{inputs}"


class MismatchError(UserError):
    """Weights that are nearly a DLA's.

    Attributes:
        problems: everything that does not match, by the names in the file.
    """

    def __init__(self, summary: str, problems: Sequence[str], most: int = 12):
        more = len(problems) - most
        rest = f" and {more} more (`dlaseg weights inspect` lists them all)" if more > 0 else ""
        super().__init__(f"{summary} {', '.join(problems[:most])}{rest}")
        self.problems = list(problems)


def recognize(checkpoint: Checkpoint, norm: str | None = None) -> Recognized:
    """Recognises layout and variant, and renames the tensors.

    Args:
        checkpoint: of any known layout.
        norm: one of `NORMS`, for a file that does not say it. In-place norm becomes plain batch norm: its scale is
            computed, and the activation is among the options.

    Raises:
        UserError: not a DLA, or one with missing, unexpected or misshapen tensors, or numbers that `check_numbers`
            refuses; another norm than the file says.
    """
    path, tensors = checkpoint.path, checkpoint.tensors
    layout = next((layout for layout in LAYOUTS if layout.detect(checkpoint)), None)
    if layout is None:
        raise UserError(
            f"{path}: not a DLA: {len(tensors)} tensors, the first is {next(iter(tensors)):.80}: name a checkpoint of "
            f"one of {', '.join(VARIANTS)}"
        )
    renamed = {new: tensor for name, tensor in tensors.items() if (new := layout.rename(name)) is not None}
    unused = [name for name in tensors if layout.rename(name) is None]
    if layout.segmentation:
        decoder, backbone = _split(renamed, "backbone.")
        backbone = {name.removeprefix("backbone."): tensor for name, tensor in backbone.items()}
        classifier: dict[str, Tensor] = {}
    else:
        backbone, classifier = _split(renamed, "fc.")
        decoder = {}
    prefix = "backbone." if layout.segmentation else ""
    name, root_kernel_size, backbone, projections = _match_backbone(
        path, backbone, lambda key: layout.restore(prefix + key)
    )
    in_channels, num_classes, stride = backbone["base_layer.0.weight"].shape[1], None, None
    norm = norm_of(checkpoint, layout.norms, norm)
    options: dict[str, Any] = {}
    if layout.segmentation:
        num_classes, stride, options, decoder = _match_decoder(checkpoint, name, decoder, layout.restore)
        if norm == "inplace":
            decoder = plain_norms(decoder)
        options["activation"] = NORMS.get(norm or "", options["activation"])
        options = {key: value for key, value in options.items() if value != OPTIONS[key]}
    elif classifier:
        num_classes = _length(classifier.get("fc.bias"))
        shapes = {"fc.weight": (num_classes, VARIANTS[name][1][-1], 1, 1), "fc.bias": (num_classes,)}
        _check(path, name, classifier, shapes)
    try:
        if layout.segmentation:
            Architecture(name, num_classes or 0, stride or 0, root_kernel_size, in_channels, **options)
        else:
            check_backbone(name, num_classes, in_channels, root_kernel_size)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    used = {f"{prefix}{key}": tensor for key, tensor in backbone.items()} | decoder | classifier
    check_numbers(path, used, layout.restore)
    if layout.upsampling in tensors:
        _check_bilinear(path, layout.upsampling, tensors[layout.upsampling], num_classes, stride)
    return Recognized(
        layout.title,
        name,
        root_kernel_size,
        in_channels,
        num_classes,
        stride,
        backbone,
        classifier,
        decoder,
        (*unused, *projections),
        options,
        layout.norms and norm is None,
    )


@cache
def backbone_shapes(name: str) -> tuple[Shapes, Shapes]:
    """Shapes of a variant's tensors (3 input channels, 1x1 nodes, no classifier), and of the original's unused ones.

    The original makes a `project` in every tree whose width changes; the forward pass uses those of the innermost
    trees alone. So where a deeper tree starts with a projecting one, an unused tensor of the same shape lies beside it.
    """
    with torch.device("meta"), SkipInit():
        network = DLA(*VARIANTS[name])
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    unused: Shapes = {}
    for prefix, tree in network.named_modules():
        if isinstance(tree, Tree) and tree.depth > 1:
            innermost: nn.Module = tree
            while isinstance(innermost, Tree) and innermost.depth > 1:
                innermost = innermost.tree1
            assert isinstance(innermost, Tree)
            for key, tensor in innermost.project.state_dict().items():
                unused[f"{prefix}.project.{key}"] = tuple(tensor.shape)
    return shapes, unused


def _match_backbone(
    path: object, tensors: Mapping[str, Tensor], restore: Callable[[str], str]
) -> tuple[str, int, dict[str, Tensor], list[str]]:
    """Finds the variant that the tensors are of.

    Returns:
        Variant, node size, the tensors that are used, and the file's names of the others.
    """
    kernels = {tensor.shape[-1:] for name, tensor in tensors.items() if name.endswith("root.conv.weight")}
    root_kernel_size = 3 if kernels == {(3,)} else 1
    best: tuple[list[str], str] | None = None
    for name in VARIANTS:
        shapes, unused_shapes = backbone_shapes(name)
        expected = {
            key: (*shape[:2], root_kernel_size, root_kernel_size) if key.endswith("root.conv.weight") else shape
            for key, shape in shapes.items()
        }
        first = tensors.get("base_layer.0.weight")
        if first is not None and first.ndim == 4:
            expected["base_layer.0.weight"] = (shapes["base_layer.0.weight"][0], first.shape[1], 7, 7)
        unused = [key for key, tensor in tensors.items() if unused_shapes.get(key) == tuple(tensor.shape)]
        used = {key: tensor for key, tensor in tensors.items() if key not in unused}
        problems = _problems(used, expected, restore)
        if not problems:
            return name, root_kernel_size, _with_counters(used, expected), [restore(key) for key in unused]
        if best is None or len(problems) < len(best[0]):
            best = problems, name
    assert best is not None
    raise MismatchError(f"{path}: nearest to {best[1]}, but", best[0])


def _match_decoder(
    checkpoint: Checkpoint, name: str, tensors: Mapping[str, Tensor], restore: Callable[[str], str]
) -> tuple[int, int, dict[str, Any], dict[str, Tensor]]:
    """Checks decoder and heads of a variant.

    Returns:
        Classes, output stride, all options, and the tensors.
    """
    path = checkpoint.path
    steps = len({key.split(".")[2] for key in tensors if key.startswith("decoder.ida.")})
    stride = 2 ** (len(VARIANTS[name][1]) - 1 - steps)
    if stride not in STRIDES:
        raise UserError(f"{path}: a decoder of {steps} steps, output stride {stride}: dlaseg has 2, 4 and 8")

    def has(part: str) -> bool:
        return any(key.startswith(part) for key in tensors)

    saved = _saved_arguments(checkpoint)
    options = OPTIONS | {"activation": saved.get("activation", OPTIONS["activation"])}
    options["decoder"] = "afa" if has("fusion.") else "plain"
    options["head"] = "ocr" if has("head.classifier.") else "linear"
    if has("rendering."):
        options["scales"] = saved.get("scales") or _inference_scales(checkpoint) or list(SCALES)
    num_classes = _length(tensors.get("head.classifier.bias" if options["head"] == "ocr" else "head.bias"))
    with SkipInit():  # small enough to be real; on the meta device bilinear kernels would cost seconds of imports
        network = build_segmenter(Architecture(name, 2, stride, 1, 3, **options))
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    expected = {
        key: (num_classes, *shape[1:]) if key.startswith(HEADS) else shape
        for key, shape in shapes.items()
        if not key.startswith("backbone.")
    }
    _check(path, name, tensors, expected, restore)
    return num_classes, stride, options, _with_counters(tensors, expected)


def _saved_arguments(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The arguments of the network in a file of ours; of another file, none."""
    if not is_ours(checkpoint):
        return {}
    return decode_metadata(checkpoint.path, checkpoint.metadata).architecture


def _inference_scales(checkpoint: Checkpoint) -> list[float] | None:
    """The scales of inference in the hyper-parameters, such as `0.5,1.0,2.0`; None where there are none."""
    try:
        scales = [float(scale) for scale in str(checkpoint.beside[f"{HYPER_PARAMETERS}.n_scales_inference"]).split(",")]
        check_scales(scales)
    except (KeyError, ValueError, UserError):
        return None
    return sorted(scales)


def _check(
    path: object, name: str, tensors: Mapping[str, Tensor], expected: Shapes, restore: Callable[[str], str] = str
) -> None:
    if problems := _problems(tensors, expected, restore):
        raise MismatchError(f"{path}: a {name}, but", problems)


def _length(tensor: Tensor | None) -> int:
    return 0 if tensor is None or tensor.ndim == 0 else len(tensor)


def _problems(tensors: Mapping[str, Tensor], expected: Shapes, restore: Callable[[str], str]) -> list[str]:
    """What does not match, each by its name in the file."""
    problems = [f"{restore(key)} missing" for key in expected if key not in tensors and not _is_counter(key)]
    for key, tensor in tensors.items():
        name = restore(key)
        if key not in expected:
            problems.append(f"{name} unexpected")
        elif tuple(tensor.shape) != expected[key]:
            problems.append(f"{name} of shape {tuple(tensor.shape)} instead of {expected[key]}")
        elif tensor.is_floating_point() == _is_counter(key):
            problems.append(f"{name} of {tensor.dtype}")
    return problems


def _with_counters(tensors: Mapping[str, Tensor], expected: Shapes) -> dict[str, Tensor]:
    """Adds batch norm's counters, which PyTorch before 0.4.1 did not write, and nothing here depends on."""
    return {key: tensors[key] if key in tensors else torch.tensor(0) for key in expected}


def _is_counter(key: str) -> bool:
    return key.endswith(".num_batches_tracked")


def _check_bilinear(path: object, name: str, kernel: Tensor, num_classes: int | None, stride: int | None) -> None:
    assert num_classes is not None
    assert stride is not None
    bilinear = BilinearUpsample(num_classes, stride).weight
    if kernel.shape != bilinear.shape or not torch.allclose(kernel.float(), bilinear, atol=1e-6):
        raise UserError(
            f"{path}: {name} of shape {tuple(kernel.shape)} is not bilinear interpolation by {stride}, "
            "which dlaseg does in its place"
        )


def _split(tensors: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(the others, those whose name begins with the prefix)."""
    chosen = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return {name: tensor for name, tensor in tensors.items() if name not in chosen}, chosen
