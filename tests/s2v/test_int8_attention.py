"""8-bit attention: its error, its memory, its place in the model, and when it is refused. Kernels: tests/gpu."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.utils import run_and_get_code

from benchmarks.attention_statistics import EPS, AttentionInputs, Kind, draw_inputs
from liveavatar.core.events import Notice
from liveavatar.core.parallel import ParallelPlan
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import ValidatedRequest
from liveavatar.engines.s2v.engine import S2vEngine
from liveavatar.engines.s2v.parts import Parts
from liveavatar.models.s2v import S2VTransformer
from liveavatar.models.s2v.int8_attention import arithmetic, operators, probe
from liveavatar.models.s2v.int8_attention.cache import Int8LayerCache, new_layer
from liveavatar.pipeline.denoise import BlockDenoiser
from tests.parity.golden import relative_error, relative_rms
from tests.s2v.tiny import SMALL_GRID, TinyStream, tiny_model

POWER_OF_TWO_HEADS = {"dim": 64}  # of 32 channels


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def filled_layer(inputs: AttentionInputs, *, sink_tokens: int) -> Int8LayerCache:
    """Return a buffer with all keys and values, its scales measured on the first of them as in a stream."""
    _, k, v = inputs.rotated(torch.float32)
    layer = new_layer(torch.zeros(1, *k.shape[1:]), len(k))
    for scale, value in zip(
        (layer.key_scale_H, layer.value_scale_HK),
        arithmetic.measure_scales(k[:sink_tokens], v[:sink_tokens]),
        strict=True,
    ):
        scale.copy_(value)
    rows = torch.arange(len(k))
    arithmetic.write_keys(layer.k_HTK, layer.key_scale_H, rows, k)
    arithmetic.write_values(layer.v_HKT, layer.value_scale_HK, rows, v)
    return layer


def attend(inputs: AttentionInputs, layer: Int8LayerCache, num_keys: int) -> Tensor:
    """Return the attention `[L, H, K]` in float32."""
    queries = arithmetic.quantize_queries(
        inputs.q_LD, inputs.gain_q_D, EPS, inputs.rotary_L, layer.key_scale_H
    )
    return arithmetic.attend(queries, layer.k_HTK, layer.v_HKT, layer.value_scale_HK, num_keys)


def dequantized(layer: Int8LayerCache, num_keys: int) -> tuple[Tensor, Tensor]:
    """Return keys `[H, T, K]`, still spread over the channels, and values `[H, T, K]` as they are kept."""
    rows = torch.arange(num_keys)
    keys = layer.k_HTK[:, arithmetic.stored_rows(rows)].float() * layer.key_scale_H[:, None, None]
    values = layer.v_HKT.view(torch.float8_e4m3fn).float() * layer.value_scale_HK[..., None]
    return keys, values[:, :, :num_keys].mT


# ---------------------------------------------------------------------------------------------- error


@pytest.mark.parametrize(("kind", "limit"), [("flat", 0.043), ("peaked", 0.045), ("outlier", 0.053)])
def test_error_against_full_precision(kind: Kind, limit: float) -> None:
    """Limits: the errors of docs/model.md with a tenth to spare. A bfloat16 kernel has 0.004 to 0.006."""
    inputs = draw_inputs(kind, num_queries=192, num_keys=3000, num_heads=8)
    expected = inputs.attend(torch.float64)
    error = relative_rms(attend(inputs, filled_layer(inputs, sink_tokens=500), 3000), expected)
    assert relative_rms(inputs.attend(torch.bfloat16), expected) < error < limit


def test_channels_that_stand_out_cost_no_precision() -> None:
    """The rotation spreads them: logits of the stored keys stay as near as without them."""
    errors = []
    kinds: tuple[Kind, ...] = ("flat", "outlier")
    for kind in kinds:
        inputs = draw_inputs(kind, num_queries=1, num_keys=600, num_heads=4)
        _, k, _ = inputs.rotated(torch.float32)
        stored, _ = dequantized(filled_layer(inputs, sink_tokens=600), 600)
        errors.append(relative_rms(stored, arithmetic.spread(k).transpose(0, 1)))
    assert errors[1] < 1.5 * errors[0] < 0.03


@pytest.mark.parametrize("num_keys", [5, 128, 137, 300])
def test_attention_to_any_number_of_keys(num_keys: int) -> None:
    """Equal to a softmax over what is stored, up to the rounding of probabilities; later keys have no part in it."""
    inputs = draw_inputs("peaked", num_queries=40, num_keys=300, num_heads=2, head_dim=32)
    layer = filled_layer(inputs, sink_tokens=300)
    queries = arithmetic.quantize_queries(
        inputs.q_LD, inputs.gain_q_D, EPS, inputs.rotary_L, layer.key_scale_H
    )
    q = queries.values_HLK * (queries.scale_HL / layer.key_scale_H[:, None])[..., None]
    k, v = dequantized(layer, num_keys)
    weights = torch.softmax(q @ k.mT * torch.tensor(2.0).log(), dim=-1)  # the scale includes log2(e)
    actual = attend(inputs, layer, num_keys)
    assert relative_rms(actual, (weights @ v).transpose(0, 1)) < 0.03
    layer.k_HTK[:, arithmetic.stored_rows(torch.arange(num_keys, 300))] = 127
    layer.v_HKT[:, :, num_keys:] = 8
    assert torch.equal(attend(inputs, layer, num_keys), actual)


def test_larger_keys_and_values_than_the_sink_had_saturate() -> None:
    inputs = draw_inputs("flat", num_queries=1, num_keys=256, num_heads=2, head_dim=32)
    layer = filled_layer(inputs, sink_tokens=256)
    arithmetic.write_keys(layer.k_HTK, layer.key_scale_H, torch.tensor([7]), torch.full((1, 2, 32), 1e6))
    arithmetic.write_values(layer.v_HKT, layer.value_scale_HK, torch.tensor([7]), torch.full((1, 2, 32), 1e6))
    assert layer.k_HTK[:, arithmetic.stored_rows(torch.tensor(7))].max() == 127
    assert layer.v_HKT.view(torch.float8_e4m3fn)[:, :, 7].float().eq(448).all()


def test_heads_that_cannot_be_rotated_are_refused() -> None:
    with pytest.raises(ValueError, match="power of two channels, not 24"):
        tiny_model(dim=48).allocate_caches(SMALL_GRID, 1, precision="int8")


# ---------------------------------------------------------------------------------------------- stream


def test_velocities_stay_near_those_of_the_plain_cache() -> None:
    """While the window fills, when it is full, and after the sink was refreshed."""
    model = tiny_model(**POWER_OF_TWO_HEADS, num_layers=4)
    stream, plain = TinyStream(model, kv_precision="int8"), TinyStream(model)
    errors = []
    for block in range(9):
        if block == 6:
            stream.refresh_sink()
            plain.refresh_sink()
        errors.append(relative_rms(stream.run(block), plain.run(block)))
    assert 1e-5 < min(errors) <= max(errors) < 0.02


def test_the_rolling_window_equals_one_written_in_a_single_go() -> None:
    """After many blocks the buffer holds the latest ones, each where it belongs, and the reference where it is now."""
    model = tiny_model(**POWER_OF_TWO_HEADS, num_layers=1)
    stream, again = TinyStream(model, kv_precision="int8"), TinyStream(model, kv_precision="int8")
    for block in range(11):
        stream.run(block)
    for block in range(7, 11):
        again.run(block)
    layers = [each.cache.layers[0] for each in (stream, again)]
    for tensor, same in zip(*(layer.tensors for layer in layers), strict=True):
        assert torch.equal(tensor, same)
    assert torch.equal(stream.run(11), again.run(11))


def test_scales_are_those_of_the_first_sink() -> None:
    """A new sink must not change what the blocks in the buffer mean."""
    stream = TinyStream(tiny_model(**POWER_OF_TWO_HEADS), kv_precision="int8")
    layer = stream.cache.layers[0]
    assert isinstance(layer, Int8LayerCache)
    scales = layer.key_scale_H.clone(), layer.value_scale_HK.clone()
    keys = layer.k_HTK.clone()
    stream.refresh_sink()
    assert torch.equal(layer.key_scale_H, scales[0])
    assert torch.equal(layer.value_scale_HK, scales[1])
    assert min(scale.min().item() for scale in scales) > 0
    assert not torch.equal(layer.k_HTK, keys)


def test_a_norm_that_spans_several_devices_runs_on_its_own() -> None:
    class OtherNorm(nn.Module):
        def __init__(self, gain: Tensor) -> None:
            super().__init__()
            self.gain = gain

        def forward(self, x: Tensor) -> Tensor:
            return F.rms_norm(x, self.gain.shape, self.gain, EPS)

    model = tiny_model(**POWER_OF_TWO_HEADS)
    expected = TinyStream(model, kv_precision="int8").run(0)
    for attention in (block.self_attn for block in model.blocks):
        for name in ("norm_q", "norm_k"):
            setattr(attention, name, OtherNorm(getattr(attention, name).weight))
    assert relative_rms(TinyStream(model, kv_precision="int8").run(0), expected) < 1e-3


def test_the_buffers_take_half_the_memory() -> None:
    """Up to the filling of the last tile and two small scales."""
    model = tiny_model(**POWER_OF_TWO_HEADS).bfloat16()
    plain, narrow = (
        sum(x.nbytes for x in model.allocate_caches(SMALL_GRID, 1, precision=precision)[0].layers[0].tensors)
        for precision in ("bf16", "int8")
    )
    width, rows = 64, SMALL_GRID.window_tokens(4)
    assert plain == 2 * 2 * width * rows
    assert narrow == 2 * width * (rows + -rows % 128) + 4 * (2 + width)


# ---------------------------------------------------------------------------------------------- compiler


def test_one_graph_of_a_layer_serves_all_layers_and_blocks() -> None:
    model = tiny_model(**POWER_OF_TWO_HEADS, num_layers=3)
    stream, expected = TinyStream(model, kv_precision="int8"), TinyStream(model, kv_precision="int8")
    expected_velocities = [expected.run(block) for block in range(6)]
    counter = CompileCounterWithBackend("inductor")
    for block in model.blocks:
        block.compile(fullgraph=True, backend=counter)
    with torch._inductor.config.patch(fx_graph_cache=False):  # what comes from that cache shows no code
        velocities, (code,) = run_and_get_code(lambda: [stream.run(block) for block in range(6)])
    for velocity, expected_velocity in zip(velocities, expected_velocities, strict=True):
        assert relative_error(velocity, expected_velocity) < 1e-3
    assert counter.frame_count == 1
    # Caches, which the operators change, are handed over as the graph got them, not as copies.
    first_arguments = re.findall(r"int8_store_\w+\.default\((\w+), (\w+)", code)
    assert len(first_arguments) == 3
    assert all(name.startswith("arg") for pair in first_arguments for name in pair)


def test_operators_keep_the_rules_of_the_compiler() -> None:
    """Declared mutations, shapes without data, any strides, a dynamic number of keys."""
    inputs = draw_inputs("flat", num_queries=24, num_keys=256, num_heads=2, head_dim=32, dtype=torch.float32)
    layer = filled_layer(inputs, sink_tokens=256)
    keys, values = (layer.k_HTK, layer.key_scale_H), (layer.v_HKT, layer.value_scale_HK)
    rows, wide = torch.arange(24), inputs.q_LD.repeat(1, 3)[:, 64:128]
    for gain in (inputs.gain_k_D, None):
        torch.library.opcheck(operators.store_keys, (*keys, rows, wide, gain, EPS, *inputs.rotary_L))
        torch.library.opcheck(operators.attend, (wide, gain, EPS, *inputs.rotary_L, *keys, *values, 200))
    torch.library.opcheck(operators.store_values, (*values, rows, wide))


# ---------------------------------------------------------------------------------------------- probe


def hopper(monkeypatch: pytest.MonkeyPatch, *, capability: tuple[int, int], triton: str) -> dict[str, object]:
    """Pretend that there is a card; return the arguments of `why_not` for it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L40S")
    monkeypatch.setattr("liveavatar.models.s2v.hopper.version", lambda name: triton)
    errors = types.ModuleType("triton.errors")
    errors.TritonError = type("TritonError", (Exception,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton", types.ModuleType("triton"))
    monkeypatch.setitem(sys.modules, "triton.errors", errors)
    return {"device": torch.device("cuda:0"), "dtype": torch.bfloat16, "head_dim": 128}


def test_without_a_card_it_is_refused() -> None:
    reason = probe.why_not(device=torch.device("cpu"), dtype=torch.bfloat16, head_dim=128)
    assert reason == "it needs a graphics card"


@pytest.mark.parametrize(
    ("capability", "triton", "changes", "reason"),
    [
        ((8, 9), "3.6.0", {}, "Hopper cards (H100, H200), not for the NVIDIA L40S"),
        ((9, 0), "3.9.1", {}, "made for Triton 3.6 or 3.7 or 3.8, and 3.9.1 is installed"),
        ((9, 0), "3.6.0", {"dtype": torch.float16}, "made for bfloat16"),
        ((9, 0), "3.6.0", {"head_dim": 64}, "heads of 128 channels"),
    ],
)
def test_an_unsuitable_machine_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    triton: str,
    changes: dict[str, object],
    reason: str,
) -> None:
    found = probe.why_not(**hopper(monkeypatch, capability=capability, triton=triton) | changes)  # type: ignore[arg-type]
    assert found is not None
    assert reason in found


@pytest.mark.parametrize(
    ("difference", "reason"),
    [(0.001, None), (0.2, "its result is off by 20.0%"), (float("nan"), "its result is off by nan%")],
)
def test_right_results_are_the_condition(
    monkeypatch: pytest.MonkeyPatch, difference: float, reason: str | None
) -> None:
    arguments = hopper(monkeypatch, capability=(9, 0), triton="3.6.0")
    monkeypatch.setattr(probe, "_difference", lambda device: difference)
    assert probe.why_not(**arguments) == reason  # type: ignore[arg-type]


def test_kernels_that_do_not_compile_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = hopper(monkeypatch, capability=(9, 0), triton="3.6.0")

    def fail(device: torch.device) -> float:
        raise RuntimeError("PassManager::run failed\nand more")

    monkeypatch.setattr(probe, "_difference", fail)
    assert probe.why_not(**arguments) == "its kernels do not run here: PassManager::run failed"  # type: ignore[arg-type]


def test_what_is_tried_is_equal_on_equal_devices() -> None:
    """The probe's own arithmetic: on the processor both sides run the same."""
    assert probe._difference(torch.device("cpu")) == 0


# ---------------------------------------------------------------------------------------------- engine


def parts_of(model: S2VTransformer) -> Parts:
    """Return an engine's parts of which only the transformer is there."""
    return Parts(transformer=model, vae=None, audio_encoder=None, prompts=None)  # type: ignore[arg-type]


def test_the_operator_is_told_when_attention_stays_in_16_bits(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "voice.wav", np.zeros(16_000, np.int16), 16_000)
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    request = ValidatedRequest(
        job_id="a",
        image_path=str(tmp_path / "picture.png"),
        audio_path=str(tmp_path / "voice.wav"),
        audio_seconds=1.0,
        prompt="",
        seed=0,
        face_clicks=None,
        whole_picture=True,
    )
    plan = ExecutionPlan(
        engine="s2v", width=64, height=64, parallel=ParallelPlan(step_split=(4,)), kv_precision="int8"
    )
    engine = S2vEngine()
    engine._parts = parts_of(tiny_model())
    events = engine.generate(request, plan, should_stop=lambda: True)
    assert [event.note.text for event in events if isinstance(event, Notice)] == [
        "Attention works in 16 bits instead of 8: it needs a graphics card."
    ]


def test_a_plan_with_8_bit_attention_gets_its_caches() -> None:
    parts = parts_of(tiny_model(**POWER_OF_TWO_HEADS))
    assert parts.usable_kv("int8") == "bf16"
    vars(parts)["why_no_8_bit_attention"] = None  # as if it had been tried on a card
    assert [parts.usable_kv(wanted) for wanted in ("bf16", "fp8", "int8")] == ["bf16", "fp8", "int8"]
    denoiser = BlockDenoiser(
        parts.transformer,
        grid=SMALL_GRID,
        text=torch.randn(4, 8),
        sink_distance=lambda block, step: 20,
        num_steps=2,
        kv_precision=parts.usable_kv("int8"),
    )
    layers = [layer for cache in denoiser._caches.values() for layer in cache.layers]
    assert len(layers) == 4
    assert all(isinstance(layer, Int8LayerCache) for layer in layers)
