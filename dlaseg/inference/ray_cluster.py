"""Ray clusters: connecting to one, or starting one on this machine, and how many workers it has room for."""

import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from dlaseg.errors import UserError
from dlaseg.processor import cores

MOST_CPUS = 4
"""Cores of a worker by default."""

_OBJECT_STORE = 1 << 27
"""Bytes of the store of a cluster that is started here, beside the weights: tasks and outcomes are small."""


@contextmanager
def ray_cluster(address: str | None, workers: int | None, cpus: int | None, weights_size: int) -> Iterator[None]:
    """Connects to a cluster, or starts one on this machine, and leaves it at the end.

    A process that is connected already stays so.

    Args:
        address: as for `ray.init`; None for that in RAY_ADDRESS, or a cluster that is started here.
        workers: processes that a started cluster has room for, even if they have to share cores.
        cpus: cores of each.
        weights_size: bytes of the weights, which a started cluster has room for.

    Raises:
        UserError: no package ray, no such cluster, or the cluster is lost.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _import_ray(is_local=address == "local")
    import ray

    was_connected = ray.is_initialized()
    if not was_connected:
        _check_address(address)
        options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
        if address == "local":
            options["num_cpus"] = max(cores(), (workers or 1) * (cpus or 1))
            options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE + 2 * weights_size}
        try:
            with _quiet_stderr():
                ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
            raise _no_cluster(address, error) from error
    # Ray prints what goes wrong on other nodes to standard output, and warns of its own settings
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="ray")
        try:
            yield
        except ray.exceptions.RayError as error:
            raise UserError(
                f"Ray: {type(error).__name__}: {error}: finished files are complete: the same command continues"
            ) from error
        finally:
            if not was_connected:
                ray.shutdown()


def _check_address(address: str) -> None:
    """Refuses an address that nothing listens to; Ray tries for minutes."""
    if address.startswith("ray://"):
        raise UserError(
            f"Ray cluster {address}: the Ray client does not do: start the command on a node of the cluster, with "
            "--ray-address auto, or by `ray job submit`"
        )
    host, _, port = address.rpartition(":")
    if not port.isdecimal():  # local or auto
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> UserError:
    return UserError(
        f"no Ray cluster at {address} ({error}): give the address of a running one, or none to start one here"
    )


def _import_ray(is_local: bool) -> None:
    """Imports Ray with other defaults than its own, which it reads then."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports its use to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it warns that this will be the default
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # every pool of actors makes it log an error
    if is_local:  # its servers take commands from anyone: they listen to this machine alone
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise UserError(f"--engine ray needs {error.name or 'ray'}: pip install 'dlaseg[ray]'") from error


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keeps out the lines by which the C++ part of Ray says how it logs."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def place_workers(
    nodes: Sequence[dict[str, Any]], workers: int | None, cpus: int | None, device: str
) -> tuple[int, int, int]:
    """How many workers there are, and the cores and GPUs of each.

    Args:
        nodes: of the cluster, as from `ray.nodes()`.
        workers: as asked for; None for as many as there is room for.
        cpus: of each, as asked for; None for the most up to `MOST_CPUS` that all of them can have.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        UserError: there is no room for any.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    has_gpus = any(node.get("GPU", 0) >= 1 for node in resources)
    gpus = 1 if device == "cuda" or (device == "auto" and has_gpus) else 0

    def room(cpus: int) -> int:
        """For how many workers."""
        return sum(
            min(int(node.get("CPU", 0) // cpus), int(node.get("GPU", 0)) if gpus else sys.maxsize) for node in resources
        )

    if cpus is None:
        cpus = next((count for count in range(MOST_CPUS, 0, -1) if room(count) >= (workers or 1)), 1)
    if room(cpus) == 0:
        what = f"{cpus} cores and a GPU" if gpus else f"{cpus} cores"
        raise UserError(f"no node of the cluster has {what} for a worker: change --cpus-per-worker or --device")
    return workers or room(cpus), cpus, gpus
