"""What this process may hold of the memory it computes in."""

from __future__ import annotations

import gc

import psutil
import torch
import torch.distributed as dist

from liveavatar.planning.memory_model import COMMUNICATION_BYTES, CONTEXT_BYTES, MARGIN_SHARE


def measure_available() -> int:
    """Return how many bytes this process may hold in all: what it holds and what is free.

    Of the graphics card where there is one, else of the machine. Asks the driver, so it sees other programs come and
    go; what this process keeps for later counts as its own.
    """
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        own = torch.cuda.memory_reserved() + CONTEXT_BYTES
        if dist.is_initialized():  # one of several ranks
            own += COMMUNICATION_BYTES
    else:
        free = psutil.virtual_memory().available
        own = psutil.Process().memory_info().rss
    return free + own


def with_margin(available_bytes: int) -> int:
    """Return what may be planned with, so that small errors of the forecast do no harm.

    A plan that is carried out already may use the margin up: it is only given up when it does not fit at all.
    """
    return int((1 - MARGIN_SHARE) * available_bytes)


def give_back() -> None:
    """Return to the driver what nobody uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
