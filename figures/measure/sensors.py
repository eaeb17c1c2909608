"""Do an NVIDIA GPU's sensors agree with each other? Writes figures/data/sensors.csv.

    python figures/measure/sensors.py                 about 25 s on a GPU that nobody else uses
    python figures/measure/sensors.py --out PATH      somewhere else

While the GPU idles, idles with a CUDA context, works a little, works hard, and works in bursts of 50 ms,
NVML's three sensors are read as fast as they answer. Columns: phase, sensor, seconds, joules, update_ms (the
median time between two values), samples, card, driver. The sensors:

    counter    nvmlDeviceGetTotalEnergyConsumption, last value less first
    instant    the integral of NVML_FI_DEV_POWER_INSTANT, by trapezoids
    average    the integral of nvmlDeviceGetPowerUsage, which averages over a second on Ampere and newer
"""

import argparse
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pynvml
import torch

OUT = Path(__file__).parents[1] / "data" / "sensors.csv"
SENSORS = ("counter", "instant", "average")


def poll(handle, seconds: float) -> np.ndarray:
    """Rows of time (s), counter (mJ), instant and average power (mW)."""
    field = [pynvml.NVML_FI_DEV_POWER_INSTANT]
    rows, end = [], time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        instant = pynvml.nvmlDeviceGetFieldValues(handle, field)[0].value.uiVal
        counter = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        rows.append((now, counter, instant, pynvml.nvmlDeviceGetPowerUsage(handle)))
        time.sleep(0.0005)
    return np.array(rows, dtype=float)


def observed(handle, work: Callable[[], None], seconds: float) -> np.ndarray:
    """`poll` while `work` is repeated."""
    found: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: found.append(poll(handle, seconds)))
    thread.start()
    while thread.is_alive():
        work()
    thread.join()
    return found[0]


def rows_of(phase: str, rows: np.ndarray) -> list[tuple]:
    t = rows[:, 0]
    joules = {
        "counter": (rows[-1, 1] - rows[0, 1]) / 1e3,
        "instant": np.trapezoid(rows[:, 2], t) / 1e3,
        "average": np.trapezoid(rows[:, 3], t) / 1e3,
    }
    table = []
    for column, sensor in enumerate(SENSORS, start=1):
        changes = t[1:][np.diff(rows[:, column]) != 0]
        period = 1e3 * np.median(np.diff(changes)) if len(changes) > 2 else np.nan
        table.append((phase, sensor, t[-1] - t[0], joules[sensor], period, len(t)))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    table = rows_of("idle", observed(handle, lambda: time.sleep(0.05), 3))
    big = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    few, layer = torch.randn(64, 1000, device="cuda"), torch.randn(1000, 1000, device="cuda")

    def hard() -> None:
        for _ in range(8):
            big @ big
        torch.cuda.synchronize()

    def little() -> None:
        for _ in range(200):
            few @ layer
        torch.cuda.synchronize()

    def bursts() -> None:
        end = time.perf_counter() + 0.05
        while time.perf_counter() < end:
            hard()
        time.sleep(0.05)

    hard()
    phases = {
        "idle, with a context": (lambda: time.sleep(0.05), 3),
        "small products": (little, 4),
        "large products": (hard, 5),
        "bursts of 50 ms": (bursts, 4),
    }
    for phase, (work, seconds) in phases.items():
        table += rows_of(phase, observed(handle, work, seconds))
    columns = ["phase", "sensor", "seconds", "joules", "update_ms", "samples"]
    frame = pd.DataFrame(table, columns=columns).assign(
        card=pynvml.nvmlDeviceGetName(handle), driver=pynvml.nvmlSystemGetDriverVersion()
    )
    frame.to_csv(args.out, index=False, float_format="%.6g", lineterminator="\n")
    print(frame.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
