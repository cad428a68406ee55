"""A graph in the cache computes what its model computes."""

import os

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from dlaseg import UserError, create_model
from dlaseg.inference.backends import conversion, graph_cache
from dlaseg.inference.backends.choice import graph_of, kept_graph, make_backend
from dlaseg.inference.backends.exported import encode_entries
from dlaseg.metadata import ModelMetadata
from dlaseg.models.base import SegmentationModel


class Own(SegmentationModel):
    """A model whose author edits its code: `shift` is neither a tensor nor metadata."""

    def __init__(self, shift: int):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.metadata, self.stride, self.num_classes = ModelMetadata.for_segmentation(4, 3), 2, 4
        self.shift = shift

    def coarse_logits(self, x):
        return self.conv(x).roll(self.shift, 1)


@pytest.fixture
def quick_conversion(tmp_path, monkeypatch):
    """An empty cache, and graphs that compute nothing."""
    monkeypatch.setenv("DLASEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(conversion, "trace", lambda *_: None)
    monkeypatch.setattr(conversion, "to_onnx", lambda *_: onnx.ModelProto(producer_name="test"))


def test_a_model_whose_code_was_edited_is_converted_again(quick_conversion):
    assert conversion.model_key(Own(0)) == conversion.model_key(Own(1))
    first = graph_of(Own(0))
    logits = np.load(first.reference)
    assert kept_graph(Own(0)) == first
    assert kept_graph(Own(1)) is None
    edited = graph_of(Own(1))
    assert np.array_equal(np.load(edited.reference), np.roll(logits, 1, axis=1))
    assert kept_graph(Own(1)) == edited
    assert kept_graph(Own(0)) is None


def test_auto_goes_on_with_torch_where_a_graph_cannot_be_kept(quick_conversion, tmp_path, caplog):
    (tmp_path / "cache").touch()
    assert make_backend("auto", Own(0), "cpu", "float32").name == "torch"
    assert "cannot be written" in caplog.text
    assert "set DLASEG_CACHE" in caplog.text


def test_auto_goes_on_with_torch_for_a_user_without_a_home_folder(quick_conversion, monkeypatch, caplog):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(graph_cache.Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("DLASEG_CACHE")
    assert kept_graph(Own(0)) is None
    assert make_backend("auto", Own(0), "cpu", "float32").name == "torch"
    assert "set DLASEG_CACHE" in caplog.text
    with pytest.raises(UserError, match="no home folder"):
        graph_of(Own(0))


def test_the_graphs_that_were_used_last_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("DLASEG_CACHE", str(tmp_path))
    monkeypatch.setattr(graph_cache, "KEPT_GRAPHS", 2)
    entries = encode_entries(create_model("dla46_c", 2), "normalized", "coarse_logits")
    for age, key in enumerate("ab"):
        path = graph_cache.keep_graph(key, b"", entries, np.zeros(1, np.float32)).path
        os.utime(path, (age + 1, age + 1))
    assert graph_cache.find_graph("a") is not None
    graph_cache.keep_graph("c", b"", entries, np.zeros(1, np.float32))
    assert [graph_cache.find_graph(key) is not None for key in "abc"] == [True, False, True]
    (tmp_path / "graphs/gone.onnx").symlink_to(tmp_path / "gone")  # as if another process removed it meanwhile
    graph_cache.keep_graph("d", b"", entries, np.zeros(1, np.float32))
