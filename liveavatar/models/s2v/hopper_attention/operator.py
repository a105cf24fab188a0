"""Exact bfloat16 attention as an operator for the compiler: PyTorch's on the processor, the kernel on a card.

Shapes: B batch, L queries, T keys, H heads, K channels of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar.models.s2v.hopper import HEAD_DIM

# Starting and ending a program cost about two tiles of 128 keys, so it takes many tiles to pay. Text and audio have
# fewer keys. On which side of the limit a context lies is all a compiled graph has to know about its length.
FEWEST_KEYS = 1024


def is_suitable(q_BLHK: Tensor, k_BTHK: Tensor) -> bool:
    """Return whether the kernel takes these: one long context, bfloat16, heads of 128 channels."""
    is_long = q_BLHK.shape[0] == 1 and k_BTHK.shape[1] >= FEWEST_KEYS
    return is_long and q_BLHK.dtype == torch.bfloat16 and q_BLHK.shape[-1] == HEAD_DIM


def attend_long(q_BLHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor) -> Tensor:
    """Return the attention `[1, L, H, K]` of a suitable context."""
    attended: Tensor = attend(q_BLHK[0], k_BTHK[0], v_BTHK[0])
    return attended[None]


@torch.library.custom_op(
    "liveavatar::hopper_attend",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor q_LHK, Tensor k_THK, Tensor v_THK) -> Tensor",
)
def attend(q_LHK: Tensor, k_THK: Tensor, v_THK: Tensor) -> Tensor:
    """Return the attention `[L, H, K]`, contiguous. Cards: Hopper, bfloat16, K = 128. RuntimeError where it fails."""
    q, k, v = (x.transpose(0, 1) for x in (q_LHK, k_THK, v_THK))
    return F.scaled_dot_product_attention(q, k, v).transpose(0, 1).contiguous()


@attend.register_kernel("cuda")
def _(q_LHK: Tensor, k_THK: Tensor, v_THK: Tensor) -> Tensor:
    from liveavatar.models.s2v.hopper_attention import launch

    return launch.attend(q_LHK, k_THK, v_THK)


@attend.register_fake
def _(q_LHK: Tensor, k_THK: Tensor, v_THK: Tensor) -> Tensor:
    return q_LHK.new_empty(q_LHK.shape)
