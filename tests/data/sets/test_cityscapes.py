import numpy as np
import pytest
from cityscapesscripts.helpers.labels import id2label
from PIL import Image

from dlaseg.data.datasets import open_dataset, open_images
from dlaseg.data.sets.cityscapes import cityscapes_labels


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path)


def picture(height=2, width=3, value=50):
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def cityscapes_root(tmp_path):
    ids = np.array([[i for i in id2label if i >= 0]], np.uint8)
    for city, number in (("ulm", 1), ("aachen", 2), ("aachen", 1)):
        name = f"{city}_00000{number}_000019"
        save(tmp_path / f"leftImg8bit/val/{city}/{name}_leftImg8bit.png", picture(1, ids.shape[1]))
        save(tmp_path / f"gtFine/val/{city}/{name}_gtFine_labelIds.png", ids)
        # what else lies there is no label map of ours
        save(tmp_path / f"gtFine/val/{city}/{name}_gtFine_instanceIds.png", ids)
        save(tmp_path / f"gtFine/val/{city}/{name}_gtFine_color.png", picture())
        (tmp_path / f"gtFine/val/{city}/{name}_gtFine_polygons.json").write_text("{}")
    return tmp_path


def test_cityscapes_ids_become_the_train_ids_of_cityscapesscripts(cityscapes_root):
    _, target = open_dataset("cityscapes", cityscapes_root, "val").read(0)
    assert target.dtype == np.uint8
    assert target[0].tolist() == [entry.trainId % 256 for i, entry in id2label.items() if i >= 0]


def test_cityscapes_pairs_cities_sorted_by_name(cityscapes_root):
    dataset = open_dataset("cityscapes", cityscapes_root, "val")
    expected = ["aachen/aachen_000001_000019", "aachen/aachen_000002_000019", "ulm/ulm_000001_000019"]
    assert [pair.name for pair in dataset.pairs] == expected


def test_reading_writes_nothing_into_the_tree(cityscapes_root):
    def tree():
        return {path: path.stat().st_mtime_ns for path in cityscapes_root.rglob("*")}

    before = tree()
    dataset = open_dataset("cityscapes", cityscapes_root, "val")
    for index in range(len(dataset)):
        dataset.read(index)
    assert tree() == before


def test_cityscapes_ids_become_the_train_ids_of_the_benchmarks_table():
    ids = np.array([[i for i in id2label if i >= 0]])
    theirs = [255 if id2label[i].trainId in (-1, 255) else id2label[i].trainId for i in ids[0]]
    assert ids.size == 34
    assert cityscapes_labels().encode(ids.astype(np.uint8)).tolist() == [theirs]


def test_cityscapes_has_the_benchmarks_19_classes():
    labels = cityscapes_labels()
    theirs = {label.trainId: label for label in id2label.values() if 0 <= label.trainId < 255}
    assert labels.num_classes == 19
    assert labels.names == tuple(theirs[i].name for i in range(19))
    assert labels.palette == tuple(theirs[i].color for i in range(19))


def test_cityscapes_predictions_are_written_as_the_benchmarks_ids():
    labels = cityscapes_labels()
    theirs = {label.trainId: label.id for label in id2label.values()}
    assert labels.decode(np.arange(19, dtype=np.uint8)).tolist() == [theirs[i] for i in range(19)]


def test_cityscapes_images_need_no_annotations(cityscapes_root):
    labelled = open_dataset("cityscapes", cityscapes_root, "val")
    for path in cityscapes_root.glob("gtFine/**/*.*"):
        path.unlink()
    dataset = open_images("cityscapes", cityscapes_root, "val")
    assert [(pair.name, pair.image) for pair in dataset.pairs] == [(pair.name, pair.image) for pair in labelled.pairs]
    assert {pair.label for pair in dataset.pairs} == {None}
    assert dataset.label_map == cityscapes_labels()


def test_a_list_selects_by_city_and_frame(cityscapes_root, tmp_path):
    (tmp_path / "few.txt").write_text("ulm/ulm_000001_000019\naachen/aachen_000002_000019\n")
    dataset = open_dataset("cityscapes", cityscapes_root, "val", names=tmp_path / "few.txt")
    assert [pair.name for pair in dataset.pairs] == ["aachen/aachen_000002_000019", "ulm/ulm_000001_000019"]
