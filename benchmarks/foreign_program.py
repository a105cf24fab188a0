"""Another program that holds memory of the first graphics card."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

CONTEXT_BYTES = 600_000_000  # what a process needs on a card before it holds anything
_HOLD = (
    "import sys, torch; held = torch.empty(int(sys.argv[1]), dtype=torch.uint8, device='cuda');"
    "torch.cuda.synchronize(); print('held', flush=True); sys.stdin.read()"
)


@contextlib.contextmanager
def foreign_program(num_bytes: int) -> Iterator[None]:
    """Hold so many bytes, the program's own context included. It is no child of this process.

    Raises RuntimeError when it cannot have them.
    """
    program = subprocess.Popen(
        ["setsid", "--fork", sys.executable, "-c", _HOLD, str(max(0, num_bytes - CONTEXT_BYTES))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert program.stdout is not None
        if program.stdout.readline() != b"held\n":
            raise RuntimeError(f"the other program could not take {num_bytes / 1e9:.1f} GB")
        yield
    finally:
        program.communicate()
