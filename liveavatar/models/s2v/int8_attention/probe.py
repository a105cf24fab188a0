"""Whether 8-bit attention works here: it is tried, and refused with a plain reason."""

from __future__ import annotations

import torch
from torch import Tensor

from liveavatar.models.s2v.hopper import HEAD_DIM, why_unsuitable
from liveavatar.models.s2v.int8_attention import operators
from liveavatar.models.s2v.rope import Rotary

LARGEST_DIFFERENCE = 0.01  # of the kernels from the arithmetic, relative; quantisation itself costs 0.04


def why_not(*, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Return why the kernels cannot serve on this device, as part of a sentence, or None if their results are right."""
    reason = why_unsuitable(device=device, dtype=dtype, head_dim=head_dim)
    if reason is not None:
        return reason
    from triton.errors import TritonError

    try:
        difference = _difference(device)
    except (
        RuntimeError,
        TritonError,
        OSError,
    ) as error:  # the compiler's, the driver's, and a missing C compiler's
        return f"its kernels do not run here: {str(error).splitlines()[0]}"
    if not difference < LARGEST_DIFFERENCE:
        return f"its result is off by {difference:.1%}"
    return None


def _difference(device: torch.device) -> float:
    """Return how far the kernels are from the arithmetic on the processor, for two heads and partly filled tiles."""
    from liveavatar.models.s2v.int8_attention.cache import new_layer

    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    q, k, v = (randn(200, 2 * HEAD_DIM).bfloat16() for _ in range(3))
    gain = (0.5 + randn(2 * HEAD_DIM).abs()).bfloat16()
    angles = 3 * randn(200, HEAD_DIM // 2)
    rotary = Rotary(angles.cos(), angles.sin())
    layer = new_layer(torch.zeros(1, 2, HEAD_DIM), 300)
    layer.key_scale_H.fill_(0.1)
    layer.value_scale_HK.fill_(0.02)

    def attend_on(target: torch.device) -> Tensor:
        keys = layer.k_HTK.to(target, copy=True), layer.key_scale_H.to(target)
        values = layer.v_HKT.to(target, copy=True), layer.value_scale_HK.to(target)
        tokens = [x.to(target) for x in (q, k, v)]
        factors = tuple(factor.to(target) for factor in rotary)
        for first in (0, 90):
            rows = torch.arange(first, first + 200, device=target)
            operators.store_keys(*keys, rows, tokens[1], gain.to(target), 1e-6, *factors)
            operators.store_values(*values, rows, tokens[2])
        return operators.attend(tokens[0], gain.to(target), 1e-6, *factors, *keys, *values, 290)

    expected = attend_on(torch.device("cpu")).float()
    actual = attend_on(device).cpu().float()
    return float((actual - expected).norm() / expected.norm())
