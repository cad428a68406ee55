import itertools

import pytest

from dlaseg.benchmarking.timing import Stopwatch, in_turns, percentile, speed_ratio, totals


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_an_inner_phase_does_not_count_for_the_outer_one():
    clock, waits = Clock(), []
    watch = Stopwatch(clock, lambda: waits.append(clock.now))
    clock.now = 5.0  # outside of all phases
    with watch.phase("upsample"):
        clock.now += 1
        with watch.phase("network"):
            clock.now += 10
        clock.now += 2
    clock.now += 100
    with watch.phase("network"):
        clock.now += 20
    assert watch.seconds == {"upsample": 3, "network": 30}
    assert waits == [5, 6, 16, 18, 118, 138]  # the device is idle at every look at the clock
    watch.reset()
    assert watch.seconds == {}


def test_a_phase_that_fails_ends_the_measurement_of_it():
    clock = Clock()
    watch = Stopwatch(clock)
    with pytest.raises(ValueError, match="broken"), watch.phase("network"):
        raise ValueError("broken")
    clock.now = 7
    with watch.phase("encode"):
        pass
    assert watch.seconds == {"network": 0, "encode": 0}


def test_every_round_has_all_names_and_the_order_changes():
    pauses = []
    turns = list(in_turns(["a", "b", "c"], 3, pauses.append))
    assert turns == ["a", "b", "c", "c", "b", "a", "a", "b", "c"]
    assert len(pauses) == 9


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([3.0], 95, 3), ([1, 2, 3, 4], 50, 2.5), (list(range(101)), 95, 95), ([5, 1], 0, 1), ([5, 1], 100, 5)],
)
def test_percentiles_are_those_of_sorted_values(values, percent, expected):
    for order in itertools.islice(itertools.permutations(values), 24):
        assert percentile(order, percent) == pytest.approx(expected)


def test_a_slow_round_cancels_out():
    ratio = speed_ratio([3.0, 30.0, 3.6], [1.0, 10.0, 1.0])
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((3.0, 3.0, 3.6))
    assert str(ratio) == "3.00 (3.00 to 3.60)"


def test_totals_are_of_the_phases_that_are_named():
    assert totals([{"a": 1.0, "b": 2.0, "c": 4.0}], ["a", "c"]) == [5.0]
