"""Memory of the tensors that torch creates."""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
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
