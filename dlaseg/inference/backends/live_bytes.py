"""Memory of the tensors that torch creates."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
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
        self._unfolds = not torch.ops.mkldnn._is_mkldnn_bf16_supported()

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        from_image = any(self._storages.get(tensor.untyped_storage()._cdata, False) for tensor in inputs)
        aliases = {tensor.untyped_storage()._cdata for tensor in inputs}
        for tensor in tree_leaves(outputs):
            # Results in place, and views, share the storage of an input
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in aliases:
                self._add(tensor, from_image)
        if func.overloadpacket in (torch.ops.aten.conv2d, torch.ops.aten.conv_transpose2d):
            is_transposed = func.overloadpacket is torch.ops.aten.conv_transpose2d
            copied = self._unfolded_bytes(args[1], args[0] if is_transposed else outputs)
            self.peak[from_image] = max(self.peak[from_image], self._bytes[from_image] + copied)
        return outputs

    def _unfolded_bytes(self, weight: Tensor, pixels: Tensor) -> int:
        """Bytes that torch copies within a convolution in bfloat16 on CPUs without such arithmetic.

        The copy holds all values below the kernel for each pixel of the result (of the input if it is transposed), of
        one group at a time.
        """
        is_affected = self._unfolds and weight.device.type == "cpu" and weight.dtype == torch.bfloat16
        if not is_affected or weight[0, 0].numel() == 1:
            return 0
        return pixels[:, 0].numel() * weight[0].numel() * weight.element_size()

    def _add(self, tensor: Tensor, from_image: bool) -> None:
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = from_image
        self._bytes[from_image] += storage.nbytes()
        self.peak[from_image] = max(self.peak[from_image], self._bytes[from_image])
        weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._bytes[self._storages.pop(key)] -= size
