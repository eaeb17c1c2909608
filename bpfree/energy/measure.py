"""Two shorthands around the meter: a decorator, and the idle baseline."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from .meter import EnergyMeter
from .reading import Reading

P = ParamSpec("P")
R = TypeVar("R")
Report = Callable[[Reading], object]


def measure_idle(seconds: float = 10.0, **options: Any) -> Reading:
    """Measure while doing nothing: a baseline for ``EnergyMeter(idle_w=...)``, whose options it takes."""
    with EnergyMeter(name="idle", **options) as meter:
        time.sleep(seconds)
    return meter.reading


def idle_watts(seconds: float = 1.0, **options: Any) -> dict[str, float]:
    """Watts of every measured channel while this process does nothing, of all visible GPUs; no wait if none.

    A GPU draws more once a process has a context on it: what is shown depends on whether this one has.
    """
    with EnergyMeter(**{"name": "idle", "gpus": "visible", **options}) as meter:
        if meter.selftest:
            meter._sleep(seconds)
    reading = meter.reading
    measured = [v for v in reading.values if v.status == "measured" and v.primary]
    return {v.channel: v.joules / reading.seconds for v in measured if "contention" not in v.flags}


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
        meter = EnergyMeter(**{"name": function.__qualname__, **options})
        with meter:
            result = function(*args, **kwargs)
        metered.reading = meter.reading
        if report is not None:
            report(meter.reading)
        return result

    metered.reading = None
    return metered
