"""The planner's own numbers of the model against the model itself, without allocating it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from liveavatar.loading.quantize import EXCLUDED_LAYERS
from liveavatar.models.s2v import S2V_14B, S2VTransformer, TokenGrid
from liveavatar.planning import model_spec
from liveavatar.planning.memory_model import RankRole, block_bytes, injection_bytes, step_cache_bytes
from liveavatar.planning.model_spec import VideoSize


@pytest.fixture(scope="module")
def model() -> S2VTransformer:
    with torch.device("meta"):
        return S2VTransformer(**S2V_14B)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_every_part(model: S2VTransformer) -> None:
    assert _count(model) == model_spec.TRANSFORMER_PARAMETERS == 16_295_755_609
    assert _count(model.blocks[0]) == model_spec.BLOCK_PARAMETERS
    assert _count(model.audio_injector) == 12 * model_spec.INJECTION_PARAMETERS
    assert model.audio_injector.block_indices == model_spec.INJECTED_LAYERS


def test_layers_that_become_8_bit(model: S2VTransformer) -> None:
    linears = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not any(part in name for part in EXCLUDED_LAYERS)
    ]
    forecast = model_spec.NUM_LAYERS * model_spec.BLOCK_LINEAR_PARAMETERS
    forecast += len(model_spec.INJECTED_LAYERS) * model_spec.INJECTION_LINEAR_PARAMETERS
    assert sum(layer.weight.numel() for layer in linears) == forecast
    scales = sum(layer.out_features for layer in linears) * 4
    others = model_spec.TRANSFORMER_PARAMETERS - forecast - model_spec.REST_PARAMETERS
    assert 40 * block_bytes("fp8") + 12 * injection_bytes("fp8") == forecast + 2 * others + scales


@pytest.mark.parametrize(("width", "height"), [(704, 384), (384, 256), (1280, 704), (448, 832)])
def test_tokens_and_caches(model: S2VTransformer, width: int, height: int) -> None:
    size, grid = VideoSize(width, height), TokenGrid(latent_height=height // 8, latent_width=width // 8)
    assert size.frame_tokens == grid.frame_tokens
    assert size.block_tokens == grid.block_tokens
    assert size.sink_tokens == grid.sink_tokens
    with torch.device("meta"):
        model = model.to("meta").to(torch.bfloat16)
        plain = model.allocate_caches(grid, 1)[0].layers
        int8 = model.allocate_caches(grid, 1, precision="int8")[0].layers
    role = RankRole(size=size, num_steps=1)
    assert step_cache_bytes(role) == sum(tensor.nbytes for layer in plain for tensor in layer.tensors[:2])
    role = dataclasses.replace(role, kv_precision="int8")
    assert step_cache_bytes(role) == sum(tensor.nbytes for layer in int8 for tensor in layer.tensors[:2])


def test_sizes_the_model_cannot_make() -> None:
    with pytest.raises(ValueError, match="multiples of 64"):
        VideoSize(720, 400)


def test_arithmetic_as_counted_by_hand() -> None:
    """TFLOP at 704x384: 79.7 of matrix products, 39.7 + 1.3 of attention; first block 15.1 + 1.3; see planning.md."""
    work = model_spec.step_work(VideoSize(704, 384))
    assert work.matrix_flops / 1e12 == pytest.approx(79.7, rel=0.01)
    assert work.attention_flops / 1e12 == pytest.approx(41.0, rel=0.01)
    first = model_spec.step_work(VideoSize(704, 384), window_blocks=1)
    assert first.attention_flops / 1e12 == pytest.approx(15.1 + 1.3, rel=0.01)


def test_layers_are_shared_out_completely() -> None:
    for num_parts in range(1, 9):
        parts = model_spec.parts(num_parts)
        assert sum(layers for layers, _ in parts) == model_spec.NUM_LAYERS
        assert sum(injections for _, injections in parts) == len(model_spec.INJECTED_LAYERS)
        assert max(layers for layers, _ in parts) - min(layers for layers, _ in parts) <= 1
