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

MARGIN = 1.25
"""Factor on the tensors of a forward pass for the libraries' own buffers. Peaks of the process were 1.07 to 1.2 times
the tensors: dla34, dla46_c, dla60x_c and dla102 at strides 2 to 8, 2 and 9 million pixels, float32 and bfloat16."""

_SIDE = 256  # of the image that is measured, pixels

_GIB = 2**30


class MemoryCheck:
    """What a backend needs in main memory, and whether it is available.

    The network's tensors grow with the number of pixels, so one forward pass of a small image, as soon as a larger one
    comes, tells what that one needs. Nothing is checked for a GPU, which raises an error that can be caught.

    Args:
        backend: runs the network.

    Attributes:
        bytes_per_pixel: of an image; None until it is measured.
    """

    def __init__(self, backend: Backend):
        self._backend = backend
        self._is_cpu = backend.device.type == "cpu"
        self.bytes_per_pixel: float | None = None

    def check(self, path: Path, height: int, width: int) -> None:
        """Compares what an image of that size needs with what is available now.

        Raises:
            UserError: it does not fit; names the path.
        """
        if not self._is_cpu or height * width <= _SIDE**2:
            return
        if self.bytes_per_pixel is None:
            self.bytes_per_pixel = MARGIN * _peak_bytes(self._backend) / _SIDE**2
        available = available_memory()
        if available is not None and self.bytes_per_pixel * height * width > available:
            raise UserError(self.message(path, height, width, available))

    def message(self, path: Path, height: int, width: int, available: int | None = None) -> str:
        """One line: an image does not fit into memory, what it needs, and what to do."""
        message = f"{path}: {height} x {width} pixels: not enough memory"
        if not self._is_cpu:
            return f"{message} on the device: use --device cpu, or make the image smaller"
        if self.bytes_per_pixel is not None:
            message += f"; the network needs about {_gib(self.bytes_per_pixel * height * width)}"
            message += "" if available is None else f", {_gib(available)} are available"
        return f"{message}: make the image smaller, cut it into parts, or use a machine with more memory"


@torch.inference_mode()
def _peak_bytes(backend: Backend) -> int:
    """The most bytes that tensors occupy at a time while the backend runs a small image."""
    image = torch.zeros(1, backend.metadata.in_channels, _SIDE, _SIDE, dtype=torch.uint8)
    with _LiveBytes() as live:
        backend.run(image)
    return live.peak + image.nbytes


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations create in this thread, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._bytes = 0
        self._storages: dict[int, int] = {}

    def __torch_dispatch__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return outputs

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._storages:  # views share the storage of their tensor
            self._storages[storage._cdata] = storage.nbytes()
            self._bytes += storage.nbytes()
            self.peak = max(self.peak, self._bytes)
            weakref.finalize(storage, self._free, storage._cdata)

    def _free(self, key: int) -> None:
        self._bytes -= self._storages.pop(key)


def _gib(number: float) -> str:
    return f"{number / _GIB:.1f} GiB"
