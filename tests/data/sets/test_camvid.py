import numpy as np
import pytest
from PIL import Image

from dlaseg.data.datasets import open_dataset, open_images
from dlaseg.data.sets.camvid import camvid_labels


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path)


def picture(height=2, width=3, value=50):
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_camvid_reads_the_split_that_is_asked_for(tmp_path, split):
    for value, name in enumerate(("train", "val", "test")):
        save(tmp_path / name / f"{name}_1.png", picture(value=value))
        save(tmp_path / f"{name}annot" / f"{name}_1.png", np.full((2, 3), value, np.uint8))
    dataset = open_dataset("camvid", tmp_path, split)
    image, target = dataset.read(0)
    value = ("train", "val", "test").index(split)
    assert [pair.name for pair in dataset.pairs] == [f"{split}_1"]
    assert (image == value).all()
    assert (target == value).all()


def test_camvid_has_eleven_classes_and_ignores_the_twelfth_id(tmp_path):
    save(tmp_path / "val/a.png", picture(1, 12))
    save(tmp_path / "valannot/a.png", np.arange(12, dtype=np.uint8)[None])
    dataset = open_dataset("camvid", tmp_path, "val")
    assert dataset.label_map.num_classes == 11
    assert dataset.read(0)[1].tolist() == [[*range(11), 255]]


def test_camvid_has_11_classes_and_11_is_void():
    labels = camvid_labels()
    assert labels.num_classes == 11
    assert labels.names[0] == "sky"
    assert labels.names[10] == "bicyclist"
    assert labels.encode(np.arange(12, dtype=np.uint8)[None]).tolist() == [[*range(11), 255]]
    assert len(set(labels.palette)) == 11


def test_camvid_images_need_no_annotations(tmp_path):
    save(tmp_path / "test/b.png", picture())
    save(tmp_path / "test/a.png", picture())
    dataset = open_images("camvid", tmp_path, "test")
    assert [(pair.name, pair.label) for pair in dataset.pairs] == [("a", None), ("b", None)]
