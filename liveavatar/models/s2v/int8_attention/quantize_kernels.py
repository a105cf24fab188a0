"""Triton kernels that bring projections into 8 bits, bound by memory: wide loads and stores, many small programs.

Import only where Triton is installed. Arithmetic: arithmetic.py.
Shapes: L tokens, H heads, K channels of a head, P = K / 2 pairs, D = H x K.
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
    CHANNELS: tl.constexpr,
    TOKENS: tl.constexpr,
    HEADS_AT_ONCE: tl.constexpr,  # a power of two; times TOKENS at least 16
    HAS_GAIN: tl.constexpr,
    IS_QUERY: tl.constexpr,
):
    """Normalise whole tokens, turn them by their position and by the Hadamard matrix, and quantise them.

    A norm needs the whole token first; what is read for it is read again, some heads at a time, from the caches.
    """
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    is_token = token < num_tokens
    place = token[:, None] * (CHANNELS // 2) + tl.arange(0, CHANNELS // 2)[None, :]
    cos = tl.load(cos_ptr + place, mask=is_token[:, None], other=0.0)
    sin = tl.load(sin_ptr + place, mask=is_token[:, None], other=0.0)
    channel = tl.arange(0, CHANNELS)
    matrix = tl.load(matrix_ptr + channel[:, None] * CHANNELS + channel[None, :])
    matrix_scale = 1.0 / tl.sqrt(CHANNELS * 1.0)
    if HAS_GAIN:
        row_ptrs = x_ptr + token * x_stride
        factor = _norm_factor(row_ptrs, is_token, eps, HEADS * CHANNELS, TOKENS, HEADS_AT_ONCE * CHANNELS)
        cos = cos * factor[:, None]
        sin = sin * factor[:, None]
    if IS_QUERY:
        row = token
    else:
        key = tl.load(rows_ptr + token, mask=is_token, other=0).to(tl.int32)
        row = key - key % 16 + (key & 1)
        row += ((key >> 2) & 1) * 2 + ((key >> 3) & 1) * 4 + ((key >> 1) & 1) * 8

    for first_head in range(0, HEADS, HEADS_AT_ONCE):
        head = first_head + tl.arange(0, HEADS_AT_ONCE)
        is_head = head < HEADS
        exists = is_head[:, None] & is_token[None, :]
        within_token = (head[:, None] * CHANNELS + channel[None, :])[:, None, :]
        x_ptrs = x_ptr + (token * x_stride)[None, :, None] + within_token
        x = tl.load(x_ptrs, mask=exists[:, :, None], other=0.0).to(tl.float32)
        if HAS_GAIN:
            x = x * tl.load(gain_ptr + within_token, mask=is_head[:, None, None], other=0.0).to(tl.float32)
        real, imaginary = tl.split(tl.reshape(x, (HEADS_AT_ONCE, TOKENS, CHANNELS // 2, 2)))
        turned = tl.join(real * cos[None] - imaginary * sin[None], real * sin[None] + imaginary * cos[None])
        turned = tl.reshape(turned, (HEADS_AT_ONCE * TOKENS, CHANNELS)).to(tl.bfloat16)
        y = tl.reshape(tl.dot(turned, matrix), (HEADS_AT_ONCE, TOKENS, CHANNELS))
        key_scale = tl.load((key_scale_ptr if IS_QUERY else scale_ptr) + head, mask=is_head, other=1.0)
        if IS_QUERY:
            amax = tl.maximum(tl.max(tl.abs(y), axis=2) * matrix_scale, 1e-8)
            y = y * (127.0 * matrix_scale / amax)[:, :, None]
            scale = amax * logit_scale * key_scale[:, None]
            tl.store(scale_ptr + head[:, None] * out_rows + token[None, :], scale, mask=exists)
        else:
            y = y * (matrix_scale / key_scale)[:, None, None]
            y = tl.minimum(tl.maximum(y, -127.0), 127.0)
        # Adding 1.5 x 2^23 rounds to the nearest integer, half to even, and leaves it in the lowest bits.
        y = (y + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)
        out_place = (head[:, None].to(tl.int64) * out_rows + row[None, :]) * CHANNELS
        tl.store(out_ptr + out_place[:, :, None] + channel[None, None, :], y, mask=exists[:, :, None])


@triton.jit
def _norm_factor(
    x_ptrs, is_token, eps, WIDTH: tl.constexpr, TOKENS: tl.constexpr, WIDTH_AT_ONCE: tl.constexpr
):
    """Return one by the root mean square of each token."""
    squares = tl.zeros((TOKENS, WIDTH_AT_ONCE), tl.float32)
    for first in range(0, WIDTH, WIDTH_AT_ONCE):
        column = first + tl.arange(0, WIDTH_AT_ONCE)
        exists = is_token[:, None] & (column < WIDTH)[None, :]
        x = tl.load(x_ptrs[:, None] + column[None, :], mask=exists, other=0.0).to(tl.float32)
        squares += x * x
    return tl.rsqrt(tl.sum(squares, axis=1) / WIDTH + eps)


@triton.jit(do_not_specialize=["num_tokens"])
def quantize_values(
    v_ptr,  # [L, D], rows `v_stride` apart
    scale_ptr,  # [H, K]
    rows_ptr,  # [L], the rows of the cache they are for: consecutive, so only the first is read
    out_ptr,  # [H, K, out_rows / 4], e4m3, four in a word
    num_tokens,
    v_stride,
    out_rows,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Quantise the values of one head and turn them round: the keys of a channel lie side by side.

    A program fills a whole tile of the cache, wherever the tokens begin, so that it can store 16 bytes at a time.
    Four keys of a channel are packed into a word before they are exchanged between threads.
    """
    head = tl.program_id(1)
    channel = tl.arange(0, CHANNELS)
    first_row = tl.load(rows_ptr).to(tl.int32)
    tile = first_row // ROWS + tl.program_id(0)
    first_token = tile * ROWS - first_row
    if first_token >= num_tokens:
        return
    word = tl.arange(0, ROWS // 4)
    factor = (1.0 / tl.load(scale_ptr + head * CHANNELS + channel))[None, :]
    words = tl.zeros((ROWS // 4, CHANNELS), tl.uint32)
    foreign_bits = tl.zeros((ROWS // 4,), tl.uint32)
    for byte in tl.static_range(4):
        token = first_token + word * 4 + byte
        exists = (token >= 0) & (token < num_tokens)
        v_ptrs = v_ptr + token[:, None] * v_stride + head * CHANNELS + channel[None, :]
        v = tl.load(v_ptrs, mask=exists[:, None], other=0.0).to(tl.float32) * factor
        v = tl.minimum(tl.maximum(v, -448.0), 448.0).to(tl.float8e4nv)
        words |= v.to(tl.uint8, bitcast=True).to(tl.uint32) << (8 * byte)
        foreign_bits |= tl.where(exists, 0, 0xFF << (8 * byte)).to(tl.uint32)
    place = (head * CHANNELS + channel)[:, None].to(tl.int64) * (out_rows // 4) + tile * (ROWS // 4)
    out_ptrs = out_ptr + place + word[None, :]
    is_shared = (first_token < 0) | (first_token + ROWS > num_tokens)
    kept = tl.load(out_ptrs, mask=is_shared, other=0)
    tl.store(out_ptrs, tl.trans(words) | (kept & foreign_bits[None, :]))
