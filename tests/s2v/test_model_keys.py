"""The published parameters have a place in the model, and no other parameters exist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from liveavatar.loading.quantize import quantize_linears
from liveavatar.models.s2v import S2V_14B, S2VTransformer
from tests.s2v.tiny import TINY_CONFIG

PUBLISHED_SHAPES = Path(__file__).parent / "data" / "dit_14b_state_dict_shapes.json"
PUBLISHED_TENSORS = 1260
PUBLISHED_PARAMETERS = 16_295_755_609


@pytest.fixture(scope="module")
def full_model() -> S2VTransformer:
    with torch.device("meta"):
        return S2VTransformer(**S2V_14B)


def test_keys_and_shapes_are_those_published(full_model: S2VTransformer) -> None:
    published = {name: tuple(shape) for name, shape in json.loads(PUBLISHED_SHAPES.read_text()).items()}
    actual = {name: tuple(tensor.shape) for name, tensor in full_model.state_dict().items()}
    assert actual == published
    assert len(actual) == PUBLISHED_TENSORS


def test_number_of_parameters(full_model: S2VTransformer) -> None:
    assert sum(parameter.numel() for parameter in full_model.parameters()) == PUBLISHED_PARAMETERS


def test_defaults_are_the_published_configuration(full_model: S2VTransformer) -> None:
    with torch.device("meta"):
        model = S2VTransformer()
    for name, value in S2V_14B.items():
        default = model.config[name]
        assert (list(default) if isinstance(default, tuple) else default) == value


@pytest.mark.parametrize("variant", [{"enable_motioner": True}, {"zero_timestep": False}, {"in_dim": 36}])
def test_another_variant_is_refused(variant: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="another S2V variant"):
        S2VTransformer(**(TINY_CONFIG | variant))


def test_8_bit_layers_are_those_of_the_published_pipeline() -> None:
    with torch.device("meta"):
        model = S2VTransformer(**S2V_14B)
    assert quantize_linears(model, "per_row") == 400 + 48 + 12
