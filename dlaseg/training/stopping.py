"""Stop requests by signal: SIGINT (Ctrl-C) and SIGTERM (sent by job schedulers)."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from dlaseg.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """A context manager that handles the two signals.

    The first signal raises `Stopped` where it arrives; inside `deferred` it only sets `name`. A second signal ends the
    process at once, by the default handler.

    Attributes:
        name: of the received signal, such as SIGTERM; None if there was none.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._deferred = False
        self._previous_handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
            # None is a handler that is not Python's, such as R's or Julia's, and could not be set again
            numbers = [number for number in _SIGNALS if signal.getsignal(number) is not None]
            self._previous_handlers = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Signals only set `name`; the caller checks it and stops at a suitable point."""
        with self._set_deferred(True):
            yield

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """Inside `deferred`: signals raise `Stopped` again; raises at once if one has already arrived."""
        with self._set_deferred(False):
            if self.name is not None:
                raise Stopped(f"stopped by {self.name}")
            yield

    @contextmanager
    def _set_deferred(self, value: bool) -> Iterator[None]:
        previous, self._deferred = self._deferred, value
        try:
            yield
        finally:
            self._deferred = previous

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        self.name = signal.Signals(number).name
        for handled in self._previous_handlers:
            signal.signal(handled, signal.SIG_DFL)
        if not self._deferred:
            raise Stopped(f"stopped by {self.name}")
