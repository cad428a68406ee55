"""Graphs of networks on disk, since converting one takes seconds; does not import torch."""

import contextlib
import hashlib
import io
import os
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlaseg.errors import UserError
from dlaseg.files import sha256, write_bytes, write_json
from dlaseg.inference.backends.exported import graph_of_entries
from dlaseg.inference.backends.graph import Graph
from dlaseg.strict_json import read_json

KEPT_GRAPHS = 8
"""Most graphs in the cache; the ones that were used last."""


def find_graph(key: str) -> Graph | None:
    """The graph that `keep_graph` kept; None if there is none, or a damaged one.

    Args:
        key: of the network, such as the hash of a weights file.
    """
    try:
        path = _path(key)
        reference = path.with_suffix(".npy")
        kept = read_json(path.with_suffix(".json"), "a kept graph")
        if kept["sha256"] != [sha256(path), sha256(reference)]:  # power that was lost may leave files of zeros
            return None
        graph = graph_of_entries(path, kept["entries"], reference=reference)
    except (UserError, OSError, TypeError, KeyError):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # used last
    return graph


def keep_graph(key: str, content: bytes, entries: Mapping[str, str], reference: NDArray[np.float32]) -> Graph:
    """Writes a graph.

    Args:
        key: of the network.
        content: of an ONNX file.
        entries: see `graph_of_entries`.
        reference: coarse logits that torch computes of `noise`.

    Raises:
        UserError: the cache cannot be written to, or as `cache_folder`.
    """
    path = _path(key)
    numbers = io.BytesIO()
    np.save(numbers, reference)
    hashes = [hashlib.sha256(part).hexdigest() for part in (content, numbers.getvalue())]
    try:
        write_bytes(path, content)
        write_bytes(path.with_suffix(".npy"), numbers.getvalue())
        write_json(path.with_suffix(".json"), {"entries": entries, "sha256": hashes})
        with contextlib.suppress(FileNotFoundError):  # another process removes graphs, too
            for old in sorted(path.parent.glob("*.onnx"), key=lambda file: file.stat().st_mtime)[:-KEPT_GRAPHS]:
                for part in (old, old.with_suffix(".json"), old.with_suffix(".npy")):
                    part.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{error.filename or path}: cannot be written ({error.strerror or error}): set DLASEG_CACHE to another "
            "folder, or use --backend torch"
        ) from error
    return graph_of_entries(path, entries, reference=path.with_suffix(".npy"))


def noise(channels: int) -> NDArray[np.uint8]:
    """The image, (1, channels, 65, 97), by whose logits a backend is compared with torch."""
    return np.random.default_rng(0).integers(256, size=(1, channels, 65, 97), dtype=np.uint8)


def cache_folder() -> Path:
    """The folder for what is computed once: `DLASEG_CACHE`, or `dlaseg` in the user's cache.

    Raises:
        UserError: the user has no home folder, as in some containers.
    """
    if folder := os.environ.get("DLASEG_CACHE"):
        return Path(folder)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlaseg"
    except RuntimeError as error:
        raise UserError("the user has no home folder: set DLASEG_CACHE to a folder, or use --backend torch") from error


def _path(key: str) -> Path:
    """The file of a graph, whether it exists or not."""
    name = hashlib.sha256(f"{key} {_code()}".encode()).hexdigest()[:32]
    return cache_folder() / "graphs" / f"{name}.onnx"


@cache
def _code() -> str:
    """Stands for what makes a graph of weights: the code of our networks, and torch's exporter."""
    files = sorted((Path(__file__).parents[2] / "models").glob("*.py"))
    code = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return f"{code} torch {version('torch')}"
