"""Refuses an image whose network needs more memory than there is, before the system would end the process.

Where memory is overcommitted, as on Linux, an allocation succeeds and the process is killed when it writes to it. So
what the network needs is estimated, and compared with what is available.
"""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dlaseg.errors import UserError
from dlaseg.inference.backends.base import Backend
from dlaseg.memory import available_memory

MARGIN = 1.4
"""Factor on the tensors of a forward pass for the libraries' own buffers: processes were measured to take 1.12 to 1.18
times the tensors in float32, 1.11 to 1.36 times in bfloat16 (six networks, 3 million pixels, torch 2.14)."""

ENOUGH_PER_PIXEL = 4096
"""Bytes per pixel, eight times what the largest variant needs (491, with 19 classes at stride 2). Measuring takes over
a second, mostly for imports by torch, so it waits for an image that might not fit."""

_SIDE = 256  # of the image that is measured, pixels

_GIB = 2**30


class MemoryCheck:
    """What a backend needs in main memory, and whether it is available.

    The tensors that are computed from an image grow with its pixels, those that are computed from the weights alone,
    such as copies in lower precision, do not. So one forward pass of a small image, as soon as a large one comes, tells
    what that one needs. Nothing is checked for a GPU, which raises an error that can be caught.

    Args:
        backend: runs the network.

    Attributes:
        measured: bytes per pixel of an image, and bytes that do not depend on it; None until they are measured.
    """

    def __init__(self, backend: Backend):
        self._backend = backend
        self._is_cpu = backend.device.type == "cpu"
        self.measured: tuple[float, int] | None = None

    def needed(self, height: int, width: int) -> float:
        """Bytes that an image of that size needs, with a margin."""
        if self.measured is None:
            self.measured = _measure(self._backend)
        per_pixel, fixed = self.measured
        return MARGIN * per_pixel * height * width + fixed

    def check(self, path: Path, height: int, width: int) -> None:
        """Compares what an image of that size needs with what is available now.

        Raises:
            UserError: it does not fit; names the path.
        """
        if not self._is_cpu or height * width <= _SIDE**2:
            return
        available = available_memory()
        if available is None or ENOUGH_PER_PIXEL * height * width <= available:
            return
        if self.needed(height, width) > available:
            raise UserError(self.message(path, height, width, available))

    def message(self, path: Path, height: int, width: int, available: int | None = None) -> str:
        """One line: an image does not fit into memory, what it needs, and what to do."""
        message = f"{path}: {height} x {width} pixels: not enough memory"
        if not self._is_cpu:
            return f"{message} on the device: use --device cpu, or make the image smaller"
        if self.measured is not None:  # not now, when there is little memory
            message += f"; the network needs about {_gib(self.needed(height, width))}"
            message += "" if available is None else f", {_gib(available)} are available"
        return f"{message}: make the image smaller, cut it into parts, or use a machine with more memory"


@torch.inference_mode()
def _measure(backend: Backend) -> tuple[float, int]:
    """See `MemoryCheck.measured`."""
    image = torch.zeros(1, backend.metadata.in_channels, _SIDE, _SIDE, dtype=torch.uint8)
    with _LiveBytes(image) as live:
        backend.run(image)
    return live.peak[True] / _SIDE**2, live.peak[False]


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are created in this thread, until they are freed.

    Attributes:
        peak: the most bytes at a time, by whether the tensors depend on the image.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.peak = {True: 0, False: 0}
        self._bytes = {True: 0, False: 0}
        self._storages: dict[int, bool] = {}
        self._add(image, True)

    def __torch_dispatch__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        from_image = any(self._storages.get(tensor.untyped_storage()._cdata, False) for tensor in inputs)
        aliases = {tensor.untyped_storage()._cdata for tensor in inputs}
        for tensor in tree_leaves(outputs):
            # Results in place, and views, share the storage of an input
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in aliases:
                self._add(tensor, from_image)
        return outputs

    def _add(self, tensor: Tensor, from_image: bool) -> None:
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = from_image
        self._bytes[from_image] += storage.nbytes()
        self.peak[from_image] = max(self.peak[from_image], self._bytes[from_image])
        weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._bytes[self._storages.pop(key)] -= size


def _gib(number: float) -> str:
    return f"{number / _GIB:.1f} GiB"
