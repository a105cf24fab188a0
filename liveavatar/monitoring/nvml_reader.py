"""Reads graphics cards through NVML and survives everything that NVML may leave out or do.

Cheap values (memory, utilisation, temperature, power) are read every time. Programs and links cost milliseconds (a
PCI Express rate is measured over 2 x 20 ms), so the cards take turns: each reading looks closer at the one card whose
details are oldest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pynvml

from liveavatar.monitoring.own_processes import program_name
from liveavatar.monitoring.readings import GpuProcess, GpuReading, LinkLoad, Unreadable

NO_DRIVER = "This machine has no NVIDIA driver."

_DETAILS_MAX_AGE_S = 1.0
_RETRY_AFTER_DEATH_S = 5.0
_RETRY_NO_DRIVER_S = 60.0  # it may be installed meanwhile
_ALL_NVLINKS = 0xFFFFFFFF
_PCIE_LANE_BYTES_PER_S = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
_HEAT = (
    pynvml.nvmlClocksEventReasonSwThermalSlowdown
    | pynvml.nvmlClocksEventReasonHwThermalSlowdown
    | pynvml.nvmlClocksEventReasonHwSlowdown
)

Value = TypeVar("Value")


@dataclass(kw_only=True)
class _Card:
    """A card or slice, and what is remembered of it from one reading to the next."""

    index: int
    handle: Any
    name: str
    uuid: str
    is_slice: bool = False
    pcie_limit: float | None = None
    processes: tuple[GpuProcess, ...] | None = None
    used_when_listed: int | None = None
    pcie: LinkLoad | None = None
    nvlink: LinkLoad | None = None
    nvlink_counters: tuple[float, int, int] | None = None  # time, KiB sent, KiB received
    details_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Cards:
    """What NVML said of all cards."""

    gpus: tuple[GpuReading, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    problem: str = ""
    driver: str = ""  # version


@dataclass(kw_only=True)
class NvmlReader:
    """Reads all cards. Used by one thread at a time.

    `nvml` is the module `pynvml` or something that answers like it. `own_pids` returns which processes are ours.
    """

    own_pids: Callable[[float], Collection[int]]
    nvml: Any = pynvml
    program_name: Callable[[int], str] = program_name
    has_driver: bool = field(default=False, init=False)
    _problem: str = field(default="", init=False)
    _driver: str = field(default="", init=False)
    _retry_at: float = field(default=float("-inf"), init=False)
    _cards: list[_Card] = field(default_factory=list, init=False)
    _num_devices: int | None = field(default=None, init=False)

    def read(self, now_s: float) -> Cards:
        """Return the cards now. Never raises for what the driver does."""
        if not self._connect(now_s):
            return Cards(problem=self._problem)
        try:
            self._list_cards()
        except pynvml.NVMLError as error:
            self._lose_driver(now_s, f"The graphics driver stopped answering ({error}).")
            return Cards(problem=self._problem)
        self._read_details(now_s)
        gpus, unreadable = [], []
        for card in self._cards:
            found = self._read_card(card)
            if isinstance(found, Unreadable):
                unreadable.append(found)
            else:
                gpus.append(found)
        return Cards(gpus=tuple(gpus), unreadable=tuple(unreadable), driver=self._driver)

    def _connect(self, now_s: float) -> bool:
        if not self.has_driver and now_s >= self._retry_at:
            try:
                self.nvml.nvmlInit()
                self.has_driver, self._problem, self._num_devices = True, "", None
                self._driver = _text(_known(self.nvml.nvmlSystemGetDriverVersion))
            except pynvml.NVMLError_LibraryNotFound:
                self._problem = NO_DRIVER
                self._retry_at = now_s + _RETRY_NO_DRIVER_S
            except pynvml.NVMLError as error:
                self._problem = f"The graphics driver does not answer ({error})."
                self._retry_at = now_s + _RETRY_AFTER_DEATH_S
        return self.has_driver

    def _lose_driver(self, now_s: float, problem: str) -> None:
        self.has_driver, self._problem = False, problem
        self._retry_at = now_s + _RETRY_AFTER_DEATH_S
        self._cards = []
        _known(self.nvml.nvmlShutdown)

    def _list_cards(self) -> None:
        """List the cards anew when their number has changed."""
        num_devices = self.nvml.nvmlDeviceGetCount()
        if num_devices == self._num_devices:
            return
        self._num_devices, self._cards = num_devices, []
        for number in range(num_devices):
            handle = _known(self.nvml.nvmlDeviceGetHandleByIndex, number)
            for part, is_slice in self._parts(handle):
                self._cards.append(
                    _Card(
                        index=len(self._cards),
                        handle=part,
                        name=self._name(part),
                        uuid="" if part is None else _text(_known(self.nvml.nvmlDeviceGetUUID, part)),
                        is_slice=is_slice,
                        pcie_limit=None if is_slice else self._pcie_limit(part),
                    )
                )

    def _parts(self, handle: Any) -> list[tuple[Any, bool]]:
        """Return the slices of a card that is divided (MIG), else the card itself."""
        mode = None if handle is None else _known(self.nvml.nvmlDeviceGetMigMode, handle)
        if not mode or mode[0] != self.nvml.NVML_DEVICE_MIG_ENABLE:
            return [(handle, False)]
        max_slices = _known(self.nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0
        slices = [
            _known(self.nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
            for number in range(max_slices)
        ]
        return [(each, True) for each in slices if each is not None]

    def _name(self, handle: Any) -> str:
        name = "" if handle is None else _text(_known(self.nvml.nvmlDeviceGetName, handle))
        return name or "graphics card"

    def _pcie_limit(self, handle: Any) -> float | None:
        generation = _known(self.nvml.nvmlDeviceGetMaxPcieLinkGeneration, handle)
        lanes = _known(self.nvml.nvmlDeviceGetMaxPcieLinkWidth, handle)
        rate = _PCIE_LANE_BYTES_PER_S.get(generation or 0)
        return rate * lanes if rate and lanes else None

    def _read_card(self, card: _Card) -> GpuReading | Unreadable:
        try:
            total, used, reserved = self._memory(card.handle)
        except pynvml.NVMLError as error:
            return self._unreadable(card, error)
        rates = _known(self.nvml.nvmlDeviceGetUtilizationRates, card.handle)
        reasons = _known(self.nvml.nvmlDeviceGetCurrentClocksEventReasons, card.handle)
        milliwatts = _known(self.nvml.nvmlDeviceGetPowerUsage, card.handle)
        temperature = _known(self.nvml.nvmlDeviceGetTemperature, card.handle, pynvml.NVML_TEMPERATURE_GPU)
        return GpuReading(
            index=card.index,
            name=card.name,
            uuid=card.uuid,
            total_bytes=total,
            used_bytes=used,
            reserved_bytes=reserved,
            utilisation=None if rates is None else int(rates.gpu),
            memory_utilisation=None if rates is None else int(rates.memory),
            temperature=temperature,
            power_w=None if milliwatts is None else milliwatts / 1000,
            is_slowed_by_heat=None if reasons is None else bool(reasons & _HEAT),
            pcie=card.pcie,
            nvlink=card.nvlink,
            processes=card.processes,
            used_when_listed=card.used_when_listed,
            is_slice=card.is_slice,
        )

    def _memory(self, handle: Any) -> tuple[int, int, int | None]:
        """Return total, used and reserved bytes. Raises NVMLError."""
        if handle is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        try:
            memory = self.nvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
            return int(memory.total), int(memory.used + memory.reserved), int(memory.reserved)
        except (
            pynvml.NVMLError_FunctionNotFound,
            pynvml.NVMLError_NotSupported,
            pynvml.NVMLError_ArgumentVersionMismatch,
        ):
            memory = self.nvml.nvmlDeviceGetMemoryInfo(handle)
            return int(memory.total), int(memory.used), None

    def _unreadable(self, card: _Card, error: pynvml.NVMLError) -> Unreadable:
        if isinstance(error, pynvml.NVMLError_GpuIsLost):
            code = "lost"
        elif isinstance(error, pynvml.NVMLError_NotSupported):
            code = "no_memory"
        else:
            code = "silent"
            self._num_devices = None  # slices may have been cut anew: list them again
        return Unreadable(index=card.index, name=card.name, code=code, reason=str(error))

    def _read_details(self, now_s: float) -> None:
        """Look at programs and links of the card whose turn it is, and of cards that are new."""
        for card in self._cards:
            if card.details_at is None:
                self._read_programs(card, now_s)
        due = [card for card in self._cards if now_s - (card.details_at or 0.0) >= _DETAILS_MAX_AGE_S]
        if due:
            card = min(due, key=lambda each: each.details_at or 0.0)
            self._read_programs(card, now_s)
            if not card.is_slice and card.handle is not None:
                card.pcie = self._pcie(card)
                card.nvlink = self._nvlink(card, now_s)

    def _read_programs(self, card: _Card, now_s: float) -> None:
        card.details_at = now_s
        lists = [
            _known(ask, card.handle)
            for ask in (
                self.nvml.nvmlDeviceGetComputeRunningProcesses,
                self.nvml.nvmlDeviceGetGraphicsRunningProcesses,
            )
            if card.handle is not None
        ]
        if all(each is None for each in lists):
            card.processes = None
            return
        own_pids = self.own_pids(now_s)
        by_pid = {process.pid: process.usedGpuMemory for each in lists for process in each or ()}
        card.processes = tuple(
            GpuProcess(pid=pid, name=self.program_name(pid), num_bytes=num_bytes, is_ours=pid in own_pids)
            for pid, num_bytes in by_pid.items()
        )
        memory = _known(self._memory, card.handle)
        card.used_when_listed = None if memory is None else memory[1]

    def _pcie(self, card: _Card) -> LinkLoad | None:
        sent = _known(self.nvml.nvmlDeviceGetPcieThroughput, card.handle, pynvml.NVML_PCIE_UTIL_TX_BYTES)
        received = _known(self.nvml.nvmlDeviceGetPcieThroughput, card.handle, pynvml.NVML_PCIE_UTIL_RX_BYTES)
        if sent is None or received is None:
            return None
        return LinkLoad(sent=sent * 1024.0, received=received * 1024.0, limit=card.pcie_limit)

    def _nvlink(self, card: _Card, now_s: float) -> LinkLoad | None:
        """Return the rate since the last look; None at the first one and on cards without NVLink."""
        fields = [
            (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, _ALL_NVLINKS),
            (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, _ALL_NVLINKS),
            (pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT, 0),
            (pynvml.NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON, 0),
        ]
        values = _known(self.nvml.nvmlDeviceGetFieldValues, card.handle, fields)
        if values is None or any(value.nvmlReturn != pynvml.NVML_SUCCESS for value in values[:2]):
            return None
        sent, received = (int(value.value.ullVal) for value in values[:2])
        before, card.nvlink_counters = card.nvlink_counters, (now_s, sent, received)
        if before is None or now_s <= before[0] or sent < before[1] or received < before[2]:
            return None
        has_speed = all(value.nvmlReturn == pynvml.NVML_SUCCESS for value in values[2:])
        limit = values[2].value.uiVal * values[3].value.uiVal * 1e6 if has_speed else None
        seconds = now_s - before[0]
        return LinkLoad(
            sent=(sent - before[1]) * 1024 / seconds,
            received=(received - before[2]) * 1024 / seconds,
            limit=limit or None,
        )


def _known(ask: Callable[..., Value], *arguments: object) -> Value | None:
    """Return what NVML answers, None when it does not know."""
    try:
        return ask(*arguments)
    except pynvml.NVMLError:
        return None


def _text(answer: str | bytes | None) -> str:
    """Return a string of NVML, which older versions of its binding give as bytes; empty when it is not known."""
    return answer.decode() if isinstance(answer, bytes) else answer or ""
