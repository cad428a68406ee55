import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlaseg.config.segmentation import DataConfig
from dlaseg.data import datasets
from dlaseg.data.datasets import DATASETS, label_map_of, open_dataset, open_images
from dlaseg.data.sets.camvid import camvid_labels
from dlaseg.data.sets.cityscapes import cityscapes_labels
from dlaseg.errors import UserError
from dlaseg.evaluation.cityscapes.scores import BENCHMARK

CLASSES = """
classes:
  - {name: road, id: 7, color: [128, 64, 128]}
  - {name: car, id: [26, 300], color: [0, 0, 142]}
ignore: [0, [0, 0, 0]]
"""
COLORS = {7: (128, 64, 128), 26: (0, 0, 142), 0: (0, 0, 0)}
IDS = np.array([[7, 26, 0], [26, 7, 7]], np.uint8)
TRAIN_IDS = [[0, 1, 255], [1, 0, 0]]


def save(path, array, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path, **how)


def picture(height=2, width=3, value=50):
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def root(tmp_path):
    """A `folder` data set whose split train holds the pair `a`."""
    (tmp_path / "classes.yaml").write_text(CLASSES)
    save(tmp_path / "images/train/a.png", picture())
    save(tmp_path / "labels/train/a.png", IDS)
    return tmp_path


def refused(*arguments, **options):
    with pytest.raises(UserError) as caught:
        open_dataset(*arguments, **options).read(0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folder_reads_an_rgb_image_of_native_size_and_maps_its_ids(root):
    save(root / "images/train/a.png", np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
    image, target = open_dataset("folder", root, "train").read(0)
    assert image.dtype == target.dtype == np.uint8
    assert image.tolist() == np.arange(18).reshape(2, 3, 3).tolist()
    assert target.tolist() == TRAIN_IDS


def test_folder_opens_with_its_own_classes_in_the_files_order(root):
    assert open_dataset("folder", root, "train").label_map.names == ("road", "car")


def test_folder_matches_nested_files_of_different_suffixes(root):
    save(root / "images/train/x/y/b.c.JPG", picture(), format="JPEG")
    save(root / "labels/train/x/y/b.c.tif", IDS)
    dataset = open_dataset("folder", root, "train")
    assert [pair.name for pair in dataset.pairs] == ["a", "x/y/b.c"]
    assert dataset.read(1)[1].tolist() == TRAIN_IDS


def test_equal_stems_in_different_subfolders_are_different_pairs(root):
    for sub, value in (("x", 7), ("y", 26)):
        save(root / f"images/train/{sub}/a.png", picture())
        save(root / f"labels/train/{sub}/a.png", np.full((2, 3), value, np.uint8))
    dataset = open_dataset("folder", root, "train")
    assert [dataset.read(i)[1][0, 0] for i in (1, 2)] == [0, 1]


def test_splits_with_a_plus_are_one(root):
    save(root / "images/val/b.png", picture())
    save(root / "labels/val/b.png", IDS)
    both = open_dataset("folder", root, "train+val")
    assert both.split == "train+val"
    assert [pair.image.parent.name for pair in both.pairs] == ["train", "val"]
    assert both.read(1)[1].tolist() == TRAIN_IDS


def test_an_image_of_the_same_name_in_two_splits_is_refused(root):
    save(root / "images/val/a.png", picture())
    save(root / "labels/val/a.png", IDS)
    with pytest.raises(UserError, match=r"images/val/a.png: .*images/train/a.png has the same name \(1 such files\)"):
        open_dataset("folder", root, "train+val")


def test_folder_takes_patterns_for_its_places(root):
    save(root / "pictures/a.png", picture())
    save(root / "masks-val/a.png", IDS)
    (root / "classes.yaml").rename(root / "names.yaml")
    dataset = open_dataset("folder", root, "val", "pictures", "masks-{split}", "names.yaml")
    assert dataset.read(0)[1].tolist() == TRAIN_IDS


def test_rgb_masks_are_read_by_their_colours(root):
    save(root / "labels/train/a.png", np.array([[COLORS[i] for i in row] for row in IDS.tolist()], np.uint8))
    assert open_dataset("folder", root, "train").read(0)[1].tolist() == TRAIN_IDS


def test_palette_masks_are_read_by_their_indices(root):
    mask = Image.fromarray(IDS, "L")
    mask = mask.convert("P")
    mask.putdata(IDS.ravel().tolist())
    mask.putpalette([9, 9, 9] * 256)
    mask.save(root / "labels/train/a.png")
    assert open_dataset("folder", root, "train").read(0)[1].tolist() == TRAIN_IDS


def test_sixteen_bit_masks_keep_ids_beyond_255(root):
    save(root / "labels/train/a.png", np.array([[300, 7, 0], [26, 7, 300]], np.uint16))
    assert open_dataset("folder", root, "train").read(0)[1].tolist() == [[1, 0, 255], [1, 0, 1]]


def test_hidden_files_and_folders_are_skipped(root):
    save(root / "images/train/.b.png", picture())
    save(root / "images/train/.thumbnails/c.png", picture())
    save(root / "labels/train/.d.png", IDS)
    assert [pair.name for pair in open_dataset("folder", root, "train").pairs] == ["a"]


def test_files_that_are_no_pictures_are_skipped(root):
    (root / "images/train/notes.txt").write_text("none")
    assert len(open_dataset("folder", root, "train")) == 1


def test_pairs_are_sorted_by_name_whatever_the_order_of_creation(root):
    for name in ("z", "m", "b", "B", "10", "9"):
        save(root / f"images/train/{name}.png", picture())
        save(root / f"labels/train/{name}.png", IDS)
    names = [pair.name for pair in open_dataset("folder", root, "train").pairs]
    assert names == ["10", "9", "B", "a", "b", "m", "z"]


def test_a_label_outside_the_map_is_refused_with_its_value_and_place(root):
    save(root / "labels/train/a.png", np.array([[7, 7, 7], [7, 99, 7]], np.uint8))
    message = refused("folder", root, "train")
    assert str(root / "labels/train/a.png") in message
    assert "label 99 at row 1, column 1" in message


def test_a_colour_outside_the_map_is_refused_with_its_value(root):
    save(root / "labels/train/a.png", np.full((2, 3, 3), (1, 2, 3), np.uint8))
    message = refused("folder", root, "train")
    assert str(root / "labels/train/a.png") in message
    assert "[1, 2, 3]" in message


def test_an_image_without_a_label_map_is_refused(root):
    save(root / "images/train/b.png", picture())
    assert f"{root / 'images/train/b.png'}: image without a label map (1 in all)" in refused("folder", root, "train")


def test_a_label_map_without_an_image_is_refused(root):
    save(root / "labels/train/b.png", IDS)
    assert f"{root / 'labels/train/b.png'}: label map without an image (1 in all)" in refused("folder", root, "train")


def test_sizes_that_differ_are_refused_with_both_sizes(root):
    save(root / "images/train/a.png", picture(3, 2))
    message = refused("folder", root, "train")
    assert str(root / "labels/train/a.png") in message
    assert "2 x 3" in message
    assert "3 x 2" in message
    assert message.endswith(
        ": turn the label map instead of resizing it, as an image counts as it is displayed (EXIF orientation)"
    )


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_two_files_of_one_stem_are_refused_with_both_paths(root, kind):
    save(root / kind / "train/a.bmp", picture() if kind == "images" else IDS)
    message = refused("folder", root, "train")
    assert str(root / kind / "train/a.bmp") in message
    assert str(root / kind / "train/a.png") in message


def test_a_missing_root_is_refused_with_its_path(tmp_path):
    assert f"{tmp_path / 'nowhere'}: no such folder" in refused("camvid", tmp_path / "nowhere", "val")


def test_a_missing_split_is_refused_with_its_path(root):
    assert f"{root / 'images/val'}: no such folder" in refused("folder", root, "val")


def test_an_empty_folder_is_refused_with_its_path(root):
    (root / "images/val").mkdir()
    assert f"{root / 'images/val'}: no file named NAME" in refused("folder", root, "val")


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".webp"])
def test_label_maps_in_a_lossy_format_are_refused_as_such(root, suffix):
    save(root / "images/val/a.png", picture())
    save(root / f"labels/val/a{suffix}", IDS)
    message = refused("folder", root, "val")
    lossy = root / f"labels/val/a{suffix}"
    assert message == (
        f"{lossy}: lossy formats such as JPEG change label values: save label maps as PNG from the source, or round "
        "values to those of the classes first (0 and 255 at 128)"
    )


def test_a_missing_classes_file_is_refused_with_its_path(root):
    (root / "classes.yaml").unlink()
    assert str(root / "classes.yaml") in refused("folder", root, "train")


def test_an_unknown_data_set_is_refused_with_the_known_names(tmp_path):
    assert "dataset 'kitti': unknown; use one of cityscapes, camvid, folder" in refused("kitti", tmp_path, "val")


def test_a_broken_image_is_refused_with_its_path(root):
    (root / "images/train/a.png").write_bytes(b"no picture")
    assert str(root / "images/train/a.png") in refused("folder", root, "train")


def test_a_list_of_another_split_is_refused(root):
    (root / "few.txt").write_text("b\n")
    assert refused("folder", root, "train", names=root / "few.txt").startswith(f"{root / 'few.txt'}, line 1: 'b' ")


@pytest.mark.parametrize("name", list(DATASETS))
def test_a_config_with_every_field_at_its_default_fits_every_data_set(name):
    # A run folder's config holds all fields, also those of other data sets
    defaults = {field.name: field.default for field in dataclasses.fields(DataConfig)}
    options = {option: defaults[option] for option in ("images", "labels", "classes")}
    assert options == DATASETS["folder"].options
    DATASETS[name].check_options(options)


def test_options_have_the_defaults_that_the_table_tells(root):
    entry = DATASETS["folder"]
    dataset = open_dataset("folder", root, "train", **entry.options)
    assert dataset == open_dataset("folder", root, "train")


@pytest.mark.parametrize("name", ["cityscapes", "camvid"])
@pytest.mark.parametrize("option", ["images", "labels", "classes"])
def test_an_option_of_another_data_set_is_refused(tmp_path, name, option):
    message = refused(name, tmp_path, "val", **{option: "elsewhere"})
    assert message.startswith(f"{option} 'elsewhere': dataset {name} has no such option: ")
    assert message.endswith("use dataset folder")


def test_the_table_knows_each_data_set_by_its_name():
    assert {name: entry.name for name, entry in DATASETS.items()} == {name: name for name in DATASETS}
    for entry in DATASETS.values():
        assert "\n" not in entry.description
        assert (entry.label_map is None) == ("classes" in entry.options)


def test_a_data_set_carries_its_benchmark(root, tmp_path_factory):
    assert open_dataset("folder", root, "train").benchmark is None
    other = tmp_path_factory.mktemp("cityscapes")
    save(other / "leftImg8bit/val/ulm/a_leftImg8bit.png", picture())
    assert open_images("cityscapes", other, "val").benchmark == BENCHMARK


def test_label_maps_by_name_and_by_file(root):
    assert label_map_of("camvid") == camvid_labels()
    assert label_map_of("cityscapes") == cityscapes_labels()
    assert label_map_of(str(root / "classes.yaml")) == open_dataset("folder", root, "train").label_map
    with pytest.raises(UserError, match="folder: No such file"):
        label_map_of("folder")


def string_constants(source):
    """Values of the string constants, except defaults of dataclass fields: a default tests for nothing."""
    tree = ast.parse(source)
    fields = [node for kind in ast.walk(tree) if isinstance(kind, ast.ClassDef) for node in kind.body]
    defaults = {node.value for node in fields if isinstance(node, ast.AnnAssign)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in defaults
    }


def test_only_the_table_its_data_sets_and_the_benchmark_name_a_data_set():
    package = Path(datasets.__file__).parents[1]
    allowed = [package / "data/datasets.py", *package.glob("data/sets/*.py")]
    allowed += package.glob("evaluation/cityscapes/*.py")
    naming = [
        path
        for path in package.rglob("*.py")
        if string_constants(path.read_text(encoding="utf-8")) & {"cityscapes", "camvid"}
    ]
    assert package / "data/datasets.py" in naming
    assert set(naming) <= set(allowed)


def test_a_planted_name_is_found():
    assert "cityscapes" in string_constants('def f(name):\n    return name == "cityscapes"')
    assert "cityscapes" in string_constants('KNOWN: dict = {"cityscapes": 19}')
    assert "cityscapes" not in string_constants('class Config:\n    dataset: str = "cityscapes"')


def test_a_label_map_of_the_same_name_in_two_splits_is_refused(root):
    save(root / "images/val/b.png", picture())
    save(root / "labels/val/b.png", IDS)
    save(root / "labels/val/a.png", IDS)
    with pytest.raises(UserError, match=r"labels/val/a.png: .*train/a.png has the same name \(1 such files\)"):
        open_dataset("folder", root, "train+val")


@pytest.mark.parametrize("image", ["train", "val"])
def test_an_image_and_a_label_map_of_different_splits_are_no_pair(root, image):
    label = {"train": "val", "val": "train"}[image]
    save(root / "images/val/b.png", picture())
    save(root / "labels/val/b.png", IDS)
    save(root / f"images/{image}/c.png", picture())
    save(root / f"labels/{label}/c.png", IDS)
    with pytest.raises(UserError, match=r"val/c.png: .*train/c.png has the same name"):
        open_dataset("folder", root, "train+val")


def test_two_files_of_one_stem_in_the_second_split_are_refused(root):
    save(root / "images/val/b.png", picture())
    save(root / "images/val/b.bmp", picture())
    save(root / "labels/val/b.png", IDS)
    assert "b.bmp and " in refused("folder", root, "train+val")


@pytest.mark.parametrize(
    ("present", "message"),
    [
        (
            "images/val/c.png",
            "images/val/c.png: image without a label map (1 in all): add the missing file, ROOT/labels",
        ),
        (
            "labels/val/c.png",
            "labels/val/c.png: label map without an image (1 in all): add the missing file, ROOT/images",
        ),
    ],
)
def test_a_missing_file_of_the_second_split_is_expected_in_its_folder(root, present, message):
    save(root / "images/val/b.png", picture())
    save(root / "labels/val/b.png", IDS)
    save(root / present, IDS)
    expected = f"{root}/{message}/val/c.png".replace("ROOT", str(root))
    assert refused("folder", root, "train+val").startswith(f"{expected}, or remove this one")


def test_a_lossy_label_map_of_the_second_split_is_named(root):
    save(root / "images/val/b.png", picture())
    save(root / "labels/val/b.png", IDS)
    save(root / "images/val/c.png", picture())
    save(root / "labels/val/c.jpg", IDS)
    message = refused("folder", root, "train+val")
    assert message.startswith(f"{root}/labels/val/c.jpg: lossy formats such as JPEG change label values")
