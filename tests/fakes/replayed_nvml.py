"""Answers like the module `pynvml`, from a recording."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pynvml

from liveavatar.monitoring.nvml_reader import NvmlReader
from liveavatar.monitoring.readings import GpuReading, LinkLoad, Reading

# What each function of NVML needs from a reading; None there makes it answer "not supported".
FIELDS = (
    "memory_v2",
    "utilisation",
    "temperature",
    "power_w",
    "is_slowed_by_heat",
    "pcie",
    "pcie_limit",
    "nvlink",
    "processes",
    "name",
    "mig",
    "uuid",
    "driver",
)
_LANE_BYTES_PER_S = 3.938e9  # of generation 5


class ReplayedNvml:
    """The part of `pynvml` that the reader uses. `position` is the reading that is true now.

    A reading with a problem makes every call fail as a dead driver does. `unavailable` names FIELDS that the card
    does not report.
    """

    NVML_DEVICE_MIG_ENABLE = pynvml.NVML_DEVICE_MIG_ENABLE

    def __init__(self, readings: Sequence[Reading], *, unavailable: Sequence[str] = ()) -> None:
        self.readings = list(readings)
        self.unavailable = set(unavailable)
        self.position = 0
        self.num_inits = 0
        self.mig_slices: dict[int, list[int]] = {}  # card: indices of readings that are its slices
        self.clock: Callable[[], float] | None = None  # when given, decides the position, round and round
        self._now = self.readings[0]

    @property
    def now(self) -> Reading:
        """Return the reading that is true now."""
        if self.clock is None:
            return self.readings[self.position]
        seconds = self.clock() % (self.readings[-1].time_s + 1e-3)
        return next(each for each in reversed(self.readings) if each.time_s <= seconds)

    def dies(self) -> None:
        """Answer nothing from now on."""
        dead = replace(self.readings[self.position], gpus=(), problem="dead")
        self.readings.append(dead)
        self.position = len(self.readings) - 1

    def own_pids(self, now_s: float) -> set[int]:
        """Return the processes that were ours when it was recorded."""
        return {process.pid for gpu in self.now.gpus for process in gpu.processes or () if process.is_ours}

    def program_name(self, pid: int) -> str:
        """Return a program's name at the time."""
        processes = itertools.chain.from_iterable(gpu.processes or () for gpu in self.now.gpus)
        return next((process.name for process in processes if process.pid == pid), "")

    def reader(self) -> NvmlReader:
        """Return a reader of this driver."""
        return NvmlReader(own_pids=self.own_pids, nvml=self, program_name=self.program_name)

    def nvmlInit(self) -> None:  # noqa: N802
        self.num_inits += 1
        self._alive()

    def nvmlShutdown(self) -> None:  # noqa: N802
        self._alive()

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._alive()
        return len(self.mig_slices) or len(self.now.gpus) + len(self.now.unreadable)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        self._alive()
        return 1000 + index if index in self.mig_slices else index

    def nvmlDeviceGetMigMode(self, handle: int) -> list[int]:  # noqa: N802
        self._alive()
        if "mig" in self.unavailable:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [1, 1] if handle >= 1000 else [0, 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: int) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: int, number: int) -> int:  # noqa: N802
        slices = self.mig_slices[handle - 1000]
        if number >= len(slices):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return slices[number]

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802
        return str(self._value(handle, "name")).encode()

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        if "uuid" in self.unavailable:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return self._gpu(handle).uuid or f"GPU-{handle}"

    def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
        if "driver" in self.unavailable:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return self.now.driver.encode()

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int | None = None) -> Any:  # noqa: N802
        gpu = self._gpu(handle)
        if version is None:
            return SimpleNamespace(total=gpu.total_bytes, used=gpu.used_bytes, free=gpu.free_bytes)
        if "memory_v2" in self.unavailable or gpu.reserved_bytes is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        return SimpleNamespace(
            total=gpu.total_bytes, used=gpu.used_bytes - gpu.reserved_bytes, reserved=gpu.reserved_bytes
        )

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        gpu_percent = self._value(handle, "utilisation")
        return SimpleNamespace(gpu=gpu_percent, memory=self._gpu(handle).memory_utilisation or 0)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        return int(self._value(handle, "temperature"))

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        return round(1000 * self._value(handle, "power_w"))

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:  # noqa: N802
        is_hot = self._value(handle, "is_slowed_by_heat")
        return int(pynvml.nvmlClocksEventReasonHwThermalSlowdown) if is_hot else 0

    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle: int) -> int:  # noqa: N802
        if "pcie_limit" in self.unavailable:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 5

    def nvmlDeviceGetMaxPcieLinkWidth(self, handle: int) -> int:  # noqa: N802
        link: LinkLoad | None = self._gpu(handle).pcie
        return round((link.limit if link and link.limit else 0) / _LANE_BYTES_PER_S) or 16

    def nvmlDeviceGetPcieThroughput(self, handle: int, counter: int) -> int:  # noqa: N802
        link: LinkLoad = self._value(handle, "pcie")
        return round((link.sent if counter == pynvml.NVML_PCIE_UTIL_TX_BYTES else link.received) / 1024)

    def nvmlDeviceGetFieldValues(self, handle: int, fields: Sequence[object]) -> list[Any]:  # noqa: N802
        link: LinkLoad = self._value(handle, "nvlink")
        seconds = self.now.time_s + 1.0
        counters = [round(rate * seconds / 1024) for rate in (link.sent, link.received)]
        limits = [18, round((link.limit or 0) / 18 / 1e6)]
        return [
            SimpleNamespace(
                nvmlReturn=pynvml.NVML_SUCCESS, value=SimpleNamespace(ullVal=number, uiVal=number)
            )
            for number in (*counters, *limits)
        ]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:  # noqa: N802
        return [
            SimpleNamespace(pid=process.pid, usedGpuMemory=process.num_bytes)
            for process in self._value(handle, "processes")
        ]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: int) -> list[Any]:  # noqa: N802
        self._value(handle, "processes")
        return []

    def _alive(self) -> None:
        if self.now.problem:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)

    def _gpu(self, handle: int) -> GpuReading:
        self._alive()
        if any(lost.index == handle for lost in self.now.unreadable):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        found = next((gpu for gpu in self.now.gpus if gpu.index == handle), None)
        if found is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return found

    def _value(self, handle: int, field: str) -> Any:
        value = getattr(self._gpu(handle), field)
        if value is None or field in self.unavailable:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return value


def shifted(readings: Sequence[Reading], seconds: float) -> list[Reading]:
    """Return the same readings at later times."""
    return [replace(reading, time_s=reading.time_s + seconds) for reading in readings]
