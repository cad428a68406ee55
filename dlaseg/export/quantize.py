"""Post-training quantisation of an OpenVINO network to int8; the layers that lose most can be kept in float32."""

import contextlib
import io
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dlaseg.export.inside import openvino_logits
from dlaseg.inference.backends.graph import openvino_core, require

CONVOLUTIONS = ("Convolution", "GroupConvolution")
"""Types of the operations that are quantised; OpenVINO has no transposed convolutions in int8 that are fast."""

AFTERWARDS = ("Interpolate", "TopK")
"""Types of the operations behind the logits, which stay in float32: argmax of 8-bit logits would have ties."""

RANKING_IMAGES = 4
"""Images that layers are ranked on."""

logger = logging.getLogger(__name__)


def quantize(network: Any, images: Sequence[NDArray[Any]], in_float: Sequence[str] = ()) -> Any:
    """Quantises the convolutions of a network, with ranges from images, by NNCF.

    Weights are symmetric per channel, activations asymmetric, biases are corrected.

    Args:
        network: an `openvino.Model`; is not changed.
        images: inputs of the network, for calibration.
        in_float: names of the operations that stay in float32.

    Returns:
        An `openvino.Model`.
    """
    logger.info("quantising, with the ranges of %d images", len(images))
    return _quantize(network, images, in_float)


def rank_layers(network: Any, images: Sequence[NDArray[Any]]) -> list[str]:
    """Names of the convolutions, the one whose quantisation changes the logits most first.

    Each one is quantised alone, and the logits of a few images are compared with those of float32.

    Args:
        network: an `openvino.Model`; is not changed.
        images: inputs of the network.
    """
    nncf = import_nncf()
    images = images[:RANKING_IMAGES]
    # Nothing but the quantisers is put in, so that they can be taken out again
    plain = nncf.AdvancedQuantizationParameters(
        disable_bias_correction=True, backend_params={"compress_weights": False}
    )
    quantized = _quantize(network, images, (), plain)
    layers = [op.get_friendly_name() for op in quantized.get_ordered_ops() if op.get_type_name() in CONVOLUTIONS]
    expected = _logits(_with_quantizers_of(quantized, None), images)
    errors = {}
    for name in layers:
        logits = _logits(_with_quantizers_of(quantized, name), images)
        errors[name] = sum(float(np.square(a - b).sum()) for a, b in zip(logits, expected, strict=True))
        logger.info("%s: error of the logits %.3g if it alone is int8", name, errors[name])
    return sorted((name for name in layers if errors[name] > 0), key=lambda name: -errors[name])


def weight_names(network: Any, layers: Sequence[str]) -> list[str]:
    """Names of the weights of convolutions, which people know, such as `backbone.base_layer.0.weight`.

    Args:
        network: an `openvino.Model` in float32.
        layers: names of operations in it.
    """
    operations = {op.get_friendly_name(): op for op in network.get_ordered_ops()}
    return [operations[name].input_value(1).get_node().get_friendly_name().removeprefix("model.") for name in layers]


def import_nncf() -> Any:
    """NNCF, without its reports on what it does."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # names what CUDA lacks
    nncf = require("nncf", "dlaseg[export]")
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own set_log_level changes handlers, too
    return nncf


def _quantize(network: Any, images: Sequence[NDArray[Any]], in_float: Sequence[str], advanced: Any = None) -> Any:
    nncf = import_nncf()
    with contextlib.redirect_stdout(io.StringIO()):  # its progress
        return nncf.quantize(
            network,
            nncf.Dataset(images),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=list(in_float), types=list(AFTERWARDS), validate=False),
            advanced_parameters=advanced,
        )


def _with_quantizers_of(network: Any, layer: str | None) -> Any:
    """A copy with the quantisers of one layer alone, or with none."""
    copy = network.clone()
    kept: set[str] = set()
    for op in copy.get_ordered_ops():
        if op.get_friendly_name() == layer:
            kept = _quantizers_before(op)
    for op in copy.get_ordered_ops():
        if op.get_type_name() == "FakeQuantize" and op.get_friendly_name() not in kept:
            op.output(0).replace(op.input_value(0))
    return copy


def _quantizers_before(layer: Any) -> set[str]:
    """Names of the quantisers that the inputs of a layer come from, past what computes nothing."""
    found: set[str] = set()
    waiting = [value.get_node() for value in layer.input_values()]
    while waiting:
        node = waiting.pop()
        if node.get_type_name() == "FakeQuantize":
            found.add(node.get_friendly_name())
        elif node.get_type_name() in ("Concat", "MaxPool", "Reshape", "Gather"):
            waiting += [value.get_node() for value in node.input_values()]
    return found


def _logits(network: Any, images: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
    """The logits that a network computes, before upsampling and argmax if it has them."""
    ov = require("openvino", "dlaseg[export]")
    if network.output().get_element_type() == ov.Type.u8:
        network = openvino_logits(network)
    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino_core().compile_model(network, "CPU", properties)
    return [compiled(image)[0] for image in images]


def search(
    network: Any, images: Sequence[NDArray[Any]], accept: Callable[[Any], bool]
) -> tuple[Any, tuple[str, ...]] | None:
    """Quantises as many layers as possible, such that the result is accepted.

    First all; then the layers that lose most stay in float32: one, two, four, ..., and at last half of them.

    Args:
        network: an `openvino.Model`; is not changed.
        images: inputs of the network, for calibration.
        accept: decides on a quantised network, such as by its scores.

    Returns:
        The quantised network, and the names of the layers in float32; None if none was accepted.
    """
    candidate = quantize(network, images)
    if accept(candidate):
        return candidate, ()
    ranked = rank_layers(network, images)
    half = len(ranked) // 2
    for count in sorted({*(1 << power for power in range(half.bit_length())), half} - {0}):
        in_float = tuple(ranked[:count])
        logger.info("kept in float32: %s", ", ".join(in_float))
        candidate = quantize(network, images, in_float)
        if accept(candidate):
            return candidate, in_float
    return None
