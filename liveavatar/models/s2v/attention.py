"""Attention over full-width normalised queries and keys, and the kernels that can compute it.

Shapes: B batch, L query tokens, T key tokens, D model width, H heads, K channels of a head.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveavatar.models.s2v.hopper import why_unsuitable
from liveavatar.models.s2v.hopper_attention import operator as hopper

logger = logging.getLogger(__name__)

AttentionKernel = Callable[[Tensor, Tensor, Tensor], Tensor]  # q_BLHK, k_BTHK, v_BTHK -> BLHK


class KeyValues(NamedTuple):
    """Keys and values of one layer for a fixed context."""

    k_BTHK: Tensor
    v_BTHK: Tensor


class AttentionMemory(Protocol):
    """What a self-attention layer sees besides its own input; see kv_cache.py and int8_attention/."""

    def attend(self, layer: SelfAttention, q_LD: Tensor, k_LD: Tensor, v_LD: Tensor) -> Tensor:
        """Take the projections of new tokens, before norms and rotation; return the attended tokens `[L, D]`."""


class WindowMemory:
    """A memory that hands out queries, keys and values for the layer's kernel."""

    def update(self, q_LHK: Tensor, k_LHK: Tensor, v_LHK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take the new normalised queries and keys, and values; return those to attend with, rotated."""
        raise NotImplementedError

    def attend(self, layer: SelfAttention, q_LD: Tensor, k_LD: Tensor, v_LD: Tensor) -> Tensor:
        """Return the attended tokens `[L, D]`."""
        heads = (layer.norm_q(q_LD), layer.norm_k(k_LD), v_LD)
        q, k, v = self.update(*(x.unflatten(-1, (-1, layer.head_dim)) for x in heads))
        attended_BLHK = layer.kernel(q[None], k[None], v[None])
        return attended_BLHK[0].flatten(-2)


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like the input."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Projections shared by the three kinds of attention in the model.

    The norms span all heads. The number of heads is read off the projections, so that a transformation may
    leave each device with a part of them.
    """

    def __init__(self, width: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.head_dim = width // num_heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.o = nn.Linear(width, width)
        self.norm_q = RMSNorm(width, eps)
        self.norm_k = RMSNorm(width, eps)
        self.kernel: AttentionKernel = native_attention

    @property
    def num_local_heads(self) -> int:
        """Heads this device computes."""
        return self.k.out_features // self.head_dim

    def query(self, x: Tensor) -> Tensor:
        """Return normalised queries, split in heads."""
        return self.norm_q(self.q(x)).unflatten(-1, (-1, self.head_dim))

    def keys_values(self, context: Tensor) -> KeyValues:
        """Return normalised keys, and values, split in heads."""
        k = self.norm_k(self.k(context)).unflatten(-1, (-1, self.head_dim))
        return KeyValues(k, self.v(context).unflatten(-1, (-1, self.head_dim)))


class SelfAttention(Attention):
    """Attention of tokens to themselves and to what the memory holds."""

    def __init__(self, width: int, num_heads: int, eps: float) -> None:
        super().__init__(width, num_heads, eps)
        self.shared_input: nn.Module = nn.Identity()  # replaced where the three projections can share work

    def forward(self, x_LD: Tensor, memory: AttentionMemory) -> Tensor:
        """Return the attended tokens `[L, D]`."""
        x = self.shared_input(x_LD)
        return self.o(memory.attend(self, self.q(x), self.k(x), self.v(x)))


class CrossAttention(Attention):
    """Attention to a context whose keys and values were computed once."""

    def forward(self, x_BLD: Tensor, context: KeyValues) -> Tensor:
        """Return the attended tokens `[B, L, D]`."""
        attended_BLHK = self.kernel(self.query(x_BLD), context.k_BTHK, context.v_BTHK)
        return self.o(attended_BLHK.flatten(-2))


def native_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Let PyTorch choose the kernel."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def cudnn_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Use cuDNN: on Hopper 1.7 times as fast as the flash kernel that comes with PyTorch."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    output: Tensor = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, False)[0]
    return output.transpose(1, 2)


def flash_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Use the flash kernel that comes with PyTorch."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    output: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    return output.transpose(1, 2)


def hopper_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Use this project's kernel for Hopper cards; leave what it does not take, such as few keys, to PyTorch."""
    return hopper.attend_long(q, k, v) if hopper.is_suitable(q, k) else native_attention(q, k, v)


# The order is the one in which "auto" tries them.
ATTENTION_KERNELS: dict[str, AttentionKernel] = {
    "hopper": hopper_attention,
    "cudnn": cudnn_attention,
    "flash": flash_attention,
    "native": native_attention,
}


def probe_attention(name: str, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Return why a kernel cannot serve on this device, or None if it gives right results there.

    The shapes tried are a short window and the five audio tokens, the smallest context of the model.
    """
    if name == "hopper":
        reason = why_unsuitable(device=device, dtype=dtype, head_dim=head_dim)
        if reason is not None:
            return reason
    generator = torch.Generator().manual_seed(0)
    for context_tokens in (hopper.FEWEST_KEYS + 176, 5):
        q, k, v = (
            torch.randn(1, tokens, 2, head_dim, generator=generator).to(device, dtype)
            for tokens in (64, context_tokens, context_tokens)
        )
        try:
            output = ATTENTION_KERNELS[name](q, k, v)
        except (RuntimeError, NotImplementedError, OSError) as error:
            return str(error).splitlines()[0]
        expected = native_attention(q.float(), k.float(), v.float())
        difference = (output.float() - expected).abs().max().item()
        if not difference < 0.05:
            return f"its result is off by {difference:.3g} with {context_tokens} keys"
    return None


def choose_attention(wanted: str, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Return the name of a kernel that works: the wanted one, or for "auto" the fastest.

    Raises ValueError when the wanted one is unknown or does not work here.
    """
    if wanted != "auto" and wanted not in ATTENTION_KERNELS:
        raise ValueError(
            f"unknown attention kernel {wanted!r}; there are auto, {', '.join(ATTENTION_KERNELS)}"
        )
    reasons = {}
    for name in ATTENTION_KERNELS if wanted == "auto" else (wanted,):
        reason = probe_attention(name, device=device, dtype=dtype, head_dim=head_dim)
        if reason is None:
            logger.info("attention kernel: %s", name)
            return name
        reasons[name] = reason
    raise ValueError(f"no attention kernel works on {device} with {dtype}: {reasons}")
