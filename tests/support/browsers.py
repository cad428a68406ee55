"""Chromium, in which the pages are tested."""

import shutil

import pytest
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def browser():
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.fail("the page is tested in Chromium, which is not on the PATH: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=QUIET.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shared_page(browser):
    """A page for many tests: to open an address in it takes a fraction of what a new page takes."""
    context = browser.new_context(offline=True)
    yield context.new_page()
    context.close()


@pytest.fixture
def open_file(browser, shared_page):
    """Opens a file offline; in the end nothing may have been complained of or asked for.

    With options, the page is a new one that has them.
    """
    contexts, pages, problems = [], [], []
    listeners = {
        "console": lambda message: problems.append(message.text),
        "pageerror": lambda error: problems.append(str(error)),
        "request": lambda request: request.url.startswith(("file:", "data:")) or problems.append(request.url),
    }

    def open_(file, width=1280, height=900, **options):
        if options:
            contexts.append(browser.new_context(offline=True, **options))
        page = contexts[-1].new_page() if options else shared_page
        page.set_viewport_size({"width": width, "height": height})
        page.mouse.move(0, 0)
        for event, listener in listeners.items():
            page.on(event, listener)
        pages.append(page)
        page.goto(file.as_uri())
        return page

    yield open_
    for page in pages:
        for event, listener in listeners.items():
            page.remove_listener(event, listener)
    for context in contexts:
        context.close()
    assert problems == []
