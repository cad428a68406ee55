"""Weights files: one `.safetensors` that stands alone."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from dlaseg.errors import UserError
from dlaseg.files import write_bytes
from dlaseg.labels import LabelMap
from dlaseg.models.device import pick_device
from dlaseg.models.segmenter import DLASeg, create_model

FORMAT = "dlaseg-1"
"""Format version; a file of another one is refused."""


def save_model(model: DLASeg, path: str | Path) -> None:
    """Writes weights together with all that is needed to use them.

    The metadata hold the format version, the model's arguments, the label map, mean and std, each as JSON.

    Args:
        model: made by `create_model` or `load_model`.
        path: a `.safetensors` file; replaced as a whole.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: weights files end in .safetensors: name it {path.stem}.safetensors")
    if path.is_dir():
        raise UserError(f"{path}: a folder stands there: name a file, such as {path / 'best.safetensors'}")
    if not model.arguments:
        raise UserError(f"{path}: only a model made by create_model can be saved; this one was put together by hand")
    _check_meaning(model)
    metadata = {
        "format": FORMAT,
        "model": json.dumps(model.arguments),
        "labels": json.dumps(model.label_map.to_dict()),
        "mean": json.dumps(model.mean),
        "std": json.dumps(model.std),
    }
    # Contiguous: channels_last is how a machine likes to compute, not what the file says
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(path, save(tensors, metadata))  # save_file would make a file that only its owner can read


def load_model(path: str | Path, device: str | torch.device = "cpu") -> DLASeg:
    """Reads a weights file.

    Args:
        path: written by `save_model`.
        device: where the weights go, as in `pick_device`.

    Returns:
        The model in eval mode.

    Raises:
        UserError: no such file or device, another format, damaged, or not exactly the model's weights.
    """
    path, device = Path(path), pick_device(str(device))
    if not path.is_file():
        raise UserError(f"{path}: no such file; weights are a .safetensors file, such as runs/NAME/best.safetensors")
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(
                    f"{path}: weights format {metadata.get('format')!r}; this release reads {FORMAT!r} "
                    "files, written by dlaseg.save_model and by training"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        arguments: dict[str, Any] = json.loads(metadata["model"])
        label_map = LabelMap.from_dict(json.loads(metadata["labels"]))
        mean, std = json.loads(metadata["mean"]), json.loads(metadata["std"])
        model = create_model(**arguments)
        model.label_map, model.mean, model.std = label_map, tuple(mean), tuple(std)
        _check_meaning(model)
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from error
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: broken or no weights file ({error}): copy it again") from error
    expected = model.state_dict()
    wrong = sorted(set(expected) ^ set(tensors)) or [k for k, v in tensors.items() if v.shape != expected[k].shape]
    if wrong:
        raise UserError(f"{path}: {len(wrong)} tensors do not fit {arguments['name']}, first {wrong[0]!r}")
    model.load_state_dict(tensors)
    return model.to(device).eval()


def _check_meaning(model: DLASeg) -> None:
    """Refuses a label map, mean or std that does not go with the network."""
    if model.label_map.num_classes != model.num_classes:
        raise UserError(
            f"a label map of {model.label_map.num_classes} classes on a network of {model.num_classes}: one each"
        )
    for name, values in (("mean", model.mean), ("std", model.std)):
        if len(values) != model.backbone.in_channels or not all(isinstance(v, float | int) for v in values):
            raise UserError(f"{name} {list(values)}: one number for each of {model.backbone.in_channels} channels")
