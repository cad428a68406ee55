"""The logits inside a file that gives labels: what it upsamples before it takes the argmax."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlaseg.inference.backends.exported import PROGRAM
from dlaseg.inference.backends.graph import INPUT, openvino_core, require


def logits_inside(path: Path, engine: str) -> Callable[[Tensor], Tensor]:
    """A function from the input of a file to its coarse logits.

    Args:
        path: a file that was just written, and gives labels.
        engine: `openvino`, `onnxruntime` or `torch`.
    """
    if path.suffix == PROGRAM:
        return _of_program(path)
    return _of_openvino(path) if engine == "openvino" else _of_onnx(path)


def openvino_logits(network: Any) -> Any:
    """An `openvino.Model` cut off before it upsamples; as it is if it does not."""
    ov = require("openvino", "dlaseg[export]")
    resized = [op for op in network.get_ordered_ops() if op.get_type_name() == "Interpolate"]
    return ov.Model([resized[-1].input_value(0)], network.get_parameters()) if resized else network


def _of_openvino(path: Path) -> Callable[[Tensor], Tensor]:
    network = openvino_logits(openvino_core().read_model(path))
    compiled = openvino_core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: torch.from_numpy(compiled(images.numpy())[0])


def _of_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    onnx, ort = require("onnx", "dlaseg[export]"), require("onnxruntime", "dlaseg[export]")
    model = onnx.load(path)
    resize = [node for node in model.graph.node if node.op_type == "Resize"][-1]
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(resize.input[0], onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])


def _of_program(path: Path) -> Callable[[Tensor], Tensor]:
    module: Any = torch.export.load(path).module()
    *_, resize = (node for node in module.graph.nodes if "upsample_bilinear2d" in str(node.target))
    (output,) = module.graph.find_nodes(op="output")
    output.args = ((resize.args[0],),)
    module.recompile()
    return module
