"""Keys and values kept in 8 bits (e4m3) and widened, one layer at a time, for attention.

Every row and head has a scale of its own, kept in the model's dtype: 1.6 % on top of the 8 bits. It is written with
the row and never changed, so nothing has to be known of later rows. Of scales per row and head, per row, per head and
one in all, these measured closest to 16 bits, most of all where few channels are large.

Shapes: T rows, N rows of a block, C rows of the sink, H heads, K channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from liveavatar.models.s2v.kv_cache import LayerCache, Sink, copy_rows

E4M3_MAX = 448.0
_SMALLEST_SCALE = 1e-20


@dataclass(frozen=True, kw_only=True)
class Fp8LayerCache(LayerCache):
    """A layer's buffer with keys and values as e4m3, held as bytes: more operations know them."""

    k_scale_TH1: Tensor
    v_scale_TH1: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that belongs to this layer and step alone, with one entry per row."""
        return self.k_THK, self.v_THK, self.k_scale_TH1, self.v_scale_TH1

    def write_keys(self, rows_N: Tensor, k_NHK: Tensor) -> None:
        """Replace the keys of the given rows."""
        _write(self.k_THK, self.k_scale_TH1, rows_N, k_NHK)

    def write_values(self, rows_N: Tensor, v_NHK: Tensor) -> None:
        """Replace the values of the given rows."""
        _write(self.v_THK, self.v_scale_TH1, rows_N, v_NHK)

    def write_sink(self, sink: Sink) -> None:
        """Replace the first rows."""
        (k_CHK, k_scale_CH1), (v_CHK, v_scale_CH1) = narrow(sink.k_CHK), narrow(sink.v_CHK)
        for buffer, rows in zip(self.tensors, (k_CHK, v_CHK, k_scale_CH1, v_scale_CH1), strict=True):
            copy_rows(buffer, rows)
        self.reference_k_SHK.copy_(sink.reference_k_SHK)

    def window(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values of the first rows in the model's dtype, freshly made."""
        return (
            widen(self.k_THK[:num_rows], self.k_scale_TH1[:num_rows]),
            widen(self.v_THK[:num_rows], self.v_scale_TH1[:num_rows]),
        )


def narrow(x_NHK: Tensor) -> tuple[Tensor, Tensor]:
    """Return e4m3 values as bytes, and the scales `[N, H, 1]` in the dtype of the input."""
    largest = x_NHK.abs().amax(dim=-1, keepdim=True).float()
    scale = (largest / E4M3_MAX).clamp(min=_SMALLEST_SCALE).to(x_NHK.dtype)
    values = (x_NHK.float() / scale.float()).clamp(-E4M3_MAX, E4M3_MAX)  # the rounded scale may be too small
    return to_e4m3(values), scale


def widen(values_THK: Tensor, scale_TH1: Tensor) -> Tensor:
    """Return values in the dtype of the scale."""
    return from_e4m3(values_THK, scale_TH1.dtype).mul_(scale_TH1)


# Conversions by integer arithmetic: compilers convert e4m3 themselves only for cards since Ada, and eager PyTorch
# slowly. e4m3 is the top of a float with fewer bits of exponent; a factor of 2^120 moves one bias to the other.


def to_e4m3(x: Tensor) -> Tensor:
    """Return the nearest e4m3 values of float32 ones within -448..448, as bytes; ties go to the even one."""
    bits = (x.abs() * 2.0**-120).view(torch.int32)
    rounded = (bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20
    return (rounded | ((x < 0).to(torch.int32) << 7)).to(torch.uint8)


def from_e4m3(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the values of e4m3 bytes, exactly, as bfloat16 or float32: types with 8 bits of exponent."""
    integer, shift = (torch.int16, 4) if dtype == torch.bfloat16 else (torch.int32, 20)
    bits = values.to(integer)
    bits = ((bits & 0x7F) << shift) | ((bits & 0x80) << (shift + 4))
    return bits.view(dtype).mul(2.0**120)


def _write(values_THK: Tensor, scale_TH1: Tensor, rows_N: Tensor, x_NHK: Tensor) -> None:
    values, scale = narrow(x_NHK)
    values_THK.index_copy_(0, rows_N, values)
    scale_TH1.index_copy_(0, rows_N, scale)
