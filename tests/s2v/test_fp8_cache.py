"""Keys and values in 8 bits: how far attention and velocities move, and that it compiles like the plain cache."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from liveavatar.models.s2v.attention import native_attention
from liveavatar.models.s2v.fp8_cache import from_e4m3, narrow, to_e4m3, widen
from liveavatar.models.s2v.kv_cache import LayerCache
from tests.parity.golden import relative_error, relative_rms
from tests.s2v.tiny import SMALL_GRID, TinyStream, tiny_model

HEADS, CHANNELS, QUERIES, ROWS = 8, 128, 128, 3000


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def statistics_like(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values as the model's norms leave them.

    flat: logits vary by 1.5, most keys matter. peaked: by 3.7, few do. outliers: some channels and some tokens are
    ten times as large as the others, as trained transformers have them.
    """
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    width = HEADS * CHANNELS
    q, k, v = randn(QUERIES, width), randn(ROWS, width), randn(ROWS, HEADS, CHANNELS)
    gain = 0.25 + 1.5 * torch.rand(width, generator=generator)
    if kind == "peaked":
        gain = gain * 1.6
    if kind == "outliers":
        channels = torch.randperm(width, generator=generator)[: 2 * HEADS]
        k[:, channels] += 8
        q[:, channels] += 2 * randn(len(channels))
        k[:20] *= 10
        v[:20] *= 10
        v[:, :, 5] *= 12
    q, k = (F.rms_norm(x, (width,), gain).unflatten(1, (HEADS, CHANNELS)) for x in (q, k))
    return q, k, v


@pytest.mark.parametrize(("kind", "limit"), [("flat", 0.055), ("peaked", 0.08), ("outliers", 0.055)])
def test_attention_to_8_bit_keys_and_values_stays_near(kind: str, limit: float) -> None:
    """The limits are the errors written in docs/model.md, with a tenth to spare."""
    q, k, v = statistics_like(kind)
    expected = native_attention(q[None], k[None], v[None])
    stored = native_attention(q[None], widen(*narrow(k))[None], widen(*narrow(v))[None])
    rounded = native_attention(*(x[None].bfloat16() for x in (q, k, v)))
    assert relative_rms(rounded, expected) < relative_rms(stored, expected) < limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_8_bit_value_is_read_as_pytorch_reads_it(dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[(codes & 0x7F) != 0x7F]  # not a number, in either sign
    assert torch.equal(from_e4m3(codes, dtype), codes.view(torch.float8_e4m3fn).to(dtype))


def test_values_are_rounded_as_pytorch_rounds_them() -> None:
    steps = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    steps = steps[steps.isfinite()].sort().values
    ties = (steps[1:] + steps[:-1]) / 2
    random = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 2, 10_000)
    for x in (steps, ties, random):
        expected = x.to(torch.float8_e4m3fn).view(torch.uint8)
        assert torch.equal(from_e4m3(to_e4m3(x), torch.float32), from_e4m3(expected, torch.float32))


def test_rows_and_heads_have_scales_of_their_own() -> None:
    x = torch.randn(16, 2, CHANNELS)
    x[3, 1] *= 1e4
    x[4] = 0
    restored = widen(*narrow(x))
    others = torch.ones(16, 2, dtype=torch.bool)
    others[3, 1] = False
    assert relative_rms(restored[others], x[others]) < 0.03
    assert relative_rms(restored[3, 1], x[3, 1]) < 0.03
    assert torch.equal(restored[4], x[4])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_widening_and_narrowing_again_changes_nothing(dtype: torch.dtype) -> None:
    once = widen(*narrow(torch.randn(64, 2, CHANNELS, dtype=dtype)))
    assert once.dtype == dtype
    assert relative_rms(widen(*narrow(once)), once) < 0.005


def test_velocities_stay_near_those_of_the_plain_cache() -> None:
    """While the window fills, when it is full and after the sink was refreshed."""
    model = tiny_model(num_layers=4)
    stream, plain = TinyStream(model, kv_precision="fp8"), TinyStream(model)
    errors = []
    for block in range(9):
        if block == 6:
            stream.refresh_sink()
            plain.refresh_sink()
        errors.append(relative_rms(stream.run(block), plain.run(block)))
    assert 1e-5 < min(errors) <= max(errors) < 0.01


def test_the_buffers_take_half_the_memory() -> None:
    model = tiny_model().bfloat16()
    plain, narrow_ones = (
        model.allocate_caches(SMALL_GRID, 1, precision=precision)[0] for precision in ("bf16", "fp8")
    )

    def num_bytes(tensors: tuple[Tensor, ...]) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    head_dim = model.head_dim
    share = (head_dim + 2) / (2 * head_dim)  # 8 bits per value and a scale of 16 per row and head
    assert num_bytes(narrow_ones.layers[0].tensors) == share * num_bytes(plain.layers[0].tensors)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="'int4'"):
        tiny_model().allocate_caches(SMALL_GRID, 1, precision="int4")  # type: ignore[arg-type]


def test_one_graph_of_a_layer_serves_all_layers_and_blocks() -> None:
    model = tiny_model(num_layers=3)
    stream, expected = TinyStream(model, kv_precision="fp8"), TinyStream(model, kv_precision="fp8")
    expected_velocities = [expected.run(block) for block in range(6)]
    counter = CompileCounterWithBackend("aot_eager")
    model.compile_repeated_blocks(fullgraph=True, backend=counter)
    for block, velocity in enumerate(expected_velocities):
        assert relative_error(stream.run(block), velocity) < 1e-6
    assert counter.frame_count == 1


def test_generated_code_keeps_and_widens_the_same_numbers() -> None:
    model = tiny_model()
    compiled, eager = (model.allocate_caches(SMALL_GRID, 1, precision="fp8")[0].layers[0] for _ in range(2))
    rows = torch.arange(4, 76)

    def keep(cache: LayerCache, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        cache.write_keys(rows, k)
        cache.write_values(rows, v)
        return cache.window(80)

    k, v = torch.randn(2, 72, 2, model.head_dim)
    expected = keep(eager, k, v)
    for widened, same in zip(torch.compile(keep, fullgraph=True)(compiled, k, v), expected, strict=True):
        assert relative_rms(widened, same) < 1e-6
    assert torch.equal(compiled.k_THK, eager.k_THK)
