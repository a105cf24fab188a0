"""What the attention kernels for Hopper share: their groups of warps and the ring of stages between these (Gluon).

One program attends 128 queries of one head. Its three groups of warps work side by side: a *producer* orders tiles of
keys and values from memory, two *consumers* of 64 queries each use them. A ring of stages lies between; two barriers
per stage and tensor say that it is filled and that it is free. Tiles come from the last to the first, because only the
last one can be partly empty and costs a mask. Consumers may take turns at the matrix unit, so that one multiplies
while the other has its softmax.

Gluon is Triton's language for explicit layouts and asynchronous hardware. Import only where Triton is installed.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

QUERIES = gl.constexpr(64)  # of one consumer
CONSUMERS = gl.constexpr(2)
QUERIES_OF_PROGRAM = gl.constexpr(128)
CHANNELS = gl.constexpr(128)
CONSUMER_REGISTERS, PRODUCER_REGISTERS = gl.constexpr(240), gl.constexpr(24)


@gluon.jit
def allocate_ring(
    KEY_TYPE: gl.constexpr,  # also of the queries
    VALUE_TYPE: gl.constexpr,
    TILE_IN_MEMORY: gl.constexpr,
    KEYS: gl.constexpr,
    STAGES: gl.constexpr,
):
    """Return shared memory for queries, keys and values, the barriers of each, and those of the consumers' turns.

    Values lie as [keys, channels] or, where a tile has as many keys as channels, turned round.
    """
    q_tiles = gl.allocate_shared_memory(KEY_TYPE, [CONSUMERS, QUERIES, CHANNELS], TILE_IN_MEMORY)
    k_tiles = gl.allocate_shared_memory(KEY_TYPE, [STAGES, KEYS, CHANNELS], TILE_IN_MEMORY)
    v_tiles = gl.allocate_shared_memory(VALUE_TYPE, [STAGES, KEYS, CHANNELS], TILE_IN_MEMORY)
    q_filled = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_filled = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_filled = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    turns = gl.allocate_shared_memory(gl.int64, [CONSUMERS, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_filled, count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_filled.index(stage), count=1)
        mbarrier.init(v_filled.index(stage), count=1)
        mbarrier.init(k_free.index(stage), count=CONSUMERS)
        mbarrier.init(v_free.index(stage), count=CONSUMERS)
    for consumer in gl.static_range(CONSUMERS):
        mbarrier.init(turns.index(consumer), count=1)
    return q_tiles, k_tiles, v_tiles, q_filled, k_filled, k_free, v_filled, v_free, turns
