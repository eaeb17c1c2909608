"""An energy meter that says what it knows: joules per source, measured or estimated, never blurred.

    from bpfree.energy import EnergyMeter

    with EnergyMeter(country="POL") as meter:
        with meter.window("epoch 1") as epoch:
            ...
    print(meter.reading)            # a table: per channel joules, interval, status and why
    epoch.reading.measured_j        # GPUs, CPU packages and DRAM by their sensors; None if there are none
    epoch.reading.estimated_j       # CPU seconds times watts: a model, never added to the former

Sources: ``nvml-counter``, ``nvml-power``, ``rapl``, ``estimate``, and your own (:class:`Source`). One that
cannot be read is "unavailable" with its reason, and its joules are None, never 0; so is a total to which a
sensor belongs that was lost in the middle. A window shorter than its sensor's update has its share of that by
time.

``python -m bpfree.energy --check`` lists the sources, and measures how often they move and what idling draws.
:func:`compare` measures two pieces of work against each other, ``EnergyMeter(crosscheck="codecarbon")`` runs
CodeCarbon's tracker beside. Joules are gross unless ``idle_w`` is given: then the reading has both.

Logic verified; sensors unverified on hardware so far: every rule here is tested against a stub of NVML,
imitated powercap trees and an imitated perf PMU, and no reading has yet been compared with a wattmeter.

Nothing else of bpfree is needed: this folder, psutil, nvidia-ml-py, tabulate, CodeCarbon for carbon, and
scipy for :func:`compare`.
"""

from .carbon import Footprint
from .check import Check, check
from .compare import Comparison, compare
from .measure import measure, measure_idle
from .meter import SOURCES, EnergyMeter, Window
from .reading import EnergyValue, Reading
from .source import FileSource, Source

__all__ = [
    "SOURCES",
    "Check",
    "Comparison",
    "EnergyMeter",
    "EnergyValue",
    "FileSource",
    "Footprint",
    "Reading",
    "Source",
    "Window",
    "check",
    "compare",
    "measure",
    "measure_idle",
]
