"""The templates and styles of the pages."""

import shlex
from functools import cache
from importlib.resources import files

import jinja2


@cache
def page_template(name: str) -> jinja2.Template:
    """A template of the folder `page/`, compiled once in a process.

    Args:
        name: of its file. In it, `percent` shows a share from 0 to 1, and `command` a list of words as for a shell.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "command": shlex.join}
    return environment.from_string(page_file(name))


def page_file(name: str) -> str:
    """The text of a file of the folder `page/`."""
    return (files("dlaseg.evaluation.report") / "page" / name).read_text(encoding="utf-8")


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"
