"""Our own weights file: a `.safetensors` that carries its metadata and stands alone."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import save
from torch import Tensor

from dlaseg.errors import UserError
from dlaseg.files import write_bytes
from dlaseg.labels import LabelMap
from dlaseg.metadata import MAX_TEXT, ModelMetadata, Origin
from dlaseg.models.dla import check_backbone
from dlaseg.models.segmenter import check_segmenter
from dlaseg.strict_json import InvalidJSONError, parse_json
from dlaseg.weights.checkpoints import Checkpoint, read_checkpoint

FORMAT = "dlaseg-1"
"""Format version; a file of another version is refused."""

SEGMENTATION_ARGUMENTS = ("name", "num_classes", "stride", "root_kernel_size", "in_channels")
BACKBONE_ARGUMENTS = ("name", "num_classes", "in_channels", "root_kernel_size")
"""What a file says about the network; never where weights come from, or anything else that is opened."""

MAX_METADATA = 1 << 24
"""Most characters of an entry of the metadata; the class names of a large classifier have fewer."""

MAX_ARGUMENTS = 50
"""Most arguments of a network of another family."""

_REQUIRED = ("model", "mean", "std")
_OPTIONAL = ("labels", "classes", "origin")


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
        path: a `.safetensors` file; replaced as a whole.
        precision: `float16` rounds the kernels of convolutions, which halves the file. Norms and biases, whose range is
            wider, stay in float32. What reads the file computes in float32.

    Raises:
        UserError: another precision, a kernel beyond float16's range, another suffix, a folder of that
            name, a network that was assembled by hand, or metadata that do not fit it.
    """
    path = Path(path)
    if precision not in ("float32", "float16"):
        raise UserError(f"precision {precision} of a weights file: use float32 or float16")
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: weights files end in .safetensors: name it {path.stem}.safetensors")
    if path.is_dir():
        raise UserError(f"{path}: a folder has this name: name a file, such as {path / 'best.safetensors'}")
    metadata = model.metadata
    if not metadata.architecture:
        raise UserError(f"{path}: this model was assembled by hand: save one that create_model made")
    metadata.check(metadata.architecture["num_classes"] or 0, metadata.architecture["in_channels"])
    content = _serialize(model, _rounded if precision == "float16" else None)
    write_bytes(path, content)  # save_file's files only their owner reads


def model_sha256(model: Savable) -> str:
    """The SHA-256 of the file that `save_model` would write, in hexadecimal; also of a model assembled by hand."""
    return hashlib.sha256(_serialize(model)).hexdigest()


def read_model_file(path: Path) -> tuple[ModelMetadata, dict[str, Tensor]]:
    """Reads a segmentation network's file of ours.

    Returns:
        Metadata, and tensors by name on the CPU.

    Raises:
        UserError: no such file, damaged, or not a segmentation network of ours.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; weights are a .safetensors file, such as runs/NAME/best.safetensors")
    checkpoint = read_checkpoint(path)
    metadata = decode_metadata(checkpoint)
    if metadata.label_map is None:
        raise UserError(f"{path}: a classifier's weights: start a segmentation network from them by backbone_weights")
    return metadata, checkpoint.tensors


def encode_metadata(metadata: ModelMetadata) -> dict[str, str]:
    """Metadata as a safetensors file keeps them: a JSON text for each key."""
    if metadata.label_map is not None:
        classes = {"labels": json.dumps(metadata.label_map.to_dict())}
    else:
        classes = {"classes": json.dumps(metadata.class_names)}
    return {
        "format": FORMAT,
        "model": json.dumps(metadata.architecture),
        **classes,
        "mean": json.dumps(metadata.mean),
        "std": json.dumps(metadata.std),
        "origin": json.dumps([asdict(origin) for origin in metadata.origin]),
    }


def decode_metadata(checkpoint: Checkpoint, any_network: bool = False) -> ModelMetadata:
    """The reverse of `encode_metadata`, for files of any origin: what comes out describes a network of ours.

    Args:
        checkpoint: its path and metadata are used.
        any_network: whether the architecture may be that of another family than ours, since no network is built from
            it: an exported file is one.

    Raises:
        UserError: another format, damaged, an argument that is unknown or out of range, or classes, mean or std of
            another number.
    """
    path, entries = checkpoint.path, checkpoint.metadata
    if entries.get("format") != FORMAT:
        raise UserError(
            f"{path}: weights format {entries.get('format')!r:.80}; this release reads {FORMAT!r} "
            "files, written by dlaseg.save_model and by training"
        )
    try:
        content = {key: _parse(key, entries[key]) for key in (*_REQUIRED, *_OPTIONAL) if key in entries}
        if missing := [key for key in _REQUIRED if key not in content]:
            raise InvalidJSONError(f"no {missing[0]!r} in its metadata")
        if ("labels" in content) == ("classes" in content):
            raise InvalidJSONError("not exactly one of 'labels' and 'classes' in its metadata")
        is_segmentation = "labels" in content
        metadata = ModelMetadata(
            (_check_plain if any_network else _check_architecture)(content["model"], is_segmentation),
            LabelMap.from_dict(content["labels"]) if is_segmentation else None,
            tuple(_check_list("classes", content.get("classes", []))),
            tuple(_check_list("mean", content["mean"])),
            tuple(_check_list("std", content["std"])),
            tuple(_origin(entry) for entry in _check_list("origin", content.get("origin", []))),
        )
        if any_network:
            metadata.check(metadata.num_classes, metadata.in_channels)
        else:
            metadata.check(metadata.architecture["num_classes"] or 0, metadata.architecture["in_channels"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except InvalidJSONError as error:
        raise UserError(f"{path}: broken or no weights file ({error}): copy it again") from error
    return metadata


def _parse(key: str, text: str) -> Any:
    if len(text) > MAX_METADATA:
        raise InvalidJSONError(f"{key!r} of {len(text)} characters, the most are {MAX_METADATA}")
    return parse_json(text)


def _check_architecture(arguments: Any, is_segmentation: bool) -> dict[str, Any]:
    """The arguments of a network, if they are those and no others."""
    known = SEGMENTATION_ARGUMENTS if is_segmentation else BACKBONE_ARGUMENTS
    if not isinstance(arguments, dict) or arguments.keys() != set(known):
        found = list(arguments) if isinstance(arguments, dict) else arguments
        raise UserError(f"arguments of the network {found!r:.200}: a weights file has exactly {', '.join(known)}")
    (check_segmenter if is_segmentation else check_backbone)(**arguments)
    return arguments


def _check_plain(arguments: Any, _: bool) -> dict[str, Any]:
    """A few named texts and numbers."""
    if not isinstance(arguments, dict) or len(arguments) > MAX_ARGUMENTS:
        raise InvalidJSONError(f"'model' is not a dictionary of at most {MAX_ARGUMENTS} entries")
    for name, value in arguments.items():
        if isinstance(value, dict | list) or len(str(value)) > MAX_TEXT or len(name) > MAX_TEXT:
            raise InvalidJSONError(f"{name!r:.80} in 'model' is no text or number")
    return arguments


def _check_list(key: str, content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise InvalidJSONError(f"{key!r} is no list")
    return content


def _origin(entry: Any) -> Origin:
    if not isinstance(entry, dict) or entry.keys() != {field.name for field in fields(Origin)}:
        raise InvalidJSONError(f"{entry!r:.80} in 'origin'")
    return Origin(**entry)


def is_ours(checkpoint: Checkpoint) -> bool:
    """Whether dlaseg wrote the file; the metadata of other files, if any, are others'."""
    return checkpoint.metadata.get("format", "").startswith("dlaseg")


def _serialize(model: Savable, convert: Callable[[str, Tensor], Tensor] | None = None) -> bytes:
    # Contiguous: channels_last is a machine's preference, not the file's business
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
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
