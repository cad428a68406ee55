"""CamVid in the form published with SegNet (https://arxiv.org/abs/1511.00561)."""

from pathlib import Path

from dlaseg.data.pairs import SplitFiles
from dlaseg.data.patterns import FilePattern
from dlaseg.labels import Color, LabelMap


def camvid_labels() -> LabelMap:
    """The 11 classes; id 11 is void and ignored."""
    classes: dict[str, Color] = {
        "sky": (128, 128, 128),
        "building": (128, 0, 0),
        "pole": (192, 192, 128),
        "road": (128, 64, 128),
        "pavement": (60, 40, 222),
        "tree": (128, 128, 0),
        "sign symbol": (192, 128, 128),
        "fence": (64, 64, 128),
        "car": (64, 0, 128),
        "pedestrian": (64, 64, 0),
        "bicyclist": (0, 128, 192),
    }
    return LabelMap(tuple(classes), tuple(classes.values()), tuple((i,) for i in range(11)), ignored=(11,))


def find_camvid(root: Path, split: str, with_labels: bool) -> SplitFiles:
    """Finds the files of a split.

    Args:
        root: contains `SPLIT/*.png` and `SPLITannot/*.png`.
        split: train, val or test.
        with_labels: whether label maps are needed; without them, `SPLITannot` may be missing.
    """
    images, labels = FilePattern(root / split), FilePattern(root / f"{split}annot")
    return SplitFiles.find(images, labels, camvid_labels(), with_labels)
