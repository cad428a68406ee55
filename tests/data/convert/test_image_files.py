from pathlib import Path

import pytest
from annotation_files import message, save_image

from dlaseg.data.convert.image_files import ImageFolder
from dlaseg.data.convert.splits import split_name, split_of_file


@pytest.fixture
def folder(tmp_path):
    for name in ("1.png", "cam1/1.png", "cam2/1.png", "cam2/2 x.JPG", "deep/images/cam3/3.png", ".cache/9.png"):
        save_image(tmp_path / "photos" / name, 2, 2) if not name.endswith("JPG") else None
    (tmp_path / "photos/cam2/2 x.JPG").write_bytes(b"x")
    (tmp_path / "photos/notes.txt").write_text("")
    save_image(tmp_path / "secret.png", 2, 2)
    return ImageFolder(tmp_path / "photos")


@pytest.mark.parametrize(
    ("name", "file", "kept"),
    [
        ("1.png", "1.png", "1.png"),
        ("cam1/1.png", "cam1/1.png", "cam1/1.png"),
        ("./cam2//1.png", "cam2/1.png", "cam2/1.png"),
        ("data\\cam2\\1.png", "cam2/1.png", "cam2/1.png"),
        ("/home/x/photos/cam1/1.png", "cam1/1.png", "cam1/1.png"),
        ("cam1/../cam2/1.png", "cam2/1.png", "cam2/1.png"),
        ("2 x.JPG", "cam2/2 x.JPG", "2 x.JPG"),
        ("cam3/3.png", "deep/images/cam3/3.png", "cam3/3.png"),
        ("other/1.png", "1.png", "1.png"),  # the folder may be the one that the name leads to
    ],
)
def test_an_image_fits_as_far_as_both_paths_go(folder, name, file, kept):
    assert folder.find(name) == (folder.root / file, Path(kept))


@pytest.mark.parametrize(
    "name",
    ["cam1/3.png", "2 x.jpg", "../secret.png", "/etc/passwd", "notes.txt", "9.png", "", ".", "..", "/", "\0", "cam1"],
)
def test_other_names_are_refused(folder, name):
    assert "no such image below" in message(folder.find, name)


def test_the_first_name_that_fits_counts_and_two_that_fit_are_refused(folder, tmp_path):
    assert folder.find("x.png", "3.png")[0] == folder.root / "deep/images/cam3/3.png"
    (folder.root / "1.png").unlink()
    text = message(ImageFolder(folder.root).find, "1.png")
    assert "cam1/1.png" in text
    assert "cam2/1.png" in text
    assert "no such folder" in message(ImageFolder, tmp_path / "none")


COMPOSED, DECOMPOSED = "b\xe4um", "ba\u0308um"


@pytest.mark.parametrize(("name", "stored"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_an_accent_may_be_a_character_of_its_own_in_one_of_the_names(folder, name, stored):
    file = save_image(folder.root / f"{stored}/{stored}.png", 2, 2)
    assert folder.find(f"photos/{name}/{name}.png") == (file, Path(f"{stored}/{stored}.png"))


def test_of_two_images_whose_names_differ_in_the_form_of_an_accent_the_one_that_is_named_is_found(folder):
    for name in (COMPOSED, DECOMPOSED):
        save_image(folder.root / f"deep/{name}.png", 2, 2)
    for name in (COMPOSED, DECOMPOSED):
        assert folder.find(f"{name}.png") == (folder.root / f"deep/{name}.png", Path(f"{name}.png"))


@pytest.mark.parametrize("name", ["cam1/b.heic", "x/cam1/b.jpg", "b.png"])
def test_an_image_of_a_format_that_is_not_read_is_named(folder, name):
    (folder.root / "cam1/b.HEIC").write_bytes(b"x")
    text = message(folder.find, "other.png", name)
    assert f"image '{name}': {folder.root}/cam1/b.HEIC has a format that is not read: convert it" in text
    assert "no such image" in message(folder.find, "cam2/b.heic")


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("annotations/instances_train2017.json", "train"),
        ("annotations/instances_val2017.json", "val"),
        ("a/test.json", "test"),
        ("valid/_annotations.coco.json", "val"),
        ("x/instances_default.json", None),
        ("test/result.json", None),
        ("trains.json", None),
        ("my-val.json", "val"),
        ("interval.json", None),
    ],
)
def test_the_name_of_a_file_says_its_split(path, split):
    assert split_of_file(Path(path)) == split


def test_names_of_splits_are_plain_and_usual():
    assert [split_name(name, "x") for name in ("Train", "VALID", "default", "fold-1")] == [
        "train",
        "val",
        "train",
        "fold-1",
    ]
    for name in ("", "..", "a/b", "a\\b", ".hidden", "a b", "x" * 70):
        assert "x: split" in message(split_name, name, "x")
