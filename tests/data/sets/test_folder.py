"""Data sets in layouts of their own; `tests/data/test_datasets.py` tests the two folders images and labels."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from dlaseg.cli import main
from dlaseg.data.datasets import open_dataset
from dlaseg.errors import UserError


@pytest.fixture
def root(tmp_path):
    (tmp_path / "classes.yaml").write_text("classes: [{name: a}, {name: b}]")
    return tmp_path


def put(root, *paths, value=0):
    """Writes images, or label maps of one class; a suffix alone would not tell which."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 3), value, np.uint8)).save(root / path)


def names(root, images="images/{split}", labels="labels/{split}", split="train", **options):
    return [pair.name for pair in open_dataset("folder", root, split, images, labels, **options).pairs]


def refused(root, images="images/{split}", labels="labels/{split}", split="train"):
    with pytest.raises(UserError) as caught:
        open_dataset("folder", root, split, images, labels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


LAYOUTS = [
    # images, labels, the files of the split train, names, split of the data set
    ("photos/{name}.jpg", "masks/{split}/{name}_mask.png",
     ["photos/1.jpg", "photos/2.jpg", "masks/train/1_mask.png", "masks/val/2_mask.png"], ["1"], "train"),
    ("photos/{split}/{name}.jpg", "masks/{name}.png",
     ["photos/train/1.jpg", "photos/val/2.jpg", "masks/1.png", "masks/2.png"], ["1"], "train"),
    ("{split}/{name}/image.png", "{split}/{name}/label.png",
     ["train/1/image.png", "train/1/label.png", "train/x/2/image.png", "train/x/2/label.png", "val/3/image.png"],
     ["1", "x/2"], "train"),
    ("{name}.png", "{name}_mask.png", ["1.png", "1_mask.png", "x/2.png", "x/2_mask.png"], ["1", "x/2"], "all"),
    ("{name}_photo.png", "{name}.png", ["1.png", "1_photo.png"], ["1"], "all"),
    ("{name}/{split}/photo.*", "{name}/{split}/mask.*",
     ["1/train/photo.JPG", "1/train/mask.tif", "2/val/photo.jpg"], ["1"], "train"),
    ("{name}/{name}.png", "{name}/{name}_gt.png", ["1/1.png", "1/1_gt.png", "1/2.png"], ["1"], "all"),
    ("img/{name}", "ann/{name}.png", ["img/1.jpg", "img/2.png", "ann/1.jpg.png", "ann/2.png.png"],
     ["1.jpg", "2.png"], "all"),
    ("a/img_{name}.png", "a/{name}/m.png", ["a/img_1.png", "a/1/m.png", "a/img_/2.png"], ["1"], "all"),
    (".", "masks", ["1.png", "masks/1.png", "x/2.png", "masks/x/2.png"], ["1", "x/2"], "all"),
    ("./{name}+({split}).png", "labels[{split}]/{name}.png",
     ["1+(train).png", "labels[train]/1.png"], ["1"], "train"),
]  # fmt: skip


@pytest.mark.parametrize(("images", "labels", "files", "expected", "split"), LAYOUTS)
def test_a_layout_is_read_as_it_is(root, images, labels, files, expected, split):
    put(root, *files)
    dataset = open_dataset("folder", root, "train", images, labels)
    assert [pair.name for pair in dataset.pairs] == expected
    assert dataset.split == split
    assert {pair.image for pair in dataset.pairs} <= {root / file for file in files}
    assert all(pair.label != pair.image for pair in dataset.pairs)
    if "{split}" in images or split == "all":
        assert names(root, images, labels, with_labels=False) == expected


def test_the_label_map_of_an_image_is_the_one_of_its_name(root):
    put(root, "1.png", "2.png", "1_m.png")
    put(root, "2_m.png", value=1)
    dataset = open_dataset("folder", root, "train", "{name}.png", "{name}_m.png")
    assert [dataset.read(i)[1].max() for i in (0, 1)] == [0, 1]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("masks/{stem}.png", "{stem} is neither {name} nor {split}"),
        ("masks/{Name}.png", "{Name} is neither"),
        ("masks/{}/{name}.png", "{} is neither"),
        ("masks/{name.png", "{ is neither"),
        ("masks/name}.png", "} is neither"),
        ("masks/{{name}}.png", "{ is neither"),
        ("/masks/{name}.png", "leads out of the data set's folder"),
        ("/masks", "leads out of the data set's folder"),
        ("../masks", "leads out of the data set's folder"),
        ("masks/../{name}.png", "leads out of the data set's folder"),
        ("masks/*.png", "* stands only for a suffix"),
        ("masks/*/{name}.png", "* stands only for a suffix"),
        ("masks/{name}*", "* stands only for a suffix"),
        ("masks.*", "* stands only for a suffix"),
        ("masks/{name}_mask", "does not end in .* or one of .bmp, "),
        ("masks/{name}.txt", "does not end in .* or one of "),
        ("masks/{name}.jpg", "lossy compression changes label values"),
        ("", "names no files"),
        (" ", "names no files"),
    ],
)
def test_a_wrong_pattern_is_refused_with_a_valid_one(root, path, problem):
    put(root, "images/train/1.png", "masks/1.png")
    message = refused(root, labels=path)
    assert message.startswith(f"labels {path!r}: {problem}")
    assert message.endswith(": use a folder, or a pattern such as masks/{split}/{name}_mask.png")


def test_a_suffix_fits_in_upper_and_lower_case(root):
    put(root, "photos/1.JPG", "photos/2.jpg", "masks/1_mask.png", "masks/2_mask.PNG")
    assert names(root, "photos/{name}.jpg", "masks/{name}_mask.png") == ["1", "2"]


def test_one_label_map_in_a_lossy_format_is_named(root):
    put(root, "images/train/1.jpg", "images/train/2.jpg", "labels/train/1.png", "labels/train/2.JPG")
    assert refused(root).startswith(f"{root / 'labels/train/2.JPG'}: lossy formats such as JPEG change label values")


def test_images_of_no_split_are_found_and_the_options_named(root):
    put(root, "images/1.jpg", "labels/1.png")
    assert f"there are images in {root / 'images'}, though" in refused(root)
    assert "set images (--images) to images and labels (--labels) to labels" in refused(root)


def test_without_the_default_folders_those_that_are_there_are_named(root):
    put(root, "fotos/1.jpg", "masken/1.png")
    assert refused(root).endswith(
        "; there are folders fotos, masken, though: set images (--images) and labels (--labels) to yours"
    )


def test_a_missing_classes_file_is_refused_with_the_command_that_writes_one(root):
    (root / "classes.yaml").unlink()
    assert f"--write-classes {root / 'classes.yaml'}" in refused(root)


def test_images_may_be_lossy_and_their_example_is_one_of_images(root):
    put(root, "a/1.jpg", "labels/train/1.png")
    assert names(root, "a/{name}.jpg") == ["1"]
    assert refused(root, "a/{stem}.jpg").endswith("such as photos/{split}/{name}.jpg")


def test_a_folder_without_such_a_file_is_refused_with_one_that_is_there(root):
    put(root, "images/train/1.png", "masks/1_label.png")
    (root / "masks/0.txt").touch()
    example = f"in it; there is {root / 'masks/1_label.png'}, for example: rename or convert the files"
    assert f"{root / 'masks'}: no file named NAME_mask.png {example}" in refused(root, labels="masks/{name}_mask.png")


def test_a_folder_of_files_that_are_no_images_is_refused_with_one_of_them(root):
    put(root, "images/train/1.png")
    (root / "arrays").mkdir()
    (root / "arrays/1.npy").touch()
    message = refused(root, labels="arrays")
    assert "no file named NAME{.bmp," in message
    assert f"there is {root / 'arrays/1.npy'}, for example: rename or convert the files" in message


def test_a_missing_folder_is_refused_with_the_file_that_is_expected(root):
    put(root, "labels/train/1.png")
    message = refused(root, "photos/{split}/{name}_x.jpg")
    assert (
        message == f"{root / 'photos/train'}: no such folder; expected files such as {root / 'photos/train/NAME_x.jpg'}"
    )
    put(root, "photos/training/1_x.jpg", "photos/valid/1_x.jpg")
    assert refused(root, "photos/{split}/{name}_x.jpg") == f"{message}; the splits there are called training, valid"


@pytest.mark.parametrize(
    ("images", "labels", "files", "advice"),
    [
        ("images/{split}", "labels/{split}", ["images/train/1.png", "images/train/11.png", "labels/train/11_mask.png",
         "labels/train/1_mask.png"], "labels labels/{split}/{name}_mask.*"),
        ("photos/{name}_rgb.png", "labels", ["photos/1_rgb.png", "labels/gt_1.png"], "labels labels/gt_{name}.*"),
        ("images/{split}", "masks", ["images/train/1.png", "masks/train/a/1.png"], "labels masks/{split}/a/{name}.*"),
        ("photos", "masks/{split}", ["photos/1.png", "photos/2.png", "masks/train/1_mask.png"],
         "labels masks/{split}/{name}_mask.*"),
        ("images", "labels/{name}.png", ["images/1_rgb.jpg", "labels/1.png"], "images images/{name}_rgb.*"),
        ("images", "labels", ["images/1_a.png", "images/2.png", "labels/1_b.png", "labels/2_b.png"],
         "patterns, such as images photos/{split}/{name}.jpg and labels masks/{split}/{name}_mask.png"),
    ],
)  # fmt: skip
def test_names_that_never_match_are_refused_with_the_pattern_that_would(root, images, labels, files, advice):
    put(root, *files)
    message = refused(root, images, labels)
    assert message.endswith(f": no image has the name of a label map: use {advice}")
    if not advice.startswith("patterns"):
        option, _, pattern = advice.partition(" ")
        assert names(root, **({"images": images, "labels": labels} | {option: pattern}))


def test_an_image_is_not_its_own_label_map(root):
    put(root, "a/1.png")
    assert refused(root, "a", "a/{name}.png").startswith(
        f"{root / 'a/1.png'}: fits images 'a' and labels 'a/{{name}}.png': "
    )


def test_the_file_that_is_missing_is_named(root):
    put(root, "photos/1.jpg", "photos/2.jpg", "photos/3.jpg", "masks/3/m.tif")
    message = refused(root, "photos/{name}.jpg", "masks/{name}/m.*")
    assert message == (
        f"{root / 'photos/1.jpg'}: image without a label map (2 in all): add the missing file, "
        f"{root / 'masks/1/m.tif'}, or remove this one"
    )
    put(root, "masks/1/m.tif", "masks/2/m.tif", "masks/4/m.tif")
    message = refused(root, "photos/{name}.jpg", "masks/{name}/m.*")
    assert message.startswith(
        f"{root / 'masks/4/m.tif'}: label map without an image (1 in all): add the missing file, "
    )
    assert f", {root / 'photos/4.jpg'}, or remove" in message


@pytest.mark.parametrize(
    ("images", "labels", "files", "present", "suffix"),
    [
        ("photos/{name}.jpg", "masks/{name}_mask.png", ["photos/1.jpg", "masks/1_mask.png", "photos/2.JPEG",
         "masks/2_mask.png"], "photos/2.JPEG", ".jpg"),
        ("{name}.jpg", "{name}_mask.png", ["1.jpg", "1_mask.png", "2.jpg", "2_mask.tif"], "2_mask.tif", ".png"),
    ],
)  # fmt: skip
def test_a_file_that_differs_from_the_pattern_by_its_suffix_is_named(root, images, labels, files, present, suffix):
    put(root, *files)
    assert refused(root, images, labels).endswith(
        f" (1 in all): there is {root / present}: end the pattern in .* instead of {suffix}"
    )
    option = {"images": images, "labels": labels}
    assert names(root, **{kind: path.replace(suffix, ".*") for kind, path in option.items()}) == ["1", "2"]


@pytest.mark.parametrize(
    ("images", "labels", "files"),
    [
        ("{name}.jpg", "{name}.png", ["1.jpg", "1.png", "2.png"]),  # the label map is not its own image
        ("img/{name}", "ann/{name}.png", ["img/1.jpg", "ann/1.jpg.png", "img/2.png", "ann/2.jpg.png"]),
    ],
)
def test_a_missing_file_is_to_be_added_where_the_suffix_is_no_reason(root, images, labels, files):
    put(root, *files)
    assert ": add the missing file, " in refused(root, images, labels)


def test_a_label_map_that_has_its_image_is_not_the_one_of_another(tmp_path):
    put(tmp_path, "images/train/a.png", "images/train/A.png", "labels/train/A.png")
    (tmp_path / "classes.yaml").write_text("classes: [background, leaf]")
    with pytest.raises(
        UserError, match=r"images/train/a\.png: image without a label map \(1 in all\): add the missing"
    ):
        open_dataset("folder", tmp_path, "train").require_labels()


@pytest.mark.parametrize(
    ("image", "label", "difference"),
    [
        ("b\u00e4um", "ba\u0308um", r"how its accents are stored \(Unicode NFC or NFD\)"),
        ("a", "A", "upper and lower case"),
    ],
)
def test_a_label_map_of_nearly_the_same_name_is_named(tmp_path, image, label, difference):
    for folder, name in (("images", image), ("labels", label)):
        (tmp_path / folder / "train").mkdir(parents=True)
        for each in (name, "other"):
            Image.new("L", (8, 8)).save(tmp_path / folder / "train" / f"{each}.png")
    (tmp_path / "classes.yaml").write_text("classes: [background, leaf]")
    message = rf"without a label map \(1 in all\): rename it: .*{label}\.png differs in {difference} alone$"
    with pytest.raises(UserError, match=message):
        open_dataset("folder", tmp_path, "train").require_labels()


def test_two_files_of_one_name_are_refused(root):
    put(root, "a/1.png", "a/1.jpg", "labels/train/1.png")
    assert refused(root, "a/{name}.*").startswith(
        f"{root / 'a/1.jpg'} and {root / 'a/1.png'}: two files of the same name"
    )


def test_hidden_files_and_folders_are_no_images(root):
    put(root, "a/1/i.png", "a/1/m.png", "a/.2/i.png", "a/.cache/3/i.png", "a/4/.i.png")
    assert names(root, "a/{name}/i.png", "a/{name}/m.png") == ["1"]


def test_folders_are_searched_through_links_and_a_link_in_a_circle_ends(root):
    put(root, "disk/x/1.png", "images/train/2.png", "labels/train/2.png", "labels/train/x/1.png")
    (root / "images/train/x").symlink_to(root / "disk/x")
    (root / "images/train/back").symlink_to(root / "images")
    assert names(root) == ["2", "x/1"]


def test_a_link_to_a_missing_image_is_not_left_out(root):
    put(root, "images/train/1.png", "labels/train/1.png", "labels/train/2.png")
    (root / "images/train/2.png").symlink_to(root / "nowhere.png")
    assert names(root) == ["1", "2"]
    with pytest.raises(UserError, match=r"images/train/2\.png"):
        open_dataset("folder", root, "train").read(1)


def test_a_folder_that_cannot_be_read_is_refused(root, monkeypatch):
    put(root, "images/train/1.png", "images/train/closed/2.png", "labels/train/1.png")
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    assert refused(root).startswith(f"{root / 'images/train/closed'}: Permission denied: make the folder readable")


def test_lists_choose_from_a_pool(root):
    put(root, *(f"{kind}/{i}.png" for kind in ("photos", "masks") for i in range(4)))
    (root / "val.txt").write_text("3\n0\n")
    dataset = open_dataset("folder", root, "val", "photos", "masks", names=root / "val.txt")
    assert ([pair.name for pair in dataset.pairs], dataset.split) == (["0", "3"], "all-val")


def test_data_stats_counts_a_pool_once(root, capsys):
    put(root, *(f"{kind}/{i}.png" for kind in ("photos", "masks") for i in range(4)))
    put(root, "masks/3.png", value=1)
    words = ["data", "stats", str(root), "--dataset", "folder", "--images", "photos/{name}.png", "--labels", "masks"]
    assert main(words) == 0
    assert capsys.readouterr().out.split()[:4] == ["all", "images", "4", "class"]
    assert main([*words, "--splits", "train", "val"]) == 2
    assert (
        "--splits train val: there is no {split} in --images photos/{name}.png and --labels masks"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("words", [["data", "stats"], ["eval", "w.safetensors", "--root"]])
def test_eval_and_data_stats_refuse_a_wrong_pattern_in_one_line(root, capsys, words):
    put(root, "images/val/1.png")
    assert main([*words, str(root), "--dataset", "folder", "--labels", "{split}/{stem}.png"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "labels '{split}/{stem}.png': {stem} is neither {name} nor {split}: use " in line


def test_braces_above_the_root_mean_nothing(root):
    put(root, "{name} {split}/a/1.png", "{name} {split}/b/1.png")
    shutil.copy(root / "classes.yaml", root / "{name} {split}")
    assert names(root / "{name} {split}", "a/{name}.png", "b") == ["1"]


def test_what_writes_a_first_classes_file_is_told_with_the_places_of_this_data_set(tmp_path):
    root = tmp_path / "a set"
    root.mkdir()
    for places, options in (((), ""), (("img/{split}", "ann"), " --images 'img/{split}' --labels ann")):
        with pytest.raises(UserError, match=r"classes\.yaml: no such file: ") as caught:
            open_dataset("folder", root, "train", *places)
        words = f"dlaseg data check '{root}' --dataset folder{options} --write-classes '{root}/classes.yaml'"
        assert str(caught.value).endswith(words)


def test_a_photograph_is_not_called_a_lossy_label_map(root):
    put(root, "1.jpg", "2.jpg")
    assert refused(root, "{name}.jpg", "{name}.*").startswith(f"{root}: no file named NAME")
