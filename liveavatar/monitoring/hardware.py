"""What everybody who asks is told of the machine: graphics cards, memory and processor."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import psutil

from liveavatar.monitoring.bottlenecks import find_bottlenecks
from liveavatar.monitoring.history import History
from liveavatar.monitoring.nvml_reader import NO_DRIVER, Cards, NvmlReader
from liveavatar.monitoring.own_processes import OwnProcesses
from liveavatar.monitoring.readings import GpuReading, HostReading, LinkLoad, Reading
from liveavatar.monitoring.remarks import Remark, culprits, memory_use, unknowns

_PERIOD_S = 0.1
_PERIOD_WITHOUT_GPU_S = 1.0
_MAX_AGE_S = 0.9  # every page asks once a second; one summary serves them all
_HOST_MAX_AGE_S = 1.0
_SILENT_S = 5.0  # a driver call that takes longer hangs


@dataclass(frozen=True, kw_only=True)
class GpuSample:
    """One graphics card now. None stands for what the driver does not say.

    `utilisation` and `memory_utilisation` (of the memory controller) in percent of time, `temperature` in Celsius.
    `own_bytes`: this app and its engine; `programs`: others by name, largest first; `unnamed_bytes`: in use by
    somebody the driver does not name. `peak_bytes`: the most in use within the last ten seconds. `history`: the
    highest use of every two seconds, up to two minutes, oldest first.
    """

    index: int
    name: str
    uuid: str = ""
    total_bytes: int
    used_bytes: int
    free_bytes: int
    utilisation: int | None
    temperature: int | None
    memory_utilisation: int | None = None
    power_w: float | None = None
    pcie: LinkLoad | None = None
    nvlink: LinkLoad | None = None
    own_bytes: int | None = None
    programs: tuple[tuple[str, int], ...] = ()
    unnamed_bytes: int = 0
    peak_bytes: int = 0
    history: tuple[int | None, ...] = ()

    @property
    def other_bytes(self) -> int | None:
        """Return what others use, named or not; None where ours cannot be told from theirs."""
        if self.own_bytes is None:
            return None
        return self.unnamed_bytes + sum(num_bytes for _, num_bytes in self.programs)


@dataclass(frozen=True, kw_only=True)
class HardwareSnapshot:
    """The machine now. `problem` says why graphics cards could not be read; empty when they could.

    `warnings`: who else uses the cards and what holds the video up. `unknowns`: what cannot be known.
    """

    gpus: tuple[GpuSample, ...]
    problem: str
    host_total_bytes: int
    host_available_bytes: int
    num_cores: int
    cpu_percent: float | None = None
    own_bytes: int | None = None  # resident memory of this app and its engine
    driver: str = ""  # version of the graphics driver
    warnings: tuple[Remark, ...] = ()
    unknowns: tuple[Remark, ...] = ()


class HardwareMonitor:
    """Reads the machine: ten times a second once started, else when asked. Safe to use from any thread."""

    def __init__(
        self,
        *,
        reader: NvmlReader | None = None,
        clock: Callable[[], float] = time.monotonic,
        is_wsl: bool | None = None,
    ) -> None:
        """All arguments are for tests: another driver, another clock, another system."""
        self._own = OwnProcesses()
        self._reader = reader or NvmlReader(own_pids=self._own.pids)
        self._clock = clock
        self._is_wsl = "microsoft" in platform.release().lower() if is_wsl is None else is_wsl
        self._history = History()
        self._reading: Reading | None = None
        self._host: HostReading | None = None
        self._host_read_at = 0.0
        self._summary: HardwareSnapshot | None = None
        self._summary_at = 0.0
        self._reading_lock = threading.Lock()  # held while the driver is asked, which may hang
        self._lock = threading.Lock()  # guards what was read
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Read ten times a second from now on, once a second where there is no graphics card."""
        if self._thread is None and not self._stopped.is_set():
            self._thread = threading.Thread(target=self._keep_reading, name="hardware", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop reading. May be called twice; a driver call that hangs is left behind."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def snapshot(self) -> HardwareSnapshot:
        """Return a summary less than a second old."""
        if self._reading is None or (self._thread is None and self._is_older(_MAX_AGE_S)):
            self.read()
        now = self._clock()
        with self._lock:
            if self._summary is None or now - self._summary_at > _MAX_AGE_S:
                self._summary, self._summary_at = self._summarise(now), now
            return self._summary

    def read(self) -> Reading:
        """Read the machine now and remember it."""
        with self._reading_lock:
            now = self._clock()
            cards = self._reader.read(now)
            reading = self._as_reading(now, cards)
            with self._lock:
                self._reading = reading
                self._history.add(reading)
        return reading

    def _as_reading(self, now: float, cards: Cards) -> Reading:
        if self._host is None or now - self._host_read_at >= _HOST_MAX_AGE_S:
            memory = psutil.virtual_memory()
            self._host_read_at = now
            self._host = HostReading(
                total_bytes=memory.total,
                available_bytes=memory.available,
                cpu_percent=psutil.cpu_percent(None),
                own_bytes=self._own.rss_bytes(now),
            )
        return Reading(
            time_s=now,
            gpus=cards.gpus,
            host=self._host,
            unreadable=cards.unreadable,
            problem=cards.problem,
            driver=cards.driver,
        )

    def _keep_reading(self) -> None:
        while not self._stopped.is_set():
            reading = self.read()
            has_cards = bool(reading.gpus or reading.unreadable)
            period = _PERIOD_S if has_cards else _PERIOD_WITHOUT_GPU_S
            self._stopped.wait(max(0.01, period - (self._clock() - reading.time_s)))

    def _is_older(self, seconds: float) -> bool:
        return self._reading is None or self._clock() - self._reading.time_s > seconds

    def _summarise(self, now: float) -> HardwareSnapshot:
        reading = self._reading
        assert reading is not None, "snapshot() has read the machine"
        silent_s = now - reading.time_s
        if self._thread is not None and silent_s > _SILENT_S:
            problem = f"The graphics driver has not answered for {silent_s:.0f} s."
            reading = replace(reading, gpus=(), unreadable=(), problem=problem)
        return HardwareSnapshot(
            gpus=tuple(self._sample(gpu) for gpu in reading.gpus),
            problem=reading.problem,
            host_total_bytes=reading.host.total_bytes,
            host_available_bytes=reading.host.available_bytes,
            num_cores=os.cpu_count() or 1,
            cpu_percent=reading.host.cpu_percent,
            own_bytes=reading.host.own_bytes,
            driver=reading.driver,
            warnings=(
                *_driver_trouble(reading.problem),
                *find_bottlenecks(self._history.recent),
                *culprits(reading),
            ),
            unknowns=tuple(unknowns(reading, is_wsl=self._is_wsl)),
        )

    def _sample(self, gpu: GpuReading) -> GpuSample:
        use = memory_use(gpu)
        return GpuSample(
            index=gpu.index,
            name=gpu.name,
            uuid=gpu.uuid,
            total_bytes=gpu.total_bytes,
            used_bytes=gpu.used_bytes,
            free_bytes=gpu.free_bytes,
            utilisation=gpu.utilisation,
            temperature=gpu.temperature,
            memory_utilisation=gpu.memory_utilisation,
            power_w=gpu.power_w,
            pcie=gpu.pcie,
            nvlink=gpu.nvlink,
            own_bytes=use.own_bytes,
            programs=use.programs,
            unnamed_bytes=use.unnamed_bytes,
            peak_bytes=self._history.peak_bytes(gpu.index),
            history=self._history.used_bytes(gpu.index),
        )


def _driver_trouble(problem: str) -> list[Remark]:
    """Return a remark when there is a driver but it does not answer; a machine without one is no trouble."""
    return [] if problem in {"", NO_DRIVER} else [Remark(code="driver_silent", text=problem)]
