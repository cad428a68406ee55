from dataclasses import replace

import dlaseg_testing
import pytest
import torch

from dlaseg import create_model, save_model
from dlaseg.data.sets.camvid import camvid_labels


@pytest.fixture(scope="module", autouse=True)
def _tiny(tiny_variant):
    pass


@pytest.fixture(autouse=True)
def _plain_process(monkeypatch):
    """One thread, which is fastest for small networks; the allocator keeps its settings."""
    monkeypatch.setattr("dlaseg.training.run.keep_freed_memory", lambda: True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def config(tmp_path_factory):
    return dlaseg_testing.tiny_config(dlaseg_testing.write_camvid(tmp_path_factory.mktemp("camvid")))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder; empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory):
    """A weights file with CamVid's classes."""
    return write_weights(tmp_path_factory.mktemp("weights") / "weights.safetensors", 0)


def write_weights(path, seed):
    torch.manual_seed(seed)
    with dlaseg_testing.tiny_variant():
        model = create_model(dlaseg_testing.TINY, 11, stride=8)
        model.metadata = replace(model.metadata, label_map=camvid_labels())
        save_model(model, path)
    return path


@pytest.fixture(scope="session")
def other_weights_file(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "other.safetensors", 1)
