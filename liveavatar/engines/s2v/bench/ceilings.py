"""What this card can do at best: the rates that the engine's own times are to be held against."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from liveavatar.models.s2v.attention import ATTENTION_KERNELS

_LOOP_S = 0.3  # long enough for the clock to settle under load
_COPY_BYTES = 2**31
# Rows of a block at 704x384, and the width and feed-forward width of the model.
_ROWS, _WIDTH, _FFN_WIDTH, _KEYS, _HEADS, _HEAD_DIM = 3168, 5120, 13824, 15312, 40, 128


def ceilings(device: torch.device, kernel: str) -> dict[str, float]:
    """Return rates in TFLOP/s (a multiply and an add count as two) and memory bandwidth in GB/s."""
    rates = {"bf16_matrix_tflops": _bf16(device), "attention_tflops": _attention(device, kernel)}
    if torch.cuda.get_device_capability(device) >= (8, 9):
        rates["fp8_matrix_tflops"] = _fp8(device)
    rates["copy_gb_per_s"] = _copy(device)
    return {name: round(rate, 1) for name, rate in rates.items()}


def _bf16(device: torch.device) -> float:
    x = torch.randn(_ROWS, _WIDTH, device=device, dtype=torch.bfloat16)
    weight = torch.randn(_FFN_WIDTH, _WIDTH, device=device, dtype=torch.bfloat16)
    return _matrix_flops() / _seconds_per_call(lambda: torch.nn.functional.linear(x, weight)) / 1e12


def _fp8(device: torch.device) -> float:
    x = torch.randn(_ROWS, _WIDTH, device=device).to(torch.float8_e4m3fn)
    weight = torch.randn(_FFN_WIDTH, _WIDTH, device=device).to(torch.float8_e4m3fn)
    rows, columns = torch.ones(_ROWS, 1, device=device), torch.ones(1, _FFN_WIDTH, device=device)

    def multiply() -> Tensor:
        return torch._scaled_mm(x, weight.t(), rows, columns, out_dtype=torch.bfloat16, use_fast_accum=True)

    return _matrix_flops() / _seconds_per_call(multiply) / 1e12


def _attention(device: torch.device, kernel: str) -> float:
    q, k, v = (
        torch.randn(1, length, _HEADS, _HEAD_DIM, device=device, dtype=torch.bfloat16)
        for length in (_ROWS, _KEYS, _KEYS)
    )
    seconds = _seconds_per_call(lambda: ATTENTION_KERNELS[kernel](q, k, v))
    return 4 * _ROWS * _KEYS * _WIDTH / seconds / 1e12


def _copy(device: torch.device) -> float:
    source = torch.empty(_COPY_BYTES, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / _seconds_per_call(lambda: target.copy_(source)) / 1e9


def _matrix_flops() -> float:
    return 2.0 * _ROWS * _WIDTH * _FFN_WIDTH


def _seconds_per_call(call: Callable[[], Tensor]) -> float:
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    num_calls, started = 0, time.perf_counter()
    while time.perf_counter() - started < _LOOP_S:
        for _ in range(10):
            call()
        torch.cuda.synchronize()
        num_calls += 10
    return (time.perf_counter() - started) / num_calls
