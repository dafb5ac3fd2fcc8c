"""One thread for the linear algebra of latency models: their matrices have a few dozen rows, and a second thread only waits.

On two cores with a busy neighbour, threads of OpenBLAS that spin for each other made a fit take fourteen times as long.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
R = TypeVar("R")


def one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` with the BLAS libraries of NumPy and SciPy held to one thread while it runs.

    >>> one_thread(lambda: 3)()
    3
    """

    @functools.wraps(function)
    def held(*args: P.args, **kwargs: P.kwargs) -> R:
        with _controller("scipy.linalg" in sys.modules).limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return held


@functools.cache
def _controller(with_scipy: bool) -> ThreadpoolController:
    """Knows the libraries that are loaded when it is made: SciPy brings one of its own."""
    return ThreadpoolController()
