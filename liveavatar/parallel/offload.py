"""Transformer blocks that wait in host memory and pass through two places on the card, one while another works.

Applied to a loaded model from outside. The blocks' parameters become views of the two places, at addresses that
never change, so compiled code and captured graphs stay valid; a block in host memory is one piece, moved by one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from liveavatar.models.s2v import S2VTransformer
from liveavatar.models.s2v.attention import KeyValues
from liveavatar.models.s2v.block import S2VBlock
from liveavatar.parallel.host_memory import DoubleBuffer, HostArena, aligned


def streamed_blocks(num_blocks: int, num_resident: int) -> list[int]:
    """Return which blocks wait in host memory when so many of all stay on the card.

    They are spread evenly: then every transfer has the time of the resident blocks in between, too.
    Raises ValueError when more are to stay than there are.
    """
    if not 0 <= num_resident <= num_blocks:
        raise ValueError(f"{num_resident} of {num_blocks} blocks cannot stay on the card")
    return [
        index
        for index in range(num_blocks)
        if (index + 1) * num_resident // num_blocks == index * num_resident // num_blocks
    ]


class StreamedBlock(nn.Module):
    """A block whose weights arrive before it runs."""

    def __init__(self, block: S2VBlock, buffer: DoubleBuffer, index: int) -> None:
        super().__init__()
        self.block = block
        self._buffer, self._index = buffer, index

    def forward(self, *inputs: Any) -> Tensor:
        """Run the block."""
        self._buffer.fetch(self._index)
        output: Tensor = self.block(*inputs)
        self._buffer.release(self._index)
        return output

    def encode_text(self, text_TD: Tensor) -> KeyValues:
        """Return the block's keys and values of the text."""
        self._buffer.fetch(self._index)
        output = self.block.encode_text(text_TD)
        self._buffer.release(self._index)
        return output


def offload_blocks(model: S2VTransformer, num_resident: int) -> None:
    """Move all but `num_resident` blocks of the model to host memory, for good.

    Those blocks may be on any device; the others are on the model's already. Host memory is needed once for all of
    them and once more for one.
    """
    names = [name for name, _ in model.blocks.named_children()]
    names = [names[index] for index in streamed_blocks(len(names), num_resident)]
    if not names:
        return
    device = model.patch_embedding.weight.device
    layout = _BlockLayout(model.blocks.get_submodule(names[0]))
    arenas, on_host = [], []
    places = [torch.empty(layout.num_bytes, dtype=torch.uint8, device=device) for _ in range(2)]
    for order, name in enumerate(names):  # one by one, so that what a block was loaded with is freed
        arenas.append(HostArena(layout.num_bytes, device))
        on_host.append([arenas[-1].take((layout.num_bytes,), torch.uint8)])
        layout.move(model.blocks.get_submodule(name), keep_in=on_host[-1][0], use_from=places[order % 2])
    buffer = DoubleBuffer(on_host, [[flat] for flat in places], arenas)
    for order, name in enumerate(names):
        block = model.blocks.get_submodule(name)
        assert isinstance(block, S2VBlock), "blocks are streamed once"
        setattr(model.blocks, name, StreamedBlock(block, buffer, order))


def arriving_tensors(model: nn.Module) -> list[Tensor]:
    """Return what streamed blocks compute with: views of two pieces of the card's memory."""
    streamed = [module for module in model.modules() if isinstance(module, StreamedBlock)]
    return [tensor for block in streamed for _, tensor in _tensors(block)]


class _BlockLayout:
    """Where each tensor of a block lies in one piece of memory; the same for all blocks of a model."""

    def __init__(self, block: nn.Module) -> None:
        self.num_bytes = 0
        self._slots: list[tuple[str, int, torch.Size, torch.dtype]] = []
        for name, tensor in _tensors(block):
            self._slots.append((name, self.num_bytes, tensor.shape, tensor.dtype))
            self.num_bytes += aligned(tensor.nbytes)

    def move(self, block: nn.Module, *, keep_in: Tensor, use_from: Tensor) -> None:
        """Copy the block's tensors to one piece of bytes and let the block use another."""
        held = dict(_tensors(block))
        for name, start, shape, dtype in self._slots:
            self._view(keep_in, start, shape, dtype).copy_(held[name])
            owner_name, _, own_name = name.rpartition(".")
            owner = block.get_submodule(owner_name)
            view = self._view(use_from, start, shape, dtype)
            is_parameter = own_name in owner._parameters
            setattr(owner, own_name, nn.Parameter(view, requires_grad=False) if is_parameter else view)

    @staticmethod
    def _view(flat: Tensor, start: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return flat[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)


def _tensors(block: nn.Module) -> Sequence[tuple[str, Tensor]]:
    return [*block.named_parameters(), *block.named_buffers()]
