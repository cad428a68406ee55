"""Scores are computed as the arguments say, or not at all."""

import dlaseg_testing
import pytest

import dlaseg
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
