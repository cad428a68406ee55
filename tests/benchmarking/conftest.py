import dlaseg_testing
import pytest
import torch


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
