"""The site of docs/: every page is in its navigation, and every public name on the page of the Python interface."""

import re
from pathlib import Path

import dlaseg

ROOT = Path(__file__).parents[1]


def test_every_page_is_in_the_navigation():
    listed = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    written = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert sorted(listed) == sorted([*written, "messages.md"])  # which is made when the site is built


def test_the_python_page_documents_the_public_names():
    documented = set(re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE))
    homes = {home.replace(":", ".") for name, home in dlaseg._HOMES.items() if name != "__version__"}
    assert homes == documented
    assert set(dlaseg.__all__) - {"__version__"} <= dlaseg._HOMES.keys()
