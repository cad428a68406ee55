"""Any data set in two folders: an image and its label map have the same path below their folders, except the suffix."""

from pathlib import Path

from dlaseg.data.pairs import SplitFiles, files_below
from dlaseg.images import IMAGE_SUFFIXES, LOSSY_SUFFIXES
from dlaseg.labels import LabelMap


def find_folder(root: Path, split: str, with_labels: bool, images: str, labels: str, classes: str) -> SplitFiles:
    """Finds the files of a split.

    Args:
        root: the other paths are relative to it.
        split: replaces `{split}` in the paths.
        with_labels: whether label maps are needed; without them, their folder may be missing.
        images: folder of the images.
        labels: folder of the label maps: ids (8 or 16 bits, or a palette), or RGB colours as in the classes file.
        classes: the classes file, see `LabelMap.from_dict`.
    """
    label_map = LabelMap.from_file(root / classes)
    images_folder, labels_folder = (root / path.replace("{split}", split) for path in (images, labels))
    image_files = files_below(images_folder)
    label_files = files_below(labels_folder, suffixes=IMAGE_SUFFIXES - LOSSY_SUFFIXES) if with_labels else None
    return SplitFiles(image_files, label_files, label_map)
