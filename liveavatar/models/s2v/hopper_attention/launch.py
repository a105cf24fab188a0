"""Start the kernel. Import only where Triton is installed; the arguments are those of operator.py, on a Hopper card.

Shapes: L queries, T keys, H heads, K channels of a head (128), D = H x K.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.errors import TritonError
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from liveavatar.models.s2v import hopper_ring
from liveavatar.models.s2v.hopper_attention import attention_kernel as kernel
from liveavatar.models.s2v.hopper_attention.combine_kernel import combine_parts
from liveavatar.models.s2v.hopper_attention.split import Split, split_last_round

_CHANNELS = hopper_ring.CHANNELS.value
_ROWS_OF_COMBINING = 16
_QUERIES_OF_PROGRAM = hopper_ring.QUERIES_OF_PROGRAM.value


class Tiling(NamedTuple):
    """How the kernel divides its work. A stage holds the keys and values of a tile: 512 bytes for every key.

    The defaults were the fastest on an H100 under sustained load, see docs/performance.md.
    """

    keys: int = 128
    stages: int = 3
    take_turns: bool = True
    split_last_round: bool = True


def attend(q_LHK: Tensor, k_THK: Tensor, v_THK: Tensor, tiling: Tiling = Tiling()) -> Tensor:  # noqa: B008
    """Return the attention `[L, H, K]` in bfloat16, contiguous. Raises RuntimeError where the kernel cannot be made."""
    out_LHK = torch.empty_like(q_LHK, memory_format=torch.contiguous_format)
    with torch.cuda.device(q_LHK.device):
        try:
            _start(q_LHK, k_THK, v_THK, out_LHK, tiling)
        except TritonError as error:
            raise RuntimeError(f"its kernel cannot be made here: {error}") from error
    return out_LHK


def _start(q_LHK: Tensor, k_THK: Tensor, v_THK: Tensor, out_LHK: Tensor, tiling: Tiling) -> None:
    num_queries, num_heads, head_dim = q_LHK.shape
    num_query_tiles = triton.cdiv(num_queries, _QUERIES_OF_PROGRAM)
    num_programs = num_heads * num_query_tiles
    split = Split(num_programs, 1)
    if tiling.split_last_round:
        num_processors = torch.cuda.get_device_properties(q_LHK.device).multi_processor_count
        split = split_last_round(num_programs, triton.cdiv(len(k_THK), tiling.keys), num_processors)
    num_split = num_programs - split.num_whole
    rows = num_split * split.num_parts * _QUERIES_OF_PROGRAM
    part_out, part_lse = (q_LHK.new_empty(rows, size, dtype=torch.float32) for size in (head_dim, 1))
    kernel.attend_tiles[(split.num_whole + num_split * split.num_parts,)](
        _tiles_of(q_LHK, hopper_ring.QUERIES.value),
        _tiles_of(k_THK, tiling.keys),
        _tiles_of(v_THK, tiling.keys),
        _tiles_of(out_LHK, hopper_ring.QUERIES.value),
        head_dim**-0.5 * math.log2(math.e),
        len(k_THK),
        num_query_tiles,
        *split,
        part_out,
        part_lse,
        KEYS=tiling.keys,
        STAGES=tiling.stages,
        TAKE_TURNS=tiling.take_turns,
        num_warps=4,
    )
    if num_split:
        combine_parts[(num_split * _QUERIES_OF_PROGRAM // _ROWS_OF_COMBINING,)](
            part_out,
            part_lse,
            out_LHK,
            *split,
            num_query_tiles,
            num_queries,
            num_heads * head_dim,
            TILE=_QUERIES_OF_PROGRAM,
            ROWS=_ROWS_OF_COMBINING,
            CHANNELS=head_dim,
            num_warps=4,
        )


def _tiles_of(tokens: Tensor, rows: int) -> TensorDescriptor:
    """Describe tokens as a matrix of D columns, of which tiles of one head are read. What lies behind it reads as 0.

    Tokens may be rows of a wider matrix, such as a projection of several things, and the first rows of a buffer.
    """
    _, num_heads, head_dim = tokens.shape
    is_matrix = tokens.stride(2) == 1 and tokens.stride(1) == head_dim and tokens.stride(0) % 8 == 0
    if not is_matrix or tokens.data_ptr() % 16:  # the copy engine's units
        tokens = tokens.contiguous()
    shape = [len(tokens), num_heads * head_dim]
    return TensorDescriptor(
        tokens, shape, [tokens.stride(0), 1], [rows, _CHANNELS], kernel.TILE_IN_MEMORY.value
    )
