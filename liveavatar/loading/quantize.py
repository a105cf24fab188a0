"""Linear layers that multiply in 8 bits (e4m3).

`per_row`: every output channel of the weight and every token has a scale of its own. Compiled, a token is quantised
in the kernel of the norm before it, or in one with the GELU. Query, key and value projections share one quantised
input.
`per_tensor`: one scale for the weight and one for all tokens, as in the published pipeline; kept to compare with it.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveavatar.models.s2v.attention import SelfAttention
from liveavatar.models.s2v.block import S2VBlock

Fp8Scheme = Literal["per_row", "per_tensor"]

E4M3_MAX = 448.0
SMALLEST_AMAX = 1e-12

# Parts of layer names that keep their precision: they run once per video or feed a float32 computation.
EXCLUDED_LAYERS = (
    "text_embedding",
    "time_embedding",
    "time_projection",
    "head.head",
    "casual_audio_encoder.encoder.final_linear",
)


class QuantizedInput(NamedTuple):
    """An input that was quantised once for several layers."""

    values: Tensor  # e4m3 [..., in]
    scale: Tensor  # float32 [..., 1], or [1, 1]
    dtype: torch.dtype  # of the input, hence of the outputs


class InputQuantizer(nn.Module):
    """Quantises what the query, key and value projections share."""

    def __init__(self, scheme: Fp8Scheme) -> None:
        super().__init__()
        self.scheme = scheme

    def forward(self, x: Tensor) -> QuantizedInput:
        """Return an input that every Fp8Linear of the same scheme takes."""
        return QuantizedInput(*quantize(x, self.scheme), x.dtype)


class GeluQuantizer(nn.Module):
    """GELU in its tanh form, for a layer with a scale per row."""

    def forward(self, x: Tensor) -> QuantizedInput:
        """Return what an Fp8Linear takes in place of the activated tokens [..., width]."""
        values, scale = gelu_quantize(x)
        return QuantizedInput(values, scale, x.dtype)


class Fp8Linear(nn.Module):
    """A linear layer with an 8-bit weight, quantising its input on the fly."""

    weight: Tensor  # e4m3 [out, in]
    weight_scale: Tensor  # float32 [out, 1] or [1, 1]: what the 8-bit weight is to be multiplied with
    bias: Tensor | None

    def __init__(self, source: nn.Linear, scheme: Fp8Scheme) -> None:
        super().__init__()
        self.in_features, self.out_features = source.in_features, source.out_features
        self.scheme = scheme
        self.register_buffer("weight", None)
        self.register_buffer("weight_scale", None)
        self.register_buffer("bias", None if source.bias is None else source.bias.detach())
        self.set_weight(source.weight.detach())

    def set_weight(self, weight: Tensor) -> None:
        """Quantise and keep a weight given in full precision."""
        self.weight, self.weight_scale = quantize(weight, self.scheme)

    def forward(self, x: Tensor | QuantizedInput) -> Tensor:
        """Return a tensor in the dtype of the input."""
        tokens = x.shape[:-1] if isinstance(x, Tensor) else x.values.shape[:-1]
        if isinstance(x, Tensor):  # flat, so that a norm before it is compiled to write nothing but 8 bits
            x = QuantizedInput(*quantize(x.flatten(0, -2), self.scheme), x.dtype)
        values, scale = x.values.flatten(0, -2), x.scale.reshape(-1, 1)
        if values.is_cuda:
            product = torch._scaled_mm(
                values,
                self.weight.t(),
                scale_a=scale,
                scale_b=self.weight_scale.t(),
                bias=self.bias,
                out_dtype=x.dtype,
                use_fast_accum=True,
            )
        else:
            scaled = F.linear(values.float(), self.weight.float()) * scale * self.weight_scale.t()
            product = (scaled if self.bias is None else scaled + self.bias.float()).to(x.dtype)
        return product.unflatten(0, tokens)

    def extra_repr(self) -> str:
        """Describe the layer like nn.Linear does."""
        return f"in_features={self.in_features}, out_features={self.out_features}, scheme={self.scheme}"


def quantize(x: Tensor, scheme: Fp8Scheme) -> tuple[Tensor, Tensor]:
    """Return (e4m3 values, float32 scale) whose product is the matrix, one scale per row or one in all."""
    if scheme == "per_row":
        scale = x.abs().amax(dim=-1, keepdim=True).float().clamp(min=SMALLEST_AMAX) / E4M3_MAX
        return (x.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), scale
    factor = (E4M3_MAX / x.abs().amax().float().clamp(min=SMALLEST_AMAX)).clamp(max=E4M3_MAX)
    # The published quantiser rounds the scaled value to the dtype of the input first.
    scaled = (x.float() * factor).to(x.dtype).clamp(-E4M3_MAX, E4M3_MAX)
    return scaled.to(torch.float8_e4m3fn), factor.reciprocal().view(1, 1)


def _gelu_then_quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    return quantize(F.gelu(x, approximate="tanh"), "per_row")


@torch.library.custom_op(
    "liveavatar::gelu_quantize", mutates_args=(), device_types="cpu", schema="(Tensor x) -> (Tensor, Tensor)"
)
def gelu_quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `quantize` of the GELU of tokens [..., width], a scale per row: (e4m3 values, float32 [..., 1])."""
    return _gelu_then_quantize(x)


@gelu_quantize.register_kernel("cuda")
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.dtype != torch.bfloat16 or find_spec("triton") is None:
        return _gelu_then_quantize(x)
    from liveavatar.loading import gelu_kernel

    return gelu_kernel.gelu_quantize(x.contiguous(), largest=E4M3_MAX, smallest_amax=SMALLEST_AMAX)


@gelu_quantize.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    values = torch.empty_like(x, dtype=torch.float8_e4m3fn, memory_format=torch.contiguous_format)
    return values, x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)


def quantize_linears(model: nn.Module, scheme: Fp8Scheme = "per_row") -> int:
    """Replace the linear layers of an S2V transformer in place and return how many were replaced.

    On the meta device this only prepares the layers; `Fp8Linear.set_weight` fills them.
    """
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(part in name for part in EXCLUDED_LAYERS)
    ]
    for name in names:
        parent_name, _, child_name = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        linear = getattr(parent, child_name)
        setattr(parent, child_name, Fp8Linear(linear, scheme))
    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.shared_input = InputQuantizer(scheme)
        elif isinstance(module, S2VBlock) and scheme == "per_row":
            module.ffn[1] = GeluQuantizer()
    return len(names)
