"""Scores are computed as the arguments say, or not at all."""

import dlaseg_testing
import pytest

import dlaseg
from dlaseg.cli import main
from dlaseg.data.datasets import open_dataset


@pytest.mark.parametrize("padding", ["bogus", "", None, "Mirror"])
def test_an_unknown_padding_is_refused_before_anything_is_computed(padding, tmp_path):
    val = open_dataset("camvid", dlaseg_testing.write_camvid(tmp_path / "data", train=1, val=1), "val")
    with pytest.raises(dlaseg.UserError) as error:
        dlaseg.evaluate("camvid", val, tmp_path / "scores", padding=padding)
    assert str(error.value) == f"padding {padding!r}: unknown: use mirror or stretch"
    assert not (tmp_path / "scores").exists()


def test_a_model_is_to_be_saved_first(tmp_path):
    val = open_dataset("camvid", dlaseg_testing.write_camvid(tmp_path / "data", train=1, val=1), "val")
    model = dlaseg.create_model("dla46_c", num_classes=11)
    with pytest.raises(dlaseg.UserError, match=r"^weights of type DLASeg: .* dlaseg\.save_model"):
        dlaseg.evaluate(model, val, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_missing_class": "typo"}, "on_missing_class 'typo': use stop or warn"),
        ({"on_missing_class": ""}, "on_missing_class '': use stop or warn"),
        ({"workers": -1}, "workers -1: use 0 to "),
        ({"workers": "2"}, "workers '2': use 0 to "),
    ],
)
def test_other_values_are_refused_before_the_weights_are_read(tmp_path, options, message):
    val = open_dataset("camvid", dlaseg_testing.write_camvid(tmp_path / "data", train=1, val=1), "val")
    with pytest.raises(dlaseg.UserError, match=message):
        dlaseg.evaluate(tmp_path / "none.safetensors", val, tmp_path / "scores", **options)


@pytest.mark.parametrize("more", [["none.safetensors"], ["--predictions", "none"], ["none", "--submission", "s"]])
def test_an_option_for_classes_of_the_users_own_is_refused_where_ids_are_fixed(tmp_path, monkeypatch, capsys, more):
    monkeypatch.chdir(tmp_path)
    words = ["eval", *more, "--dataset", "cityscapes", "--root", "none", "--on-missing-class", "stop"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "--on-missing-class stop: the ids of the classes of cityscapes are fixed: leave it out" in error


@pytest.mark.parametrize("output", ["file", "file/scores"])
def test_an_output_that_cannot_be_written_is_refused_before_the_weights_are_read(tmp_path, output):
    val = open_dataset("camvid", dlaseg_testing.write_camvid(tmp_path / "data", train=1, val=1), "val")
    (tmp_path / "file").touch()
    with pytest.raises(dlaseg.UserError, match=rf"^{tmp_path / output}: cannot be a folder \(.*: name another output$"):
        dlaseg.evaluate(tmp_path / "none.safetensors", val, tmp_path / output)
