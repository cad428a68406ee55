"""A folder that a Triton or KServe server takes as a model.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_repository.html
"""

from pathlib import Path

from dlaseg.export.formats import AXES
from dlaseg.files import write_text
from dlaseg.inference.backends.exported import ONNX, read_graph
from dlaseg.inference.backends.graph import INPUT

MAX_BATCH_SIZE = 8
"""Requests of the same size that the server computes at a time."""

CONFIG, LABELS, VERSION = "config.pbtxt", "labels.txt", "1"


def model_file(folder: Path, suffix: str) -> Path:
    """The file of the network in the folder of a model."""
    return folder / VERSION / f"model{suffix}"


def write_config(folder: Path, suffix: str) -> list[Path]:
    """Writes the server's configuration and the class names beside a network that was exported there.

    The name of the model is that of its folder, which may be renamed.

    Args:
        folder: of the model; the network is `model_file(folder, suffix)`.
        suffix: `.onnx`, which ONNX Runtime runs, or `.xml`, which OpenVINO runs.

    Returns:
        The files written.
    """
    graph = read_graph(model_file(folder, suffix))
    labels = graph.metadata.labels
    # A class a line; a line break in a name would shift all that follow
    write_text(folder / LABELS, "".join(f"{' '.join(name.split())}\n" for name in labels.names))
    input = _tensor("input", INPUT, graph.input, graph.metadata.in_channels)
    output = _tensor("output", graph.output, graph.output, labels.num_classes, f'    label_filename: "{LABELS}"\n')
    backend = "onnxruntime" if suffix == ONNX else "openvino"
    content = f'backend: "{backend}"\nmax_batch_size: {MAX_BATCH_SIZE}\n{input}{output}dynamic_batching {{}}\n'
    write_text(folder / CONFIG, content)
    return [folder / CONFIG, folder / LABELS]


def _tensor(field: str, name: str, kind: str, channels: int, more: str = "") -> str:
    """An input or output, without its first axis, which is the batch."""
    dtype = "TYPE_UINT8" if kind in ("pixels", "labels") else "TYPE_FP32"
    sizes = ", ".join(str(channels) if axis is None else "-1" for axis in AXES[kind][1:])
    return f'{field} [\n  {{\n    name: "{name}"\n    data_type: {dtype}\n    dims: [ {sizes} ]\n{more}  }}\n]\n'
