"""Start the kernels. Import only where Triton is installed; the arguments are those of operators.py, on a Hopper card.

Shapes: L tokens, T rows of the cache, H heads, K channels of a head, D = H x K.
"""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from liveavatar.models.s2v import hopper_ring
from liveavatar.models.s2v.int8_attention import attention_kernel as kernel
from liveavatar.models.s2v.int8_attention.arithmetic import INT8_MAX, TILE_KEYS, Quantized, hadamard
from liveavatar.models.s2v.int8_attention.quantize_kernels import quantize_rows, quantize_values
from liveavatar.models.s2v.rope import Rotary

# Of a program that quantises queries or keys: 8 tokens x 8 heads fill the matrix unit's 64 rows. Fewer registers would
# let three programs share a processor instead of two, and was slower: they spill.
_TOKENS, _HEADS_AT_ONCE = 8, 8
# Rows of the cache that a program fills with values: whole lines of memory. Divides the rows of every cache.
_ROWS_OF_VALUES = TILE_KEYS
# Whether the consumers of the attention kernel take turns at the matrix unit; the benchmark measures both.
TAKE_TURNS = False
_QUERIES_OF_PROGRAM = hopper_ring.QUERIES_OF_PROGRAM.value


def quantize_queries(
    q_LD: Tensor, gain_D: Tensor | None, eps: float, rotary_L: Rotary, key_scale_H: Tensor
) -> Quantized:
    """Return int8 queries and their scales, the rows filled up to whole tiles with anything."""
    num_heads = len(key_scale_H)
    head_dim = q_LD.shape[1] // num_heads
    rows = -(-len(q_LD) // _QUERIES_OF_PROGRAM) * _QUERIES_OF_PROGRAM
    values_HLK = q_LD.new_empty(num_heads, rows, head_dim, dtype=torch.int8)
    scale_HL = q_LD.new_empty(num_heads, rows, dtype=torch.float32)
    logit_scale = head_dim**-0.5 * math.log2(math.e) / INT8_MAX
    _quantize_rows(
        q_LD,
        gain_D,
        eps,
        rotary_L,
        out=values_HLK,
        scale=scale_HL,
        key_scale=key_scale_H,
        logit_scale=logit_scale,
    )
    return Quantized(values_HLK, scale_HL)


def store_keys(
    k_HTK: Tensor,
    key_scale_H: Tensor,
    rows_L: Tensor,
    k_LD: Tensor,
    gain_D: Tensor | None,
    eps: float,
    rotary_L: Rotary,
) -> None:
    """Quantise keys into the given rows of the cache."""
    _quantize_rows(k_LD, gain_D, eps, rotary_L, out=k_HTK, scale=key_scale_H, rows=rows_L)


def store_values(v_HKT: Tensor, value_scale_HK: Tensor, rows_L: Tensor, v_LD: Tensor) -> None:
    """Quantise values into the given consecutive rows of the cache."""
    num_heads, head_dim, cache_rows = v_HKT.shape
    v_LD = _with_whole_rows(v_LD)
    # Where the rows begin is known on the card alone: at worst in the last row of a tile.
    most_tiles = triton.cdiv(len(v_LD) - 1, _ROWS_OF_VALUES) + 1
    with torch.cuda.device(v_LD.device):
        quantize_values[(most_tiles, num_heads)](
            v_LD,
            value_scale_HK,
            rows_L,
            v_HKT.view(torch.uint32),
            len(v_LD),
            v_LD.stride(0),
            cache_rows,
            CHANNELS=head_dim,
            ROWS=_ROWS_OF_VALUES,
            num_warps=8,
        )


def attend(
    q: Quantized,
    k_HTK: Tensor,
    v_HKT: Tensor,
    value_scale_HK: Tensor,
    *,
    num_queries: int,
    num_keys: int,
    take_turns: bool = TAKE_TURNS,
) -> Tensor:
    """Return `[L, H, K]` in bfloat16 from the first `num_keys` keys of the cache."""
    num_heads, cache_rows, head_dim = k_HTK.shape
    query_rows = q.values_HLK.shape[1]
    num_query_tiles = query_rows // _QUERIES_OF_PROGRAM
    out_LHK = q.scale_HL.new_empty(num_queries, num_heads, head_dim, dtype=torch.bfloat16)
    with torch.cuda.device(k_HTK.device):
        kernel.attend_tiles[(num_heads * num_query_tiles,)](
            _tiles_of(q.values_HLK.flatten(0, 1), hopper_ring.QUERIES.value),
            _tiles_of(k_HTK.flatten(0, 1), kernel.KEYS.value),
            _tiles_of(v_HKT.view(torch.float8_e4m3fn).flatten(0, 1), hopper_ring.CHANNELS.value),
            out_LHK,
            q.scale_HL,
            value_scale_HK,
            num_queries,
            num_keys,
            num_query_tiles,
            query_rows,
            cache_rows,
            num_heads,
            take_turns,
            num_warps=4,
        )
    return out_LHK


def _quantize_rows(
    x_LD: Tensor,
    gain_D: Tensor | None,
    eps: float,
    rotary_L: Rotary,
    *,
    out: Tensor,
    scale: Tensor,
    rows: Tensor | None = None,
    key_scale: Tensor | None = None,
    logit_scale: float = 1.0,
) -> None:
    """Start the kernel for keys, which have `rows`, or for queries, which have a `key_scale`."""
    num_heads, out_rows, head_dim = out.shape
    x_LD = _with_whole_rows(x_LD)
    with torch.cuda.device(x_LD.device):
        quantize_rows[(triton.cdiv(len(x_LD), _TOKENS),)](
            x_LD,
            x_LD if gain_D is None else gain_D,
            rotary_L.cos_LP.contiguous(),
            rotary_L.sin_LP.contiguous(),
            hadamard(head_dim, x_LD.device),
            scale if rows is None else rows,
            scale,
            scale if key_scale is None else key_scale,
            out,
            len(x_LD),
            x_LD.stride(0),
            out_rows,
            eps,
            logit_scale,
            HEADS=num_heads,
            CHANNELS=head_dim,
            TOKENS=_TOKENS,
            HEADS_AT_ONCE=_HEADS_AT_ONCE,
            HAS_GAIN=gain_D is not None,
            IS_QUERY=rows is None,
            num_warps=4,
            num_stages=2,
        )


def _with_whole_rows(x_LD: Tensor) -> Tensor:
    """Return the tensor with the values of a row side by side; a part of a wider projection is taken as it is."""
    return x_LD if x_LD.stride(1) == 1 else x_LD.contiguous()


def _tiles_of(matrix: Tensor, rows: int) -> TensorDescriptor:
    """Describe a matrix of which tiles of so many rows and 128 columns are read."""
    return TensorDescriptor.from_tensor(matrix, [rows, 128], kernel.TILE_IN_MEMORY.value)
