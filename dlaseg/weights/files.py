"""Our own weights file: a `.safetensors` that carries its metadata and stands alone."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from safetensors.torch import save
from torch import Tensor

from dlaseg.errors import UserError
from dlaseg.files import write_bytes
from dlaseg.labels import LabelMap
from dlaseg.metadata import ModelMetadata, Origin
from dlaseg.weights.checkpoints import Checkpoint, read_checkpoint

FORMAT = "dlaseg-1"
"""Format version; a file of another version is refused."""


class Savable(Protocol):
    """A network with metadata: segmentation network, classifier or backbone."""

    metadata: ModelMetadata

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name."""
        ...


def save_model(model: Savable, path: str | Path) -> None:
    """Writes weights together with all that is needed to use them.

    The file's metadata hold the format version, the architecture's arguments, the label map (of a classifier: the class
    names), mean and std, and what the weights were initialised from, each as JSON.

    Args:
        model: made by `create_model`, `create_backbone` or `load_model`.
        path: a `.safetensors` file; replaced as a whole.

    Raises:
        UserError: another suffix, a folder of that name, a network that was assembled by hand, or metadata that do not
            fit it.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: weights files end in .safetensors: name it {path.stem}.safetensors")
    if path.is_dir():
        raise UserError(f"{path}: a folder has this name: name a file, such as {path / 'best.safetensors'}")
    metadata = model.metadata
    if not metadata.architecture:
        raise UserError(f"{path}: this model was assembled by hand: save one that create_model made")
    metadata.check(metadata.architecture["num_classes"] or 0, metadata.architecture["in_channels"])
    write_bytes(path, _serialize(model))  # save_file's files only their owner reads


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


def decode_metadata(checkpoint: Checkpoint) -> ModelMetadata:
    """The reverse of `encode_metadata`.

    Raises:
        UserError: another format, or damaged.
    """
    path, entries = checkpoint.path, checkpoint.metadata
    if entries.get("format") != FORMAT:
        raise UserError(
            f"{path}: weights format {entries.get('format')!r}; this release reads {FORMAT!r} "
            "files, written by dlaseg.save_model and by training"
        )
    try:
        return ModelMetadata(
            architecture=dict(json.loads(entries["model"])),
            label_map=LabelMap.from_dict(json.loads(entries["labels"])) if "classes" not in entries else None,
            class_names=tuple(map(str, json.loads(entries.get("classes", "[]")))),
            mean=tuple(json.loads(entries["mean"])),
            std=tuple(json.loads(entries["std"])),
            origin=tuple(Origin(**origin) for origin in json.loads(entries.get("origin", "[]"))),
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: broken or no weights file ({error}): copy it again") from error


def is_ours(checkpoint: Checkpoint) -> bool:
    """Whether dlaseg wrote the file; the metadata of other files, if any, are others'."""
    return checkpoint.metadata.get("format", "").startswith("dlaseg")


def _serialize(model: Savable) -> bytes:
    # Contiguous: channels_last is a machine's preference, not the file's business
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return _sort_header(save(tensors, encode_metadata(model.metadata)))


def _sort_header(content: bytes) -> bytes:
    """A safetensors file with its header's keys sorted, which safetensors writes in any order: same weights, same hash.

    The header's length, 8 bytes little-endian, comes first; blanks fill it up to a multiple of 8, so that tensors stay
    aligned (https://huggingface.co/docs/safetensors).
    """
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]
