"""Whether 8-bit attention works here: it is tried, and refused with a plain reason."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from liveavatar.models.s2v.int8_attention import operators
from liveavatar.models.s2v.rope import Rotary

# The kernel is written in Gluon, which changes with every minor version of Triton.
TRITON_VERSIONS = ("3.6",)
HOPPER = 9  # major compute capability
HEAD_DIM = 128
LARGEST_DIFFERENCE = 0.01  # of the kernels from the arithmetic, relative; quantisation itself costs 0.04


def why_not(*, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Return why the kernels cannot serve on this device, as part of a sentence, or None if their results are right."""
    reason = _unsuitable(device, dtype, head_dim)
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


def _unsuitable(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Return what is missing without starting anything."""
    if device.type != "cuda":
        return "it needs a graphics card"
    capability = torch.cuda.get_device_capability(device)
    if capability[0] != HOPPER:
        return f"it is made for Hopper cards (H100, H200), not for the {torch.cuda.get_device_name(device)}"
    if dtype != torch.bfloat16 or head_dim != HEAD_DIM:
        return f"it is made for bfloat16 and heads of {HEAD_DIM} channels, not for {dtype} and {head_dim}"
    return _wrong_triton()


def _wrong_triton() -> str | None:
    try:
        found = version("triton")
    except PackageNotFoundError:
        return "Triton is not installed"
    if ".".join(found.split(".")[:2]) not in TRITON_VERSIONS:
        return f"it is made for Triton {' or '.join(TRITON_VERSIONS)}, and {found} is installed"
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
