import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlaseg.config.training import BaseTrainConfig
from dlaseg.errors import UserError
from dlaseg.training.schedules import check_warmup, cosine, learning_rate, poly, step_decay, warm_up


@pytest.mark.parametrize("step", [0, 1, 50, 99])
def test_without_warmup_the_factor_is_the_poly_formula(step):
    assert poly(step, 100) == pytest.approx((1 - step / 100) ** 0.9)


def test_the_first_step_without_warmup_has_the_whole_learning_rate():
    assert poly(0, 10) == 1


def test_warmup_multiplies_the_poly_factor_by_a_linear_rise():
    assert [poly(s, 100, warmup=4, power=1) for s in range(5)] == pytest.approx(
        [0.25 * 1, 0.5 * 0.99, 0.75 * 0.98, 1 * 0.97, 1 * 0.96]
    )


def test_power_zero_keeps_the_rate_constant():
    assert {poly(step, 7, power=0) for step in range(7)} == {1.0}


@pytest.mark.parametrize("warmup", [0, 1, 3, 10, 1000])
@pytest.mark.parametrize("power", [0, 0.5, 0.9, 3])
def test_no_step_of_a_run_has_a_factor_of_zero_or_less_or_above_one(warmup, power):
    assert all(0 < poly(step, 10, warmup, power) <= 1 for step in range(10))


def test_after_warmup_the_factor_only_falls():
    factors = [poly(step, 20, warmup=5) for step in range(5, 20)]
    assert factors == sorted(factors, reverse=True)
    assert len(set(factors)) == len(factors)


def test_the_staircase_falls_after_every_period_and_not_before():
    factors = [step_decay(step, period=30) for step in (0, 29, 30, 59, 60, 89, 90, 119)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rel=1e-12)


def test_warmup_multiplies_the_staircase_by_a_linear_rise():
    factors = [step_decay(step, period=2, warmup=4, factor=0.5) for step in range(6)]
    assert factors == pytest.approx([0.25, 0.5, 0.75 * 0.5, 0.5, 0.25, 0.25])


def test_a_factor_of_one_keeps_the_rate_constant():
    assert {step_decay(step, period=2, factor=1) for step in range(7)} == {1.0}


def test_the_papers_classifier_has_the_rates_of_its_recipe():
    train = BaseTrainConfig(epochs=120, lr=0.1, schedule="step", step_epochs=30)
    rates = [learning_rate(train, epoch * 7, steps_per_epoch=7) for epoch in (0, 29, 30, 60, 90)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001, 0.0001], rel=1e-12)
    assert learning_rate(train, 30 * 7 - 1, steps_per_epoch=7) == 0.1


def test_the_poly_rate_of_a_record_runs_over_all_its_epochs():
    train = BaseTrainConfig(epochs=5, lr=0.2, warmup_steps=3, poly_power=2)
    for step in range(20):
        assert learning_rate(train, step, steps_per_epoch=4) == 0.2 * poly(step, 20, warmup=3, power=2)


def test_cosine_is_half_a_wave():
    assert [cosine(step, 8) for step in range(8)] == pytest.approx(
        [(1 + math.cos(math.pi * s / 8)) / 2 for s in range(8)]
    )


def test_cosine_warms_up_and_then_only_falls_and_never_to_zero():
    factors = [cosine(step, 20, warmup=5) for step in range(20)]
    assert factors[:5] == pytest.approx([(s + 1) / 5 * cosine(s, 20) for s in range(5)])
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert min(factors) > 0


def test_a_record_can_ask_for_cosine():
    train = BaseTrainConfig(schedule="cosine", lr=0.2, epochs=5, warmup_steps=3)
    assert [learning_rate(train, step, 4) for step in (0, 7)] == [0.2 * cosine(step, 20, 3) for step in (0, 7)]


def test_a_warm_up_that_is_longer_than_the_run_is_refused():
    train = BaseTrainConfig(epochs=5, warmup_steps=50)
    check_warmup(train, steps_per_epoch=10)
    with pytest.raises(UserError, match=r"^train\.warmup_steps 50: the whole run has 45 steps .*, such as 4$"):
        check_warmup(train, steps_per_epoch=9)


FLOORS = [{"schedule": "poly"}, {"schedule": "poly", "poly_power": 2.5}, {"schedule": "cosine"}]


@pytest.mark.parametrize("schedule", FLOORS)
def test_a_floor_is_where_the_schedule_ends_and_the_rate_is_never_below(schedule):
    train = BaseTrainConfig(epochs=50, lr=0.01, min_lr=1e-4, **schedule)
    rates = [learning_rate(train, step, 20) for step in range(1000)]
    assert rates[0] == 0.01
    assert rates == sorted(rates, reverse=True)
    assert 1e-4 < rates[-1] < 1.3e-4


def test_the_poly_rate_with_a_floor_is_that_of_attentive_dla():
    train = BaseTrainConfig(epochs=375, lr=0.01, min_lr=1e-4, poly_power=0.9)
    for epoch in range(375):  # its scheduler takes a step at each epoch
        theirs = (0.01 - 1e-4) * (1 - epoch / 375) ** 0.9 + 1e-4
        assert learning_rate(train, epoch, 1) == pytest.approx(theirs, rel=1e-12)


def test_a_floor_as_high_as_the_rate_keeps_it_constant_after_the_warm_up():
    train = BaseTrainConfig(epochs=4, lr=0.3, min_lr=0.3, warmup_steps=2)
    assert [learning_rate(train, step, 1) for step in range(4)] == [0.15, 0.3, 0.3, 0.3]


def test_the_warm_up_of_attentive_dla_begins_with_a_hundredth_of_the_rate():
    train = BaseTrainConfig(epochs=100, lr=0.01, min_lr=1e-4, warmup_steps=50, warmup_start=0.01, poly_power=0)
    for step in range(49):  # theirs is one step later
        theirs = 0.01 * (1 - (1 - (step + 1) / 50) * (1 - 0.01))
        assert learning_rate(train, step, 1) == pytest.approx(theirs, rel=1e-12)
    assert {learning_rate(train, step, 1) for step in range(49, 100)} == {0.01}


@pytest.mark.parametrize("schedule", ["poly", "cosine", "step"])
def test_the_warm_up_of_every_schedule_begins_where_the_config_says(schedule):
    train = BaseTrainConfig(lr=0.1, schedule=schedule, warmup_steps=4, warmup_start=0.2)
    assert learning_rate(train, 0, 20) == pytest.approx(0.1 * 0.4, rel=1e-12)


@given(st.integers(1, 1000), st.floats(0, 1))
def test_every_warm_up_rises_in_equal_steps_to_exactly_one(warmup, start):
    factors = [start, *(warm_up(step, warmup, start) for step in range(warmup))]
    assert factors[1:] == pytest.approx([start + (1 - start) * k / warmup for k in range(1, warmup + 1)], abs=1e-12)
    assert factors == sorted(factors)
    assert factors[-1] == warm_up(warmup, warmup, start) == 1


@given(
    st.sampled_from(["poly", "cosine", "step"]),
    st.integers(0, 12),
    st.integers(0, 11),
    st.floats(0, 1000),
    st.floats(0, 3),
)
def test_by_default_the_rates_are_those_of_before_to_the_last_bit(schedule, warmup, step, lr, power):
    """What a run without a floor has been trained with."""
    train = BaseTrainConfig(epochs=3, lr=lr, schedule=schedule, warmup_steps=warmup, poly_power=power, step_epochs=1)
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    factor = {
        "poly": rise * (1 - step / 12) ** power,
        "cosine": rise * (1 + math.cos(math.pi * step / 12)) / 2,
        "step": rise * 0.1 ** (step // 4),
    }[schedule]
    assert learning_rate(train, step, 4) == lr * factor


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_lr": -0.1}, r"min_lr -0\.1: use a number from 0 to 1000"),
        ({"min_lr": float("nan")}, r"min_lr nan: use a number from 0 to 1000"),
        ({"min_lr": 0.02}, r"min_lr 0\.02: above train\.lr 0\.01: use a number from 0 to 0\.01"),
        ({"min_lr": 0.001, "schedule": "step"}, r"min_lr 0\.001: only schedules poly and cosine .*, not step: use 0"),
        ({"warmup_start": -0.01}, r"warmup_start -0\.01: use a number from 0 to 1"),
        ({"warmup_start": 1.5}, r"warmup_start 1\.5: use a number from 0 to 1"),
    ],
)
def test_a_floor_and_a_beginning_outside_their_range_are_refused(values, message):
    with pytest.raises(UserError, match=rf"^train\.{message}$"):
        BaseTrainConfig(**values)


@pytest.mark.parametrize("values", [{"min_lr": 0.01}, {"warmup_start": 1.0}, {"lr": 0.0, "min_lr": 0.0}])
def test_a_floor_and_a_beginning_at_the_edge_of_their_range_are_accepted(values):
    BaseTrainConfig(**values)
