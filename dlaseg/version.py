"""Versions. setup.cfg reads this file, so it imports nothing but the standard library."""

from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"


def package_version(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
