"""One reading of graphics cards, memory and processor, shared by everybody who asks."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

import psutil
import pynvml

_MAX_AGE_S = 0.9  # every page asks once a second; one reading serves them all
_RETRY_DRIVER_S = 60.0


@dataclass(frozen=True, kw_only=True)
class GpuSample:
    """One graphics card now. `utilisation` in percent and `temperature` in Celsius are None where unknown."""

    index: int
    name: str
    total_bytes: int
    used_bytes: int
    free_bytes: int
    utilisation: int | None
    temperature: int | None


@dataclass(frozen=True, kw_only=True)
class HardwareSnapshot:
    """The machine now. `problem` says why graphics cards could not be read; empty when they could."""

    gpus: tuple[GpuSample, ...]
    problem: str
    host_total_bytes: int
    host_available_bytes: int
    num_cores: int


class HardwareMonitor:
    """Reads the machine at most once a second, however many ask. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._snapshot: HardwareSnapshot | None = None
        self._read_at = 0.0
        self._driver_tried_at = -_RETRY_DRIVER_S
        self._has_driver = False
        self._problem = ""

    def snapshot(self) -> HardwareSnapshot:
        """Return a reading less than a second old."""
        with self._lock:
            now = time.monotonic()
            if self._snapshot is None or now - self._read_at > _MAX_AGE_S:
                self._snapshot = self._read()
                self._read_at = now
            return self._snapshot

    def _read(self) -> HardwareSnapshot:
        memory = psutil.virtual_memory()
        return HardwareSnapshot(
            gpus=self._read_gpus(),
            problem=self._problem,
            host_total_bytes=memory.total,
            host_available_bytes=memory.available,
            num_cores=os.cpu_count() or 1,
        )

    def _read_gpus(self) -> tuple[GpuSample, ...]:
        if not self._connect():
            return ()
        try:
            return tuple(_sample(index) for index in range(pynvml.nvmlDeviceGetCount()))
        except pynvml.NVMLError as error:
            self._has_driver, self._problem = False, f"The graphics driver stopped answering ({error})."
            return ()

    def _connect(self) -> bool:
        """Connect to the driver, trying again once a minute: it may be installed or come back later."""
        now = time.monotonic()
        if not self._has_driver and now - self._driver_tried_at >= _RETRY_DRIVER_S:
            self._driver_tried_at = now
            try:
                pynvml.nvmlInit()
                self._has_driver, self._problem = True, ""
            except pynvml.NVMLError_LibraryNotFound:
                self._problem = "This machine has no NVIDIA driver."
            except pynvml.NVMLError as error:
                self._problem = f"The graphics driver does not answer ({error})."
        return self._has_driver


def _sample(index: int) -> GpuSample:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    return GpuSample(
        index=index,
        name=name.decode() if isinstance(name, bytes) else name,
        total_bytes=memory.total,
        used_bytes=memory.used,
        free_bytes=memory.free,
        utilisation=_utilisation(handle),
        temperature=_temperature(handle),
    )


def _utilisation(handle: object) -> int | None:
    try:
        return int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except pynvml.NVMLError:
        return None


def _temperature(handle: object) -> int | None:
    try:
        return int(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
    except pynvml.NVMLError:
        return None
