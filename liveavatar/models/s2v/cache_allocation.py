"""Room for keys and values: one cache per denoising step, one buffer per layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from liveavatar.core.parallel import KvPrecision
from liveavatar.models.s2v.config import CLIP_BLOCKS, TokenGrid
from liveavatar.models.s2v.fp8_cache import Fp8LayerCache
from liveavatar.models.s2v.int8_attention.cache import new_layer
from liveavatar.models.s2v.kv_cache import CacheLayer, KVCache, LayerCache

NewTensor = Callable[[tuple[int, ...], torch.dtype], Tensor]


def allocate_step_caches(
    *,
    num_steps: int,
    num_layers: int,
    num_heads: int,
    head_dim: int,
    grid: TokenGrid,
    device: torch.device,
    dtype: torch.dtype,
    capacity_blocks: int = CLIP_BLOCKS,
    precision: KvPrecision = "bf16",
) -> list[KVCache]:
    """Return one cache per denoising step. `num_heads` counts the heads this device computes.

    `precision` "bf16" keeps the model's `dtype`, "fp8" 8 bits, "int8" what 8-bit attention multiplies with.
    """
    reference_keys = allocate_reference_keys(
        num_layers=num_layers, num_heads=num_heads, head_dim=head_dim, grid=grid, device=device, dtype=dtype
    )

    def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, device=device, dtype=dtype)

    num_rows = grid.window_tokens(capacity_blocks)

    def new_cache_layer(reference_k_SHK: Tensor) -> CacheLayer:
        if precision == "int8":
            return new_layer(reference_k_SHK, num_rows)
        return layer_cache(precision, reference_k_SHK, num_rows, new=zeros)

    return [
        KVCache([new_cache_layer(reference_k) for reference_k in reference_keys], grid, capacity_blocks)
        for _ in range(num_steps)
    ]


def allocate_reference_keys(
    *,
    num_layers: int,
    num_heads: int,
    head_dim: int,
    grid: TokenGrid,
    device: torch.device,
    dtype: torch.dtype,
) -> Sequence[Tensor]:
    """Return room for the reference's unrotated keys `[S, H, K]` of every layer."""
    shape = (grid.frame_tokens, num_heads, head_dim)
    return [torch.zeros(shape, device=device, dtype=dtype) for _ in range(num_layers)]


def layer_cache(
    precision: KvPrecision, reference_k_SHK: Tensor, num_rows: int, *, new: NewTensor
) -> LayerCache:
    """Return a layer's buffer whose tensors `new(shape, dtype)` makes. Raises ValueError for an unknown precision."""
    _, num_heads, head_dim = reference_k_SHK.shape
    shape, dtype = (num_rows, num_heads, head_dim), reference_k_SHK.dtype
    if precision == "bf16":
        return LayerCache(k_THK=new(shape, dtype), v_THK=new(shape, dtype), reference_k_SHK=reference_k_SHK)
    if precision == "fp8":
        return Fp8LayerCache(
            k_THK=new(shape, torch.uint8),
            v_THK=new(shape, torch.uint8),
            k_scale_TH1=new((*shape[:2], 1), dtype),
            v_scale_TH1=new((*shape[:2], 1), dtype),
            reference_k_SHK=reference_k_SHK,
        )
    raise ValueError(f"keys and values cannot be kept as {precision!r}")
