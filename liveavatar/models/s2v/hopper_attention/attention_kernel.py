"""Exact bfloat16 attention for Hopper (Gluon).

Groups of warps and the ring of stages between them: hopper_ring.py.

A consumer keeps the matrix unit busy while it computes a softmax: the product of the previous tile's probabilities
with its values, added to the running output, runs beside the softmax of this tile.

Import only where Triton is installed. L queries, T keys, H heads, K channels of a head (128), D = H x K.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
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

BYTES = gl.constexpr(2)  # of a bfloat16

OUTPUT = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16]))
ROWS = gl.constexpr(gl.SliceLayout(1, OUTPUT.value))
PROBABILITIES = gl.constexpr(gl.DotOperandLayout(0, OUTPUT.value, 2))
TILE_IN_MEMORY = gl.constexpr(gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2))


@gluon.jit
def _logits(q, k):
    """Start the product of queries and keys."""
    keys: gl.constexpr = k.shape[0]
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, keys, 16])
    zeros = gl.zeros([QUERIES, keys], gl.float32, layout)
    return warpgroup_mma(q, k.permute((1, 0)), zeros, use_acc=False, is_async=True)


@gluon.jit
def _operand(weights):
    """Return probabilities as the left operand of the next product: every thread holds its part already."""
    return gl.convert_layout(weights.to(gl.bfloat16), PROBABILITIES, assert_trivial=True)


@gluon.jit
def _as_column(rows, like):
    """Return a number per query as a column that fits another tensor's layout."""
    return gl.convert_layout(rows, gl.SliceLayout(1, like.type.layout), assert_trivial=True)[:, None]


@gluon.jit
def _row_max(x):
    return gl.convert_layout(gl.max(x, 1), ROWS, assert_trivial=True)


@gluon.jit
def _thread_sums(x):
    """Return the sums `[queries, 4]` of what the four threads of a row hold: columns 2t and 2t + 1 of every 8."""
    x = x.reshape([QUERIES, x.shape[1] // 8, 4, 2])
    return gl.sum(gl.sum(x, 3), 1)


@gluon.jit
def _weights(x, scale, largest):
    """Return exp(logits - largest logit); scale is that of the softmax times log2(e)."""
    return gl.exp2(x * scale - _as_column(largest * scale, x))


@gluon.jit
def _consume(
    stages,
    tiles,
    out_desc,
    parts,
    scale,
    num_keys,
    KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    TAKE_TURNS: gl.constexpr,
    consumer: gl.constexpr,
):
    """Attend 64 queries to all tiles of keys of this program."""
    q_tiles, k_tiles, v_tiles, q_filled, k_filled, k_free, v_filled, v_free, turns = stages
    head, first_query, num_tiles, last_tile = tiles
    mbarrier.wait(q_filled, 0)
    q = q_tiles.index(consumer)

    mbarrier.wait(k_filled.index(0), 0)
    x = warpgroup_mma_wait(0, [_logits(q, k_tiles.index(0))])
    mbarrier.arrive(k_free.index(0), count=1)
    key = last_tile * KEYS + gl.arange(0, KEYS, gl.SliceLayout(0, x.type.layout))
    x = gl.where((key < num_keys)[None, :], x, float("-inf"))
    largest = _row_max(x)
    weights = _weights(x, scale, largest)
    totals = _thread_sums(weights)
    p = _operand(weights)
    out = gl.zeros([QUERIES, CHANNELS], gl.float32, OUTPUT)
    correction = gl.full([QUERIES], 1.0, gl.float32, ROWS)

    mbarrier.wait(k_filled.index(1), 0, pred=num_tiles > 1)
    for tile in range(1, num_tiles):
        k_stage = tile % STAGES
        v_stage = (tile - 1) % STAGES
        if TAKE_TURNS:
            # The first consumer's first turn passes at once, the second's comes after it.
            mbarrier.wait(turns.index(consumer), (tile - consumer) & 1)
        logits = _logits(q, k_tiles.index(k_stage))
        # The values of the product that is over: told now, while the matrix unit has work again.
        mbarrier.arrive(v_free.index((tile - 2 + STAGES) % STAGES), count=1, pred=tile > 1)
        mbarrier.wait(v_filled.index(v_stage), ((tile - 1) // STAGES) & 1)
        # Waits for nothing, but keeps the rescaling behind the start of the first product, which it runs beside.
        correction = warpgroup_mma_wait(1, [correction])
        out = warpgroup_mma(p, v_tiles.index(v_stage), out * correction[:, None], is_async=True)
        if TAKE_TURNS:
            mbarrier.arrive(turns.index(1 - consumer), count=1)
        x = warpgroup_mma_wait(1, [logits])
        mbarrier.arrive(k_free.index(k_stage), count=1)
        new_largest = gl.maximum(largest, _row_max(x))
        correction = gl.exp2((largest - new_largest) * scale)
        weights = _weights(x, scale, new_largest)
        sums = _thread_sums(weights)
        totals = totals * _as_column(correction, sums) + sums
        largest = new_largest
        # Waiting for a barrier here, after the softmax, keeps the compiler from waiting for the product before it.
        following = tile + 1
        mbarrier.wait(
            k_filled.index(following % STAGES), (following // STAGES) & 1, pred=following < num_tiles
        )
        # The weights wait with it: rounding them earlier would overwrite the running product's operand.
        out, weights = warpgroup_mma_wait(0, [out, weights])
        p = _operand(weights)

    v_stage = (num_tiles - 1) % STAGES
    mbarrier.wait(v_filled.index(v_stage), ((num_tiles - 1) // STAGES) & 1)
    out = warpgroup_mma(p, v_tiles.index(v_stage), out * correction[:, None], is_async=True)
    out = warpgroup_mma_wait(0, [out])
    total = gl.convert_layout(gl.sum(totals, 1), ROWS, assert_trivial=True)
    out = out / total[:, None]
    part, part_out_ptr, part_lse_ptr = parts
    if part >= 0:
        row = (part * CONSUMERS + consumer) * QUERIES + gl.arange(0, QUERIES, ROWS)
        channel = gl.arange(0, CHANNELS, gl.SliceLayout(0, OUTPUT))
        gl.store(part_out_ptr + row[:, None] * CHANNELS + channel[None, :], out)
        gl.store(part_lse_ptr + row, largest * scale + gl.log2(total))
    else:
        q.store(out.to(gl.bfloat16))  # the queries are not needed any more
        fence_async_shared()
        tma.async_copy_shared_to_global(out_desc, [first_query + consumer * QUERIES, head * CHANNELS], q)
        tma.store_wait(0)


@gluon.jit
def _order(desc, ring, tile, place, KEYS: gl.constexpr, STAGES: gl.constexpr):
    """Order a tile of keys or values into its stage once that is free; nothing behind the last tile."""
    stages, filled, free = ring
    num_tiles, last_tile, column = place
    stage = tile % STAGES
    exists = tile < num_tiles
    # Passes at once in the first round.
    mbarrier.wait(free.index(stage), ((tile // STAGES) & 1) ^ 1, pred=exists)
    mbarrier.expect(filled.index(stage), KEYS * CHANNELS * BYTES, pred=exists)
    row = (last_tile - tile) * KEYS
    tma.async_copy_global_to_shared(
        desc, [row, column], filled.index(stage), stages.index(stage), pred=exists
    )


@gluon.jit
def _produce(descriptors, stages, tiles, KEYS: gl.constexpr, STAGES: gl.constexpr):
    """Order the queries, then keys and values in the order they are needed: a tile's keys before the last's values."""
    q_desc, k_desc, v_desc = descriptors
    q_tiles, k_tiles, v_tiles, q_filled, k_filled, k_free, v_filled, v_free, _turns = stages
    head, first_query, num_tiles, last_tile = tiles
    place = (num_tiles, last_tile, head * CHANNELS)
    mbarrier.expect(q_filled, QUERIES_OF_PROGRAM * CHANNELS * BYTES)
    for consumer in gl.static_range(CONSUMERS):
        row = first_query + consumer * QUERIES
        tma.async_copy_global_to_shared(q_desc, [row, head * CHANNELS], q_filled, q_tiles.index(consumer))
    keys = (k_tiles, k_filled, k_free)
    values = (v_tiles, v_filled, v_free)
    _order(k_desc, keys, 0, place, KEYS, STAGES)
    for tile in range(num_tiles):
        _order(k_desc, keys, tile + 1, place, KEYS, STAGES)
        _order(v_desc, values, tile, place, KEYS, STAGES)


@gluon.jit(do_not_specialize=["num_keys", "num_query_tiles", "num_whole", "num_parts"])
def attend_tiles(
    q_desc,  # bfloat16 [L, D]
    k_desc,  # bfloat16 [T, D]
    v_desc,  # bfloat16 [T, D]
    out_desc,  # bfloat16 [L, D]
    scale,  # of the logits, times log2(e)
    num_keys,
    num_query_tiles,
    num_whole,  # programs that attend to all keys
    num_parts,  # the others attend to one of so many parts of them
    part_out_ptr,  # float32 [parts, 128, K]
    part_lse_ptr,  # float32 [parts, 128], the logarithm of the sum of weights, base 2
    KEYS: gl.constexpr,  # of one tile
    STAGES: gl.constexpr,
    TAKE_TURNS: gl.constexpr,
):
    """Attend 128 queries of one head. Programs of a head follow each other, so that its keys stay in the L2 cache.

    Programs run in rounds, one on every processor of the card. Those left over for the last round would leave most
    processors idle: their keys are divided among several programs, and `combine_parts` adds up what these give.
    """
    program = gl.program_id(0)
    part = program - num_whole
    query_tile = program
    first_tile = 0
    end_tile = (num_keys + KEYS - 1) // KEYS
    if part >= 0:
        query_tile = num_whole + part // num_parts
        first_tile = part % num_parts * end_tile // num_parts
        end_tile = (part % num_parts + 1) * end_tile // num_parts
    head = query_tile // num_query_tiles
    first_query = (query_tile % num_query_tiles) * QUERIES_OF_PROGRAM

    stages = allocate_ring(gl.bfloat16, gl.bfloat16, TILE_IN_MEMORY, KEYS, STAGES)
    tiles = (head, first_query, end_tile - first_tile, end_tile - 1)
    parts = (part, part_out_ptr, part_lse_ptr)
    gl.warp_specialize(
        [
            (_consume, (stages, tiles, out_desc, parts, scale, num_keys, KEYS, STAGES, TAKE_TURNS, 0)),
            (_consume, (stages, tiles, out_desc, parts, scale, num_keys, KEYS, STAGES, TAKE_TURNS, 1)),
            (_produce, ((q_desc, k_desc, v_desc), stages, tiles, KEYS, STAGES)),
        ],
        [4, 1],
        [CONSUMER_REGISTERS, PRODUCER_REGISTERS],
    )
