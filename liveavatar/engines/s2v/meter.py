"""What this rank measures of its own memory and time, for the gauge and for better forecasts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from liveavatar.config import process_rank
from liveavatar.core.events import Telemetry
from liveavatar.core.memory import MemoryItem

Block = TypeVar("Block")


class Meter:
    """Reads the allocator of the card that the rank computes on; on the processor all bytes are 0.

    Items carry the names of the forecast. What is resident is counted tensor by tensor, what is needed for a moment is
    the allocator's high-water mark between two points of the loop.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_on_card = device.type == "cuda"
        self._resident: dict[str, int] = {}
        self._momentary: dict[str, int] = {}
        self._peak = 0  # since the last report
        self._base = 0  # in use when the present measurement began
        self._block_began = time.monotonic()

    def begin_video(self) -> None:
        """Forget the video before."""
        self._resident, self._momentary = {}, {}
        self._block_began = time.monotonic()
        self._begin()
        self._peak = 0

    def note_resident(self, items: Mapping[str, Iterable[Tensor]]) -> None:
        """Note what stays on the card, by item; the tensors themselves are not kept."""
        if self._is_on_card:
            self._resident |= {name: held_bytes(tensors, "cuda") for name, tensors in items.items()}

    def watch(self, blocks: Iterable[Block], item: str) -> Iterator[Block]:
        """Pass blocks on, and note as `item` how much more than before each needed at its peak.

        What is watched inside of another, by a meter between two stages, is taken off the outer one's.
        """
        blocks = iter(blocks)
        while True:
            self._begin()
            try:
                block = next(blocks)
            except StopIteration:
                return
            self._momentary[item] = max(self._momentary.get(item, 0), self._begin())
            yield block

    def report(self, *, is_block: bool) -> Telemetry:
        """Return what was measured since the last report. `is_block`: a block was finished with it."""
        self._begin()
        peak, self._peak = self._peak, 0
        now = time.monotonic()
        block_s, self._block_began = now - self._block_began, now
        return Telemetry(
            rank=process_rank(),
            gpu=_card_name(self._device) if self._is_on_card else "",
            allocated_bytes=torch.cuda.memory_allocated(self._device) if self._is_on_card else 0,
            reserved_bytes=torch.cuda.memory_reserved(self._device) if self._is_on_card else 0,
            peak_bytes=peak,
            items=_as_items(self._resident),
            momentary=_as_items(self._momentary),
            block_s=round(block_s, 4) if is_block else None,
        )

    def _begin(self) -> int:
        """Begin a measurement; return how much the one before had needed above what was in use when it began."""
        if not self._is_on_card:
            return 0
        peak = torch.cuda.max_memory_allocated(self._device)
        needed = peak - self._base
        self._peak = max(self._peak, peak)
        torch.cuda.reset_peak_memory_stats(self._device)
        self._base = torch.cuda.memory_allocated(self._device)
        return needed


def held_bytes(tensors: Iterable[Tensor], device_type: str) -> int:
    """Return the memory of tensors that lie on such a device; what several of them share counts once.

    Of a tensor that ranks share, only this rank's part is here.
    """
    here = (tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors)
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in here
        if tensor.device.type == device_type
    }
    return sum(storages.values())


def _as_items(sizes: Mapping[str, int]) -> tuple[MemoryItem, ...]:
    return tuple(
        MemoryItem(name=name, num_bytes=num_bytes, basis="measured")
        for name, num_bytes in sizes.items()
        if num_bytes
    )


def _card_name(device: torch.device) -> str:
    """Return the card's UUID in the form in which its driver writes it."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
