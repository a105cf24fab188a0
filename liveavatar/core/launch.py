"""What starts on one machine when an engine is spread over ranks, and what machines say to each other about it."""

from __future__ import annotations

from dataclasses import dataclass

from liveavatar.core.wire_address import WireAddress


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The consecutive ranks of one engine on one machine."""

    first_rank: int
    num_ranks: int  # on this machine
    world_size: int  # on all machines
    store_host: str  # where rank 0 serves the meeting point of torch.distributed
    store_port: int
    wire: WireAddress
    cards: tuple[str, ...] = ()  # UUID of each rank's card; empty: the ranks take cards by their number

    @property
    def ranks(self) -> range:
        """Return the ranks on this machine."""
        return range(self.first_rank, self.first_rank + self.num_ranks)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """From the app to a machine, twice a second: what is to run there. It is also the sign that the app lives."""

    run: str  # names one start of the engine; empty: nothing is to run
    launch: Launch | None = None
    keeps_stacks: bool = False  # the run hangs: have every rank write down where it is before it is ended


@dataclass(frozen=True, kw_only=True)
class Card:
    """A graphics card as its driver tells of it."""

    name: str
    total_bytes: int
    other_bytes: int  # used by programs that are not ours
    uuid: str = ""


@dataclass(frozen=True, kw_only=True)
class MachineState:
    """From a machine to the app, twice a second: what is there and what runs there."""

    name: str
    version: str  # of this project
    address: str = ""  # under which the app's machine, and the others, reach it
    instance: str = ""  # another one each time it is started
    slots: int  # ranks it takes
    cards: tuple[Card, ...] = ()
    run: str = ""
    exit_codes: tuple[tuple[int, int], ...] = ()  # (rank, code) of ranks of this run that ended


MachineMessage = Wanted | MachineState
