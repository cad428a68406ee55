"""One resolver of weights: a file, a folder, or a repository on the Hugging Face hub -> a file."""

import re
from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from dlaseg.errors import UserError

FILE = "model.safetensors"
"""Name of the weights file in a repository, and in a folder that `save_pretrained` wrote."""

_SUFFIXES = (".safetensors", ".pth", ".pt", ".tar", ".bin", ".ckpt", ".pkl", ".onnx", ".xml", ".pt2")
_HUB_NAME = re.compile(r"(?:hf-hub:)?([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w.-]+))?")


def resolve(source: str | Path, argument: str = "weights") -> Path:
    """The weights file that a path or a hub name stands for.

    Args:
        source: a file's path; a folder that holds `model.safetensors`; or `USER/NAME` of a repository that does, with
            `@REVISION` for a certain branch, tag or commit. What was downloaded before is taken from the hub's cache
            (HF_HOME) without the network.
        argument: the name of the argument that `source` comes from, for the message.

    Raises:
        UserError: neither a file nor a repository that can be downloaded; says what to do.
    """
    path = Path(source)
    if (path / FILE).is_file():
        return path / FILE
    match = _HUB_NAME.fullmatch(str(source))
    if path.exists() or match is None or match[1].endswith(_SUFFIXES):
        return path  # the reader refuses a missing file
    name, revision = match.groups()
    try:
        return Path(hf_hub_download(name, FILE, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return _download(name, revision, argument)


def _download(name: str, revision: str | None, argument: str) -> Path:
    try:
        return Path(hf_hub_download(name, FILE, revision=revision))
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{name}: no such file here, and no repository that you may read at {constants.ENDPOINT}/{name}: timm's "
            "are timm/dla34.in1k, timm/dla60.in1k, ..."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        address = f"{constants.ENDPOINT}/{name}/resolve/{revision or 'main'}/{FILE}"
        raise UserError(
            f"{name}: {FILE} is neither in the cache ({constants.HF_HUB_CACHE}) nor to be had from the hub: download "
            f"{address} elsewhere, copy it here and give its path as {argument}"
        ) from error
