"""One reading of the machine, as the driver and the system gave it. None stands for "was not said"."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GpuProcess:
    """A program that holds memory of a graphics card. `is_ours`: this app or a process it started."""

    pid: int
    name: str
    num_bytes: int | None = None
    is_ours: bool


@dataclass(frozen=True, kw_only=True)
class LinkLoad:
    """What moves over a link, in bytes per second. `limit` is for one direction."""

    sent: float
    received: float
    limit: float | None = None

    @property
    def share(self) -> float | None:
        """Return how much of the link the busier direction uses, 0 to 1."""
        return min(1.0, max(self.sent, self.received) / self.limit) if self.limit else None


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """One graphics card, or one slice of it (MIG). Percentages are shares of time, 0 to 100."""

    index: int
    name: str
    uuid: str = ""
    total_bytes: int
    used_bytes: int  # with what the driver keeps for itself
    reserved_bytes: int | None = None  # what the driver keeps for itself
    utilisation: int | None = None
    memory_utilisation: int | None = None  # of the memory controller
    temperature: int | None = None  # Celsius
    power_w: float | None = None
    is_slowed_by_heat: bool | None = None
    pcie: LinkLoad | None = None
    nvlink: LinkLoad | None = None
    processes: tuple[GpuProcess, ...] | None = None
    used_when_listed: int | None = None  # `used_bytes` of the moment in which `processes` were listed
    is_slice: bool = False

    @property
    def free_bytes(self) -> int:
        """Return what nobody uses."""
        return max(0, self.total_bytes - self.used_bytes)

    @property
    def link_share(self) -> float | None:
        """Return how busy the busiest link is, 0 to 1."""
        shares = [link.share for link in (self.pcie, self.nvlink) if link is not None]
        return max((share for share in shares if share is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class HostReading:
    """Memory and processor of the machine. `own_bytes` is the resident memory of this app and its processes."""

    total_bytes: int
    available_bytes: int
    cpu_percent: float | None = None
    own_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A graphics card that is there but cannot be shown. `code`: "lost", "no_memory" or "silent"."""

    index: int
    name: str
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The whole machine at one moment. `problem` says why no graphics card could be read, else it is empty."""

    time_s: float  # of a clock that never jumps; only differences mean something
    gpus: tuple[GpuReading, ...]
    host: HostReading
    unreadable: tuple[Unreadable, ...] = ()
    problem: str = ""
    driver: str = ""  # version
