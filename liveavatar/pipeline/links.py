"""Messages between ranks: ordered, numbered, with deadlines.

Blocks travel through host memory with gloo: 0.4 MB of latents every few tenths of a second cost two milliseconds, a
machine at the other end of a network is reached like a neighbour, no graphics card is busy waiting, and a lost peer or
a passed deadline shows as a RuntimeError instead of a kernel that never ends. Only the tokens between the layers of a
step (65 MB at 704x384) go from card to card, where the group can do that.

Every link has a process group of its own: what goes one way never waits for what comes the other way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from liveavatar.pipeline.message import BlockMessage

_BLOCK, _END, _SINK_TOKENS = range(3)
_NUM_NUMBERS, _NUM_TENSORS, _MAX_DIMS = 3, 3, 5
_NUMBERS_PER_TENSOR = 2 + _MAX_DIMS  # dtype, dimensions, shape
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64)


class Link:
    """One end of a one-way connection; `peer` is the rank at the other end.

    `device` is where received tensors are put. `tokens_by_card`: the group can send tensors of that device.
    `max_under_way`: messages not yet received at which `send` waits, so that a fast stage does not run away from a
    slow one.
    """

    def __init__(
        self,
        peer: int,
        *,
        group: dist.ProcessGroup | None = None,
        device: torch.device,
        tokens_by_card: bool = False,
        deadline_s: float,
        max_under_way: int = 2,
    ) -> None:
        self._peer, self._group, self._device = peer, group, device
        self._max_under_way = max_under_way
        self._tokens_by_card = tokens_by_card
        self._deadline = timedelta(seconds=deadline_s)
        self._sequence = 0
        self._under_way: deque[list[tuple[dist.Work, Tensor]]] = (
            deque()
        )  # tensors must live until they are sent

    def send(self, message: BlockMessage) -> None:
        """Send a message without waiting for the receiver, unless too many are still under way."""
        numbers = message.block, message.num_steps, message.step
        self._put(_BLOCK, numbers, (message.latents, message.speech, message.tokens))

    def send_end(self) -> None:
        """Say that the video has no more blocks."""
        self._put(_END, (0, 0, 0), (None,) * _NUM_TENSORS)

    def flush(self) -> None:
        """Wait until the receiver has taken everything."""
        self._wait_until_under_way(0)

    def send_sink(self, tokens: Tensor) -> None:
        """Send the sink's tokens as a part of the layers leaves them."""
        self._put(_SINK_TOKENS, (0, 0, 0), (None, None, tokens))

    def receive(self) -> BlockMessage | None:
        """Wait for the next message; None says that the video has no more blocks."""
        kind, (block, num_steps, step), (latents, speech, tokens) = self._take()
        if kind == _END:
            return None
        assert kind == _BLOCK, f"a block was expected from rank {self._peer}, not kind {kind}"
        assert latents is not None, "a block has latents"
        assert speech is not None, "a block has speech"
        return BlockMessage(
            block=block, num_steps=num_steps, step=step, latents=latents, speech=speech, tokens=tokens
        )

    def receive_all(self) -> Iterator[BlockMessage]:
        """Yield the blocks of a video in order."""
        while (message := self.receive()) is not None:
            yield message

    def receive_sink(self) -> Tensor:
        """Wait for the sink's tokens."""
        kind, _, (_, _, tokens) = self._take()
        assert kind == _SINK_TOKENS, f"the sink was expected from rank {self._peer}, not kind {kind}"
        assert tokens is not None, "a sink has tokens"
        return tokens

    def _put(self, kind: int, numbers: tuple[int, ...], tensors: tuple[Tensor | None, ...]) -> None:
        self._wait_until_under_way(self._max_under_way - 1)
        header = torch.tensor(
            [self._sequence, kind, *numbers, *(number for tensor in tensors for number in describe(tensor))]
        )
        parts = [header]
        for index, tensor in enumerate(tensors):
            if tensor is not None and tensor.numel():
                parts.append(tensor.detach().to(self._wire_device(index)).contiguous())
        self._under_way.append([(self._isend(part), part) for part in parts])
        self._sequence += 1

    def _take(self) -> tuple[int, list[int], list[Tensor | None]]:
        header = torch.empty(2 + _NUM_NUMBERS + _NUM_TENSORS * _NUMBERS_PER_TENSOR, dtype=torch.int64)
        self._receive_into(header)
        sequence, kind, *rest = header.tolist()
        numbers, descriptions = rest[:_NUM_NUMBERS], rest[_NUM_NUMBERS:]
        assert sequence == self._sequence, (
            f"message {sequence} from rank {self._peer}, {self._sequence} expected"
        )
        self._sequence += 1
        tensors: list[Tensor | None] = []
        for index in range(_NUM_TENSORS):
            start = index * _NUMBERS_PER_TENSOR
            tensor = allocate(descriptions[start : start + _NUMBERS_PER_TENSOR], self._wire_device(index))
            if tensor is not None and tensor.numel():
                self._receive_into(tensor)
            tensors.append(None if tensor is None else tensor.to(self._device))
        return kind, numbers, tensors

    def _wire_device(self, index: int) -> torch.device:
        is_tokens = index == _NUM_TENSORS - 1
        return self._device if is_tokens and self._tokens_by_card else torch.device("cpu")

    def _isend(self, tensor: Tensor) -> dist.Work:
        work = dist.isend(tensor, self._peer, group=self._group)
        assert work is not None, "this rank belongs to the link's group"
        return work

    def _receive_into(self, tensor: Tensor) -> None:
        work = dist.irecv(tensor, self._peer, group=self._group)
        assert work is not None, "this rank belongs to the link's group"
        work.wait(self._deadline)

    def _wait_until_under_way(self, num_messages: int) -> None:
        while len(self._under_way) > num_messages:
            for work, _ in self._under_way.popleft():
                work.wait(self._deadline)


class RankRefresh:
    """The sink refresh between ranks, in host memory, on a group of its own; `publisher` is its last rank.

    The publisher sends to each rank by itself. In a broadcast, ranks would pass the reference on to each other, and
    one that already waits for it would depend on another that is not so far yet. `like` has the shape
    [1, 16, 1, h, w] and the dtype of the reference.
    """

    def __init__(
        self,
        publisher: int,
        *,
        group: dist.ProcessGroup | None,
        like: Tensor,
        device: torch.device,
        deadline_s: float,
    ) -> None:
        self._publisher, self._group = publisher, group
        self._latents = torch.empty(like.shape, dtype=like.dtype)
        self._device = device
        self._deadline = timedelta(seconds=deadline_s)
        self._under_way: list[dist.Work] = []

    def publish(self, reference: Tensor) -> None:
        """Send the reference to all; nothing waits. Ranks that hold a copy of it leave that to the publisher."""
        if dist.get_rank() != self._publisher:
            return
        self._latents.copy_(reference)
        for rank in range(self._publisher):
            work = dist.isend(self._latents, rank, group=self._group)
            assert work is not None, "this rank belongs to the group of the refresh"
            self._under_way.append(work)

    def receive(self) -> Tensor:
        """Wait for the reference; on the publisher, until everybody has it."""
        if dist.get_rank() != self._publisher:
            work = dist.irecv(self._latents, self._publisher, group=self._group)
            assert work is not None, "this rank belongs to the group of the refresh"
            self._under_way.append(work)
        for work in self._under_way:
            work.wait(self._deadline)
        return self._latents.to(self._device)


def describe(tensor: Tensor | None) -> list[int]:
    """Return what a receiver must know to make room: -1 for no tensor, else dtype, dimensions and shape."""
    if tensor is None:
        return [-1] * _NUMBERS_PER_TENSOR
    shape = list(tensor.shape)
    return [_DTYPES.index(tensor.dtype), len(shape), *shape, *[0] * (_MAX_DIMS - len(shape))]


def allocate(description: list[int], device: torch.device) -> Tensor | None:
    """Return room for the described tensor, or None."""
    dtype, dims, *shape = description
    return None if dtype < 0 else torch.empty(shape[:dims], dtype=_DTYPES[dtype], device=device)
