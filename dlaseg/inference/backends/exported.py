"""Exported files, which carry their metadata: ONNX (.onnx) and OpenVINO IR (.xml beside .bin), of any origin."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlaseg.errors import UserError
from dlaseg.files import sha256
from dlaseg.inference.backends.graph import INPUT, INPUTS, OUTPUTS, Graph, openvino_core, require
from dlaseg.strict_json import InvalidJSONError, parse_json, read_json
from dlaseg.version import __version__
from dlaseg.weights.entries import decode_metadata, encode_metadata

if TYPE_CHECKING:
    from dlaseg.models.base import SegmentationModel

ONNX, OPENVINO, PROGRAM = ".onnx", ".xml", ".pt2"
SUFFIXES = (ONNX, OPENVINO, PROGRAM)
"""Of exported files; the last is that of `torch.export`, which is written only."""

EXPORT = "export"
"""The entry beside those of a weights file: JSON of `input`, `output`, `stride`, `multiple` and, of a network that
blends some, `scales`; see `Graph`."""

WEIGHTS = "weights_sha256"
"""The entry that tells damaged weights, and those of another file: the SHA-256 of the `.bin` beside an `.xml`, or see
`onnx_weights_sha256`."""

SECTION = "dlaseg"
"""Where the entries are in the rt_info of an OpenVINO IR."""

MAX_GRAPH = (1 << 31) - 1
"""Largest ONNX file, which is that of its format; the largest DLA has a tenth."""

MAX_DESCRIPTION = 1 << 26
"""Largest .xml in bytes; the largest DLA's has a fiftieth."""

MAX_MULTIPLE, MAX_SCALES = 256, 64


def is_exported(path: Path) -> bool:
    """Whether a path is one of an exported file, by its suffix."""
    return path.suffix.lower() in SUFFIXES


def encode_entries(model: "SegmentationModel", input: str, output: str) -> dict[str, str]:
    """The entries of an exported file: those of a weights file, and `EXPORT`."""
    sizes: dict[str, Any] = {"stride": stride_of(model, output), "multiple": model.multiple}
    if model.scales is not None:
        sizes["scales"] = list(model.scales)
    return {
        **encode_metadata(model.metadata),
        EXPORT: json.dumps({"input": input, "output": output, **sizes, "dlaseg": __version__}),
    }


def stride_of(model: "SegmentationModel", output: str) -> int:
    """Input pixels per logit or label of an exported file."""
    return model.stride if output == "coarse_logits" else 1


def read_graph(path: Path) -> Graph:
    """Reads the metadata of an exported file.

    No code in the file is run, and no other file is read but the `.bin` beside an `.xml`.

    Raises:
        UserError: no such file, damaged, not from `dlaseg export`, a file that refers to others, or the package that
            reads it is not installed.
    """
    if path.suffix.lower() == PROGRAM:
        raise UserError(
            f"{path}: torch.export.load can run code that such a file contains, so programs (.pt2) are not read as "
            "weights: use the .onnx or .xml file, or the weights that it was exported from"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file; `dlaseg export WEIGHTS {path.name}` writes one")
    try:
        content = _read_onnx(path) if path.suffix.lower() == ONNX else _read_openvino(path)
    except UserError:
        raise
    except Exception as error:  # what protobuf and OpenVINO raise on arbitrary bytes is not a closed list
        kind = "ONNX file" if path.suffix.lower() == ONNX else "OpenVINO IR with its .bin"
        raise UserError(f"{path}: damaged, or no {kind}: copy it or export it again") from error
    graph = graph_of_entries(path, content.entries, content.precision)
    if content.entries.get(WEIGHTS) != content.weights_sha256:
        weights = "its weights" if path.suffix.lower() == ONNX else f"the weights in {path.with_suffix('.bin').name}"
        raise UserError(f"{path}: {weights} are not those that were exported: copy it with all its files, or export it")
    _check_report(path)
    if content.input != _input_type(graph) or content.output != _output_type(graph):
        raise UserError(
            f"{path}: takes {content.input} and gives {content.output}, its metadata say {_input_type(graph)} and "
            f"{_output_type(graph)}: export it again"
        )
    return graph


def graph_of_entries(
    path: Path, entries: Mapping[str, str], precision: str = "float32", reference: Path | None = None
) -> Graph:
    """A graph of which `encode_entries` wrote the entries.

    Args:
        path: of the graph.
        entries: by name.
        precision: of the graph, see `Graph`.
        reference: see `Graph`.

    Raises:
        UserError: the entries are not those of a segmentation network, or damaged.
    """
    if "format" not in entries or EXPORT not in entries:
        raise UserError(
            f"{path}: has no metadata of dlaseg, so its classes are not known: use a file from `dlaseg export`"
        )
    metadata = decode_metadata(path, entries, any_network=True)
    try:
        export = parse_json(entries[EXPORT])
        input, output, stride, multiple = (export[key] for key in ("input", "output", "stride", "multiple"))
        is_valid = input in INPUTS and output in OUTPUTS and type(stride) is type(multiple) is int
        is_valid = is_valid and 1 <= stride <= multiple <= MAX_MULTIPLE and multiple % stride == 0
        scales = None if export.get("scales") is None else tuple(map(float, export["scales"]))
        is_valid = is_valid and (scales is None or (0 < len(scales) <= MAX_SCALES and min(scales) > 0))
    except (InvalidJSONError, TypeError, ValueError, KeyError, AttributeError):
        is_valid = False
    if not is_valid or metadata.label_map is None or (output != "coarse_logits" and stride != 1):
        raise UserError(f"{path}: its metadata {EXPORT} {entries[EXPORT]!r:.80} are damaged: export it again")
    return Graph(path, metadata, stride, precision, input, output, multiple, scales, reference)


def report_path(path: Path) -> Path:
    """The JSON file beside an exported file."""
    return path.with_name(f"{path.name}.json")


def _check_report(path: Path) -> None:
    """Refuses an exported file that is not the one that the report beside it, if there is one, describes."""
    try:
        expected = read_json(report_path(path), "the report of an export")["sha256"]
    except (UserError, TypeError, KeyError):  # there is none, or another program's
        return
    if expected != exported_sha256(path):
        report = report_path(path).name
        raise UserError(f"{path}: not the file that {report} beside it was written for: copy or export both again")


@dataclass(frozen=True)
class _Content:
    """Entries, the hash to compare with `WEIGHTS`, precision, and types of the input and the output.

    A type is such as `uint8 (?, ?, ?, 3)`.
    """

    entries: dict[str, str]
    weights_sha256: str
    precision: str
    input: str
    output: str


def _input_type(graph: Graph) -> str:
    channels = graph.metadata.in_channels
    return f"uint8 (?, ?, ?, {channels})" if graph.input == "pixels" else f"float32 (?, {channels}, ?, ?)"


def _output_type(graph: Graph) -> str:
    return "uint8 (?, ?, ?)" if graph.output == "labels" else f"float32 (?, {graph.metadata.num_classes}, ?, ?)"


def _type(dtype: str, sizes: list[int | None]) -> str:
    return f"{dtype} ({', '.join('?' if size is None else str(size) for size in sizes)})"


def _read_onnx(path: Path) -> _Content:
    onnx = require("onnx", "dlaseg[onnxruntime]")
    if path.stat().st_size > MAX_GRAPH:
        raise UserError(f"{path}: more than {MAX_GRAPH} bytes, so no ONNX file: export it again")
    model = onnx.load(path, load_external_data=False)
    external = next((tensor for tensor in _tensors(onnx, model) if tensor.external_data or tensor.data_location), None)
    if external is not None:
        raise UserError(f"{path}: its tensor {external.name!r:.80} lies in another file, which is not read: export it")
    if len(model.graph.input) != 1 or len(model.graph.output) != 1 or model.graph.input[0].name != INPUT:
        raise UserError(f"{path}: not one input {INPUT!r} and one output: use a file from `dlaseg export`")
    if others := {node.domain for node in model.graph.node} - {"", "ai.onnx"} or [f.name for f in model.functions]:
        raise UserError(f"{path}: operators of {min(others)!r:.80}, not of ONNX itself: use one from `dlaseg export`")
    is_quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    return _Content(
        # Text that is not UTF-8 comes as bytes
        {entry.key: entry.value for entry in model.metadata_props if isinstance(entry.value, str)},
        onnx_weights_sha256(model),
        "int8" if is_quantized else "float32",
        _onnx_type(onnx, model.graph.input[0]),
        _onnx_type(onnx, model.graph.output[0]),
    )


def onnx_weights_sha256(model: Any) -> str:
    """The SHA-256 of the bytes of all weights of an `onnx.ModelProto`, in their order."""
    digest = hashlib.sha256()
    for tensor in model.graph.initializer:
        digest.update(tensor.raw_data)
    return digest.hexdigest()


def _onnx_type(onnx: Any, value: Any) -> str:
    tensor = value.type.tensor_type
    names = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.UINT8: "uint8"}
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    return _type(names.get(tensor.elem_type, "another type"), sizes)


def _tensors(onnx: Any, message: Any) -> Iterator[Any]:
    """Every tensor in a protobuf message, however deep."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(onnx, part)


def _read_openvino(path: Path) -> _Content:
    if not path.with_suffix(".bin").is_file():
        raise UserError(f"{path}: no {path.with_suffix('.bin').name} beside it, which holds its weights: copy both")
    if path.stat().st_size > MAX_DESCRIPTION:
        raise UserError(f"{path}: more than {MAX_DESCRIPTION} bytes, so no OpenVINO IR: export it again")
    with path.open("rb") as file:
        if not file.read(64).lstrip().startswith((b"<?xml", b"<net")):
            raise UserError(f"{path}: no XML, so no OpenVINO IR: export it again")  # OpenVINO would try other formats
    model = openvino_core().read_model(path)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(f"{path}: not one input and one output: use a file from `dlaseg export`")
    entries = {}
    if model.has_rt_info(SECTION):
        entries = {str(key): str(value) for key, value in model.get_rt_info(SECTION).value.items()}
    is_quantized = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
    types = [_openvino_type(port) for port in (model.input(), model.output())]
    weights = sha256(path.with_suffix(".bin"))
    return _Content(entries, weights, "int8" if is_quantized else "float32", *types)


def _openvino_type(port: Any) -> str:
    names = {"f32": "float32", "u8": "uint8"}
    sizes = [None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()]
    return _type(names.get(port.get_element_type().get_type_name(), "another type"), sizes)


def graph_facts(graph: Graph) -> list[tuple[str, str]]:
    """What an exported file is, for people: names and values."""
    metadata = graph.metadata
    return [
        ("file", str(graph.path)),
        ("sha256", exported_sha256(graph.path)),
        ("takes", f"{graph.input}: {_input_type(graph)}"),
        ("gives", f"{graph.output}: {_output_type(graph)}, stride {graph.stride}"),
        ("precision", graph.precision),
        ("network", ", ".join(f"{key} {value}" for key, value in metadata.architecture.items())),
        ("classes", ", ".join(metadata.labels.names)),
        ("mean, std", f"{', '.join(map(str, metadata.mean))}; {', '.join(map(str, metadata.std))}"),
        *(
            (key, str(side))
            for key in ("max_short_side", "training_short_side")
            if (side := getattr(metadata, key)) is not None
        ),
    ]


def exported_sha256(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal; of an OpenVINO IR, that of both files' hashes, one after the other."""
    if path.suffix.lower() != OPENVINO:
        return sha256(path)
    both = "".join(sha256(part) for part in (path, path.with_suffix(".bin")))
    return hashlib.sha256(both.encode()).hexdigest()
