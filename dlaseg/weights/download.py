"""The Hugging Face hub: weights by name, and models passed on."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import ModelCard, ModelHubMixin, constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from dlaseg.errors import UserError
from dlaseg.files import write_json
from dlaseg.weights.card import model_card

if TYPE_CHECKING:
    from dlaseg.models.segmenter import DLASeg

FILE = "model.safetensors"
"""The weights' name in a repository."""

_SUFFIXES = (".safetensors", ".pth", ".pt", ".tar", ".bin", ".ckpt", ".pkl")


def fetch(source: str | Path, argument: str) -> Path:
    """The file that a path or a hub name stands for.

    Args:
        source: a file's path, a folder that holds `model.safetensors`, or `USER/NAME` of a repository that does; what
            was downloaded once is taken from the hub's cache (HF_HOME), without the network.
        argument: what a local path is given as, for the message.

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
    try:
        return Path(hf_hub_download(name, FILE, local_files_only=True))
    except LocalEntryNotFoundError:
        return download(name, argument)


def download(name: str, argument: str, **how: Any) -> Path:
    """A repository's weights file, from the cache if it is there as the hub has it now.

    Args:
        name: `USER/NAME`.
        argument: as for `fetch`.
        how: options of `huggingface_hub.hf_hub_download`, such as revision and token.

    Raises:
        UserError: it cannot be had; says which file, from where, and where to put it.
    """
    try:
        return Path(hf_hub_download(name, FILE, **how))
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{name}: no such file here, and no repository that you may read at {constants.ENDPOINT}/{name}: timm's "
            "are timm/dla34.in1k, timm/dla60.in1k, ..."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        address = f"{constants.ENDPOINT}/{name}/resolve/{how.get('revision') or 'main'}/{FILE}"
        raise UserError(
            f"{name}: {FILE} is neither in the cache ({constants.HF_HUB_CACHE}) nor to be had from the hub: download "
            f"{address} elsewhere, copy it here and give its path as {argument}"
        ) from error


class HubMixin(
    ModelHubMixin,
    library_name="dlaseg",
    pipeline_tag="image-segmentation",
    tags=["semantic-segmentation", "deep-layer-aggregation"],
    paper_url="https://arxiv.org/abs/1707.06484",
):
    """`save_pretrained`, `from_pretrained` and `push_to_hub`, as huggingface_hub defines them.

    A repository holds `model.safetensors`, which is a weights file like any other of ours, `config.json` and a card.
    """

    def _save_pretrained(self, save_directory: Path) -> None:
        from dlaseg.weights.files import save_model  # it imports this file

        model = cast("DLASeg", self)
        save_model(model, save_directory / FILE)
        write_json(save_directory / constants.CONFIG_NAME, model.arguments)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **_: Any,  # the constructor's, which the weights file knows better
    ) -> "DLASeg":
        from dlaseg.factory import load_model  # it imports this file

        if Path(model_id).is_dir():
            return load_model(Path(model_id) / FILE)
        how = {"revision": revision, "cache_dir": cache_dir, "force_download": force_download}
        return load_model(download(model_id, "from_pretrained", **how, local_files_only=local_files_only, token=token))

    def generate_model_card(
        self,
        *args: Any,  # noqa: ARG002 - the mixin's signature
        run: str | Path | None = None,
        scores: str | Path | None = None,
        license: str = "unknown",
        **kwargs: Any,  # noqa: ARG002
    ) -> ModelCard:
        """Writes the card; as `model_card_kwargs` of `save_pretrained` and `push_to_hub` its arguments are given.

        Args:
            args: none.
            run: see `dlaseg.weights.card.model_card`.
            scores: the same.
            license: the same.
            kwargs: none.
        """
        return model_card(cast("DLASeg", self), run, scores, license)
