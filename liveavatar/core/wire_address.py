"""Where an engine process finds the app: a small file in its run directory."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

STACKS_SUFFIX = ".stacks.txt"  # of the file beside it where each rank writes its stacks when told to
_FILE_NAME = "wire.json"


@dataclass(frozen=True, kw_only=True)
class WireAddress:
    """The two sockets of the app, as ZeroMQ endpoints, and the keys when they are reached over a network."""

    control: str  # a ROUTER: commands to one rank each, and each rank's Hello
    events: str  # a PULL: what the ranks say
    public_key: str = (
        ""  # CURVE, both sides use the same pair; empty: a socket file that only this user can open
    )
    secret_key: str = ""

    @classmethod
    def in_directory(cls, run_dir: Path) -> WireAddress:
        """Return the address of sockets that are files in `run_dir`."""
        return cls(control=f"ipc://{run_dir}/control", events=f"ipc://{run_dir}/events")

    @classmethod
    def on_network(cls, host: str) -> WireAddress:
        """Return the address of sockets on any two free ports of `host`."""
        return cls(control=f"tcp://{host}:*", events=f"tcp://{host}:*")

    def write(self, run_dir: Path) -> None:
        """Leave the address for the ranks that are started with this run directory."""
        path = run_dir / _FILE_NAME
        path.touch(mode=0o600)
        path.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, run_dir: Path) -> WireAddress:
        """Return what was left in `run_dir`."""
        return cls(**json.loads((run_dir / _FILE_NAME).read_text()))
