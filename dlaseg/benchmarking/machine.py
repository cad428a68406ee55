"""The machine that measures: what it is, how many cores may be used, and how fast it multiplies matrices."""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dlaseg.device import synchronize
from dlaseg.errors import UserError
from dlaseg.processor import cores, processor
from dlaseg.version import package_version

PACKAGES = ("dlaseg", "torch", "openvino", "onnxruntime", "torchvision", "segmentation_models_pytorch", "numpy")

MATRIX = {"cpu": 2048, "other": 8192}
"""Side of the square matrices whose product measures the peak."""


@contextmanager
def limited_cores(threads: int | None) -> Iterator[None]:
    """Lets this process and its children use so many cores, inside the `with` block.

    On Linux no thread that starts meanwhile runs on other cores, whoever starts it; elsewhere only torch is limited.

    Args:
        threads: number of cores; None for all that may be used.

    Raises:
        UserError: more cores than there are.
    """
    available, before = cores(), torch.get_num_threads()
    threads = available if threads is None else threads
    if not 1 <= threads <= available:
        raise UserError(f"--threads {threads}: use 1 to {available}, the cores that this process may use")
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        if allowed is not None:
            os.sched_setaffinity(0, sorted(allowed)[:threads])
        torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)
        if allowed is not None:
            os.sched_setaffinity(0, allowed)


def fingerprint(device: torch.device) -> dict[str, Any]:
    """What speed depends on: processor, its instructions, cores, threads, GPU, versions; and what else runs.

    Args:
        device: that is measured.

    Returns:
        Plain values.
    """
    model, flags = processor()
    return {
        "processor": model,
        "instructions": flags,
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := package_version(name)) is not None},
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def matrix_product(precision: str, device: torch.device) -> tuple[Callable[[], None], int]:
    """A large matrix product, whose speed is the machine's peak in practice.

    Args:
        precision: `float32`, `bfloat16` or `float16`.
        device: to compute on.

    Returns:
        What computes one, and the floating-point operations that it takes.
    """
    side = MATRIX["cpu" if device.type == "cpu" else "other"]
    matrix = torch.randn(side, side, device=device).to(getattr(torch, precision))

    def multiply() -> None:
        torch.mm(matrix, matrix)
        synchronize(device)

    return multiply, 2 * side**3
