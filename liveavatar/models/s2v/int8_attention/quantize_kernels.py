"""Triton kernels that bring projections into 8 bits in one pass over memory. Arithmetic: arithmetic.py.

Import only where Triton is installed. Shapes: L tokens, H heads, K channels of a head, P = K / 2 pairs, D = H x K.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_tokens"])
def quantize_rows(
    x_ptr,  # [L, D], rows `x_stride` apart
    gain_ptr,  # [D], or unused
    cos_ptr,  # [L, P]
    sin_ptr,  # [L, P]
    matrix_ptr,  # [K, K], the Hadamard matrix
    rows_ptr,  # keys: [L], the rows of the cache they are for
    scale_ptr,  # keys: [H], read; queries: [H, out_rows], written
    key_scale_ptr,  # queries: [H]
    out_ptr,  # [H, out_rows, K], int8
    num_tokens,
    x_stride,
    out_rows,
    eps,
    logit_scale,
    HEADS: tl.constexpr,
    PADDED_HEADS: tl.constexpr,  # a power of two, at least 16
    CHANNELS: tl.constexpr,
    TOKENS: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    IS_QUERY: tl.constexpr,
):
    """Normalise whole tokens, turn them by their position and by the Hadamard matrix, and quantise them."""
    head = tl.arange(0, PADDED_HEADS)
    channel = tl.arange(0, CHANNELS)
    pair = tl.arange(0, CHANNELS // 2)
    exists = head < HEADS
    within_token = head[:, None] * CHANNELS + channel[None, :]
    matrix = tl.load(matrix_ptr + channel[:, None] * CHANNELS + channel[None, :])
    key_scale = tl.load((key_scale_ptr if IS_QUERY else scale_ptr) + head, mask=exists, other=1.0)
    first = tl.program_id(0) * TOKENS
    for token in range(first, tl.minimum(first + TOKENS, num_tokens)):
        x = tl.load(x_ptr + token * x_stride + within_token, mask=exists[:, None], other=0.0).to(tl.float32)
        if HAS_GAIN:
            gain = tl.load(gain_ptr + within_token, mask=exists[:, None], other=0.0).to(tl.float32)
            mean_square = tl.sum(tl.sum(x * x, axis=1), axis=0) / (HEADS * CHANNELS)
            x = x * tl.rsqrt(mean_square + eps) * gain
        real, imaginary = tl.split(tl.reshape(x, (PADDED_HEADS, CHANNELS // 2, 2)))
        cos = tl.load(cos_ptr + token * (CHANNELS // 2) + pair)[None, :]
        sin = tl.load(sin_ptr + token * (CHANNELS // 2) + pair)[None, :]
        turned = tl.join(real * cos - imaginary * sin, real * sin + imaginary * cos)
        turned = tl.reshape(turned, (PADDED_HEADS, CHANNELS)).to(tl.bfloat16)
        y = tl.dot(turned, matrix) * (1.0 / tl.sqrt(CHANNELS * 1.0))
        if IS_QUERY:
            amax = tl.maximum(tl.max(tl.abs(y), axis=1), 1e-8)
            y = y * (127.0 / amax)[:, None]
            tl.store(scale_ptr + head * out_rows + token, amax * logit_scale * key_scale, mask=exists)
            row = token
        else:
            y = y * (1.0 / key_scale)[:, None]
            key = tl.load(rows_ptr + token).to(tl.int32)
            row = (
                key
                - key % 16
                + (key & 1)
                + ((key >> 2) & 1) * 2
                + ((key >> 3) & 1) * 4
                + ((key >> 1) & 1) * 8
            )
        y = tl.minimum(tl.maximum(y, -127.0), 127.0)
        # Adding 1.5 x 2^23 rounds to the nearest integer, half to even, and leaves it in the lowest bits.
        y = (y + 12582912.0).to(tl.int32, bitcast=True)
        place = head[:, None].to(tl.int64) * out_rows * CHANNELS + row * CHANNELS + channel[None, :]
        tl.store(out_ptr + place, y.to(tl.int8), mask=exists[:, None])


@triton.jit(do_not_specialize=["num_tokens"])
def quantize_values(
    v_ptr,  # [L, D], rows `v_stride` apart
    scale_ptr,  # [H, K]
    rows_ptr,  # [L], the rows of the cache they are for
    out_ptr,  # [H, K, out_rows], e4m3
    num_tokens,
    v_stride,
    out_rows,
    CHANNELS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Quantise the values of one head and turn them round: the keys of a channel lie side by side."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    head = tl.program_id(1)
    channel = tl.arange(0, CHANNELS)
    exists = token < num_tokens
    v = tl.load(
        v_ptr + token[:, None] * v_stride + head * CHANNELS + channel[None, :],
        mask=exists[:, None],
        other=0.0,
    )
    v = v.to(tl.float32) * (1.0 / tl.load(scale_ptr + head * CHANNELS + channel))[None, :]
    v = tl.minimum(tl.maximum(v, -448.0), 448.0)
    row = tl.load(rows_ptr + token, mask=exists, other=0)
    place = (head * CHANNELS + channel)[:, None].to(tl.int64) * out_rows + row[None, :]
    tl.store(out_ptr + place, tl.trans(v).to(tl.float8e4nv), mask=exists[None, :])
