import pytest

from dlaseg.training.schedules import poly


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
