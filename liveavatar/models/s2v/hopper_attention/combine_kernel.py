"""Attention to parts of the keys becomes attention to all of them (Triton). Import only where Triton is installed."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_whole", "num_parts", "num_query_tiles", "num_queries"])
def combine_parts(
    part_out_ptr,  # float32 [tiles, parts, TILE, K]
    part_lse_ptr,  # float32 [tiles, parts, TILE], the logarithm of the sum of weights, base 2
    out_ptr,  # bfloat16 [num_queries, D]
    num_whole,
    num_parts,
    num_query_tiles,
    num_queries,
    width,  # D
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Average the parts of some rows of a tile, each as heavy as the weights it saw."""
    tile = tl.program_id(0) // (TILE // ROWS)
    row = tl.program_id(0) % (TILE // ROWS) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, CHANNELS)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    for part in range(num_parts):
        largest = tl.maximum(largest, tl.load(part_lse_ptr + (tile * num_parts + part) * TILE + row))
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, CHANNELS], tl.float32)
    for part in range(num_parts):
        place = (tile * num_parts + part) * TILE + row
        weight = tl.exp2(tl.load(part_lse_ptr + place) - largest)
        out += weight[:, None] * tl.load(part_out_ptr + place[:, None] * CHANNELS + channel[None, :])
        total += weight
    head = (num_whole + tile) // num_query_tiles
    query = (num_whole + tile) % num_query_tiles * TILE + row
    out = (out / total[:, None]).to(tl.bfloat16)
    to = out_ptr + query[:, None] * width + head * CHANNELS + channel[None, :]
    tl.store(to, out, mask=(query < num_queries)[:, None])
