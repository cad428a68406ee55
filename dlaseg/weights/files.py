"""Our own weights file: a `.safetensors` that carries its metadata and stands alone."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from safetensors.torch import save
from torch import Tensor, nn

from dlaseg.errors import UserError
from dlaseg.files import write_bytes
from dlaseg.metadata import ModelMetadata
from dlaseg.models.build import Architecture, build_segmenter
from dlaseg.models.dla import build_backbone
from dlaseg.models.skip_init import SkipInit
from dlaseg.weights.checkpoints import Checkpoint, read_checkpoint
from dlaseg.weights.entries import (
    BACKBONE_ARGUMENTS,
    OPTIONAL_ARGUMENTS,
    SEGMENTATION_ARGUMENTS,
    decode_metadata,
    encode_metadata,
)


class Savable(Protocol):
    """A network with metadata: segmentation network, classifier or backbone."""

    metadata: ModelMetadata

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name."""
        ...


def save_model(model: Savable, path: str | Path, precision: str = "float32") -> None:
    """Writes weights together with all that is needed to use them.

    The file's metadata hold the format version, the architecture's arguments, the label map (of a classifier: the class
    names), mean and std, and what the weights were initialised from, each as JSON.

    Args:
        model: made by `create_model`, `create_backbone` or `load_model`.
        path: a `.safetensors` file; replaced as a whole, and safe from a power cut.
        precision: `float16` rounds the kernels of convolutions, which halves the file. Norms and biases, whose range is
            wider, stay in float32. What reads the file computes in float32.

    Raises:
        UserError: another precision, a kernel beyond float16's range, another suffix, a folder of that name, a network
            that was assembled by hand, one whose layers were replaced, metadata that do not fit it, or a file that
            cannot be written.
    """
    check_network(model)
    path = Path(path)
    if precision not in ("float32", "float16"):
        raise UserError(f"precision {precision} of a weights file: use float32 or float16")
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: weights files end in .safetensors: name it {path.stem}.safetensors")
    if path.is_dir():
        raise UserError(f"{path}: a folder has this name: name a file, such as {path / 'best.safetensors'}")
    check_savable(model, path)
    content = _serialize(model, _rounded if precision == "float16" else None)
    try:
        write_bytes(path, content, sync=True)  # save_file's files only their owner reads
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}): name a file in a folder that is writable and has room"
        ) from error


def check_savable(model: Savable, path: Path) -> None:
    """Checks that `save_model` writes a network to a file of this path, which may be long before.

    Raises:
        UserError: as `save_model`, for what is wrong with the network.
    """
    architecture = model.metadata.architecture
    if not {"num_classes", "in_channels"} <= architecture.keys():
        raise UserError(
            f"{path}: this model was assembled by hand: save one that create_model made, or name at least num_classes "
            "and in_channels in metadata.architecture"
        )
    model.metadata.check(architecture["num_classes"] or 0, architecture["in_channels"])
    _check_layers(path, model)


def check_network(model: object) -> None:
    """Checks that an object is a network with metadata, and not a wrapper around one or its tensors.

    Raises:
        UserError: it is not.
    """
    if isinstance(model, nn.Module) and isinstance(getattr(model, "metadata", None), ModelMetadata):
        return
    kind = type(model).__name__
    if isinstance(getattr(getattr(model, "module", None), "metadata", None), ModelMetadata):
        raise UserError(f"{kind}: wraps the network, which is needed itself: give model.module")
    raise UserError(f"{kind}: not a network of dlaseg: give one that create_model or load_model returned")


def model_sha256(model: Savable) -> str:
    """The SHA-256 of the file that `save_model` would write, in hexadecimal; also of a model assembled by hand."""
    return hashlib.sha256(_serialize(model)).hexdigest()


def read_model_file(path: Path) -> tuple[ModelMetadata, dict[str, Tensor]]:
    """Reads a segmentation network's file of ours.

    Returns:
        Metadata, and tensors by name on the CPU.

    Raises:
        UserError: no such file, damaged, not a segmentation network of ours, or numbers that `check_numbers` refuses.
    """
    if not path.is_file():
        what = "a folder without weights" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}; weights are a .safetensors file, such as runs/NAME/best.safetensors")
    checkpoint = read_checkpoint(path)
    metadata = decode_metadata(path, checkpoint.metadata)
    if metadata.label_map is None:
        raise UserError(f"{path}: a classifier's weights: start a segmentation network from them by backbone_weights")
    check_numbers(path, checkpoint.tensors)
    return metadata, checkpoint.tensors


def check_numbers(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    restore: Callable[[str], str] = str,
    remedy: str = "use another file",
) -> None:
    """Checks that a network can compute with its tensors: by a single NaN, every pixel gets class 0.

    Args:
        path: the file, or another name of the network.
        tensors: by our names.
        restore: our name -> the file's, for messages.
        remedy: for messages.

    Raises:
        UserError: a number that is not finite in float32, or a negative variance.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        if not tensor.float().isfinite().all():
            raise UserError(f"{path}: {restore(name)} holds values that are not finite: {remedy}")
        if name.endswith("running_var") and (tensor < 0).any():
            raise UserError(f"{path}: {restore(name)} holds negative variances: {remedy}")


def is_ours(checkpoint: Checkpoint) -> bool:
    """Whether dlaseg wrote the file; the metadata of other files, if any, are others'."""
    return checkpoint.metadata.get("format", "").startswith("dlaseg")


def _state(model: Savable) -> dict[str, Tensor]:
    """Tensors by name, without the parts of names that torch.compile adds."""
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in model.state_dict().items()}


def _check_layers(path: Path, model: Savable) -> None:
    """Checks that the tensors are those of the network that the metadata describe; not of a family of the user's own.

    Raises:
        UserError: names the first one that is not.
    """
    metadata, architecture = model.metadata, model.metadata.architecture
    is_segmentation = metadata.label_map is not None
    known = SEGMENTATION_ARGUMENTS if is_segmentation else BACKBONE_ARGUMENTS
    if architecture.keys() - OPTIONAL_ARGUMENTS != set(known):
        return
    with SkipInit():
        network = build_segmenter(Architecture(**architecture)) if is_segmentation else build_backbone(**architecture)
    found, expected = ({key: tuple(tensor.shape) for key, tensor in _state(each).items()} for each in (model, network))
    wrong = [key for key in found | expected if found.get(key) != expected.get(key)]
    if not wrong:
        return
    first, num_classes = wrong[0], metadata.num_classes
    tensor = f"{first} of shape {found[first]}" if first in found else f"no {first}"
    shape = f"shape {expected[first]}" if first in expected else "none"
    message = f"{path}: {tensor}, where a {architecture['name']} of {num_classes} classes has {shape}"
    rows = [found[key][:1] for key in wrong if key in found and expected.get(key) == (num_classes, *found[key][1:])]
    if len(rows) == len(wrong) and len(set(rows)) == 1:  # the layers of another number of classes
        make = "create_model" if is_segmentation else "create_backbone"
        raise UserError(f"{message}: make it with {make}(..., num_classes={rows[0][0]})")
    raise UserError(f"{message}: keep the layers that create_model made, or save the state_dict() by torch.save")


def _serialize(model: Savable, convert: Callable[[str, Tensor], Tensor] | None = None) -> bytes:
    # Contiguous: channels_last is a machine's preference, not the file's business
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _state(model).items()}
    if convert is not None:
        tensors = {name: convert(name, tensor) for name, tensor in tensors.items()}
    return _sort_header(save(tensors, encode_metadata(model.metadata)))


def _rounded(name: str, tensor: Tensor) -> Tensor:
    """A kernel (K, C, h, w) in float16; any other tensor as it is."""
    if tensor.dim() < 2 or not tensor.is_floating_point():
        return tensor
    rounded = tensor.half()
    if not rounded.isfinite().all():
        raise UserError(f"{name} has numbers beyond float16's range, {float(tensor.abs().max()):g}: save it in float32")
    return rounded


def _sort_header(content: bytes) -> bytes:
    """A safetensors file with its header's keys sorted, which safetensors writes in any order: same weights, same hash.

    The header's length, 8 bytes little-endian, comes first; blanks fill it up to a multiple of 8, so that tensors stay
    aligned (https://huggingface.co/docs/safetensors).
    """
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]
