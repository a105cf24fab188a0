"""Caches that wait in host memory: two layers at a time are on the card, one arrives while another attends.

A layer's window is brought to the card as a whole; of what attention leaves there, the rows of the new block go
back. The reference's rows are rotated anew on the card at every step and need not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from liveavatar.core.parallel import KvPrecision
from liveavatar.models.s2v import S2VTransformer, TokenGrid
from liveavatar.models.s2v.cache_allocation import allocate_reference_keys, layer_cache
from liveavatar.models.s2v.config import CLIP_BLOCKS
from liveavatar.models.s2v.kv_cache import BlockPosition, KVCache, LayerCache, Sink
from liveavatar.parallel.host_memory import DoubleBuffer, HostArena, aligned


class HostKVCache(KVCache):
    """The cache of one denoising step, its layers in host memory."""

    def __init__(
        self,
        on_host: Sequence[LayerCache],
        on_card: Sequence[LayerCache],
        buffer: DoubleBuffer,
        first_item: int,
        *,
        grid: TokenGrid,
        capacity_blocks: int,
    ) -> None:
        """`on_card` are the places that the layers have while they are used, two by two the same memory."""
        super().__init__(on_host, grid, capacity_blocks)
        self._on_card, self._buffer, self._first_item = on_card, buffer, first_item
        self._block_rows = slice(0)

    @property
    def working_layers(self) -> Sequence[LayerCache]:
        """The places on the card, named once per layer."""
        return self._on_card

    def locate(self, block_index: int, jitter: int) -> BlockPosition:
        """Return the position of a block and note its rows: they are what `release` brings back."""
        self._block_rows = self.block_rows(block_index)
        return super().locate(block_index, jitter)

    def fetch(self, layer: int) -> LayerCache:
        """Return the layer's buffer on the card."""
        self._buffer.fetch(self._first_item + layer)
        return self._on_card[layer]

    def release(self, layer: int) -> None:
        """Bring the new block's rows back to host memory and send for the next layer but one."""
        rows = self._block_rows
        pairs = zip(self.layers[layer].tensors, self._on_card[layer].tensors, strict=True)
        self._buffer.release(
            self._first_item + layer, [(on_host[rows], on_card[rows]) for on_host, on_card in pairs]
        )

    def set_sink(self, layer: int, sink: Sink) -> None:
        """Keep a layer's sink in host memory."""
        super().set_sink(layer, sink)
        self._buffer.forget()

    def copy_from(self, other: KVCache) -> None:
        """Take over the content of a cache of the same stream, within host memory."""
        self._buffer.settle()
        super().copy_from(other)
        self._buffer.forget()


class HostCaches:
    """Allocates such caches. The host memory is kept for the next video: locking it takes seconds."""

    def __init__(self, model: S2VTransformer) -> None:
        self._model = model
        self._arena = HostArena(0, torch.device("cpu"))

    def allocate(
        self,
        grid: TokenGrid,
        num_steps: int,
        *,
        capacity_blocks: int = CLIP_BLOCKS,
        precision: KvPrecision = "bf16",
    ) -> list[KVCache]:
        """Return one empty cache per denoising step. Those returned before must no longer be used.

        Raises EngineFailed when host memory is too small.
        """
        model = self._model
        device = model.patch_embedding.weight.device
        num_rows = grid.window_tokens(capacity_blocks)
        reference_keys = allocate_reference_keys(
            num_layers=len(model.blocks),
            num_heads=model.num_local_heads,
            head_dim=model.head_dim,
            grid=grid,
            device=device,
            dtype=model.compute_dtype,
        )

        def on_card(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        places = [layer_cache(precision, reference_keys[0], num_rows, new=on_card) for _ in range(2)]
        num_items = num_steps * len(reference_keys)
        self._reserve(num_items * sum(aligned(tensor.nbytes) for tensor in places[0].tensors), device)
        host_layers = [
            layer_cache(precision, reference_k, num_rows, new=self._arena.take)
            for _ in range(num_steps)
            for reference_k in reference_keys
        ]
        buffer = DoubleBuffer(
            [layer.tensors for layer in host_layers], [place.tensors for place in places], [self._arena]
        )
        card_layers = [
            dataclasses.replace(places[item % 2], reference_k_SHK=layer.reference_k_SHK)
            for item, layer in enumerate(host_layers)
        ]
        return [
            HostKVCache(
                host_layers[first : first + len(reference_keys)],
                card_layers[first : first + len(reference_keys)],
                buffer,
                first,
                grid=grid,
                capacity_blocks=capacity_blocks,
            )
            for first in range(0, num_items, len(reference_keys))
        ]

    def _reserve(self, num_bytes: int, device: torch.device) -> None:
        """Have an arena of at least so many bytes, none of them handed out."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # rows of the video before may still be on their way
        if self._arena.num_bytes < num_bytes:
            self._arena = HostArena(0, device)  # give the old one back first
            self._arena = HostArena(num_bytes, device)
        self._arena.clear()
