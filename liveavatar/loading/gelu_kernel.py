"""GELU and quantising of its result in one pass over memory. Import only where Triton is installed.

The compiler would read the wide tokens twice and compute the GELU twice: once for the scale, once for the values.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_WARPS = 8


@triton.jit
def gelu_quantize_row(
    x_ptr,  # [num_tokens, WIDTH], bfloat16
    out_ptr,  # [num_tokens, WIDTH], e4m3
    scale_ptr,  # [num_tokens], float32
    largest,
    smallest_amax,
    WIDTH: tl.constexpr,
    PADDED_WIDTH: tl.constexpr,  # a power of two
):
    """Work on one token, which fits into the registers of a program."""
    token = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, PADDED_WIDTH)
    exists = channel < WIDTH
    x = tl.load(x_ptr + token * WIDTH + channel, mask=exists, other=0.0).to(tl.float32)
    # 0.5 (1 + tanh(u)) is the sigmoid of 2 u.
    y = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    y = y.to(tl.bfloat16).to(tl.float32)  # as it would be written to memory
    scale = tl.maximum(tl.max(tl.abs(y), axis=0), smallest_amax) / largest
    tl.store(scale_ptr + token, scale)
    y = tl.minimum(tl.maximum(y * (1.0 / scale), -largest), largest)
    tl.store(out_ptr + token * WIDTH + channel, y.to(tl.float8e4nv), mask=exists)


def gelu_quantize(x: Tensor, *, largest: float, smallest_amax: float) -> tuple[Tensor, Tensor]:
    """Return (e4m3 values like x, float32 scales [..., 1]) of contiguous bfloat16 tokens [..., width] on a card."""
    width = x.shape[-1]
    values = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scale = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    with torch.cuda.device(x.device):
        gelu_quantize_row[(scale.numel(),)](
            x,
            values,
            scale,
            largest,
            smallest_amax,
            WIDTH=width,
            PADDED_WIDTH=triton.next_power_of_2(width),
            num_warps=_WARPS,
        )
    return values, scale
