"""Every message says what to do, and the site has a page of all of them."""

from functools import cache

import pytest
from dlaseg_testing import load_script


@pytest.fixture(scope="module")
def hook():
    module = load_script("docs/hooks/messages.py")
    module.messages = cache(module.messages)  # both tests read every file
    return module


SOURCE = """
def check(path, error):
    raise UserError(f"{path}: {len(path)} bytes, "
                    "too few: copy it again") from error
    error = UnreadableFileError("no file" + f": name {path!r}")
    raise ValueError(f"{path}: not for users")
    raise UserError(str(error))
"""


def test_messages_are_read_from_the_source_with_dots_for_values(hook):
    assert hook.messages(SOURCE) == ["…: … bytes, too few: copy it again", "no file: name …"]


def test_the_page_has_the_messages_of_every_part(hook):
    page = hook.page()
    assert "| …: frames with 16 bits per channel | convert the file to 8 bits |" in page
    parts = {path.relative_to(hook.PACKAGE).parts[0].removesuffix(".py") for path in hook.PACKAGE.rglob("*.py")}
    without = {"__init__", "__main__", "version", "memory", "image_suffixes", "bit_depth"}
    assert {part for parts in hook.AREAS.values() for part in parts} == parts - without
    for part in without:
        assert hook.messages((hook.PACKAGE / f"{part}.py").read_text(encoding="utf-8")) == []


def test_every_message_says_what_to_do(hook):
    lacking = [
        text
        for path in hook.PACKAGE.rglob("*.py")
        for text in hook.messages(path.read_text(encoding="utf-8"))
        if ": " not in text and not text.startswith("…")  # which is another message, with its remedy
    ]
    assert lacking == []
