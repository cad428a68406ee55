"""`infer.json` beside the results: which weights and options they are from, so that those of two networks never mix."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import get_type_hints

from dlaseg.errors import UserError
from dlaseg.inference.folders import SETTINGS, SUFFIXES, Folder, LocalFolder
from dlaseg.inference.sinks import VIDEO_SUFFIX, is_frame
from dlaseg.text import to_json
from dlaseg.version import __version__


@dataclass(frozen=True)
class Settings:
    """What the results of an image depend on, beside the image; and what decides how they are named.

    Attributes:
        weights_sha256: hash of the weights file; of a model, that of the file that `save_model` would write.
        backend: see `Predictor`.
        precision: see `Predictor`; never `auto`.
        keep_suffix: see `Sink`.
        all_frames: whether files of several frames have a result for each of them.
        ids: what label maps hold, see `Sink`.
        scales: see `Predictor`.
        flip: see `Predictor`.
        max_memory: see `Predictor`; written when the first image is computed in tiles, whose size follows from it. None
            while all images were computed as a whole.
        max_short_side: see `Predictor`.
    """

    weights_sha256: str
    backend: str
    precision: str
    keep_suffix: bool = False
    all_frames: bool = False
    ids: str = "raw"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    max_memory: int | None = None
    max_short_side: int | None = None

    def write(self, output: Folder) -> None:
        """Writes the file."""
        output.write(SETTINGS, f"{to_json({'dlaseg': __version__, **asdict(self)}, indent=2)}\n".encode())


def claim_output(output: Folder, settings: Settings, results: Iterable[str], overwrite: bool) -> None:
    """Checks that a folder holds results of these settings alone, and writes the settings to it.

    To overwrite results of other settings, all of them are removed first. So a run that is interrupted at any moment
    leaves results of one network.

    Args:
        output: the folder of the results.
        settings: of this run.
        results: names of the files that this run will write, and of the folders of the frames of videos.
        overwrite: whether existing results are replaced.

    Raises:
        UserError: results of other or unknown settings, unless all of them are to be overwritten; or a folder that
            cannot be written to.
    """
    try:
        saved = read_settings(output)
        if saved == settings:
            return
        existing, replaced = _existing_results(output), set(results)
        others = sorted(name for name in existing if name not in replaced and _video_folder(name) not in replaced)
        if existing and not overwrite:
            remedy = "or remove what is in it" if others else "or replace them with --overwrite"
            raise UserError(
                f"{output.show()}: holds results of {_difference(saved, settings)}: use another output folder, {remedy}"
            )
        if others:
            raise UserError(
                f"{output.show(others[0])}: one of {len(others)} results of {_difference(saved, settings)} that this "
                "run would not replace: use another output folder, or remove them"
            )
        for name in existing:
            output.remove(name)
        settings.write(output)
    except OSError as error:
        raise UserError(
            f"{error.filename or output.show()}: cannot be written ({error.strerror or error}): make room or give "
            "another output folder"
        ) from error


def read_settings(output: Folder) -> Settings | None:
    """The settings of the results in a folder; None if it has none, or a file that is not from this release."""
    try:
        content = json.loads(output.read(SETTINGS).decode("utf-8"))
        content.pop("dlaseg")  # a new release may continue what an older one began
        content["scales"] = tuple(map(float, content.get("scales", (1.0,))))
        settings = Settings(**content)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    types = get_type_hints(Settings) | {"scales": tuple}  # isinstance takes no tuple[float, ...]
    return settings if all(isinstance(getattr(settings, name), kind) for name, kind in types.items()) else None


def _existing_results(output: Folder) -> set[str]:
    return {
        name
        for kind, suffix in SUFFIXES.items()
        for name in output.files(kind)
        if PurePosixPath(name).suffix in (suffix, VIDEO_SUFFIX)
        and not PurePosixPath(name).name.startswith(".")  # hidden: the rest of a killed run
    }


def _video_folder(name: str) -> str | None:
    """The folder of a result that has the name of a frame of a video."""
    path = PurePosixPath(name)
    return str(path.parent) if is_frame(path.name, path.parts[0]) else None


class Claim:
    """Notices when another run has taken over a folder: both may find it empty when they begin.

    Args:
        output: the folder, with the settings of this run, see `claim_output`.
        settings: of this run.

    Attributes:
        settings: of this run.
    """

    def __init__(self, output: LocalFolder, settings: Settings):
        self.settings, self._output = settings, output
        self._checked: tuple[int, int] | None = None

    def check(self) -> None:
        """Checks that the folder is that of this run; reads its settings only if the file is not the same any more.

        Raises:
            UserError: it has other settings now, or none.
        """
        try:
            status = (self._output.path / SETTINGS).stat()
            version = status.st_ino, status.st_mtime_ns
        except FileNotFoundError:
            version = None
        if version is not None and version == self._checked:
            return
        saved = read_settings(self._output)
        if saved is not None and None in (saved.max_memory, self.settings.max_memory):  # one has no tiles yet
            saved = replace(saved, max_memory=self.settings.max_memory)
        if saved != self.settings:
            raise UserError(
                f"{self._output.show()}: another run writes results of {_difference(saved, self.settings)} to it: use "
                "another output folder"
            )
        self._checked = version

    def record_limit(self, max_memory: int | None) -> None:
        """Writes the limit of memory to the settings, before the first results in tiles.

        Raises:
            UserError: see `check`.
        """
        if self.settings.max_memory is None:
            self.settings = replace(self.settings, max_memory=max_memory)
            self._checked = None
            self.check()
            self.settings.write(self._output)


def _difference(saved: Settings | None, settings: Settings) -> str:
    """What distinguishes existing results from those of this run."""
    if saved is None:
        return f"unknown weights (no {SETTINGS} of this release)"
    now = asdict(settings)
    changed = {name: value for name, value in asdict(saved).items() if value != now[name]}
    differences = []
    if (sha256 := changed.pop("weights_sha256", None)) is not None:
        differences.append(f"other weights (SHA-256 {sha256[:12]}..., now {settings.weights_sha256[:12]}...)")
    if changed:
        options = ", ".join(f"{name} {value}, now {now[name]}" for name, value in changed.items())
        differences.append(f"other options ({options})")
    return " and ".join(differences)
