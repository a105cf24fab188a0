"""Host memory that a graphics card copies from and to by itself, and two places on the card to copy through.

On a machine without a card the same code copies between two parts of host memory, so tests see what a card would.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from liveavatar.core.errors import Diagnosis, EngineFailed
from liveavatar.core.memory import gb_text

_ALIGNMENT = 256  # bytes; what matrix products and copies ask for at most
_PORTABLE = 1  # cudaHostRegisterPortable


class HostArena:
    """One piece of host memory, handed out in order. Tensors from it are valid for as long as the arena lives.

    For a card it is locked in place. PyTorch's own pinned memory would do, but it is rounded up to a power of two
    and not given back to the system.
    """

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        """Raise EngineFailed with code `host_memory_full` when so much cannot be locked for the card `device`."""
        self.num_bytes = num_bytes
        self._memory = torch.empty(num_bytes, dtype=torch.uint8)
        self._used_bytes = 0
        if device.type == "cuda" and num_bytes:
            self._memory.zero_()  # by all threads; locking pages that are not there yet is the work of one
            _lock(self._memory)
            weakref.finalize(self, _unlock, self._memory)

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the next tensor. Its content is left to chance."""
        num_bytes = math.prod(shape) * dtype.itemsize
        start, self._used_bytes = self._used_bytes, self._used_bytes + aligned(num_bytes)
        assert self._used_bytes <= self.num_bytes, f"{self._used_bytes} bytes of {self.num_bytes}"
        return self._memory[start : start + num_bytes].view(dtype).view(*shape)

    def clear(self) -> None:
        """Hand everything out anew."""
        self._used_bytes = 0


class DoubleBuffer:
    """Brings items from host memory to the card in an order that repeats, each while the one before is worked on.

    Item `index` always goes to place `index % 2`, so its address on the card stays the same. Items may be asked for
    in any order; in another than 0, 1, 2, ... they are waited for.
    """

    def __init__(
        self,
        items: Sequence[Sequence[Tensor]],
        places: Sequence[Sequence[Tensor]],
        arenas: Sequence[HostArena],
    ) -> None:
        """`items` are the tensors of each item in the arenas, `places` two sets of such tensors on the card."""
        self._items, self._places = items, places
        self._arenas = arenas  # live at least as long
        self._held: list[int | None] = [None, None]
        self._stream: torch.cuda.Stream | None = None
        device = places[0][0].device
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._arrived = [torch.cuda.Event(), torch.cuda.Event()]  # type: ignore[no-untyped-call]
            for tensor in (*places[0], *places[1]):
                tensor.record_stream(self._stream)  # its memory is not reused while a copy is under way

    def fetch(self, index: int) -> None:
        """Have the item in its place for whatever is computed from now on."""
        place = index % 2
        if self._held[place] != index:
            with self._beside_the_work():
                self._load(index)
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(self._arrived[place])

    def release(self, index: int, write_back: Iterable[tuple[Tensor, Tensor]] = ()) -> None:
        """Let the item's place be used for the next but one, after copying card to host for each (host, card)."""
        following = index + 2 if index + 2 < len(self._items) else index % 2
        with self._beside_the_work():
            for on_host, on_card in write_back:
                on_host.copy_(on_card, non_blocking=True)
            if self._held[following % 2] != following:
                self._load(following)

    def forget(self) -> None:
        """Copy every item anew when it is asked for: what is in host memory has changed."""
        self._held = [None, None]

    def settle(self) -> None:
        """Wait until all that was written back is in host memory, for the processor to work on."""
        if self._stream is not None:
            torch.cuda.synchronize(self._stream.device)

    def _load(self, index: int) -> None:
        for on_card, on_host in zip(self._places[index % 2], self._items[index], strict=True):
            on_card.copy_(on_host, non_blocking=True)
        if self._stream is not None:
            self._arrived[index % 2].record(self._stream)
        self._held[index % 2] = index

    def _beside_the_work(self) -> contextlib.AbstractContextManager[object]:
        """Return the context of the stream that copies, which first waits for all that is to be computed by now."""
        if self._stream is None:
            return contextlib.nullcontext()
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        return torch.cuda.stream(self._stream)


def aligned(num_bytes: int) -> int:
    """Return the bytes that a tensor of `num_bytes` takes in an arena."""
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def _lock(memory: Tensor) -> None:
    status = int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.numel(), _PORTABLE))  # type: ignore[no-untyped-call]
    if status != 0:
        raise EngineFailed(
            Diagnosis(
                code="host_memory_full",
                title="The machine's memory is too small for this plan.",
                cause=f"{gb_text(memory.numel())} of it could not be set aside for the graphics card"
                f" (CUDA error {status}).",
                remedy="Close other programs or choose a smaller picture size.",
                facts={"needed_bytes": memory.numel(), "status": status},
            )
        )


def _unlock(memory: Tensor) -> None:
    torch.cuda.synchronize()  # copies that are under way
    torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())  # type: ignore[no-untyped-call]
