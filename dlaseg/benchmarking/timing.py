"""Time by phase, repetitions in turns, percentiles and ratios."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import numpy as np

PAUSE = 0.02
"""Seconds between two measurements: the threads of OpenMP and ONNX Runtime wait actively for about as long after their
work, and would take the cores of the next one."""


class Stopwatch:
    """Adds up the seconds that each phase takes. Within a phase, an inner one stops the outer one.

    Args:
        clock: seconds since any moment.
        wait: waits until the device is idle; called before each look at the clock.

    Attributes:
        seconds: by phase, since the last `reset`.

    Examples:
        >>> ticks = iter(range(10))
        >>> watch = Stopwatch(lambda: next(ticks))
        >>> with watch.phase("outer"):
        ...     with watch.phase("inner"):
        ...         pass
        >>> watch.seconds
        {'outer': 2.0, 'inner': 1.0}
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, wait: Callable[[], None] = lambda: None):
        self._clock, self._wait = clock, wait
        self._phases: list[str] = []
        self._since = 0.0
        self.seconds: dict[str, float] = {}

    def reset(self) -> None:
        """Forgets what was measured."""
        self.seconds = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measures the `with` block as part of a phase."""
        self._look()
        self._phases.append(name)
        self.seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self._look()
            self._phases.pop()

    def _look(self) -> None:
        self._wait()
        now = self._clock()
        if self._phases:
            self.seconds[self._phases[-1]] += now - self._since
        self._since = now


def in_turns(names: Sequence[str], rounds: int, pause: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """Yields every name once in each round, in the reverse order in every other round.

    So what slows the machine down for a while, such as heat or another program, affects all alike.

    Examples:
        >>> " ".join(in_turns(["a", "b"], 2, pause=lambda seconds: None))
        'a b b a'
    """
    for number in range(rounds):
        for name in reversed(names) if number % 2 else names:
            pause(PAUSE)
            yield name


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which that share of the values lies; between two values it is interpolated.

    Examples:
        >>> percentile([4, 1, 3, 2, 5], 50), percentile([1, 2], 95)
        (3.0, 1.95)
    """
    return float(np.percentile(values, percent))


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the baseline: median, lowest and highest over the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def speed_ratio(baseline: Sequence[float], seconds: Sequence[float]) -> Ratio:
    """Compares round by round, so that what slows down a whole round cancels out.

    Args:
        baseline: seconds of the baseline in each round.
        seconds: the same of what is compared with it.

    Examples:
        >>> print(speed_ratio([2.0, 4.0, 2.2], [1.0, 2.0, 1.0]))
        2.00 (2.00 to 2.20)
    """
    ratios = [base / own for base, own in zip(baseline, seconds, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))


def totals(samples: Sequence[Mapping[str, float]], phases: Sequence[str]) -> list[float]:
    """The seconds of each sample in some phases together."""
    return [sum(sample[phase] for phase in phases) for sample in samples]
