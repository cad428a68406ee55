import socket

import pytest
from browsers import browser

__all__ = ["browser"]


@pytest.fixture(scope="module")
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served_page(port):
    from dlaseg.demo.page import served  # imports Gradio, which takes seconds in every process that collects tests

    with served(["camvid", "camvid-int8"], "127.0.0.1", port, 1_000_000) as page_and_address:
        yield page_and_address


@pytest.fixture(scope="module")
def address(served_page):
    return served_page[1]
