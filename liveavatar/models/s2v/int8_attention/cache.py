"""The buffer of one layer for 8-bit attention, and what self-attention sees of it.

Shapes: T rows (whole tiles), S rows of the reference, C rows of the sink, L tokens, H heads, K channels, D = H x K.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from liveavatar.models.s2v.attention import RMSNorm, SelfAttention
from liveavatar.models.s2v.int8_attention import arithmetic, operators
from liveavatar.models.s2v.kv_cache import BlockPosition, Sink


@dataclass(frozen=True, kw_only=True)
class Int8LayerCache:
    """Keys and values in 8 bits. Scales are measured on the first sink and stay: blocks in the buffer keep theirs."""

    k_HTK: Tensor  # int8, rows in the order of `arithmetic.stored_rows`
    v_HKT: Tensor  # e4m3 as bytes
    key_scale_H: Tensor  # float32, 0 until the first sink
    value_scale_HK: Tensor
    reference_k_SHK: Tensor  # normalised, before rotation; shared by the caches of all steps

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that belongs to this layer and step alone."""
        return self.k_HTK, self.v_HKT, self.key_scale_H, self.value_scale_HK

    def write_sink(self, sink: Sink) -> None:
        """Replace the first rows. The first sink sets the scales; nothing waits for the device."""
        measured = arithmetic.measure_scales(sink.k_CHK, sink.v_CHK)
        for scale, value in zip((self.key_scale_H, self.value_scale_HK), measured, strict=True):
            scale.copy_(torch.where(scale > 0, scale, value))
        num_rows, _, head_dim = sink.k_CHK.shape
        rows = torch.arange(num_rows, device=self.k_HTK.device)
        stay = torch.ones(num_rows, head_dim // 2, device=self.k_HTK.device)
        as_they_are = (None, 0.0, stay, torch.zeros_like(stay))  # normalised and rotated already
        operators.store_keys(self.k_HTK, self.key_scale_H, rows, sink.k_CHK.flatten(1), *as_they_are)
        operators.store_values(self.v_HKT, self.value_scale_HK, rows, sink.v_CHK.flatten(1))
        self.reference_k_SHK.copy_(sink.reference_k_SHK)

    def memory(self, position: BlockPosition) -> Int8Memory:
        """Return what the layer's self-attention sees while the block at this position is denoised."""
        return Int8Memory(self, position)


@dataclass(frozen=True)
class Int8Memory:
    """The self-attention memory of one layer while a block is denoised: kernels instead of the layer's own."""

    cache: Int8LayerCache
    position: BlockPosition

    def attend(self, layer: SelfAttention, q_LD: Tensor, k_LD: Tensor, v_LD: Tensor) -> Tensor:
        """Move the reference, store the block in its slot, return the attended tokens `[L, D]`."""
        cache, position = self.cache, self.position
        keys, values = (cache.k_HTK, cache.key_scale_H), (cache.v_HKT, cache.value_scale_HK)
        reference_SD = cache.reference_k_SHK.flatten(1)
        operators.store_keys(
            *keys, position.reference_rows_S, reference_SD, None, 0.0, *position.rotary_reference_S
        )
        operators.store_keys(*keys, position.slot_rows_N, *_with_gain(layer.norm_k, k_LD), *position.rotary_N)
        operators.store_values(*values, position.slot_rows_N, v_LD)
        num_keys = position.attended_rows_T.shape[0]
        return operators.attend(*_with_gain(layer.norm_q, q_LD), *position.rotary_N, *keys, *values, num_keys)


def new_layer(reference_k_SHK: Tensor, num_rows: int) -> Int8LayerCache:
    """Return an empty buffer for at least so many rows. Raises ValueError for heads that cannot be rotated."""
    _, num_heads, head_dim = reference_k_SHK.shape
    arithmetic.hadamard(head_dim, reference_k_SHK.device)
    rows = arithmetic.padded_rows(num_rows)

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, device=reference_k_SHK.device, dtype=dtype)

    return Int8LayerCache(
        k_HTK=zeros(num_heads, rows, head_dim, dtype=torch.int8),
        v_HKT=zeros(num_heads, head_dim, rows, dtype=torch.uint8),
        key_scale_H=zeros(num_heads),
        value_scale_HK=zeros(num_heads, head_dim),
        reference_k_SHK=reference_k_SHK,
    )


def _with_gain(norm: torch.nn.Module, x_LD: Tensor) -> tuple[Tensor, Tensor | None, float]:
    """Return tokens with gain and epsilon of the norm that a kernel is to apply, or normalised tokens and None.

    A kernel sees the heads of one device; where the norm spans several, another module stands in its place.
    """
    if type(norm) is RMSNorm:
        return x_LD, norm.weight, norm.eps
    return norm(x_LD), None, 0.0
