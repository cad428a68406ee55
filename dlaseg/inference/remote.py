"""Images and results in object stores and on other machines, by URL: whatever fsspec opens."""

import errno
import posixpath
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from dlaseg.errors import UnreadableFileError, UserError
from dlaseg.image_suffixes import IMAGE_SUFFIXES
from dlaseg.images import ImageFile, check_file_size, image_from_bytes
from dlaseg.inference.folders import SETTINGS, SUFFIXES, Folder, LocalFolder, check_output
from dlaseg.inference.sources import Source, tell_left_out, tell_results

OBJECT_STORES = frozenset({"abfs", "abfss", "az", "gcs", "gs", "oci", "oss", "s3", "s3a", "tos"})
"""Protocols of stores that replace a file as a whole, when all of it has arrived."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class URLPath(type(Path())):  # type: ignore[misc]
    """A URL where the path of a source is expected: messages show it."""

    @classmethod
    def of(cls, url: str) -> "URLPath":
        """Makes the path of a URL."""
        path = cls(url)
        path._url = url  # a path has no `//`
        return path

    def __str__(self) -> str:
        return getattr(self, "_url", None) or super().__str__()

    def __reduce__(self) -> Any:
        return URLPath.of, (str(self),)


def is_url(text: str) -> bool:
    """Whether a text begins with a protocol, such as `s3://`."""
    return _URL.match(text) is not None


def local_path(text: str) -> Path | None:
    """The path that a text names, also as `file://`; None for any other URL."""
    if not is_url(text):
        return Path(text)
    return Path(text.partition("://")[2]) if text.lower().startswith(("file://", "local://")) else None


def open_url(url: str) -> tuple[Any, str]:
    """The file system (`fsspec.AbstractFileSystem`) of a URL, and the path there, without a slash at its end.

    Raises:
        UserError: an unknown protocol, or one whose package is not installed.
    """
    try:
        from fsspec.core import url_to_fs
        from fsspec.registry import known_implementations
    except ModuleNotFoundError as error:
        raise UserError(f"{url}: URLs need fsspec: pip install 'dlaseg[ray]'") from error
    protocol = url.partition("://")[0]
    if protocol == "memory":
        raise UserError(f"{url}: every worker has a memory of its own: use a folder or an object store, such as s3://")
    try:
        fs, path = url_to_fs(url)
    except ImportError as error:
        package = str(known_implementations.get(protocol, {}).get("class", "")).partition(".")[0]
        remedy = f"pip install {package}" if package not in ("", "fsspec") else str(error)
        raise UserError(f"{url}: {protocol}:// needs another package, on all nodes of the cluster: {remedy}") from error
    except ValueError as error:
        raise UserError(f"{url}: {error}: use a folder, or a URL such as s3://BUCKET/FOLDER") from error
    except Exception as error:  # of the package, whichever it is
        raise UserError(f"{url}: cannot be opened ({_reason(error)})") from error
    return fs, path.rstrip("/")


def read_url(url: str) -> bytes:
    """The content of a file.

    Raises:
        UserError: it cannot be read.
    """
    fs, path = open_url(url)
    try:
        with _os_errors(url):
            return fs.cat_file(path)
    except OSError as error:
        raise UserError(f"{url}: {error.strerror}: use a file that can be read") from error


def open_folder(output: str) -> Folder:
    """The folder of a path or URL.

    Raises:
        UserError: as `check_output` and `open_url`.
    """
    path = local_path(output)
    if path is None:
        return RemoteFolder(output)
    check_output(path)
    return LocalFolder(path.absolute())


class RemoteFolder:
    """A folder by its URL; see `Folder`.

    What is in it is listed once for each folder directly below it: asking for thousands of files takes minutes.

    Raises:
        UserError: as `open_url`.
    """

    def __init__(self, url: str):
        self.fs, self.root = open_url(url)
        if "::" in url:
            raise UserError(f"{url}: results are not written to archives: use a folder or an object store")
        self._url = url.rstrip("/")
        self._is_object_store = url.partition("://")[0] in OBJECT_STORES
        self._names: dict[str, set[str]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_names": {}}

    def show(self, name: str = "") -> str:
        """See `Folder`."""
        return f"{self._url}/{name}" if name else self._url

    def location(self, name: str) -> str:
        """See `Folder`."""
        return str(self.fs.unstrip_protocol(f"{self.root}/{name}"))

    def exists(self, name: str) -> bool:
        """See `Folder`."""
        return name in self._list(name.partition("/")[0])

    def files(self, below: str) -> Iterator[str]:
        """See `Folder`."""
        yield from sorted(self._list(below))

    def read(self, name: str) -> bytes:
        """See `Folder`."""
        with _os_errors(self.show(name)):
            return self.fs.cat_file(f"{self.root}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """See `Folder`."""
        path = f"{self.root}/{name}"
        with _os_errors(self.show(name)):
            if self._is_object_store:
                self.fs.pipe_file(path, content)
                return
            folder, file = posixpath.split(path)
            temporary = f"{folder}/.{file[:50]}.{secrets.token_hex(6)}"
            self.fs.makedirs(folder, exist_ok=True)
            try:
                self.fs.pipe_file(temporary, content)
                self.fs.mv(temporary, path)
            finally:
                if self.fs.exists(temporary):
                    self.fs.rm_file(temporary)

    def remove(self, name: str) -> None:
        """See `Folder`."""
        with _os_errors(self.show(name)):
            self.fs.rm_file(f"{self.root}/{name}")
        self._list(name.partition("/")[0]).discard(name)

    def _list(self, below: str) -> set[str]:
        if below not in self._names:
            prefix = f"{self.root}/"
            with _os_errors(self.show(below)):
                self._names[below] = {path.removeprefix(prefix) for path in _find(self.fs, f"{prefix}{below}")}
        return self._names[below]


@dataclass(frozen=True)
class RemoteSource(Source):
    """An image by its URL.

    Attributes:
        fs: file system, see `open_url`.
        key: path there.
        size: bytes, as listed.
    """

    fs: Any = field(kw_only=True, compare=False, repr=False)
    key: str = field(kw_only=True)
    size: int | None = field(kw_only=True, compare=False)

    def open(self, max_pixels: int) -> ImageFile:
        """See `Source`."""
        check_file_size(self.path, self.size or 0, max_pixels)
        try:
            with _os_errors(str(self.path)):
                content = self.fs.cat_file(self.key)
        except OSError as error:
            raise UnreadableFileError(f"{self.path}: {error.strerror}: use a file that can be read") from error
        return image_from_bytes(self.path, content, max_pixels)

    @property
    def location(self) -> str:
        """See `Source`."""
        return str(self.fs.unstrip_protocol(self.key))


def find_remote_images(url: str, exclude: Folder) -> list[Source]:
    """As `find_images`, by URL.

    Raises:
        UserError: as `find_images`, and as `open_url`.
    """
    fs, root = open_url(url)
    excluded = exclude.location("").rstrip("/")
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    if str(fs.unstrip_protocol(root)) == excluded:
        raise UserError(f"{url}: input and output are one folder: give another output, such as {url}/results")
    try:
        with _os_errors(url):
            found = _find(fs, root)
    except OSError as error:
        raise UserError(f"{url}: {error.strerror}: give an image or a folder that can be read") from error
    if not found:
        raise UserError(f"{url}: no such file or folder: give an image or a folder of images")
    names = {
        key: PurePosixPath(key.removeprefix(f"{root}/") if key != root else posixpath.basename(key)) for key in found
    }
    outputs = {name.parent for name in names.values() if name.name == SETTINGS}
    images, left_out, results = {}, [], set()
    for key, info in found.items():
        relative = names[key]
        is_hidden = any(part.startswith(".") and part != ".." for part in relative.parts)
        if (is_hidden and key != root) or str(fs.unstrip_protocol(key)).startswith(f"{excluded}/"):
            continue
        if of := [folder for folder in relative.parents if folder.name in SUFFIXES and folder.parent in outputs]:
            results.update(of)
        elif relative.suffix.lower() not in IMAGE_SUFFIXES:
            left_out.append(relative)
        else:
            images[key] = RemoteSource(
                URLPath.of(fs.unstrip_protocol(key)), Path(relative), fs=fs, key=key, size=info.get("size")
            )
    tell_results(url, len(results))
    tell_left_out(url, left_out)
    if not images:
        raise UserError(f"{url}: contains no image, also not below it: images end in {suffixes}")
    return sorted(images.values(), key=lambda source: source.relative)


def _find(fs: Any, path: str) -> dict[str, dict[str, Any]]:
    """All files at and below a path, and what the file system knows of each; none if there is no such path."""
    fs.invalidate_cache()  # others may have written since
    try:
        found: dict[str, dict[str, Any]] = fs.find(path, detail=True)
    except FileNotFoundError:
        return {}
    return found


@contextmanager
def _os_errors(url: str) -> Iterator[None]:
    """Makes an OSError that names the URL of whatever the file system's package raises."""
    try:
        yield
    except MemoryError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", url) from error
    except Exception as error:
        raise OSError(getattr(error, "errno", None) or errno.EIO, _reason(error), url) from error


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()) or type(error).__name__
