"""Two shorthands around the meter: a decorator, and the idle baseline."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from .meter import EnergyMeter
from .reading import Reading

P = ParamSpec("P")
R = TypeVar("R")
Report = Callable[[Reading], object]


def measure_idle(seconds: float = 10.0, **options: Any) -> Reading:
    """Measure while doing nothing: a baseline for ``EnergyMeter(idle_w=...)``, whose options it takes.

    What worked meanwhile, for this process or for others, has the flag "contention": it is no baseline, and
    ``watts`` leaves it out. Without a sensor it does not wait. A GPU draws more once a process has a context
    on it: what is measured depends on whether this one has. ``gpus="visible"`` has those that it does not
    use, too.
    """
    with EnergyMeter(**{"name": "idle", **options}, _at_rest=True) as meter:
        if meter.selftest:
            meter._sleep(seconds)
    return meter.reading


@overload
def measure(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def measure(
    *, report: Report | None = print, **options: Any
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def measure(function=None, /, *, report=print, **options):
    """Decorator: meter every call. The last reading is ``function.reading`` and goes to ``report``.

    ``options`` go to :class:`EnergyMeter`: ``@measure`` or ``@measure(country="POL", report=None)``.
    """
    if function is None:
        return functools.partial(measure, report=report, **options)

    @functools.wraps(function)
    def metered(*args: object, **kwargs: object) -> object:
        with EnergyMeter(**{"name": function.__qualname__, **options}) as meter:
            result = function(*args, **kwargs)
        metered.reading = meter.reading
        if report is not None:
            report(meter.reading)
        return result

    metered.reading = None
    return metered
