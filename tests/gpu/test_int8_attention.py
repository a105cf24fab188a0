"""The kernels of 8-bit attention on a Hopper card against the plain arithmetic, at the model's sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.attention_statistics import EPS, AttentionInputs, draw_inputs
from liveavatar.models.s2v.hopper import HOPPER
from liveavatar.models.s2v.int8_attention import arithmetic, operators, probe
from liveavatar.models.s2v.int8_attention.cache import Int8LayerCache, new_layer
from liveavatar.models.s2v.kv_cache import Sink
from liveavatar.models.s2v.rope import apply_rotary
from tests.parity.golden import relative_rms

HEADS, HEAD_DIM = 40, 128
IS_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == HOPPER

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not IS_HOPPER, reason="needs a Hopper card")]


def inputs_of(num_queries: int, num_keys: int, num_heads: int = HEADS) -> AttentionInputs:
    """Return bfloat16 projections on the card."""
    return draw_inputs(
        "peaked", num_queries=num_queries, num_keys=num_keys, num_heads=num_heads, device="cuda"
    )


def empty_layer(inputs: AttentionInputs) -> Int8LayerCache:
    """Return a buffer with scales for these inputs."""
    _, k, v = inputs.rotated(torch.float32)
    layer = new_layer(torch.zeros(1, *k.shape[1:], device="cuda"), len(k))
    for scale, value in zip(
        (layer.key_scale_H, layer.value_scale_HK), arithmetic.measure_scales(k, v), strict=True
    ):
        scale.copy_(value)
    return layer


def store(layer: Int8LayerCache, inputs: AttentionInputs, rows: Tensor) -> None:
    """Write keys and values by the kernels."""
    operators.store_keys(
        layer.k_HTK, layer.key_scale_H, rows, inputs.k_TD, inputs.gain_k_D, EPS, *inputs.rotary_T
    )
    operators.store_values(layer.v_HKT, layer.value_scale_HK, rows, inputs.v_TD)


def attend(inputs: AttentionInputs, layer: Int8LayerCache, num_keys: int) -> Tensor:
    """Return the attention `[L, D]` by the kernels."""
    return operators.attend(
        inputs.q_LD, inputs.gain_q_D, EPS, *inputs.rotary_L,
        layer.k_HTK, layer.key_scale_H, layer.v_HKT, layer.value_scale_HK, num_keys,
    )  # fmt: skip


def test_the_engine_takes_it() -> None:
    assert probe.why_not(device=torch.device("cuda"), dtype=torch.bfloat16, head_dim=HEAD_DIM) is None


@pytest.mark.parametrize("num_heads", [40, 10, 5])
def test_quantisation_equals_the_arithmetic(num_heads: int) -> None:
    """Whole heads of one device or of a part; rounding may fall otherwise where a value lies between two."""
    inputs = inputs_of(300, 701, num_heads)
    layer = empty_layer(inputs)
    expected = new_layer(layer.reference_k_SHK, 701)
    rows = torch.arange(701, device="cuda")
    store(layer, inputs, rows)
    normalised = arithmetic.normalize(inputs.k_TD, inputs.gain_k_D, EPS).unflatten(1, (num_heads, -1))
    arithmetic.write_keys(expected.k_HTK, layer.key_scale_H, rows, apply_rotary(normalised, inputs.rotary_T))
    arithmetic.write_values(
        expected.v_HKT, layer.value_scale_HK, rows, inputs.v_TD.unflatten(1, (num_heads, -1))
    )
    difference = (layer.k_HTK.int() - expected.k_HTK.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01
    assert (layer.v_HKT != expected.v_HKT).float().mean() < 0.001


@pytest.mark.parametrize(
    ("num_queries", "num_keys"), [(3168, 15312), (3168, 5808), (1152, 5568), (300, 1799), (64, 5)]
)
def test_attention_equals_the_arithmetic(num_queries: int, num_keys: int) -> None:
    """The remaining difference is that of bfloat16 results. Ragged numbers of queries and keys included."""
    inputs = inputs_of(num_queries, max(num_keys, num_queries))
    layer = empty_layer(inputs)
    store(layer, inputs, torch.arange(len(inputs.k_TD), device="cuda"))
    queries = arithmetic.quantize_queries(
        inputs.q_LD, inputs.gain_q_D, EPS, inputs.rotary_L, layer.key_scale_H
    )
    expected = arithmetic.attend(queries, layer.k_HTK, layer.v_HKT, layer.value_scale_HK, num_keys)
    actual = attend(inputs, layer, num_keys)
    assert relative_rms(actual, expected.flatten(1)) < 0.005
    assert torch.equal(attend(inputs, layer, num_keys), actual)


@pytest.mark.parametrize(
    ("first", "count"), [(0, 256), (130, 200), (125, 7), (128, 128), (37, 600), (639, 1)]
)
def test_values_go_to_their_rows_alone(first: int, count: int) -> None:
    """A program fills whole tiles: what other rows of the first and the last one hold must stay."""
    inputs = inputs_of(count, 640)
    layer = empty_layer(inputs)
    layer.v_HKT.random_()
    expected = layer.v_HKT.clone()
    rows, values_LD = torch.arange(first, first + count, device="cuda"), inputs.v_TD[:count]
    values_LHK = values_LD.unflatten(1, (HEADS, HEAD_DIM))
    arithmetic.write_values(expected, layer.value_scale_HK, rows, values_LHK)
    operators.store_values(layer.v_HKT, layer.value_scale_HK, rows, values_LD)
    assert (layer.v_HKT != expected).sum() <= 0.001 * values_LD.numel()
    own = torch.zeros_like(expected, dtype=torch.bool)
    own[:, :, first : first + count] = True
    assert torch.equal(layer.v_HKT[~own], expected[~own])


def test_parts_of_a_wider_projection_need_no_copy() -> None:
    """Query, key and value projections may come out of one product, side by side."""
    inputs = inputs_of(200, 200)
    layer = empty_layer(inputs)
    wide = torch.cat([inputs.q_LD, inputs.k_TD, inputs.v_TD], dim=1)
    q, k, v = wide.chunk(3, dim=1)
    store(layer, inputs, torch.arange(200, device="cuda"))
    expected = attend(inputs, layer, 200)
    rows = torch.arange(200, device="cuda")
    apart = empty_layer(inputs)
    operators.store_keys(apart.k_HTK, apart.key_scale_H, rows, k, inputs.gain_k_D, EPS, *inputs.rotary_T)
    operators.store_values(apart.v_HKT, apart.value_scale_HK, rows, v)
    actual = operators.attend(
        q, inputs.gain_q_D, EPS, *inputs.rotary_L,
        apart.k_HTK, apart.key_scale_H, apart.v_HKT, apart.value_scale_HK, 200,
    )  # fmt: skip
    assert torch.equal(actual, expected)


def test_compiled_and_captured_it_stays_the_same() -> None:
    """One graph for every number of keys; a CUDA graph replays it."""
    inputs = inputs_of(256, 1024)
    layer = empty_layer(inputs)
    rows = torch.arange(1024, device="cuda")

    def run(attended_rows: Tensor) -> Tensor:
        store(layer, inputs, rows)
        return attend(inputs, layer, attended_rows.shape[0]) * 2

    compiled = torch.compile(run, fullgraph=True)
    for num_keys in (500, 800, 1024):
        attended_rows = torch.empty(1, device="cuda").expand(num_keys)
        torch._dynamo.maybe_mark_dynamic(attended_rows, 0)
        with torch.inference_mode():
            assert torch.equal(compiled(attended_rows), run(attended_rows))
    expected = run(rows)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(rows)
    captured.zero_()
    graph.replay()
    assert torch.equal(captured, expected)


def test_equal_keys_share_evenly() -> None:
    """The scale of the values and the order of the keys, without the arithmetic of this project."""
    inputs = inputs_of(64, 256)
    layer = empty_layer(inputs)
    operators.store_values(layer.v_HKT, layer.value_scale_HK, torch.arange(256, device="cuda"), inputs.v_TD)
    values_HKT = inputs.v_TD.float().T.unflatten(0, (HEADS, HEAD_DIM))
    attended = attend(inputs, layer, 200).unflatten(1, (HEADS, HEAD_DIM))
    expected = values_HKT[:, :, :200].mean(-1).expand_as(attended)
    assert relative_rms(attended, expected) < 0.05


def test_the_sink_is_kept_as_on_the_processor() -> None:
    inputs = inputs_of(64, 300)
    _, k, v = inputs.rotated(torch.bfloat16)
    sink = Sink(k_CHK=k, v_CHK=v, reference_k_SHK=k[:10])
    layers = []
    for device in ("cuda", "cpu"):
        layers.append(new_layer(torch.zeros(10, HEADS, HEAD_DIM, device=device, dtype=torch.bfloat16), 300))
        layers[-1].write_sink(Sink(*(part.to(device) for part in sink)))
    on_card, expected = layers
    for scale, same in zip(on_card.tensors[2:], expected.tensors[2:], strict=True):
        assert torch.allclose(scale.cpu(), same, rtol=1e-5)
    difference = (on_card.k_HTK.cpu().int() - expected.k_HTK.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01
    assert (on_card.v_HKT.cpu() != expected.v_HKT).float().mean() < 0.001
