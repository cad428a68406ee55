import math

import pytest

from dlaseg.config.training import BaseTrainConfig
from dlaseg.errors import UserError
from dlaseg.training.schedules import check_warmup, cosine, learning_rate, poly, step_decay


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
