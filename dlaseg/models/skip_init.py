"""Networks without initial weights, for those whose weights are loaded and those that have only shapes."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode


class SkipInit(TorchFunctionMode):
    """Skips random initialisation inside the `with` block; it takes longer than all else.

    For networks whose every tensor is loaded, and for those on the meta device, which have no values.

    Examples:
        >>> import torch
        >>> with torch.device("meta"), SkipInit():
        ...     layer = nn.Conv2d(3, 8, 3)
        >>> tuple(layer.weight.shape)
        (8, 3, 3, 3)
    """

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (nn.init.normal_, nn.init.kaiming_uniform_, nn.init.uniform_):
            return None
        return func(*args, **(kwargs or {}))
