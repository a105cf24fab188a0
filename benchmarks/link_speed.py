"""What the link between graphics cards moves: bytes per second of large transfers, seconds of small ones."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from liveavatar.engines.s2v.rank_setup import use_own_card

_LARGE_BYTES = {"cuda": 2**28, "cpu": 2**24}
_TOKENS_BYTES = 3168 * 5120 * 2  # what tensor groups add up: the tokens of a block at 704x384, 16 bits
_SMALL_BYTES = 3168 * 4  # and one number a token, for a norm
_TIMEOUT_S = 30.0


def measure_links() -> dict[str, float | str]:
    """Return the rates between the ranks, the first two also talk in pairs.

    `all_reduce_bytes_per_s` counts what has to cross a card's link: 2 (n - 1) / n of the tensor.
    """
    device = use_own_card(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    num_ranks = int(os.environ["WORLD_SIZE"])
    by_card = device.type == "cuda" and num_ranks <= torch.cuda.device_count()
    backend = "nccl" if by_card else "gloo"
    dist.init_process_group(
        backend, timeout=timedelta(seconds=_TIMEOUT_S), device_id=device if by_card else None
    )
    place = device if by_card else torch.device("cpu")
    rank, shared = dist.get_rank(), 2 * (num_ranks - 1) / num_ranks
    found: dict[str, float | str] = {"backend": backend}

    def reduce_s(num_bytes: int) -> float:
        tensor = torch.zeros(num_bytes // 2, dtype=torch.bfloat16, device=place)
        return _seconds(lambda: dist.all_reduce(tensor), place)

    large = _LARGE_BYTES[place.type]
    found["all_reduce_bytes_per_s"] = shared * large / reduce_s(large)
    found["all_reduce_tokens_s"] = tokens_s = reduce_s(_TOKENS_BYTES)
    found["all_reduce_tokens_bytes_per_s"] = shared * _TOKENS_BYTES / tokens_s
    found["all_reduce_norm_s"] = reduce_s(_SMALL_BYTES)
    tensor = torch.zeros(large // 2, dtype=torch.bfloat16, device=place)

    def pass_on() -> None:
        if rank == 0:
            dist.send(tensor, 1)
        elif rank == 1:
            dist.recv(tensor, 0)

    found["one_way_bytes_per_s"] = large / _seconds(pass_on, place)
    dist.barrier()
    dist.destroy_process_group()
    return found


def _seconds(run: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Return how long a run takes when several follow each other."""
    for _ in range(3):
        run()
    _wait(device)
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    _wait(device)
    return (time.perf_counter() - started) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
