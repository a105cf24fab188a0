"""A limit on the bytes that live tensors may take: what a full graphics card does, on the processor."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class AllocationLimit(TorchDispatchMode):
    """Counts the memory of every tensor made while it is active and raises OutOfMemoryError above the limit.

    Only the thread that entered it is limited, and only tensors made meanwhile count: weights loaded before do not.
    """

    def __init__(self, limit_bytes: Callable[[], float]) -> None:
        super().__init__()
        self._limit_bytes = limit_bytes
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self.live_bytes = self.peak_bytes = self._latest_bytes = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, torch.Tensor):
                self._count(each.untyped_storage())
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes = self.live_bytes
        if self.live_bytes > self._limit_bytes():
            # The sentence of a card, as far as anybody reads it.
            raise torch.OutOfMemoryError(
                f"Out of memory. Tried to allocate {self._latest_bytes / 2**20:.2f} MiB."
            )
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._storages:
            return
        num_bytes = storage.nbytes()

        def forget(_: object) -> None:
            self.live_bytes -= num_bytes
            del self._storages[key]

        self._storages[key] = weakref.ref(storage, forget)
        self.live_bytes += num_bytes
        self._latest_bytes = num_bytes
