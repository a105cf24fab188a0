"""What the 8-bit attention computes, in plain PyTorch: the processor's implementation and the kernels' measure.

    queries, keys   norm, rotary position, Hadamard rotation; then int8, symmetric: queries with a scale per token and
                    head, keys with one per head that stays for the whole video
    values          e4m3 (held as bytes: more operations know them) with a scale per channel that stays likewise
    attention       tile by tile of 128 keys from the last to the first: logits exact in int32, softmax in float32
                    against the largest logit so far, probabilities as e4m3, sums in float32

The Hadamard rotation turns queries and keys alike, so their products stay; what was large in few channels is spread
over all. That is why one scale per head, taken from the sink, serves the keys of every later block.

Keys lie in memory in an order of their own within every 16 (`stored_rows`). With it the matrix unit's output, the
logits, has the layout of its 8-bit input, the probabilities, so that nothing is exchanged between threads.

Shapes: L tokens, T rows of the cache (whole tiles), H heads, K channels of a head (a power of two), D = H x K.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from liveavatar.models.s2v.rope import Rotary, apply_rotary

TILE_KEYS = 128
INT8_MAX, E4M3_MAX = 127.0, 448.0
# Probabilities are scaled to 0..256, where e4m3 resolves the most.
PROBABILITY_EXPONENT = 8.0
# Later keys and values may exceed the sink's largest by this factor before they saturate. The room costs an integer
# format precision; e4m3 keeps its relative precision over its whole range.
KEY_ROOM, VALUE_ROOM = 1.25, 4.0
SMALLEST_AMAX = 1e-8


class Quantized(NamedTuple):
    """Queries ready to attend."""

    values_HLK: Tensor  # int8
    scale_HL: Tensor  # float32; times an integer product with keys: the logit in base 2


def padded_rows(num_rows: int) -> int:
    """Return the rows of a cache for so many keys: whole tiles."""
    return -(-num_rows // TILE_KEYS) * TILE_KEYS


def stored_rows(rows: Tensor) -> Tensor:
    """Return where keys lie in memory: bits 3210 of their number become 1320."""
    low = rows & 1
    return rows - rows % 16 + low + ((rows >> 2) & 1) * 2 + ((rows >> 3) & 1) * 4 + ((rows >> 1) & 1) * 8


@lru_cache(maxsize=8)
def hadamard(size: int, device: torch.device) -> Tensor:
    """Return the Hadamard matrix [size, size] of 1 and -1 in bfloat16. Raises ValueError unless a power of two."""
    if size < 1 or size & (size - 1):
        raise ValueError(f"8-bit attention needs heads of a power of two channels, not {size}")
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix.to(device, torch.bfloat16)


def normalize(x_LD: Tensor, gain_D: Tensor | None, eps: float) -> Tensor:
    """Divide by the root mean square and multiply by the gain, in float32; without a gain, only widen."""
    x = x_LD.float()
    if gain_D is None:
        return x
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * gain_D.float()


def spread(x_LHK: Tensor) -> Tensor:
    """Return the channels of every head turned by the Hadamard rotation, float32, from values rounded to bfloat16."""
    size = x_LHK.shape[-1]
    matrix = hadamard(size, x_LHK.device).float()
    return (x_LHK.to(torch.bfloat16).float() @ matrix) * size**-0.5


def quantize_queries(
    q_LD: Tensor, gain_D: Tensor | None, eps: float, rotary_L: Rotary, key_scale_H: Tensor
) -> Quantized:
    """Return int8 queries of raw projections, or of normalised ones without a gain."""
    q_LHK = normalize(q_LD, gain_D, eps).unflatten(-1, (len(key_scale_H), -1))
    q_HLK = spread(apply_rotary(q_LHK, rotary_L)).transpose(0, 1)
    amax_HL = q_HLK.abs().amax(-1).clamp(min=SMALLEST_AMAX)
    values = _to_int8(q_HLK * (INT8_MAX / amax_HL)[..., None])
    softmax_scale = q_HLK.shape[-1] ** -0.5 * math.log2(math.e)
    return Quantized(values, amax_HL * (softmax_scale / INT8_MAX) * key_scale_H[:, None])


def write_keys(k_HTK: Tensor, key_scale_H: Tensor, rows_L: Tensor, k_LHK: Tensor) -> None:
    """Quantise keys that are normalised and rotated by their position, and store them as those of the given rows."""
    k_HLK = spread(k_LHK).transpose(0, 1) * (1 / key_scale_H)[:, None, None]
    k_HTK.index_copy_(1, stored_rows(rows_L), _to_int8(k_HLK))


def write_values(v_HKT: Tensor, value_scale_HK: Tensor, rows_L: Tensor, v_LHK: Tensor) -> None:
    """Quantise values and store them as those of the given rows."""
    v_HKL = v_LHK.float().permute(1, 2, 0) * (1 / value_scale_HK)[..., None]
    v_HKT.index_copy_(2, rows_L, to_e4m3(v_HKL).view(torch.uint8))


def measure_scales(k_CHK: Tensor, v_CHK: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scales `[H]` of keys and `[H, K]` of values that fit the sink's, with room for later ones."""
    key_amax_H = spread(k_CHK).abs().amax((0, 2)).clamp(min=SMALLEST_AMAX)
    value_amax_HK = v_CHK.float().abs().amax(0).clamp(min=SMALLEST_AMAX)
    return key_amax_H * (KEY_ROOM / INT8_MAX), value_amax_HK * (VALUE_ROOM / E4M3_MAX)


def attend(q: Quantized, k_HTK: Tensor, v_HKT: Tensor, value_scale_HK: Tensor, num_keys: int) -> Tensor:
    """Return `[L, H, K]` in float32 from the first `num_keys` keys of the cache."""
    queries_HLK = q.values_HLK.float()
    num_heads, num_queries, _ = queries_HLK.shape
    largest_HL1 = queries_HLK.new_full((num_heads, num_queries, 1), -math.inf)
    total_HL1 = torch.zeros_like(largest_HL1)
    sum_HLK = torch.zeros_like(queries_HLK)
    for first in reversed(range(0, num_keys, TILE_KEYS)):
        keys = torch.arange(first, min(first + TILE_KEYS, num_keys), device=k_HTK.device)
        # Integers below 2^24: float32 holds every sum exactly.
        logits = queries_HLK @ k_HTK[:, stored_rows(keys)].float().mT * q.scale_HL[..., None]
        new_largest = torch.maximum(largest_HL1, logits.amax(-1, keepdim=True))
        correction = torch.exp2(largest_HL1 - new_largest)
        weights = torch.exp2(logits + (PROBABILITY_EXPONENT - new_largest))
        total_HL1 = total_HL1 * correction + weights.sum(-1, keepdim=True)
        values_HKT = v_HKT[:, :, first : first + len(keys)].view(torch.float8_e4m3fn).float()
        sum_HLK = sum_HLK * correction + to_e4m3(weights).float() @ values_HKT.mT
        largest_HL1 = new_largest
    return (sum_HLK / total_HL1 * value_scale_HK[:, None]).transpose(0, 1)


def to_e4m3(x: Tensor) -> Tensor:
    """Round to 8-bit floats; larger values saturate."""
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def _to_int8(x: Tensor) -> Tensor:
    """Round half to even, saturating."""
    return x.clamp(-INT8_MAX, INT8_MAX).round().to(torch.int8)
