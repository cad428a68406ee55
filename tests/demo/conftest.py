import shutil
import socket

import pytest
from playwright.sync_api import sync_playwright

from dlaseg.demo.page import served

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.fail("the page is tested in Chromium, which is not on the PATH: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served_page(port):
    with served(["camvid", "camvid-int8"], "127.0.0.1", port, 1_000_000) as page_and_address:
        yield page_and_address


@pytest.fixture(scope="module")
def address(served_page):
    return served_page[1]
