"""Tensor parallelism: every rank of a group computes some of the heads and of the feed-forward channels.

Projections into heads and channels are cut by rows, those out of them by columns, and the results of the latter are
summed over the group. Query and key norms span all heads: their mean square is summed over the group, one number per
token. The adaptive norm of an audio injection is cut by rows and gathered. All else, tokens included, is the same on
every rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from liveavatar.loading.quantize import Fp8Linear
from liveavatar.loading.tensor_slice import TensorSlice, even_slice
from liveavatar.models.s2v import S2VTransformer
from liveavatar.models.s2v.attention import Attention, RMSNorm
from liveavatar.models.s2v.audio_injector import AdaptiveNorm
from liveavatar.models.s2v.block import S2VBlock

_ROWS, _COLUMNS = 0, 1


@dataclass(frozen=True, kw_only=True)
class TensorGroup:
    """The ranks that share the heads, and this one's position among them. `group` None: all ranks."""

    rank: int
    num_ranks: int
    group: dist.ProcessGroup | None = None

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up the tensors of all ranks, in place."""
        dist.all_reduce(tensor, group=self.group)
        return tensor

    def concatenate(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all ranks side by side in the last dimension."""
        parts = [torch.empty_like(tensor) for _ in range(self.num_ranks)]
        dist.all_gather(parts, tensor.contiguous(), group=self.group)
        return torch.cat(parts, dim=-1)


class SharedRMSNorm(nn.Module):
    """Divide this rank's channels by the root mean square over the channels of all ranks."""

    def __init__(self, source: RMSNorm, group: TensorGroup) -> None:
        super().__init__()
        self.eps, self._group = source.eps, group
        self._full_width = source.weight.shape[0]
        self.weight = nn.Parameter(
            source.weight.new_empty(self._full_width // group.num_ranks), requires_grad=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like the input."""
        wide = x.float()
        square_sum = self._group.sum(wide.square().sum(dim=-1, keepdim=True))
        normalised = wide * torch.rsqrt(square_sum / self._full_width + self.eps)
        return (normalised * self.weight.float()).to(x.dtype)


def share_heads(model: S2VTransformer, group: TensorGroup) -> dict[str, TensorSlice]:
    """Leave a model without weights with this rank's share; return which slice of each tensor that is.

    Raises ValueError when the heads or the feed-forward channels cannot be shared evenly.
    """
    num_heads = model.config["num_heads"]
    if num_heads % group.num_ranks:
        raise ValueError(f"{num_heads} attention heads cannot be shared evenly by {group.num_ranks} ranks")
    slices: dict[str, TensorSlice] = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, Attention):
            _share_attention(name, module, group, slices)
        elif isinstance(module, S2VBlock):
            _cut(module.ffn, "0", f"{name}.ffn.0", _ROWS, group, slices)
            _cut(module.ffn, "2", f"{name}.ffn.2", _COLUMNS, group, slices)
        elif isinstance(module, AdaptiveNorm):
            _cut(module, "linear", f"{name}.linear", _ROWS, group, slices)
            module.linear.register_forward_hook(_gather_output(group))
    return slices


def _share_attention(
    name: str, attention: Attention, group: TensorGroup, slices: dict[str, TensorSlice]
) -> None:
    for projection in ("q", "k", "v"):
        _cut(attention, projection, f"{name}.{projection}", _ROWS, group, slices)
    _cut(attention, "o", f"{name}.o", _COLUMNS, group, slices)
    for norm in ("norm_q", "norm_k"):
        shared = SharedRMSNorm(getattr(attention, norm), group)
        slices[f"{name}.{norm}.weight"] = even_slice(
            shared.weight.shape[0] * group.num_ranks, dim=0, rank=group.rank, num_ranks=group.num_ranks
        )
        setattr(attention, norm, shared)


def _cut(
    parent: nn.Module, child: str, name: str, dim: int, group: TensorGroup, slices: dict[str, TensorSlice]
) -> None:
    """Replace a linear layer by one with a rank's rows or columns."""
    whole: nn.Linear | Fp8Linear = getattr(parent, child)
    size = (whole.out_features, whole.in_features)
    part = even_slice(size[dim], dim=dim, rank=group.rank, num_ranks=group.num_ranks)
    slices[f"{name}.weight"] = part
    width = part.stop - part.start
    rows, columns = (width, size[1]) if dim == _ROWS else (size[0], width)
    # Results of columns are summed: one rank adds the bias.
    has_bias = whole.bias is not None and (dim == _ROWS or group.rank == 0)
    if has_bias and dim == _ROWS:
        slices[f"{name}.bias"] = part
    linear: nn.Module = nn.Linear(columns, rows, bias=has_bias, device="meta").requires_grad_(False)
    if isinstance(whole, Fp8Linear):
        assert isinstance(linear, nn.Linear), "made above"
        linear = Fp8Linear(linear, whole.scheme)
    if dim == _COLUMNS:
        linear.register_forward_hook(_sum_output(group))
    setattr(parent, child, linear)


def _sum_output(group: TensorGroup) -> Any:
    def add_up(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return group.sum(output)

    return add_up


def _gather_output(group: TensorGroup) -> Any:
    def gather(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return group.concatenate(output)

    return gather
