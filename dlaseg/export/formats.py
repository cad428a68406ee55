"""Writes a traced network as ONNX, OpenVINO IR or a program of torch.export, with its entries inside."""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dlaseg.files import sha256
from dlaseg.inference.backends.conversion import to_onnx
from dlaseg.inference.backends.exported import ONNX, OPENVINO, SECTION, WEIGHTS, onnx_weights_sha256
from dlaseg.inference.backends.graph import openvino_core, require

AXES = {
    "pixels": ("batch", "height", "width", None),
    "normalized": ("batch", None, "height", "width"),
    "labels": ("batch", "height", "width"),
    "logits": ("batch", None, "height", "width"),
    "coarse_logits": ("batch", None, "coarse_height", "coarse_width"),
}
"""Names of the sizes that may be any, by what the input or output is."""


def write_network(
    program: torch.export.ExportedProgram, path: Path, entries: Mapping[str, str], input: str, output: str
) -> None:
    """Writes a network; the format is that of the suffix.

    Args:
        program: see `trace_network`.
        path: a file that ends in one of `SUFFIXES`; an `.xml` gets a `.bin` beside it.
        entries: what the file carries, see `encode_entries`.
        input: one of `INPUTS`.
        output: one of `OUTPUTS`.

    Raises:
        UserError: a package is not installed.
    """
    if path.suffix not in (ONNX, OPENVINO):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = io.BytesIO()  # torch ends the process if it writes to a full disk itself
            torch.export.save(program, file, extra_files=dict(entries))
        path.write_bytes(file.getvalue())
        return
    content = to_onnx(program, output)
    _name_axes(content.graph.input[0], AXES[input])
    _name_axes(content.graph.output[0], AXES[output])
    if path.suffix == ONNX:
        for key, value in {**entries, WEIGHTS: onnx_weights_sha256(content)}.items():
            content.metadata_props.add(key=key, value=value)
        path.write_bytes(content.SerializeToString())
        return
    write_openvino(openvino_core().read_model(content.SerializeToString()), path, entries)


def write_openvino(model: Any, path: Path, entries: Mapping[str, str]) -> None:
    """Writes an `openvino.Model` with entries; its numbers stay as they are.

    Raises:
        OSError: the files cannot be written.
    """
    ov = require("openvino", "dlaseg[export]")
    for key, value in entries.items():
        model.set_rt_info(value, [SECTION, key])
    try:
        ov.save_model(model, path, compress_to_fp16=False)
        model.set_rt_info(sha256(path.with_suffix(".bin")), [SECTION, WEIGHTS])
        ov.save_model(model, path, compress_to_fp16=False)  # the same .bin
    except RuntimeError as error:  # of C++, for example on a full disk
        raise OSError(" ".join(str(error).split())) from error


def _name_axes(value: Any, names: tuple[str | None, ...]) -> None:
    """Gives the dynamic sizes of an ONNX input or output names that people know."""
    for size, name in zip(value.type.tensor_type.shape.dim, names, strict=True):
        if name is not None:
            size.dim_param = name
