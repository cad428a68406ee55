"""Reads weights files of any origin without running code in them: tensors by name, unwrapped."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from dlaseg.errors import UserError
from dlaseg.files import sha256
from dlaseg.run_folder import BEST_WEIGHTS
from dlaseg.text import printable
from dlaseg.weights.inert_pickle import read_lightning

TRAINING_FORMAT = "dlaseg-checkpoint-"
"""What the format of a checkpoint for `--resume` begins with; its version follows."""

WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "state_dict_ema")
"""Keys under which trainers keep the network's tensors beside their own state; the first that is there counts."""

HYPER_PARAMETERS = "hyper_parameters"
"""Key under which Lightning keeps the arguments of a run; they are beside the tensors as `hyper_parameters.NAME`."""

MAX_HEADER = 1 << 24
"""Largest header of a safetensors file in bytes; the largest DLA's has a hundredth."""

MAX_TENSORS = 20_000
"""Most tensors; the largest DLA has a twentieth."""

MAX_NESTING = 16
"""Most wrappers and prefixes around the tensors."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
"""What DataParallel, torch.compile and trainers put before every name."""

AVERAGED = "_ema"
"""What timm puts behind the key of a network for that of the moving average of its tensors."""

COUNT = "n_averaged"
"""What torch's `AveragedModel` has beside the network."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32)
"""Types of tensors that a checkpoint of a DLA may have."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        path: the file.
        container: `safetensors` or `pickle`.
        tensors: by name, on the CPU, unwrapped.
        metadata: of a safetensors file.
        wrapping: what was taken off, outermost first, such as `state_dict`, `module.`.
        beside: what else lay beside the tensors, plain values as they are, others by their type.
        averaged: the key of a moving average of the tensors that lay beside them, such as `state_dict_ema`.
    """

    path: Path
    container: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    wrapping: tuple[str, ...] = ()
    beside: dict[str, Any] = field(default_factory=dict)
    averaged: str | None = None

    @cached_property
    def sha256(self) -> str:
        """Of the file, hexadecimal."""
        return sha256(self.path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a safetensors file or a pickle of tensors, whatever its name; no code in it is run.

    Raises:
        UserError: no such file, damaged, no weights at all, a pickle that holds more than tensors, or a checkpoint for
            `--resume`.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder: name the weights file in it")
    if not path.is_file():
        raise UserError(f"{path}: no such file: name a .safetensors or .pth file")
    with path.open("rb") as file:
        head = file.read(512)
    _refuse_what_is_no_weights_file(path, head)
    metadata: dict[str, str] = {}
    content: Any
    if head[8:9] == b"{":  # eight bytes of length, then JSON
        container = "safetensors"
        content, metadata = _read_safetensors(path, head)
    elif head[:2] == b"PK" or head[:1] == b"\x80":
        container = "pickle"
        content = _read_pickle(path, zipped=head[:2] == b"PK")
    else:
        raise UserError(f"{path}: neither a safetensors file nor a pickle of torch.save: name a weights file")
    tensors, wrapping, beside, averaged = _unwrap(path, content)
    if str(beside.get("format")).startswith(TRAINING_FORMAT):
        best = path.parent / BEST_WEIGHTS
        raise UserError(f"{path}: a checkpoint for --resume, not a weights file: use {best}")
    return Checkpoint(path, container, tensors, metadata, wrapping, beside, averaged)


def _refuse_what_is_no_weights_file(path: Path, head: bytes) -> None:
    if not head:
        raise UserError(f"{path}: empty: download it again")
    if path.suffix.lower() in (".xml", ".onnx"):
        raise UserError(
            f"{path}: a file from dlaseg export, which infer, eval and Predictor take: here, give the weights that it "
            "was exported from"
        )
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise UserError(f"{path}: a web page, not weights: the address gave a page, perhaps a login: download it again")
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a Git LFS pointer, not the weights themselves: fetch them by git lfs pull")


def _read_safetensors(path: Path, head: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    length, size = int.from_bytes(head[:8], "little"), path.stat().st_size
    if length > min(size, MAX_HEADER):
        raise UserError(
            f"{path}: a header of {length} bytes in a file of {size}, at most {MAX_HEADER} are read: damaged or cut "
            "off, or no DLA: download or copy it again"
        )
    try:
        with path.open("rb") as opened:
            # safetensors takes no path that is not UTF-8, which exists on Linux only
            is_utf8 = printable(str(path)) == str(path)
            with safe_open(path if is_utf8 else f"/dev/fd/{opened.fileno()}", "pt") as file:
                names = file.keys()
                _check_number(path, names)
                return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except UserError:
        raise
    except Exception as error:  # of safetensors, or of torch for a shape or type that it does not have
        raise UserError(f"{path}: damaged or cut off ({error}): download or copy it again") from error


def _check_number(path: Path, names: Collection[Any]) -> None:
    if len(names) > MAX_TENSORS:
        raise UserError(f"{path}: {len(names)} tensors, the largest DLA has a twentieth of {MAX_TENSORS}: not a DLA")


def check_archive(path: Path) -> None:
    """Checks that the entries of a zip file are no larger than the file: torch.save does not compress.

    Raises:
        UserError: they are.
        zipfile.BadZipFile: damaged.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > path.stat().st_size:
        raise UserError(
            f"{path}: a compressed archive of {unpacked} bytes, which torch.save does not write: get the file that its "
            "author saved"
        )


def _read_pickle(path: Path, zipped: bool) -> Any:
    try:
        if zipped:
            check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's view of old formats
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|global|function|class) `?([\w.]+\.[\w.]+)`?", str(error))
        if found and zipped and (content := _read_lightning(path)) is not None:
            return content
        if found and "weights_only" in str(error):
            raise UserError(
                f"{path}: a pickle that holds more than tensors ({found[1]}), which could run code when read: get it "
                "as safetensors, or ask its author to save the state dict alone"
            ) from error
        raise UserError(
            f"{path}: damaged, or a pickle that torch.save did not write: download it again, or get it as safetensors"
        ) from error
    except UserError:
        raise
    except Exception as error:  # what an unpickler raises on arbitrary bytes is not a closed list
        names = _archive_names(path)
        if any("/code/" in name for name in names or ()):
            raise UserError(f"{path}: a TorchScript program: save the model's state_dict()") from error
        cut_off = zipped and names is None
        what = "cut off, its end is missing" if cut_off else "damaged, or no pickle of tensors"
        raise UserError(f"{path}: {what}: download or copy it again") from error


def _read_lightning(path: Path) -> dict[str, Any] | None:
    try:
        return read_lightning(path)
    except Exception:  # likewise
        return None


def _archive_names(path: Path) -> list[str] | None:
    """Names of the entries of a zip file; None for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except Exception:  # likewise
        return None


def _unwrap(path: Path, content: Any) -> tuple[dict[str, Tensor], tuple[str, ...], dict[str, Any], str | None]:
    """Tensors by name, what was taken off around them, what lay beside them, and the key of their moving average."""
    wrapping: list[str] = []
    averaged = None
    beside: dict[str, Any] = {}
    while isinstance(content, Mapping) and (key := _wrapper(content)) is not None:
        beside |= {_name(name): _plain(value) for name, value in content.items() if name != key}
        hyper_parameters = content.get(HYPER_PARAMETERS)
        if isinstance(hyper_parameters, Mapping):
            beside |= {f"{HYPER_PARAMETERS}.{_name(name)}": _plain(value) for name, value in hyper_parameters.items()}
        if isinstance(content.get(f"{key}{AVERAGED}"), Mapping):
            averaged = f"{key}{AVERAGED}"
        _wrap(path, wrapping, key)
        content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: holds {_describe(content)}, not tensors by name: save a model's state_dict()")
    _check_number(path, content)
    others = [_name(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise UserError(
            f"{path}: {', '.join(others[:5])}{' and more' if len(others) > 5 else ''}: not tensors, and none of "
            f"{', '.join(WRAPPERS)} beside them: save a model's state_dict()"
        )
    for name, value in content.items():
        if not isinstance(name, str):
            raise UserError(
                f"{path}: a tensor is named by {_describe(name)}, not by a text: save a model's state_dict()"
            )
        _check_tensor(path, name, value)
    tensors = {name: value.detach() for name, value in content.items()}
    if COUNT in tensors and all(name == COUNT or name.startswith(PREFIXES[0]) for name in tensors):
        beside[COUNT] = _describe(tensors.pop(COUNT))
    while (prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None)) is not None:
        _wrap(path, wrapping, prefix)
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors, tuple(wrapping), beside, averaged


def _wrap(path: Path, wrapping: list[str], name: str) -> None:
    wrapping.append(name)
    if len(wrapping) > MAX_NESTING:  # a pickle may contain itself
        raise UserError(f"{path}: more than {MAX_NESTING} wrappers and prefixes: save a model's state_dict()")


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    """Checks that a tensor is a plain one, whose numbers are all in the file: others claim any shape."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in DTYPES:
        kind = f"{tensor.layout} {tensor.dtype} on {tensor.device}".replace("torch.", "")
        raise UserError(f"{path}: {name} is {kind}: save it as a dense float32 tensor on the CPU")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(
            f"{path}: {name} of shape {tuple(tensor.shape)}, more numbers than the file holds: save its contiguous()"
        )


def _wrapper(content: Mapping[Any, Any]) -> str | None:
    return next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)


def _name(key: Any) -> str:
    return key if isinstance(key, str) else _describe(key)


def _plain(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"
    return value if isinstance(value, str | int | float | bool) or value is None else _describe(value)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return (
        f"{type(value).__name__} of {len(value)}" if isinstance(value, Mapping | list | tuple) else type(value).__name__
    )
