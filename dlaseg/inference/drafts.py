"""First drafts of annotations: what a network predicts, in a file that CVAT imports, to be corrected by people.

The format is CVAT's "Segmentation mask 1.1" (https://docs.cvat.ai/docs/dataset_management/formats/format-smask/), which
is PASCAL VOC's with classes of one's own. CVAT exports it again, and `dlaseg data convert --from voc` reads that.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from dlaseg.data.tensors import to_tensor
from dlaseg.errors import UserError
from dlaseg.files import check_folder, replacing
from dlaseg.images import read_image
from dlaseg.inference.predictor import Predictor
from dlaseg.inference.sources import find_all
from dlaseg.labels import LabelMap
from dlaseg.png import encode_png
from dlaseg.text import printable


@dataclass(frozen=True)
class Draft:
    """The draft of one image.

    Attributes:
        name: path of the image below its folder, without suffix.
        confidence: mean probability of the predicted classes, 0 to 1: the lower, the more there is to correct.
    """

    name: str
    confidence: float


def write_drafts(
    predictor: Predictor, inputs: Sequence[str | Path], output: str | Path
) -> tuple[list[Draft], list[str]]:
    """Predicts all images and writes a zip file of label maps in the colours of the classes.

    An image that cannot be read or held in memory is left out.

    Args:
        predictor: gives logits.
        inputs: images, and folders of them.
        output: a zip file that does not exist.

    Returns:
        The drafts, the least sure first, and a message for each image that was left out.

    Raises:
        UserError: the file exists, is no .zip or cannot be written, no image, or none that can be read, two of a name,
            names that CVAT's lists cannot hold, or classes whose colours CVAT could not tell apart.
    """
    output = Path(output)
    if output.suffix != ".zip" or output.exists():
        if output.exists():
            raise UserError(f"{output}: exists already: remove it or name another file")
        raise UserError(f"{output}: is no .zip: name a file such as drafts.zip")
    check_folder(output.parent)
    predictor.check_gives_logits("how sure a draft is comes from")
    label_map = predictor.label_map
    labelmap = _labelmap(label_map)
    images = _named_images(inputs)
    drafts, failed = list[Draft](), list[UserError]()
    with replacing(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file:
        file.writestr("labelmap.txt", labelmap)
        for name, path in tqdm(images.items(), unit="image", disable=None):
            try:
                labels, confidence = _predict(predictor, path)
            except UserError as error:
                failed.append(error)
                continue
            colors = label_map.colorize(labels[0].cpu().numpy())
            file.writestr(f"SegmentationClass/{name}.png", encode_png(colors))
            drafts.append(Draft(name, float(confidence.mean())))
        if not drafts:
            raise failed[0]
        file.writestr("ImageSets/Segmentation/default.txt", "".join(f"{draft.name}\n" for draft in drafts))
    return sorted(drafts, key=lambda draft: draft.confidence), list(map(str, failed))


def _predict(predictor: Predictor, path: Path) -> tuple[Tensor, Tensor]:
    """The labels of an image, (1, H, W), and the probabilities of these; an error names the file."""
    image = read_image(path)
    try:
        return predictor.predict_with_confidence(to_tensor(image)[None])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _named_images(inputs: Sequence[str | Path]) -> dict[str, Path]:
    """The images by their names in CVAT, which lists one a line.

    Raises:
        UserError: no image, two of a name, or a name that is no line of the list.
    """
    images: dict[str, Path] = {}
    for source in find_all([Path(each) for each in inputs]):
        name = source.relative.with_suffix("").as_posix()
        if name in images:
            raise UserError(f"{source.path}: another image is called {name}, too: rename one of them")
        # CVAT strips the lines, and skips those that begin with #
        if name.startswith("#") or name.strip() != name or name.splitlines() != [name] or printable(name) != name:
            raise UserError(
                f"{source.path}: CVAT's lists hold names in UTF-8 without a line break, spaces at the ends or # in "
                "front: rename the image or its folder"
            )
        images[name] = source.path
    return images


def _labelmap(label_map: LabelMap) -> str:
    """The classes, a line each.

    Raises:
        UserError: two classes of one colour, or a name with a colon or a # at its begin.
    """
    by_color: dict[tuple[int, ...], str] = {}
    lines = ["# label:color_rgb:parts:actions"]
    for name, color in zip(label_map.names, label_map.palette, strict=True):
        if color in by_color:
            raise UserError(
                f"classes {by_color[color]!r}, {name!r} have one colour, {list(color)}, and CVAT knows them by it: "
                "give one of them another in the classes file"
            )
        if ":" in name:
            raise UserError(f"class {name!r}: a colon ends a name in CVAT's file: rename the class")
        if name.lstrip().startswith("#"):
            raise UserError(f"class {name!r}: # begins a comment in CVAT's file: rename the class")
        by_color[color] = name
        lines.append(f"{name}:{','.join(map(str, color))}::")
    return "\n".join(lines) + "\n"
