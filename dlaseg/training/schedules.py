"""The learning rate as a function of the step alone, so that a resumed run needs no state for it."""


def poly(step: int, total: int, warmup: int = 0, power: float = 0.9) -> float:
    """Factor of the learning rate: linear warm-up, then (1 - step / total) ** power.

    Args:
        step: 0 to total - 1, the step about to be taken.
        total: steps of the whole run.
        warmup: steps over which the factor rises.
        power: 0.9 in the paper (sec. 5.3); 0 keeps the rate constant.

    Returns:
        Greater than 0, at most 1.

    Example:
        >>> [round(poly(step, total=4, warmup=2, power=1), 3) for step in range(4)]
        [0.5, 0.75, 0.5, 0.25]
    """
    rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return float(rising * (1 - step / total) ** power)
