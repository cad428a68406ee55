"""Stopping on request: SIGINT (Ctrl-C) and SIGTERM (what schedulers send)."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from dlaseg.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Listens for the two signals while it is entered; a second one ends the process at once, as if nobody listened.

    The first one raises `Stopped` where it arrives, except while `deferred`, when it is only noted.

    Attributes:
        name: of the signal that arrived, such as SIGTERM; None before.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._deferred = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Leaves it to the caller to look at `name` and to stop where it suits."""
        with self._set(deferred=True):
            yield

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """Within `deferred`: raises `Stopped` where the signal arrives, and at once if it has."""
        with self._set(deferred=False):
            if self.name is not None:
                raise Stopped(f"stopped by {self.name}")
            yield

    @contextmanager
    def _set(self, deferred: bool) -> Iterator[None]:
        before, self._deferred = self._deferred, deferred
        try:
            yield
        finally:
            self._deferred = before

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - handlers are called so
        self.name = signal.Signals(number).name
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        if not self._deferred:
            raise Stopped(f"stopped by {self.name}")
