"""Peak memory, measured in a process of its own: the peak of a process never falls again."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

from dlaseg.errors import UserError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def in_new_process(
    function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Calls a function of a module in a new process, which shares nothing with this one.

    Raises:
        UserError: the system ended the process; and what the function raises.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool as error:
            raise UserError(
                "the system ended the process, probably because memory ran out: close other programs"
            ) from error
