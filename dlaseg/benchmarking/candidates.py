"""The rows of the speed benchmark, as the user names them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlaseg.device import pick_device, reduced_precision
from dlaseg.errors import UserError, nearest
from dlaseg.factory import list_models
from dlaseg.inference.backends import exported
from dlaseg.inference.backends.choice import check_backend
from dlaseg.models.build import DECODERS
from dlaseg.run_folder import BEST_WEIGHTS
from dlaseg.weights.builtin import builtin_files
from dlaseg.weights.download import FILE, find_builtin

PLAIN = "plain"
FAMILIES = ("plain", "smp:ARCH:ENCODER", "torchvision:NAME", "onnx:FILE")
"""What `--against` takes."""

LACKING = {"openvino": ("float16",), "onnxruntime": ("bfloat16", "float16")}
"""Precisions that a backend does not have; they are left out of the combinations."""


@dataclass(frozen=True)
class Architecture:
    """Arguments of `create_model` for networks without a file.

    Attributes:
        num_classes: of all networks that are not from a file; None for the first file's, or 19.
        stride: of DLA networks.
        root_kernel_size: of DLA networks.
    """

    num_classes: int = 19
    stride: int = 2
    root_kernel_size: int = 1


@dataclass(frozen=True)
class Candidate:
    """How one row is computed. It names the network and does not hold it, so that a new process can build it, too.

    Attributes:
        family: `dlaseg`, `plain`, `smp`, `torchvision` or `onnx`.
        source: a DLA network's name, a weights file or the name of built-in ones, or what stands behind the family's
            name, such as `Unet:resnet18`.
        backend: see `Predictor`; of `plain` and `onnx` what runs them.
        precision: see `Predictor`.
        device: see `Predictor`.
        architecture: of a network that is not from a file.
        runs_backend: what `auto` stands for, once it is built.
        runs_precision: the precision that it turned out to have, such as int8 of a quantised file.
    """

    family: str
    source: str
    backend: str
    precision: str
    device: str
    architecture: Architecture
    runs_backend: str = ""
    runs_precision: str = ""

    @property
    def network(self) -> str:
        """The network's name for people."""
        if self.family not in ("dlaseg", PLAIN):
            return f"{self.family}:{self.source}"
        path = Path(self.source)
        if path.name in (BEST_WEIGHTS, FILE):  # every run has a file of that name
            return str(Path(path.parent.name, path.name))
        return self.source if self.is_named else path.name

    @property
    def name(self) -> str:
        """Network, backend and precision."""
        if self.family == PLAIN:
            return f"plain PyTorch {self.network}"
        return f"{self.network} {self.runs_backend or self.backend} {self.computes_in}"

    @property
    def computes_in(self) -> str:
        """The precision, as far as it is known."""
        return self.runs_precision or self.precision

    @property
    def is_named(self) -> bool:
        """Whether the source is `NAME` or `NAME:DECODER`, so that the network is randomly initialised."""
        return is_named(self.source)

    @property
    def is_exported(self) -> bool:
        """Whether the source is a file for another engine than PyTorch."""
        return self.family == "onnx" or is_exported(self.source)


def is_named(source: str) -> bool:
    """Whether a text is a name in `list_models`, or one with a decoder, such as `dla34:afa`."""
    name, colon, decoder = source.partition(":")
    return name in list_models() and (not colon or decoder in DECODERS)


def is_exported(source: str) -> bool:
    """Whether a file, or the one that a name stands for, is from `dlaseg export`."""
    return exported.is_exported(find_builtin(source) or Path(source))


def check_models(models: Sequence[str]) -> None:
    """Raises a UserError for a word that is neither a network, nor weights, and for an unknown decoder."""
    networks = list_models()
    for model in models:
        name, colon, decoder = model.partition(":")
        if is_named(model) or find_builtin(model) is not None or Path(model).exists():
            continue
        if name in networks and colon:
            known = list(DECODERS)
            raise UserError(
                f"{model}: unknown decoder {decoder!r}: did you mean {nearest(decoder, known)}? There are "
                f"{', '.join(known)}"
            )
        if Path(model).name == model and not Path(model).suffix and not colon:
            close = nearest(model, [*networks, *builtin_files()])
            raise UserError(f"{model}: no such file, network or built-in weights: did you mean {close}?")


def make_candidates(
    models: Sequence[str],
    against: Sequence[str],
    backends: Sequence[str],
    precisions: Sequence[str],
    device: str,
    architecture: Architecture,
) -> list[Candidate]:
    """Every network on every backend in every precision, the baseline first.

    Args:
        models: see `is_named`, weights files, or files from `dlaseg export`.
        against: see `FAMILIES`. `plain` is the first model in plain PyTorch, and the baseline.
        backends: names of backends, or `auto`.
        precisions: see `Predictor`. What a backend lacks is left out.
        device: see `Predictor`.
        architecture: of networks that are not from a file.

    Raises:
        UserError: nothing to measure, or a text that is none of `FAMILIES`.
    """
    if not models:
        raise UserError("no network: give weights files, or names such as dla34")
    modes = [(b, p) for b in dict.fromkeys(backends) for p in dict.fromkeys(precisions) if p not in LACKING.get(b, ())]
    for backend in backends:
        if backend not in dict(modes):
            raise UserError(f"--precisions {' '.join(precisions)}: the backend {backend} has none of them: add float32")
    rows: list[Candidate] = []
    for text in dict.fromkeys(against):
        family, _, source = text.partition(":")
        complete = source and (family != "smp" or all(source.partition(":")[::2]))
        if text != PLAIN and not (family in ("smp", "torchvision", "onnx") and complete):
            raise UserError(f"--against {text}: use one of {', '.join(FAMILIES)}")
        if text == PLAIN:
            if is_exported(models[0]):
                raise UserError(f"--against plain: {models[0]} is not for PyTorch: give the weights file before it")
            rows.insert(0, Candidate(PLAIN, models[0], "torch", "float32", device, architecture))
        elif family == "onnx":
            rows.append(Candidate(family, source, "onnxruntime", "as in the file", "cpu", architecture))
        else:
            rows += [Candidate(family, source, *mode, device, architecture) for mode in modes]
    first = [row for row in rows if row.family == PLAIN]
    own = [
        Candidate("dlaseg", model, *mode, device, architecture)
        for model in dict.fromkeys(models)
        # What reads an exported file is decided by its format
        for mode in ([("auto", p) for p in dict.fromkeys(precisions)] if is_exported(model) else modes)
    ]
    rows = [*first, *own, *(row for row in rows if row.family != PLAIN)]
    names = [row.name for row in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{twice[0]}: two files of this name: rename one of them")
    return rows


def check_backends(candidates: Sequence[Candidate]) -> None:
    """Checks that there are the backends, the device and the precisions, without building a network.

    Raises:
        UserError: one that is unknown, or not on this machine.
    """
    for candidate in candidates:
        check_backend(candidate.backend)
        if candidate.family != "onnx":  # whose precision is that of the file
            reduced_precision(candidate.precision, pick_device(candidate.device), "precision")
