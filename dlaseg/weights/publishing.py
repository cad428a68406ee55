"""Models for others: a folder, or a repository on the Hugging Face hub, with a model card."""

from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, constants

from dlaseg.files import write_json
from dlaseg.models.base import SegmentationModel
from dlaseg.weights.card import model_card
from dlaseg.weights.download import FILE
from dlaseg.weights.files import save_model


def save_pretrained(
    model: SegmentationModel,
    folder: str | Path,
    run: str | Path | None = None,
    scores: str | Path | None = None,
    license: str = "unknown",
) -> None:
    """Writes what a repository on the hub holds: `model.safetensors`, `config.json` and the card, `README.md`.

    Args:
        model: the network.
        folder: made if it is not there.
        run: see `dlaseg.weights.card.model_card`.
        scores: see there.
        license: see there.

    Raises:
        UserError: as `save_model` and `model_card`; nothing is written then.
    """
    folder = Path(folder)
    card = model_card(model, run, scores, license)
    save_model(model, folder / FILE)
    write_json(folder / constants.CONFIG_NAME, dict(model.metadata.architecture))
    card.save(folder / "README.md")


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
        save_pretrained(model, folder, run, scores, license)
        repository = hub.create_repo(name, private=private, exist_ok=True).repo_id
        commit = hub.upload_folder(repo_id=repository, folder_path=folder, commit_message=commit_message)
    return commit.commit_url
