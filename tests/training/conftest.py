import pytest
import torch

from dlaseg.training.segmentation import Segmentation
from dlaseg.training.task import Validation


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
def no_page(monkeypatch):
    """Runs end without the scores and the report of their best weights, which take a third of a small run's time."""
    monkeypatch.setattr(Segmentation, "on_fit_end", lambda *_: None)


@pytest.fixture
def no_scores(no_page, monkeypatch):
    """Validations, too, look at no image: every network has the same score."""
    monkeypatch.setattr(Segmentation, "validator", lambda *_: lambda model: Validation({"miou": 0.5}))
