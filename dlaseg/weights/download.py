"""One resolver of weights: a file, a folder, a name of built-in weights, or a repository on the hub -> a file."""

import filecmp
import logging
import os
import re
from contextlib import suppress
from pathlib import Path

from dlaseg.errors import UserError, nearest
from dlaseg.run_folder import BEST_WEIGHTS
from dlaseg.weights.builtin import builtin_files

logger = logging.getLogger(__name__)

FILE = "model.safetensors"
"""Name of the weights file in a repository, and in a folder that `save_pretrained` wrote."""

_SUFFIXES = (".safetensors", ".pth", ".pt", ".tar", ".bin", ".ckpt", ".pkl", ".onnx", ".xml", ".pt2")
_REVISION = r"(?:@((?!.*\.\.)[\w./-]+))?"  # a branch may be called refs/pr/1
_HUB_NAME = re.compile(rf"(?:hf-hub:)?([A-Za-z0-9][\w.-]*/[\w.-]+){_REVISION}")
_HUB_FILE = re.compile(rf"hf-hub:([A-Za-z0-9][\w.-]*/[\w.-]+)/([\w./-]+){_REVISION}")


def resolve(source: str | Path, argument: str = "weights") -> Path:
    """The weights file that a path, a name of built-in weights or a hub name stands for.

    Args:
        source: a file's path; a folder that holds `model.safetensors`, or the folder of a run; a name of
            `dlaseg.list_weights()`, unless a file or such a folder in the working folder has this name; or `USER/NAME`
            of a repository on the hub that holds `model.safetensors`, with `@REVISION` for a certain branch, tag or
            commit; or `hf-hub:USER/NAME/FILE`, any other file of a repository. What was downloaded before is taken from
            the hub's cache (HF_HOME) without the network. If the folder `USER` exists here, `USER/NAME` is a path, and
            the repository is `hf-hub:USER/NAME`.
        argument: the name of the argument that `source` comes from, for the message.

    Raises:
        UserError: neither a file, nor a name, nor a repository that can be downloaded, or a folder of two weights
            files that differ; says what to do.
    """
    if not isinstance(source, str | os.PathLike):
        raise UserError(
            f"{argument} of type {type(source).__name__}: weights are given by a file, a folder or a name: give one of "
            "these, write a model to a file by dlaseg.save_model, or load a state dict by model.load_state_dict"
        )
    path = Path(source)
    builtin = find_builtin(source)
    if builtin is not None:
        if path.exists():
            logger.info("%s: the weights that come with dlaseg; the folder of this name holds none", source)
        return builtin
    path = _in_folder(path)
    if str(source) in builtin_files():
        logger.warning("%s: %s is used, not the weights of this name that come with dlaseg", source, path)
        return path.absolute()  # no longer a name, so that the warning is not repeated
    if not path.exists() and _is_name(str(source)):
        raise UserError(f"{source}: {_unknown_name(str(source))}")
    if (match := _HUB_FILE.fullmatch(str(source))) and ".." not in match[2].split("/"):
        return _download(match[1], match[3], argument, match[2])
    match = _HUB_NAME.fullmatch(str(source))
    if path.exists() or match is None or match[1].endswith(_SUFFIXES):
        # The reader refuses a missing file. `./camvid` must not become a name
        return path.absolute() if str(path) in builtin_files() else path
    if not str(source).startswith("hf-hub:") and path.parent.is_dir():
        raise UserError(
            f"{source}: no such file or folder here, where {path.parent} is a folder: correct the name, or give "
            f"hf-hub:{source} for a repository on the hub"
        )
    return _download(match[1], match[2], argument)


def find_builtin(source: str | Path) -> Path | None:
    """The file of the built-in weights that a name stands for; None if it stands for something else."""
    if _in_folder(Path(source)).is_file():
        return None
    return builtin_files().get(str(source))


def _in_folder(path: Path) -> Path:
    """The weights file in a folder: of a saved model or of a training run; the path itself where there is none."""
    files = [path / name for name in (FILE, BEST_WEIGHTS) if (path / name).is_file()]
    if len(files) > 1 and not filecmp.cmp(files[0], files[1], shallow=False):
        raise UserError(f"{path}: {FILE} and {BEST_WEIGHTS} in it differ: name the file, such as {path / BEST_WEIGHTS}")
    return files[0] if files else path


def _is_name(source: str) -> bool:
    """Whether a text is a single word, so neither a path nor a hub name, without the suffix of a weights file."""
    return Path(source).name == source and not source.lower().endswith(_SUFFIXES)


def _unknown_name(name: str) -> str:
    known = list(builtin_files())
    if not known:
        return "no such file: give a .safetensors file; no weights come with this installation of dlaseg"
    return (
        f"no such file here, and no weights of this name come with dlaseg, the nearest is {nearest(name, known)}: give "
        f"a file or one of {', '.join(known)}"
    )


def _download(name: str, revision: str | None, argument: str, file: str = FILE) -> Path:
    from huggingface_hub import constants, hf_hub_download  # half a second that a local file need not take
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    with suppress(LocalEntryNotFoundError):
        return Path(hf_hub_download(name, file, revision=revision, local_files_only=True))
    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{name}: no such folder here, and no repository that you may read at {constants.ENDPOINT}/{name}: timm's "
            "are timm/dla34.in1k, timm/dla60.in1k, ..."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, RuntimeError) as error:  # RuntimeError: of old releases
        address = f"{constants.ENDPOINT}/{name}/resolve/{revision or 'main'}/{file}"
        raise UserError(
            f"{name}: no such folder here, and {file} is neither in the cache ({constants.HF_HUB_CACHE}) nor to be had "
            f"from the hub: download {address} elsewhere, copy it here and give its path as {argument}"
        ) from error
