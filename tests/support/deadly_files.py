"""A file system that kills the process that uses it, for tests of what happens to the work of that process."""

import os
import signal
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class DeadlyFileSystem(LocalFileSystem):
    """Local files by URLs of the protocol `deadly`.

    The process that reads `kills_reader.png` or writes a result of `kills_writer.png` is killed in the middle of it
    the first time. The file DEADLY_LOG lists name and process id.
    """

    protocol = "deadly"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return path.removeprefix("deadly://") if isinstance(path, str) else [cls._strip_protocol(p) for p in path]

    def unstrip_protocol(self, name: str) -> str:
        return f"deadly://{self._strip_protocol(name)}"

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
        self._kill_once(path, "kills_reader")
        return super().cat_file(path, *args, **kwargs)

    def pipe_file(self, path: str, value: bytes, *args: Any, **kwargs: Any) -> None:
        if "kills_writer" in path:
            super().pipe_file(path, value[: len(value) // 2])
        self._kill_once(path, "kills_writer")
        super().pipe_file(path, value, *args, **kwargs)

    def _kill_once(self, path: str, name: str) -> None:
        log = Path(os.environ["DEADLY_LOG"])
        if name in path and name not in log.read_text(encoding="utf-8"):
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{name} {os.getpid()}\n")
            os.kill(os.getpid(), signal.SIGKILL)


fsspec.register_implementation("deadly", DeadlyFileSystem)
