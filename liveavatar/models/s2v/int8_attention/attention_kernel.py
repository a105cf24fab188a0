"""The 8-bit attention for Hopper (Gluon).

Groups of warps and the ring of stages between them: hopper_ring.py.

A consumer keeps the matrix unit busy while it computes a softmax: the product of the previous tile's probabilities
with its values runs beside the softmax of this tile. The sums of a tile are added to the total outside the matrix
unit, whose 8-bit sums carry about 14 bits and would lose small addends of a long sum.

Import only where Triton is installed. Arithmetic: arithmetic.py. H heads, K channels (128), T rows of the cache.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from liveavatar.models.s2v.hopper_ring import (
    CHANNELS,
    CONSUMER_REGISTERS,
    CONSUMERS,
    PRODUCER_REGISTERS,
    QUERIES,
    QUERIES_OF_PROGRAM,
    allocate_ring,
)

KEYS = gl.constexpr(128)  # of one tile
STAGES = gl.constexpr(3)

LOGITS = gl.constexpr(
    gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 32])
)  # also of the output: 64 x 128
PROBABILITIES = gl.constexpr(gl.DotOperandLayout(0, LOGITS.value, 4))
ROWS = gl.constexpr(gl.SliceLayout(1, LOGITS.value))
COLUMNS = gl.constexpr(gl.SliceLayout(0, LOGITS.value))
TILE_IN_MEMORY = gl.constexpr(gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8, rank=2))

PROBABILITY_EXPONENT = gl.constexpr(8.0)
TO_E4M3 = gl.constexpr(
    "{ .reg .b16 low, high; cvt.rn.satfinite.e4m3x2.f32 low, $2, $1;"
    " cvt.rn.satfinite.e4m3x2.f32 high, $4, $3; mov.b32 $0, {low, high}; }"
)

# A sum of probabilities is not negative; the assembler does not know.
NEVER_EXIT = gl.constexpr(
    "{ .reg .pred never; setp.lt.f32 never, $1, 0f00000000; @never exit; mov.b32 $0, $1; }"
)


@gluon.jit
def _pack(p):
    """Return four probabilities per word, as e4m3.

    A thread holds columns 2t, 2t + 1, 8 + 2t, 9 + 2t of every 16: in the order keys are stored in, keys 4t to 4t + 3.
    Those are what it must hold as the left operand of the next product.
    """
    p = p.reshape([QUERIES, KEYS // 16, 2, 4, 2]).permute([0, 1, 3, 2, 4]).reshape([QUERIES, KEYS // 4, 2, 2])
    even, odd = gl.split(p)
    p0, p2 = gl.split(even)
    p1, p3 = gl.split(odd)
    return gl.inline_asm_elementwise(
        TO_E4M3, "=r,r,r,r,r", [p0, p1, p2, p3], dtype=gl.int32, is_pure=True, pack=1
    )


@gluon.jit
def _unpack(words):
    """Return the packed probabilities as an operand. Words live across the loop: bytes would take a register each."""
    x = gl.join(words, words)
    x = gl.join(x, x).reshape([QUERIES, KEYS])
    x = gl.convert_layout(x, PROBABILITIES, assert_trivial=True)
    return gl.inline_asm_elementwise(
        "mov.b32 $0, $1;", "=r,r,r,r,r", [x], dtype=gl.float8e4nv, is_pure=True, pack=4
    )


@gluon.jit
def _logits(q, k):
    """Start the product of queries and keys."""
    zeros = gl.zeros([QUERIES, KEYS], gl.int32, LOGITS)
    return warpgroup_mma(q, k.permute((1, 0)), zeros, use_acc=False, is_async=True)


@gluon.jit
def _weighted(words, v):
    """Start the product of probabilities and values."""
    zeros = gl.zeros([QUERIES, CHANNELS], gl.float32, LOGITS)
    return warpgroup_mma(_unpack(words), v.permute((1, 0)), zeros, use_acc=False, is_async=True)


@gluon.jit
def _pin(total):
    """Keep what follows behind the softmax. Without it the assembler moves the wait for the running product forward."""
    return gl.inline_asm_elementwise(NEVER_EXIT, "=r,r", [total], dtype=gl.float32, is_pure=False, pack=1)


@gluon.jit
def _mask_last_tile(x, first_key, num_keys):
    """Take out what lies behind the last key. Columns are in stored order."""
    column = gl.arange(0, KEYS, COLUMNS)
    key = column - column % 16 + (column & 1)
    key += ((column >> 3) & 1) * 2 + ((column >> 1) & 1) * 4 + ((column >> 2) & 1) * 8
    return gl.where((first_key + key < num_keys)[None, :], x, -1.0e30)


@gluon.jit
def _consume(
    stages,
    tiles,
    out_ptr,
    query_scale_ptr,
    value_scale_ptr,
    shape,
    consumer: gl.constexpr,
    take_turns: gl.constexpr,
):
    """Attend 64 queries to all keys."""
    q_tiles, k_tiles, v_tiles, q_filled, k_filled, k_free, v_filled, v_free, turns = stages
    head, first_query, num_tiles = tiles
    num_queries, query_rows, num_keys, num_heads = shape
    row = first_query + consumer * QUERIES + gl.arange(0, QUERIES, ROWS)
    scale = gl.load(query_scale_ptr + head * query_rows + row)
    mbarrier.wait(q_filled, 0)
    q = q_tiles.index(consumer)

    mbarrier.wait(k_filled.index(0), 0)
    x = warpgroup_mma_wait(0, [_logits(q, k_tiles.index(0))])
    mbarrier.arrive(k_free.index(0), count=1)
    x = _mask_last_tile(x.to(gl.float32), (num_tiles - 1) * KEYS, num_keys)
    largest = gl.max(x, 1) * scale
    p = gl.exp2(x * scale[:, None] + (PROBABILITY_EXPONENT - largest)[:, None])
    total = gl.sum(p, 1)
    words = _pack(p)
    out = gl.zeros([QUERIES, CHANNELS], gl.float32, LOGITS)
    correction = gl.zeros([QUERIES], gl.float32, ROWS)

    for tile in range(1, num_tiles):
        k_stage = tile % STAGES
        v_stage = (tile - 1) % STAGES
        mbarrier.wait(k_filled.index(k_stage), (tile // STAGES) & 1)
        if take_turns:
            mbarrier.wait(turns.index(consumer), (tile + consumer) & 1)  # the first one passes at once
        logits = _logits(q, k_tiles.index(k_stage))
        mbarrier.wait(v_filled.index(v_stage), ((tile - 1) // STAGES) & 1)
        weighted = _weighted(words, v_tiles.index(v_stage))
        if take_turns:
            mbarrier.arrive(turns.index(1 - consumer), count=1)
        x = warpgroup_mma_wait(1, [logits])
        mbarrier.arrive(k_free.index(k_stage), count=1)
        x = x.to(gl.float32)
        new_largest = gl.maximum(largest, gl.max(x, 1) * scale)
        new_correction = gl.exp2(largest - new_largest)
        p = gl.exp2(x * scale[:, None] + (PROBABILITY_EXPONENT - new_largest)[:, None])
        total = total * new_correction + gl.sum(p, 1)
        largest = new_largest
        total = _pin(total)
        # The probabilities wait with it: packing them earlier would overwrite the running product's operand.
        weighted, p = warpgroup_mma_wait(0, [weighted, p])
        mbarrier.arrive(v_free.index(v_stage), count=1)
        out = out * correction[:, None] + weighted
        correction = new_correction
        words = _pack(p)

    v_stage = (num_tiles - 1) % STAGES
    mbarrier.wait(v_filled.index(v_stage), ((num_tiles - 1) // STAGES) & 1)
    weighted = warpgroup_mma_wait(0, [_weighted(words, v_tiles.index(v_stage))])
    out = (out * correction[:, None] + weighted) / total[:, None]
    channel = gl.arange(0, CHANNELS, COLUMNS)
    out = out * gl.load(value_scale_ptr + head * CHANNELS + channel)[None, :]
    place = row[:, None] * (num_heads * CHANNELS) + head * CHANNELS + channel[None, :]
    gl.store(out_ptr + place, out.to(gl.bfloat16), mask=(row < num_queries)[:, None])


@gluon.jit
def _produce(descriptors, stages, tiles, query_rows, cache_rows):
    """Order the queries, then tile after tile of keys and values as stages become free."""
    q_desc, k_desc, v_desc = descriptors
    q_tiles, k_tiles, v_tiles, q_filled, k_filled, k_free, v_filled, v_free, _ = stages
    head, first_query, num_tiles = tiles
    mbarrier.expect(q_filled, QUERIES_OF_PROGRAM * CHANNELS)
    for consumer in gl.static_range(CONSUMERS):
        first_row = head * query_rows + first_query + consumer * QUERIES
        tma.async_copy_global_to_shared(q_desc, [first_row, 0], q_filled, q_tiles.index(consumer))
    for tile in range(num_tiles):
        stage = tile % STAGES
        turn = (tile // STAGES) & 1
        first_key = (num_tiles - 1 - tile) * KEYS
        mbarrier.wait(k_free.index(stage), turn ^ 1)  # passes at once in the first round
        mbarrier.expect(k_filled.index(stage), KEYS * CHANNELS)
        tma.async_copy_global_to_shared(
            k_desc, [head * cache_rows + first_key, 0], k_filled.index(stage), k_tiles.index(stage)
        )
        mbarrier.wait(v_free.index(stage), turn ^ 1)
        mbarrier.expect(v_filled.index(stage), CHANNELS * KEYS)
        tma.async_copy_global_to_shared(
            v_desc, [head * CHANNELS, first_key], v_filled.index(stage), v_tiles.index(stage)
        )


@gluon.jit(do_not_specialize=["num_queries", "num_keys", "num_query_tiles", "query_rows", "cache_rows"])
def attend_tiles(
    q_desc,  # int8 [H x query_rows, K]
    k_desc,  # int8 [H x cache_rows, K], keys in stored order
    v_desc,  # e4m3 [H x K, cache_rows]
    out_ptr,  # bfloat16 [num_queries, H, K]
    query_scale_ptr,  # float32 [H, query_rows]
    value_scale_ptr,  # float32 [H, K]
    num_queries,
    num_keys,
    num_query_tiles,
    query_rows,
    cache_rows,
    num_heads: gl.constexpr,
    take_turns: gl.constexpr,
):
    """Attend 128 queries of one head. Programs of a head follow each other, so that its keys stay in the L2 cache."""
    program = gl.program_id(0)
    head = program // num_query_tiles
    first_query = (program % num_query_tiles) * QUERIES_OF_PROGRAM
    num_tiles = (num_keys + KEYS - 1) // KEYS

    stages = allocate_ring(gl.int8, gl.float8e4nv, TILE_IN_MEMORY, KEYS, STAGES)
    tiles = (head, first_query, num_tiles)
    shape = (num_queries, query_rows, num_keys, num_heads)
    gl.warp_specialize(
        [
            (_consume, (stages, tiles, out_ptr, query_scale_ptr, value_scale_ptr, shape, 0, take_turns)),
            (_consume, (stages, tiles, out_ptr, query_scale_ptr, value_scale_ptr, shape, 1, take_turns)),
            (_produce, ((q_desc, k_desc, v_desc), stages, tiles, query_rows, cache_rows)),
        ],
        [4, 1],
        [CONSUMER_REGISTERS, PRODUCER_REGISTERS],
    )
