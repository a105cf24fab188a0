"""The kernel of GELU and quantising against the plain arithmetic, at the model's width and at others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from liveavatar.loading.quantize import gelu_quantize, quantize
from tests.parity.golden import relative_rms

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9),
        reason="needs a card that converts to 8 bits",
    ),
]


@pytest.mark.parametrize("shape", [(3168, 13824), (1, 7, 13824), (3, 1, 200)])
def test_values_and_scales_are_those_of_the_plain_arithmetic(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, device="cuda", generator=torch.Generator("cuda").manual_seed(0)).bfloat16()
    x[..., 3] *= 30  # some channels are large
    values, scale = gelu_quantize(x)
    expected_values, expected_scale = quantize(F.gelu(x, approximate="tanh"), "per_row")
    assert relative_rms(scale, expected_scale) < 1e-6
    # A value in the middle between two neighbours may go to either.
    assert (values.float() != expected_values.float()).float().mean() < 0.002
    exact = F.gelu(x.double(), approximate="tanh")
    error, expected_error = (
        relative_rms(v.double() * s, exact) for v, s in ((values, scale), (expected_values, expected_scale))
    )
    assert error < 1.001 * expected_error


def test_tokens_of_nothing_stay_finite() -> None:
    values, scale = gelu_quantize(torch.zeros(4, 512, device="cuda", dtype=torch.bfloat16))
    assert not values.float().any()
    assert torch.isfinite(scale).all()
