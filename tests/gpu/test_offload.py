"""Blocks and caches in host memory on a card, where copies run beside the work: the same numbers, bit for bit.

Compiled, two models have kernels of their own, tuned by the clock, which may add up in another order.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from liveavatar.core.parallel import KvPrecision, Precision
from liveavatar.loading.quantize import quantize_linears
from liveavatar.models.s2v import S2VTransformer, TokenGrid
from liveavatar.models.s2v.kv_cache import KVCache
from liveavatar.parallel.cache_offload import HostCaches
from liveavatar.parallel.host_memory import HostArena
from liveavatar.parallel.offload import offload_blocks
from tests.parity.golden import relative_rms
from tests.s2v.tiny import TinyStream, tiny_model

DEVICE = torch.device("cuda")
GRID = TokenGrid(latent_height=32, latent_width=48)
LAYERS, STEPS, BLOCKS_MADE = 7, 2, 7
# Copies of several megabytes that take as long as the work: one that is not waited for would show.
SIZES = {"dim": 1024, "ffn_dim": 2048, "num_heads": 8, "num_layers": LAYERS, "audio_inject_layers": [0, 2]}

ROUNDING = 0.02  # of 16 and 8 bits over all layers; weights of another block would give a difference of 1

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a graphics card"),
]


def model_of(precision: Precision) -> S2VTransformer:
    model = tiny_model(**SIZES)
    model.to(device=DEVICE, dtype=torch.bfloat16)
    if precision == "fp8":
        if torch.cuda.get_device_capability() < (8, 9):
            pytest.skip("needs a card that multiplies in 8 bits")
        quantize_linears(model)
    return model


def velocities(model: S2VTransformer, caches: list[KVCache]) -> list[Tensor]:
    """Return those of several blocks and all steps, without waiting for any of them."""
    stream = TinyStream(model, GRID, cache=caches[0])
    found = []
    for block in range(BLOCKS_MADE):
        if block % 4 == 0:
            model.prefill(stream.latents_of(1), stream.latents_of(19), stream.text, caches)
        for stream.cache in caches:
            found.append(stream.run(block, jitter=4 + block))
    return found


@pytest.mark.parametrize(
    ("num_resident", "precision", "kv_precision"),
    [(0, "bf16", "bf16"), (3, "fp8", "fp8"), (LAYERS, "bf16", "fp8"), (4, "bf16", "bf16")],
)
@pytest.mark.parametrize("is_compiled", [False, True])
def test_host_memory_changes_nothing(
    num_resident: int, precision: Precision, kv_precision: KvPrecision, is_compiled: bool
) -> None:
    found = []
    for num_blocks in (LAYERS, num_resident):
        torch._dynamo.reset()
        model = model_of(precision)
        offload_blocks(model, num_blocks)
        if is_compiled:
            model.compile_parts()
        allocate = model.allocate_caches if not found else HostCaches(model).allocate
        found.append(velocities(model, allocate(GRID, STEPS, precision=kv_precision)))
    for plain, on_host in zip(*found, strict=True):
        assert plain.isfinite().all()
        if is_compiled:
            assert relative_rms(on_host, plain) < ROUNDING
        else:
            assert torch.equal(plain, on_host)


def test_host_memory_is_locked_and_given_back() -> None:
    arena = HostArena(2**24, DEVICE)
    assert arena.take((1024,), torch.float32).is_pinned()
    memory = arena.take((1024,), torch.float32)
    del arena
    assert not memory.is_pinned()
