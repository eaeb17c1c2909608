"""NVIDIA GPUs through NVML: the energy counter, sampled power, and the rest of the sensors for traces.

- ``nvml-counter``: nvmlDeviceGetTotalEnergyConsumption, millijoules since the driver was loaded (Volta and
  newer).
- ``nvml-power``: the trapezoid of sampled power; NVML_FI_DEV_POWER_INSTANT where the driver has it, otherwise
  nvmlDeviceGetPowerUsage, which averages over 1 s on Ampere and newer except GA100 (NVML reference).

NVIDIA documents no update period: 0.1 s is what an H200 was seen to take (figures/measure/sensors.py); where
a counter is seen to take longer, that is what its intervals are made of, and ``--check`` shows it. Yang
et al. (2024, "Accurate and Convenient Energy Measurements for GPUs", SC24) found that A100 and H100 look at
their power for only a quarter of the time: no interval here covers that. The tolerance of sampled power,
±5 W, is that of the nvidia-smi manual; for the counter none is documented.

No GPU is believed to draw more than twice the highest power limit that it can be set to, which leaves room
for excursions of milliseconds, or ``MOST_GPU_W`` if the driver names none: GPUs are sold for 1,400 W at most.

On Grace Hopper and Grace Blackwell NVML can also tell the power of the whole module (the scope
NVML_POWER_SCOPE_MODULE): it holds the GPU's, so that adding it would bill that twice, and is not read.

Whatever NVML and its Python module raise, errors of their own or any other, means that the sensor is
unavailable, for that reason.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType

from . import cuda
from .accumulator import NS, Accumulator, Counter, Trapezoid
from .channel import Found, SensorChannel, gap_ns, power_at

COUNTER, POWER = "nvml-counter", "nvml-power"
GPU_PERIOD_S = 0.1
AVERAGING_S = 1.0
TOLERANCE_W = 5.0
MOST_GPU_W = 3000.0
VISIBLE = "visible"
GPU_QUANTITIES = (("utilisation", "%"), ("sm_clock", "MHz"), ("temperature", "°C"), ("memory", "B"))


class NvmlUnavailable(RuntimeError):
    """NVML cannot be used here; the message says why."""


@dataclass
class Device:
    """One physical GPU. ``index`` is NVML's (nvidia-smi's), which need not be CUDA's; ``uuid`` is certain."""

    nvml: ModuleType  # pynvml
    index: int
    handle: object
    uuid: str
    name: str
    shared: bool  # MIG splits it: its sensors report the parent, all instances together

    @property
    def channel(self) -> str:
        return f"gpu:{self.index}"

    def instances(self) -> list[str | None]:
        """UUIDs of its MIG instances."""
        nvml, handle = self.nvml, self.handle

        def uuid(i: int) -> str:
            return nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, i))

        count = _try(lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(handle)) or 0
        return [_try(uuid, i) for i in range(count)]

    def processes(self) -> list[int] | None:
        """Process ids that compute on the device; None where the driver does not tell."""
        return _try(lambda: [p.pid for p in self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle)])

    def counter(self) -> SensorChannel:
        """The energy counter's channel. Raises whatever NVML does where there is none."""

        def read() -> int:
            return self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)

        int(read())
        # 64 bits of millijoules never wrap: a backwards step can only be a reset.
        counter = Counter(read, 1e-3, None, self._max_power_w(), int(GPU_PERIOD_S * NS))
        return self._sensor(COUNTER, counter, GPU_PERIOD_S, "energy counter")

    def power(self, hz: float) -> SensorChannel:
        """The sampled power's channel. Raises whatever NVML does where there is none."""
        read, method, period_s = self._power_reader()
        int(read())
        trapezoid = Trapezoid(read, gap_ns(GPU_PERIOD_S), self._max_power_w(), int(GPU_PERIOD_S * NS))
        return self._sensor(POWER, trapezoid, period_s, f"{method} {power_at(hz, period_s)}")

    def _sensor(self, source: str, accumulator: Accumulator, period_s: float, basis: str) -> SensorChannel:
        sampled = source == POWER
        flags = ("mig-shared",) * self.shared + ("sampled-power",) * sampled
        what = period_s, f"{basis}, {self.name} {self.uuid}", TOLERANCE_W * sampled, flags
        return SensorChannel(source, self.channel, accumulator, *what, kind=self.channel)

    def _max_power_w(self) -> float:
        """More than the device can draw."""
        nvml, handle = self.nvml, self.handle
        return _try(lambda: 2e-3 * nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)[1]) or MOST_GPU_W

    def _power_reader(self) -> tuple[Callable[[], int], str, float]:
        nvml, handle = self.nvml, self.handle

        def instant() -> int:
            value = nvml.nvmlDeviceGetFieldValues(handle, [nvml.NVML_FI_DEV_POWER_INSTANT])[0]
            if value.nvmlReturn != nvml.NVML_SUCCESS:
                raise nvml.NVMLError(value.nvmlReturn)
            return value.value.uiVal

        def usage() -> int:
            return nvml.nvmlDeviceGetPowerUsage(handle)

        if _try(instant) is not None:
            return instant, "instant", GPU_PERIOD_S
        ga100 = _try(lambda: tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle))) == (8, 0)
        older = _try(lambda: nvml.nvmlDeviceGetArchitecture(handle) < nvml.NVML_DEVICE_ARCH_AMPERE)
        if ga100 or older:
            return usage, "instantaneous", GPU_PERIOD_S
        return usage, "1 s average", AVERAGING_S

    def gauges(self) -> list[float]:
        """Utilisation in %, SM clock in MHz, temperature in °C, memory in bytes; NaN where unsupported."""
        nvml, handle = self.nvml, self.handle
        gauges = (
            lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
            lambda: float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            lambda: float(nvml.nvmlDeviceGetMemoryInfo(handle).used),
        )
        return [math.nan if (value := _try(gauge)) is None else value for gauge in gauges]


class Nvml:
    """An open NVML session. Raises :class:`NvmlUnavailable` without module, library or device."""

    def __init__(self) -> None:
        try:
            import pynvml
        except ModuleNotFoundError:
            raise NvmlUnavailable("the module pynvml is not installed: pip install nvidia-ml-py") from None
        except Exception as error:
            raise NvmlUnavailable(f"the module pynvml cannot be imported: {_reason(error)}") from None
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
        except Exception as error:
            raise NvmlUnavailable(f"no NVIDIA driver here: {_reason(error)}") from None
        count = _try(lambda: int(pynvml.nvmlDeviceGetCount())) or 0
        self.devices: list[Device] = []
        self.broken: dict[int, str] = {}  # index -> why this GPU cannot be used
        for index in range(count):
            try:
                self.devices.append(self._device(index))
            except Exception as error:
                self.broken[index] = f"the NVIDIA driver does not answer for it: {_reason(error)}"
        if not self.devices:
            self.close()
            why = f" ({self.broken[0].partition(': ')[2]})" if self.broken else ""
            raise NvmlUnavailable(f"the NVIDIA driver answers for none of its {count} GPUs{why}")

    def close(self) -> None:
        _try(lambda: self._nvml.nvmlShutdown())

    def _device(self, index: int) -> Device:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        mode = _try(lambda: self._nvml.nvmlDeviceGetMigMode(handle)[0])
        uuid, name = self._nvml.nvmlDeviceGetUUID(handle), self._nvml.nvmlDeviceGetName(handle)
        uuid, name = (text.decode() if isinstance(text, bytes) else str(text) for text in (uuid, name))
        return Device(self._nvml, index, handle, uuid, name, bool(mode))

    def at(self, index: int) -> Device | None:
        """The GPU of an NVML index."""
        return next((d for d in self.devices if d.index == index), None)

    def find(self, uuid: str) -> Device | None:
        """The physical GPU of a UUID, which may be abbreviated or name a MIG instance of it."""
        if uuid.startswith("MIG-GPU-"):  # drivers before R470: MIG-<parent>/<gpu instance>/<compute instance>
            uuid = uuid.removeprefix("MIG-").partition("/")[0]
        matches = [d for d in self.devices if uuid.startswith("GPU-") and d.uuid.startswith(uuid)]
        if len(matches) == 1:
            return matches[0]
        if not uuid.startswith("MIG-"):
            return None
        return next((d for d in self.devices if d.shared and uuid in d.instances()), None)

    def resolve(self, uuid: str) -> Device | None:
        """The same of a UUID that may lack NVML's prefix, as CUDA and torch spell it."""
        return self.find(uuid) or self.find(f"GPU-{uuid}") or self.find(f"MIG-{uuid}")

    def visible(self) -> tuple[list[Device], str]:
        """The devices CUDA may use, and why there are none if so.

        CUDA itself knows best. Where it is not initialised, CUDA_VISIBLE_DEVICES is read as CUDA reads it:
        a list of UUIDs or indices that ends at the first invalid entry. Indices count in CUDA's order,
        fastest first, and NVML's in PCI order: unless the order is set to PCI_BUS_ID or all GPUs are alike,
        an index says nothing, and is refused rather than guessed.
        """
        uuids = cuda.visible_uuids()
        if uuids is not None:
            found = [self.resolve(uuid) for uuid in uuids]
            return _unique(found), "" if any(found) else "NVML knows none of the devices that torch sees"
        setting = os.environ.get("CUDA_VISIBLE_DEVICES")
        if setting is None:
            return list(self.devices), ""
        alike = len({d.name for d in self.devices}) == 1
        ordered = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or alike
        devices = []
        for entry in map(str.strip, setting.split(",")):
            if entry.isdecimal():
                if not ordered:
                    return [], (
                        f"CUDA_VISIBLE_DEVICES={setting} counts in CUDA's order, which NVML does not know: "
                        "set CUDA_DEVICE_ORDER=PCI_BUS_ID or name UUIDs"
                    )
                device = self.at(int(entry))
            else:
                device = self.find(entry)
            if device is None:
                break
            devices.append(device)
        return _unique(devices), "" if devices else f"CUDA_VISIBLE_DEVICES={setting!r} shows no GPU"


def _try(function: Callable, *arguments: object) -> object:
    """The function's value, or None if this module, driver or device does not have it."""
    try:
        return function(*arguments)
    except Exception:
        return None


def _reason(error: Exception) -> str:
    """What an error says: NVML's own in its words, any other with its type."""
    name = type(error).__name__
    return str(error) if name.startswith("NVMLError") else f"{name}: {error}"


def _unique(devices: Iterable[Device | None]) -> list[Device]:
    return list({d.uuid: d for d in devices if d is not None}.values())


def open_gpus(
    found: Found, sources: Sequence[str], gpus: Sequence[int | str] | None, hz: float
) -> tuple[Nvml | None, list[Device]]:
    """Open NVML for these sources of it, add their channels to ``found``, and say why others are missing.

    ``gpus`` are NVML's indices or UUIDs; None or ``VISIBLE`` for the visible ones. Raises ValueError
    if these cannot be had.
    """
    gpus = None if gpus == VISIBLE else gpus
    try:
        session = Nvml()
    except NvmlUnavailable as error:
        if gpus is not None:
            raise ValueError(f"gpus={gpus!r}: {error}") from None
        for source in sources:
            found.lack(source, "gpu", str(error))
        return None, []
    try:
        if gpus is None:
            devices, reason = session.visible()
        else:
            devices, reason = [_wanted(session, gpu) for gpu in gpus], "gpus=() names none"
    except Exception as error:
        if gpus is not None:
            session.close()
            raise
        devices, reason = [], f"torch does not say which GPUs it sees: {error}"
    for source in sources:
        for index, why in session.broken.items() if gpus is None else ():
            found.lack(source, f"gpu:{index}", why)
        if not devices:
            found.lack(source, "gpu", reason)
    for device in devices:
        for source in sources:
            try:
                made = device.counter() if source == COUNTER else device.power(hz)
                found.channels.append(made)
            except Exception as error:
                lacks = "has no energy counter" if source == COUNTER else "does not report its power"
                volta = "; it needs Volta or newer" if source == COUNTER else ""
                found.lack(source, device.channel, f"{device.name} {lacks} ({_reason(error)}){volta}")
    return session, devices


def _wanted(session: Nvml, gpu: int | str) -> Device:
    device = session.resolve(gpu) if isinstance(gpu, str) else session.at(gpu)
    if device is None:
        if gpu in session.broken:
            raise ValueError(f"gpus: GPU {gpu} cannot be used: {session.broken[gpu]}")
        names = ", ".join(f"{d.index} ({d.uuid})" for d in session.devices)
        raise ValueError(f"Unknown GPU {gpu!r}: NVML sees {names}")
    return device
