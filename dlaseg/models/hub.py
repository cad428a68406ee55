"""The Hugging Face hub: weights by name, and models passed on."""

import re
from pathlib import Path

from dlaseg.errors import UserError

FILE = "model.safetensors"
"""The weights' name in a repository."""

_SUFFIXES = (".safetensors", ".pth", ".pt", ".tar", ".bin", ".ckpt", ".pkl")


def fetch(source: str | Path, argument: str) -> Path:
    """The file that a path or a hub name stands for.

    Args:
        source: a file's path, a folder that holds `model.safetensors`, or `USER/NAME` of a repository that does; what
            was downloaded once is taken from the hub's cache (HF_HOME), without the network.
        argument: the option that `source` was given by, for the message.

    Raises:
        UserError: neither a file nor a repository that can be had; says what to do.
    """
    path = Path(source)
    name = str(source).removeprefix("hf-hub:")
    is_name = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) and not name.endswith(_SUFFIXES)
    if (path / FILE).is_file():
        return path / FILE
    if path.exists() or not is_name:
        return path  # a missing one is refused by whoever opens it
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(name, FILE, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    address = f"{constants.ENDPOINT}/{name}/resolve/main/{FILE}"
    try:
        return Path(hf_hub_download(name, FILE))
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{source}: no such file here, and no public repository at {constants.ENDPOINT}/{name}: timm's are "
            "timm/dla34.in1k, timm/dla60.in1k, ..."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{source}: {FILE} is not in the cache ({constants.HF_HUB_CACHE}) and the hub cannot be reached: download "
            f"{address} elsewhere, copy it here and give its path as {argument}"
        ) from error
