"""Whatever a sensor's library or file does, the meter goes on, and the reading says what failed."""

from __future__ import annotations

import ctypes
import os
import sys

import pytest

from bpfree.energy import EnergyMeter, estimate, watch
from conftest import HandMeter

ERRORS = [
    UnicodeDecodeError("utf-8", b"\xf8", 0, 1, "invalid start byte"),
    AttributeError("module 'pynvml' has no attribute"),
    RuntimeError("a bug"),
    ctypes.ArgumentError("argument 2"),
    OSError(5, "Input/output error"),
    KeyError("NVML_ERROR_999"),
]
CALLS = [
    "nvmlInit",
    "nvmlShutdown",
    "nvmlDeviceGetCount",
    "nvmlDeviceGetHandleByIndex",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetName",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetArchitecture",
    "nvmlDeviceGetPowerManagementLimitConstraints",
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetClockInfo",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetMemoryInfo",
]
GPU = ["nvml-counter", "nvml-power"]


def failing(error):
    def call(*_):
        raise error

    return call


def run(stub, **options):
    stub.at(10.0)
    with HandMeter(sources=GPU, trace=True, _clock=stub.clock, **options) as meter:
        stub.at(12.0)
        meter._sample()
        stub.at(20.0)
    return meter


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_of_nvml_that_fails_in_any_way_from_the_start(stub, monkeypatch, call, error):
    import pynvml

    with monkeypatch.context() as patched:
        patched.setattr(pynvml, call, failing(error))
        reading = run(stub).reading
    if call == "nvmlShutdown":
        pynvml.nvmlShutdown()
    assert reading.values
    assert all(v.reason for v in reading.values if v.status == "unavailable")
    assert not any("sampler-stopped" in v.flags for v in reading.values)
    if call in CALLS[2:6:] or call == "nvmlInit":  # needed for everything
        assert reading.measured_j is None
    elif call in ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetFieldValues"):
        assert reading.measured_j == pytest.approx(1000.0)  # by the other source, or the other call
    if call in ("nvmlInit", "nvmlDeviceGetName", "nvmlDeviceGetUUID"):
        assert type(error).__name__ in reading.values[0].reason


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_sensors_that_fail_in_any_way_while_they_are_read(stub, monkeypatch, error):
    import pynvml

    stub.at(10.0)
    with HandMeter(sources=GPU, trace=True, _clock=stub.clock) as meter:
        with monkeypatch.context() as patched:
            for call in CALLS[2:]:
                patched.setattr(pynvml, call, failing(error))
            stub.at(15.0)
            meter._sample()
            with meter.window() as blind:
                stub.at(16.0)
        with meter.window() as seeing:
            stub.at(20.0)
            meter._sample()
    for reading in (blind.reading, meter.reading):
        assert reading.measured_j is None
        assert reading.lacking == ("gpu:0",)
        assert all(type(error).__name__ in v.reason for v in reading.values)
    assert seeing.reading.measured_j == pytest.approx(400.0)
    assert len(meter.trace)


@pytest.mark.parametrize(
    "name",
    [
        "NVML_FI_DEV_POWER_INSTANT",
        "NVML_DEVICE_ARCH_AMPERE",
        "NVML_CLOCK_SM",
        "NVML_TEMPERATURE_GPU",
        "NVMLError",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetPowerManagementLimitConstraints",
        "nvmlDeviceGetComputeRunningProcesses",
    ],
)
def test_a_pynvml_that_lacks_a_name(stub, monkeypatch, name):
    import pynvml

    with monkeypatch.context() as patched:
        patched.delattr(pynvml, name)
        reading = run(stub).reading
    assert reading.measured_j == pytest.approx(1000.0)
    assert not any("sampler-stopped" in v.flags for v in reading.values)


@pytest.mark.parametrize("content", ["raise RuntimeError('broken')", "import no_such_thing", "x ="])
def test_a_pynvml_that_cannot_be_imported_or_is_another_module(monkeypatch, tmp_path, content):
    (tmp_path / "pynvml.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    with EnergyMeter(sources=GPU, hz=0) as meter:
        pass
    assert all(v.status == "unavailable" and "pynvml" in v.reason for v in meter.reading.values)
    (tmp_path / "pynvml.py").write_text("")  # it is there and knows nothing
    sys.modules.pop("pynvml", None)
    with EnergyMeter(sources=GPU, hz=0) as meter:
        pass
    assert all("nvmlInit" in v.reason for v in meter.reading.values)
    sys.modules.pop("pynvml", None)


def test_a_name_that_is_no_utf8(stub):
    stub.identity(0, "GPU-00000010-1111", b"\xf8\x95\xa0\x81")
    reading = run(stub).reading
    assert reading.measured_j is None
    assert all("UnicodeDecodeError" in v.reason for v in reading.values)


@pytest.mark.parametrize("setting", ["²", "0,²", "\udcff", "", ","])
def test_any_setting_of_the_visible_devices(stub, monkeypatch, setting):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert run(stub).reading.values


# -------------------------------------------------------------------- RAPL's files


@pytest.mark.parametrize("name", ["name", "energy_uj", "max_energy_range_uj"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"1e9", b"0x10", b"-\n", b"1 2", "folder"])
def test_any_file_of_a_zone_may_be_anything(powercap, clock, name, content):
    powercap.zone("intel-rapl:0", "package-0")
    powercap.zone("intel-rapl:1", "package-1")
    path = powercap.path("intel-rapl:0") / name
    path.unlink()
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with HandMeter(sources=["rapl"], sysfs=powercap.sysfs, _clock=clock) as meter:
        clock.seconds += 1
        powercap.set(rapl_1=31_000_000)
        if name != "energy_uj":
            powercap.set(rapl_0=11_000_000)
    values = {v.channel: v for v in meter.reading.values}
    assert values["cpu:package-1"].joules == pytest.approx(30.0)
    if name == "energy_uj":
        assert values["cpu:package-0"].status == "unavailable"
        assert str(powercap.path("intel-rapl:0")) in values["cpu:package-0"].reason
    elif name == "max_energy_range_uj":
        assert values["cpu:package-0"].joules == pytest.approx(10.0)
    elif content in (None, b"\xff\xfe", "folder"):
        assert values["intel-rapl:0"].status == "unavailable"


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff", b"-5", b"1.5"])
def test_a_counter_that_turns_to_nonsense_is_lost(powercap, clock, content):
    powercap.zone("intel-rapl:0", "package-0")
    powercap.zone("intel-rapl:1", "package-1")
    with HandMeter(sources=["rapl"], sysfs=powercap.sysfs, _clock=clock) as meter:
        clock.seconds += 1
        powercap.set(rapl_1=31_000_000)
        (powercap.path("intel-rapl:0") / "energy_uj").write_bytes(content)
    assert meter.reading.measured_j is None
    assert meter.reading.lacking == ("cpu:package-0",)


def test_a_die_that_vanishes_while_it_is_compared(powercap, clock, monkeypatch):
    powercap.zone("intel-rapl:0", "package-0-die-0", 7_000_000)
    powercap.zone("intel-rapl:1", "package-0-die-1", 9_000_000)
    reads, pread = [], os.pread

    def vanishing(*arguments):
        reads.append(None)
        if len(reads) == 3:  # the first die's, for the comparison
            raise OSError(19, "No such device")
        return pread(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", vanishing)
        meter = HandMeter(sources=["rapl"], sysfs=powercap.sysfs, _clock=clock)
    with meter:
        clock.seconds += 1
    assert {v.channel for v in meter.reading.values} == {"cpu:package-0-die-0", "cpu:package-0-die-1"}


def test_a_powercap_that_cannot_be_listed(monkeypatch, powercap):
    monkeypatch.setattr(type(powercap.root), "rglob", failing(OSError(5, "Input/output error")))
    with EnergyMeter(sources=["rapl"], sysfs=powercap.sysfs, hz=0) as meter:
        pass
    assert meter.reading.values[0].status == "unavailable"
    assert str(powercap.root) in meter.reading.values[0].reason


# -------------------------------------------------------------------- psutil and the system


def test_children_that_cannot_be_listed_leave_no_estimate(monkeypatch):
    error = estimate.psutil.AccessDenied(1)
    monkeypatch.setattr(estimate, "_linux_children", failing(error))
    monkeypatch.setattr(estimate.psutil.Process, "children", failing(error))
    with EnergyMeter(sources=["estimate"], hz=0) as meter:
        sum(range(10_000))
    [value] = meter.reading.values
    assert (value.status, value.joules) == ("unavailable", None)
    assert "cannot be listed" in value.reason
    assert meter.reading.estimated_j is None


def test_a_process_that_psutil_cannot_see_is_traced_without_its_memory(monkeypatch):
    monkeypatch.setattr(watch.psutil, "Process", failing(watch.psutil.NoSuchProcess(1)))
    with EnergyMeter(sources=["estimate"], hz=50, trace=True) as meter:
        pass
    frame = meter.trace
    assert frame[frame.quantity == "rss"].value.isna().all()
    assert len(frame)
