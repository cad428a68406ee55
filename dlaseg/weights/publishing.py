"""Models for others: a folder, or a repository on the Hugging Face hub, with a model card."""

from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, constants

from dlaseg.errors import UserError
from dlaseg.files import write_json
from dlaseg.models.base import SegmentationModel
from dlaseg.strict_json import read_json
from dlaseg.weights.card import model_card
from dlaseg.weights.download import FILE
from dlaseg.weights.entries import OPTIONAL_ARGUMENTS, SEGMENTATION_ARGUMENTS
from dlaseg.weights.files import check_network, save_model

CARD = "README.md"
"""Name of the model card in a repository."""


def save_pretrained(
    model: SegmentationModel,
    folder: str | Path,
    run: str | Path | None = None,
    scores: str | Path | None = None,
    license: str = "unknown",
    source: str = "USER/NAME",
) -> None:
    """Writes what a repository on the hub holds: `model.safetensors`, `config.json` and the card, `README.md`.

    Args:
        model: the network.
        folder: made if it is not there. Files that this function wrote before are replaced.
        run: see `dlaseg.weights.card.model_card`.
        scores: see there.
        license: see there.
        source: see there.

    Raises:
        UserError: as `save_model` and `model_card`, or a card or `config.json` in the folder that something else wrote;
            nothing is written then.
    """
    check_network(model)
    folder = Path(folder)
    card_path, config_path = folder / CARD, folder / constants.CONFIG_NAME
    for path, is_own in ((card_path, _is_card(card_path)), (config_path, _is_config(config_path, model))):
        if path.exists() and not is_own:
            raise UserError(f"{path}: would be replaced, but dlaseg did not write it: give another folder")
    card = model_card(model, run, scores, license, source=source)
    save_model(model, folder / FILE)
    write_json(config_path, dict(model.metadata.architecture))
    card.save(card_path)


def _is_card(path: Path) -> bool:
    """Whether a file begins with the data of a card of ours."""
    if not path.is_file():
        return False
    data = path.read_bytes().partition(b"\n---\n")[0].splitlines()
    return data[:1] == [b"---"] and b"library_name: dlaseg" in data


def _is_config(path: Path, model: SegmentationModel) -> bool:
    """Whether a file holds the arguments of a network of ours or of the model's family, and nothing else."""
    try:
        content = read_json(path, "a config.json")
    except UserError:
        return False
    known = (set(names) - OPTIONAL_ARGUMENTS for names in (SEGMENTATION_ARGUMENTS, model.metadata.architecture))
    return isinstance(content, dict) and content.keys() - OPTIONAL_ARGUMENTS in known


def push_to_hub(
    model: SegmentationModel,
    name: str,
    run: str | Path | None = None,
    scores: str | Path | None = None,
    license: str = "unknown",
    private: bool = False,
    token: str | None = None,
    commit_message: str = "Upload model",
) -> str:
    """Uploads a model; `dlaseg.load_model(name)` gets it back.

    Args:
        model: the network.
        name: of the repository, `USER/NAME`; made if it is not there.
        run: see `dlaseg.weights.card.model_card`.
        scores: see there.
        license: see there.
        private: whether a new repository is.
        token: of the hub; None for the one that `hf auth login` or HF_TOKEN left.
        commit_message: of the upload.

    Returns:
        The commit's URL.

    Raises:
        UserError: as `save_pretrained`; nothing is uploaded then.
        huggingface_hub.errors.HfHubHTTPError: the hub refuses.
    """
    hub = HfApi(token=token)
    with TemporaryDirectory() as folder:
        save_pretrained(model, folder, run, scores, license, source=name)
        repository = hub.create_repo(name, private=private, exist_ok=True).repo_id
        commit = hub.upload_folder(repo_id=repository, folder_path=folder, commit_message=commit_message)
    return commit.commit_url
