"""From pictures on the device to pictures on the host, without making the device wait."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pictures = NDArray[np.uint8]  # [frames, H, W, 3]


def pictures_on_host(blocks: Iterable[Tensor]) -> Iterator[Pictures]:
    """Yield the RGB pictures [frames, H, W, 3] of each block [1, 3, frames, H, W] of -1..1.

    On a card, a block is handed out when the work for the next one is queued: the card makes that one while the
    caller encodes this one. Only the first is handed out at once, for somebody waits to see it.
    """
    waiting: _HostCopy | None = None
    for index, pictures in enumerate(blocks):
        copy = _HostCopy(pictures)
        if index == 0 or not pictures.is_cuda:
            yield copy.wait()
            continue
        if waiting is not None:
            yield waiting.wait()
        waiting = copy
    if waiting is not None:
        yield waiting.wait()


class _HostCopy:
    """Pictures on their way to the host."""

    def __init__(self, pictures: Tensor) -> None:
        levels = ((pictures[0].float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        levels = levels.permute(1, 2, 3, 0).contiguous()
        self._event: torch.cuda.Event | None = None
        if levels.is_cuda:
            # Only copies into pinned memory run beside the host's work.
            self._levels = torch.empty_like(levels, device="cpu", pin_memory=True)
            self._levels.copy_(levels, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._levels = levels

    def wait(self) -> Pictures:
        if self._event is not None:
            self._event.synchronize()
        array: Pictures = self._levels.numpy()
        return array
