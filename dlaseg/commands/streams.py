"""Standard output and standard error: characters that they cannot encode, and readers that end early."""

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from dlaseg.text import ESCAPE


@contextmanager
def standard_streams() -> Iterator[None]:
    """Escapes characters that a stream cannot encode; ends with exit code 1 if the reader of a pipe is gone, as `head`.

    Everything is written before the context ends, because Python itself reports what fails after that with a traceback.

    Raises:
        SystemExit: 1 for a pipe without a reader, see https://docs.python.org/3/library/signal.html#note-on-sigpipe; 2
            if standard output cannot be written, for example to a full disk, after a message.
    """
    for stream in _streams():
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPE)
    try:
        try:
            yield
        finally:
            _flush_output()
    except BrokenPipeError:
        if not reader_is_gone():
            raise
        for stream in filter(_has_no_reader, _streams()):
            _discard(stream)
        raise SystemExit(1) from None


def reader_is_gone() -> bool:
    """Whether what reads standard output or standard error has ended."""
    return any(map(_has_no_reader, _streams()))


def _streams() -> list[TextIO]:
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]  # None: closed by the shell


def _has_no_reader(stream: TextIO) -> bool:
    poll = select.poll()
    try:
        poll.register(stream, select.POLLOUT)
    except (OSError, ValueError):  # not a file of the system
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _flush_output() -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard(sys.stdout)
        print(f"dlaseg: standard output: {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None


def _discard(stream: TextIO) -> None:
    """Lets go of what is still to be written, which Python tries once more at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
