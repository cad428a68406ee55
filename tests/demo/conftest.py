import shutil
import socket

import pytest
from browsers import browser

from dlaseg.synthetic.dataset import draw_scene
from dlaseg.weights.download import resolve

__all__ = ["browser"]


@pytest.fixture(scope="module")
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def second_weights(tmp_path_factory):
    """A copy of the exported network of the package by another name: neither has to be converted."""
    exported, folder = resolve("camvid-int8"), tmp_path_factory.mktemp("weights")
    for suffix in (".xml", ".bin"):
        shutil.copy(exported.with_suffix(suffix), folder / f"second{suffix}")
    return str(folder / "second.xml")


@pytest.fixture(scope="module")
def served_page(port, second_weights):
    """The page, of which the examples are small, and its address."""
    from dlaseg.demo import page  # imports Gradio, which takes seconds in every process that collects tests

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "draw_scene", lambda seed, height, width: draw_scene(seed, height // 4, width // 4))
        with page.served(["camvid-int8", second_weights], "127.0.0.1", port, 1_000_000) as page_and_address:
            yield page_and_address


@pytest.fixture(scope="module")
def address(served_page):
    return served_page[1]
