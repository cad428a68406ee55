"""Looks at the machine and at what is installed: what is missing, what does not go together, and what to do about it.

Every part is imported where it is looked at, so that a broken installation can be examined, too.
"""

import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path
from typing import Any, Literal

from dlaseg.errors import UserError
from dlaseg.memory import available_memory
from dlaseg.version import __version__

OPENCV = (
    *("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    *("opencv-python-rolling", "opencv-python-headless-rolling"),
)
"""Distributions that write the same folder, `cv2`: the last one that was installed wins, file by file."""

EXTRAS = {
    "openvino": "the fastest backend on CPUs",
    "onnxruntime": "ONNX files as weights",
    "export": "dlaseg export",
    "convert": "dlaseg data convert",
    "demo": "dlaseg demo",
    "large": "images of any size, in strips",
    "ray": "dlaseg infer --engine ray",
    "benchmark": "dlaseg benchmark speed beside smp",
}
"""Extras for users, and what they are for."""

ENOUGH_SHARED_MEMORY = 1 << 30
"""Bytes of /dev/shm below which loading processes may die: batches are handed over there."""

ENOUGH_MEMORY = 2 << 30
ENOUGH_DISK = 1 << 30

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Fact:
    """Something about the machine or the installation.

    Attributes:
        name: what was looked at.
        value: what was found.
        status: ok; note for what may matter; problem for what breaks something.
        remedy: what to do about it; None where there is nothing to do.
    """

    name: str
    value: str
    status: Status = "ok"
    remedy: str | None = None


def examine() -> list[Fact]:
    """Looks at everything; an examination that fails is a problem of its own."""
    facts = []
    for part in (_python, _packages, _opencv, _torch, _torchvision, _extras, _cores, _bfloat16, _memory, _folders,
                 _backends):  # fmt: skip
        try:
            facts += list(part())
        except Exception as error:  # whatever is broken, the rest is examined
            name = part.__name__.removeprefix("_")
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            facts.append(Fact(name, reason, "problem", "install dlaseg into a new virtual environment"))
    return facts


def to_dict(facts: Sequence[Fact]) -> dict[str, Any]:
    """As plain values, for a report of a bug."""
    return {"dlaseg": __version__, "facts": [asdict(fact) for fact in facts]}


def _python() -> Iterator[Fact]:
    yield Fact("dlaseg", f"{__version__}, {Path(__file__).resolve().parents[1]}")
    inside = sys.prefix != sys.base_prefix
    yield Fact(
        "python",
        f"{platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{'virtual environment' if inside else 'no virtual environment'} {sys.prefix}",
    )


def _packages() -> Iterator[Fact]:
    """The requirements of dlaseg itself."""
    try:
        required = requires("dlaseg") or []
    except PackageNotFoundError:
        yield Fact(
            "packages", "dlaseg runs from its sources, so what it requires is not known", "note", "pip install -e ."
        )
        return
    unmet = list(_unmet(required, ""))
    for package, value, remedy in unmet:
        yield Fact(package, value, "problem", remedy)
    if not unmet:
        yield Fact("packages", "all that dlaseg requires are there, in versions that fit")


def _unmet(required: Sequence[str], extra: str) -> Iterator[tuple[str, str, str]]:
    """Requirements that are not met, of an extra or of all: package, what is wrong, remedy."""
    from packaging.requirements import Requirement

    for text in required:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is not None and not marker.evaluate({"extra": extra}):
            continue
        if extra and (marker is None or marker.evaluate({"extra": ""})):
            continue  # required by all
        wanted = f"{requirement.name}{requirement.specifier}"
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            yield requirement.name, f"not installed, {wanted} is required", f"pip install '{wanted}'"
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            yield requirement.name, f"{installed}, {wanted} is required", f"pip install '{wanted}'"


def _opencv() -> Iterator[Fact]:
    installed = [name for name in OPENCV if _is_installed(name)]
    if len(installed) > 1:
        names = " ".join(installed)
        yield Fact(
            "opencv", f"{names} write the same files, so parts of both are there", "problem",
            f"pip uninstall -y {names} && pip install opencv-python-headless",
        )  # fmt: skip
        return
    try:
        import cv2
    except ImportError as error:
        yield Fact(
            "opencv", f"cannot be imported: {error}", "problem",
            "pip uninstall -y opencv-python && pip install --force-reinstall opencv-python-headless, which needs no "
            "libGL",
        )  # fmt: skip
        return
    yield Fact("opencv", f"{cv2.__version__}, {' '.join(installed) or 'of another source'}")


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _torch() -> Iterator[Fact]:
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    yield Fact("torch", f"{torch.__version__}, built for {built}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield Fact(f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    elif torch.version.cuda and shutil.which("nvidia-smi"):
        yield Fact(
            "cuda", "there is an NVIDIA driver, but torch finds no GPU", "problem",
            "compare the driver's CUDA version (nvidia-smi) with torch's: update the driver, or install an older torch",
        )  # fmt: skip
    elif torch.version.cuda:
        yield Fact(
            "cuda", "no GPU; torch for CUDA takes more disk and memory than that for CPUs", "note",
            "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu",
        )  # fmt: skip
    if torch.backends.mps.is_available():
        yield Fact("mps", "available")


def _torchvision() -> Iterator[Fact]:
    try:
        import torchvision  # fails where it was built for another torch
    except Exception as error:
        reason = " ".join(str(error).split())
        yield Fact(
            "torchvision", f"{version('torchvision')} cannot be imported: {reason}", "problem",
            "pip install --force-reinstall torch torchvision, which are released together",
        )  # fmt: skip
        return
    yield Fact("torchvision", str(torchvision.__version__))


def _extras() -> Iterator[Fact]:
    try:
        required = requires("dlaseg") or []
    except PackageNotFoundError:
        return
    for extra, purpose in EXTRAS.items():
        unmet = list(_unmet(required, extra))
        value = f"installed: {purpose}" if not unmet else f"{', '.join(each[0] for each in unmet)} missing: {purpose}"
        yield Fact(f"[{extra}]", value, "note" if unmet else "ok", f"pip install 'dlaseg[{extra}]'" if unmet else None)


def _cores() -> Iterator[Fact]:
    from dlaseg.processor import cores, processor

    name, flags = processor()
    yield Fact("processor", f"{name}, {' '.join(flags) or 'no instructions for fast convolutions are known'}")
    usable, limit = cores(), _core_limit(Path("/sys/fs/cgroup"))
    value = f"{usable} of {os.cpu_count()}"
    if limit is not None and limit < usable:
        yield Fact(
            "cores", f"{value}, of which this container may use {limit:g} at a time", "note",
            f"set OMP_NUM_THREADS={max(1, int(limit))}: more threads than cores wait for each other",
        )  # fmt: skip
        return
    yield Fact("cores", value)


def _core_limit(groups: Path) -> float | None:
    """Cores that a container may use at a time (cgroup 2, `cpu.max`); None without a limit."""
    try:
        quota, period = (groups / "cpu.max").read_text(encoding="utf-8").split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such file, or the quota `max`
        return None


def _bfloat16() -> Iterator[Fact]:
    import torch

    from dlaseg.benchmarking.machine import matrix_product
    from dlaseg.device import gains_from_bfloat16

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not gains_from_bfloat16(device):  # one matrix product may take half a minute
        yield Fact("bfloat16", "computed by way of float32, more slowly: use float32", "ok")
        return
    products = {precision: matrix_product(precision, device)[0] for precision in ("float32", "bfloat16")}
    seconds: dict[str, list[float]] = {precision: [] for precision in products}
    end = time.perf_counter() + 1
    while time.perf_counter() < end or not all(seconds.values()):
        for precision, product in products.items():
            start = time.perf_counter()
            product()
            seconds[precision].append(time.perf_counter() - start)
    ratio = statistics.median(seconds["float32"]) / statistics.median(seconds["bfloat16"])
    value = f"{ratio:.1f} times as fast as float32 in matrix products"
    if ratio > 1:
        yield Fact("bfloat16", f"{value}: use --precision bfloat16")
    else:
        yield Fact("bfloat16", value, "note", "use --precision float32")


def _memory() -> Iterator[Fact]:
    free = available_memory()
    if free is not None:
        enough = free >= ENOUGH_MEMORY
        yield Fact("memory", f"{free / 2**30:.1f} GiB are free", "ok" if enough else "note",
                   None if enough else "close other programs, or use --max-memory and small batches")  # fmt: skip
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        enough = size >= ENOUGH_SHARED_MEMORY
        remedy = None if enough else "start the container with --shm-size=4g, or train with --data.workers 0"
        yield Fact("shared memory", f"{size / 2**30:.2f} GiB (/dev/shm)", "ok" if enough else "problem", remedy)


def _folders() -> Iterator[Fact]:
    from dlaseg.inference.backends.graph_cache import cache_folder

    remedies: dict[str, tuple[Callable[[], str | Path], str]] = {
        "cache": (cache_folder, "set DLASEG_CACHE to a folder that can be written to"),
        "temporary files": (tempfile.gettempdir, "set TMPDIR to a folder that can be written to"),
        "this folder": (Path.cwd, "change to a folder that can be written to: runs/ is made there"),
    }
    for name, (find, remedy) in remedies.items():
        folder = None
        try:
            folder = Path(find())  # fails where there is none
            existing = next(each for each in (folder, *folder.parents) if each.exists())
            with tempfile.TemporaryFile(dir=existing):
                free = shutil.disk_usage(existing).free
        except (OSError, UserError) as error:
            where = "" if folder is None else f"{folder}: "
            yield Fact(name, f"{where}{getattr(error, 'strerror', error)}", "problem", remedy)
            continue
        few = free < ENOUGH_DISK
        yield Fact(
            name, f"{folder}: {free / 2**30:.1f} GiB free", "note" if few else "ok", "free some" if few else None
        )


def _backends() -> Iterator[Fact]:
    """Runs the network that comes with the package by each backend that is installed."""
    from dlaseg.factory import load_model
    from dlaseg.inference.backends.choice import BACKENDS, is_exact, make_backend
    from dlaseg.inference.backends.graph_cache import noise
    from dlaseg.weights.builtin import default_weights

    model = load_model(default_weights())
    expected = make_backend("torch", model, "cpu", "float32").run(noise(model.metadata.in_channels))
    for name in _installed_backends(BACKENDS):
        try:
            exact = is_exact(make_backend(name, model, "cpu", "float32"), expected)
        except Exception as error:
            reason = " ".join(f"{error}".split())
            yield Fact(f"backend {name}", f"fails: {reason}", "problem", "use --backend torch, and report it")
            continue
        value = "runs, with the same logits as torch" if exact else "runs, with other logits than torch"
        yield Fact(f"backend {name}", value, "ok" if exact else "problem", None if exact else "use --backend torch")


def _installed_backends(backends: Iterable[str]) -> list[str]:
    """Without torch.compile, which needs a compiler and minutes."""
    needed = {"torch": ["torch"], "openvino": ["openvino", "onnxscript"], "onnxruntime": ["onnxruntime", "onnxscript"]}
    return [name for name in backends if name in needed and all(map(_is_installed, needed[name]))]
