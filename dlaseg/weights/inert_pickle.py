"""Reads what trainers pickle beside tensors without running code: whatever is no tensor becomes an empty shell.

`torch.load` takes a module in pickle's place. The one here looks up nothing: a name in the file is one of the few that
tensors are made of, or becomes a class that keeps entries and does nothing (https://docs.python.org/3/library/pickle.html,
"Restricting Globals").
"""

import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

MARKS = frozenset(("pytorch-lightning_version", "hyper_parameters"))
"""Entries of which a checkpoint of Lightning has one."""


class Shell(dict[Any, Any]):
    """Stands for an object of any class: keeps its entries or attributes as entries, never calls anything."""

    def __new__(cls, *_: Any, **__: Any) -> "Shell":
        """Takes what the class's constructor would."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Keeps attributes, which pickle would set."""
        if isinstance(state, dict):
            self.update(state)

    def append(self, _: Any) -> None:
        """Drops an item of what was a list."""

    def extend(self, _: Any) -> None:
        """Likewise."""

    def add(self, _: Any) -> None:
        """Drops an item of what was a set."""


class _Call(NamedTuple):
    """A function of torch's, of which no pickle can set an attribute."""

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class Unpickler(pickle.Unpickler):
    """Makes tensors, containers, numbers and texts; of anything else a `Shell`."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            return _Call(getattr(torch._utils, name))
        return type(name.rpartition(".")[2], (Shell,), {"__module__": module})


def load(file: Any, **options: Any) -> Any:
    """As `pickle.load`, which torch calls for files of its old format."""
    return Unpickler(file, **options).load()


def read_lightning(path: Path) -> dict[str, Any] | None:
    """Reads a checkpoint of Lightning, which has hyper-parameters of any type beside the tensors.

    Args:
        path: a zip file of `torch.save`.

    Returns:
        Its entries; None for any other file.

    Raises:
        Exception: damaged: what an unpickler raises is not a closed list.
    """
    content = torch.load(path, map_location="cpu", pickle_module=sys.modules[__name__], weights_only=False)
    is_lightning = isinstance(content, dict) and not MARKS.isdisjoint(content)
    return content if is_lightning and isinstance(content.get("state_dict"), dict) else None
