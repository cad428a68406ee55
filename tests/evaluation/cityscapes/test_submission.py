import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dlaseg_testing import TINY
from PIL import Image

from dlaseg import Predictor, UserError, create_model, save_model
from dlaseg.cli import main
from dlaseg.data.datasets import open_images
from dlaseg.data.sets.cityscapes import cityscapes_labels
from dlaseg.evaluation.cityscapes.submission import IMAGES, check_and_zip
from dlaseg.images import read_image
from dlaseg.synthetic.dataset import synthesize

LABELS = cityscapes_labels()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images without annotations, as of a test split."""
    root = tmp_path_factory.mktemp("cityscapes") / "data"
    synthesize(root, {"test": 3}, 64, 96, seed=1)
    for path in (root / "gtFine").rglob("*.png"):
        path.unlink()
    return root


@pytest.fixture(scope="module")
def weights(tiny_variant, tmp_path_factory):
    torch.manual_seed(0)
    model = create_model(TINY, 19, 8, 1)
    model.metadata = replace(model.metadata, label_map=LABELS)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_model(model, path)
    return path


def images_of(root):
    return {pair.name: pair.image for pair in open_images("cityscapes", root, "test").pairs}


def submit(weights, root, folder, *more):
    words = ["eval", str(weights), "--dataset", "cityscapes", "--root", str(root), "--split", "test"]
    return main([*words, "--submission", str(folder), "--device", "cpu", *more])


@pytest.fixture(scope="module")
def submitted(weights, root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "mine"
    assert submit(weights, root, folder) == 0
    return folder


def test_every_image_has_its_label_map_in_the_zip_file(submitted, root, weights):
    predict = Predictor(weights, device="cpu")
    images = images_of(root)
    with zipfile.ZipFile(submitted.with_name("mine.zip")) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{name}_labelIds.png" for name in images]
        for name, path in images.items():
            assert Path(name).name.count("_") == 2  # CITY_SEQUENCE_FRAME
            ids = np.asarray(Image.open(archive.open(f"{name}_labelIds.png")))
            assert np.array_equal(ids, LABELS.decode(predict(read_image(path))))


def test_the_number_of_images_is_printed_and_that_the_server_wants_more(weights, root, tmp_path, capsys, monkeypatch):
    (tmp_path / "s").mkdir()
    monkeypatch.chdir(tmp_path / "s")
    assert submit(weights, root, ".", "--flip", "--scales", "1", "0.5") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["3 label maps of 1525: the server accepts only complete splits", str(tmp_path / "s.zip")]


def test_a_submission_is_written_over(submitted, weights, root, capsys, monkeypatch):
    monkeypatch.setitem(IMAGES, "test", 3)
    before = submitted.with_name("mine.zip").read_bytes()
    submitted.with_name("mine.zip").unlink()
    assert submit(weights, root, submitted) == 0
    assert capsys.readouterr().out.splitlines()[0] == "3 label maps"  # a complete split
    names = [zipfile.ZipFile(submitted.with_name("mine.zip")).namelist()]
    assert len(names[0]) == 3
    assert len(before) == submitted.with_name("mine.zip").stat().st_size


@pytest.fixture
def copy(submitted, tmp_path):
    for path in submitted.rglob("*.png"):
        place = tmp_path / "copy" / path.relative_to(submitted)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    return tmp_path / "copy"


@pytest.mark.parametrize("fault", ["missing", "stranger", "size", "ignored id", "train ids", "broken"])
def test_what_the_server_would_refuse_is_refused_before(copy, root, fault):
    first = sorted(copy.rglob("*.png"))[0]
    ids = np.asarray(Image.open(first)).copy()
    if fault == "missing":
        first.unlink()
        message = f"{first}: missing prediction of "
    elif fault == "stranger":
        (copy / "notes.txt").write_text("")
        message = "notes.txt: not part of this submission \\(1 such files\\)"
    elif fault == "size":
        Image.fromarray(ids[1:]).save(first)
        message = "63 x 96, its image has 64 x 96"
    elif fault == "broken":
        first.write_bytes(first.read_bytes()[:-100])
        message = "broken or not an image"
    else:
        ids[3, 4] = 4 if fault == "ignored id" else 1
        Image.fromarray(ids).save(first)
        message = f"id {ids[3, 4]} is not the label id of an evaluated class"
    with pytest.raises(UserError, match=message):
        check_and_zip(copy, images_of(root))
    assert not copy.with_name("copy.zip").exists()


def test_other_classes_are_refused(root, tmp_path, capsys):
    save_model(create_model(TINY, 19, 8, 1), tmp_path / "w.safetensors")
    assert submit(tmp_path / "w.safetensors", root, tmp_path / "s") == 2
    assert "its classes are not the benchmark's 19" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_folder_of_other_files_is_refused_before_it_is_touched(weights, root, tmp_path, capsys):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.txt").write_text("mine")
    assert submit(weights, root, tmp_path / "s") == 2
    assert "thesis.txt: not part of this submission" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_written_is_refused_before_the_weights_are_read(root, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert submit(tmp_path / "none.safetensors", root, tmp_path / "file/s") == 2
    assert "file/s: cannot be a folder" in capsys.readouterr().err


def test_another_data_set_is_refused(weights, root, tmp_path, capsys):
    assert submit(weights, root, tmp_path / "s", "--dataset", "camvid") == 2
    assert "--submission follows the Cityscapes benchmark: use cityscapes" in capsys.readouterr().err
