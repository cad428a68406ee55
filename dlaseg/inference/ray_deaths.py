"""Counts the deaths of workers on a Ray cluster. Imports little: it runs in a process of its own."""

from collections import Counter


class Deaths:
    """Counts which file a worker was at when it died; an actor of its own, since Ray does a lost batch again for ever.

    A file may take its process down: with all of the memory, or by a defect of a decoder.
    """

    def __init__(self) -> None:
        self._current: dict[int, int | None] = {}
        self._deaths: Counter[int] = Counter()

    def start(self, batch: int) -> dict[int, int] | None:
        """Begins a batch, which its first task stands for.

        Returns:
            None; of a batch that was begun before, how many times a worker died at each of its files.
        """
        if batch not in self._current:
            self._current[batch] = None
            return None
        if (task := self._current[batch]) is not None:
            self._deaths[task] += 1
        self._current[batch] = None
        return dict(self._deaths)

    def at(self, batch: int, task: int) -> None:
        """A worker is at a task of a batch."""
        self._current[batch] = task
