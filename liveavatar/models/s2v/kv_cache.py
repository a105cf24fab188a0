"""Keys and values a block attends to: the sink, then a ring of the latest blocks, in one buffer per layer.

    row 0        S               C          C + N        C + 2N ...
    | reference | packed motion | slot 0   | slot 1     | ...      |
      rotated     rotated at      block b lives in slot b % capacity,
      anew each   prefill         its keys rotated at their absolute position
      forward

Rows are contiguous, so attention reads a view and nothing is concatenated. Order among keys does not matter to
attention. While the ring fills, the view is a prefix; afterwards it is the whole buffer.

Every denoising step has a cache of its own: a block attends to earlier blocks at its own noise level.

Shapes: T rows, S tokens of a frame, C tokens of the sink, N tokens of a block, H heads, K channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from liveavatar.models.s2v.attention import AttentionMemory, WindowMemory
from liveavatar.models.s2v.config import FRAMES_PER_BLOCK, REFERENCE_FRAME, TokenGrid
from liveavatar.models.s2v.framepack import motion_rotary
from liveavatar.models.s2v.rope import GridRotary, Rotary, apply_rotary, concatenate, reference_position


class Sink(NamedTuple):
    """Keys and values of one layer's sink, and the reference's keys before rotation."""

    k_CHK: Tensor
    v_CHK: Tensor
    reference_k_SHK: Tensor


class CacheLayer(Protocol):
    """What a cache holds of one layer."""

    @property
    def reference_k_SHK(self) -> Tensor:  # noqa: N802
        """The reference's keys before rotation, shared by the caches of all steps."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that belongs to this layer and step alone."""

    def write_sink(self, sink: Sink) -> None:
        """Replace the sink; the blocks stay."""

    def memory(self, position: BlockPosition) -> AttentionMemory:
        """Return what the layer's self-attention sees while the block at this position is denoised."""


@dataclass(frozen=True, kw_only=True)
class LayerCache:
    """The buffer of one layer. The unrotated reference keys are shared by the caches of all steps."""

    k_THK: Tensor
    v_THK: Tensor
    reference_k_SHK: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that belongs to this layer and step alone, with one entry per row."""
        return self.k_THK, self.v_THK

    def write_keys(self, rows_N: Tensor, k_NHK: Tensor) -> None:
        """Replace the keys of the given rows."""
        self.k_THK.index_copy_(0, rows_N, k_NHK)

    def write_values(self, rows_N: Tensor, v_NHK: Tensor) -> None:
        """Replace the values of the given rows."""
        self.v_THK.index_copy_(0, rows_N, v_NHK)

    def write_sink(self, sink: Sink) -> None:
        """Replace the first rows. The buffer may lie on another device: nothing waits for the copies."""
        copy_rows(self.k_THK, sink.k_CHK)
        copy_rows(self.v_THK, sink.v_CHK)
        self.reference_k_SHK.copy_(sink.reference_k_SHK)

    def window(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values of the first rows, to attend to."""
        return self.k_THK[:num_rows], self.v_THK[:num_rows]

    def memory(self, position: BlockPosition) -> AttentionMemory:
        """Return what the layer's self-attention sees while the block at this position is denoised."""
        return StreamingMemory(self, position)


class BlockPosition(NamedTuple):
    """Where a block stands in time and in the ring: tensors only, so that a compiled forward serves every block."""

    rotary_N: Rotary
    rotary_reference_S: Rotary
    slot_rows_N: Tensor  # rows of the buffer the block's keys go to
    reference_rows_S: Tensor
    attended_rows_T: Tensor  # its length is the number of rows to attend to; the content has no meaning


class KVCache:
    """The caches of all layers for one denoising step of one stream, preallocated."""

    def __init__(self, layers: Sequence[CacheLayer], grid: TokenGrid, capacity_blocks: int) -> None:
        self.layers = layers
        self.grid = grid
        self.capacity_blocks = capacity_blocks
        reference = layers[0].reference_k_SHK
        self._head_dim, self._device = reference.shape[-1], reference.device
        self._frame_rotary = GridRotary(
            np.arange(grid.rows), np.arange(grid.columns), self._head_dim, self._device
        )

    @property
    def working_layers(self) -> Sequence[CacheLayer]:
        """The buffers that lie where the model computes."""
        return self.layers

    def locate(self, block_index: int, jitter: int) -> BlockPosition:
        """Return the position of a block, counted from the start of the video; `jitter` places the reference.

        Runs on the host and waits for nothing. Block indices have no upper limit.
        """
        grid = self.grid
        first_frame = block_index * FRAMES_PER_BLOCK
        frames = [
            *range(first_frame, first_frame + FRAMES_PER_BLOCK),
            reference_position(first_frame, jitter),
        ]
        rotary = self._frame_rotary.at(frames)
        rows = self.block_rows(block_index)
        filled_blocks = min(block_index + 1, self.capacity_blocks)
        attended = torch.empty(1, device=self._device).expand(grid.window_tokens(filled_blocks))
        # One compiled graph serves the growing and the full window: only the attention call sees the length.
        torch._dynamo.maybe_mark_dynamic(attended, 0)
        return BlockPosition(
            rotary_N=Rotary(*(factor[: grid.block_tokens] for factor in rotary)),
            rotary_reference_S=Rotary(*(factor[grid.block_tokens :] for factor in rotary)),
            slot_rows_N=torch.arange(rows.start, rows.stop, device=self._device),
            reference_rows_S=torch.arange(grid.frame_tokens, device=self._device),
            attended_rows_T=attended,
        )

    def block_rows(self, block_index: int) -> slice:
        """Return the rows of a block's slot."""
        first = self.grid.window_tokens(block_index % self.capacity_blocks)
        return slice(first, first + self.grid.block_tokens)

    def fetch(self, layer: int) -> CacheLayer:
        """Return the buffer of a layer, ready on the device that computes. `release` it before the next."""
        return self.layers[layer]

    def release(self, layer: int) -> None:
        """Take the buffer of a layer back with the block that was written into it."""

    def set_sink(self, layer: int, sink: Sink) -> None:
        """Keep a layer's sink; the blocks in the buffer stay."""
        self.layers[layer].write_sink(sink)

    def copy_from(self, other: KVCache) -> None:
        """Take over the content of a cache of the same stream."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            for tensor, source in zip(mine.tensors, theirs.tensors, strict=True):
                tensor.copy_(source)

    def sink_rotary(self) -> Rotary:
        """Return the factors of the sink's tokens as they stand during prefill."""
        motion = motion_rotary(self.grid, self._head_dim, self._device)
        return concatenate([self._frame_rotary.at([REFERENCE_FRAME]), motion])


@dataclass(frozen=True)
class StreamingMemory(WindowMemory):
    """The self-attention memory of one layer while a block is denoised."""

    cache: LayerCache
    position: BlockPosition

    def update(self, q_LHK: Tensor, k_LHK: Tensor, v_LHK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Store the block in its slot, move the reference, return the queries and the window."""
        cache, position = self.cache, self.position
        reference_k = apply_rotary(cache.reference_k_SHK, position.rotary_reference_S)
        cache.write_keys(position.reference_rows_S, reference_k)
        cache.write_keys(position.slot_rows_N, apply_rotary(k_LHK, position.rotary_N))
        cache.write_values(position.slot_rows_N, v_LHK)
        return apply_rotary(q_LHK, position.rotary_N), *cache.window(position.attended_rows_T.shape[0])


@dataclass(frozen=True)
class PrefillMemory(WindowMemory):
    """The self-attention memory of one layer while the sink is computed: it sees itself and is kept."""

    sink: Sink
    rotary_C: Rotary

    def update(self, q_LHK: Tensor, k_LHK: Tensor, v_LHK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Note the sink, return its queries, keys and values."""
        k_rotated = apply_rotary(k_LHK, self.rotary_C)
        self.sink.reference_k_SHK.copy_(k_LHK[: len(self.sink.reference_k_SHK)])
        self.sink.k_CHK.copy_(k_rotated)
        self.sink.v_CHK.copy_(v_LHK)
        return apply_rotary(q_LHK, self.rotary_C), k_rotated, v_LHK


def allocate_sink(grid: TokenGrid, *, num_heads: int, head_dim: int, like: Tensor) -> Sink:
    """Return room for the sink of one layer on the device and in the dtype of `like`."""
    rows = grid.sink_tokens, grid.sink_tokens, grid.frame_tokens
    return Sink(*(like.new_empty(count, num_heads, head_dim) for count in rows))


def copy_rows(buffer_THK: Tensor, rows_CHK: Tensor) -> None:
    """Replace the first rows of a buffer, on whatever device, without waiting."""
    buffer_THK[: len(rows_CHK)].copy_(rows_CHK, non_blocking=True)
