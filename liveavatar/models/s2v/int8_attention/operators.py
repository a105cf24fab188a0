"""The 8-bit attention as operators that the compiler takes as they are: one graph, nothing traced inside.

On the processor they compute what arithmetic.py says; on a graphics card they start the kernels. Projections come
raw, with the gain of their norm, or normalised, without one: norms that span several devices run outside.

Shapes: L tokens, T rows of the cache (whole tiles), S rows of the reference, H heads, K channels, P pairs, D = H x K.
"""

from __future__ import annotations

import torch
from torch import Tensor

from liveavatar.models.s2v.int8_attention import arithmetic
from liveavatar.models.s2v.rope import Rotary, apply_rotary


@torch.library.custom_op(
    "liveavatar::int8_store_keys",
    mutates_args=("k_HTK",),
    device_types="cpu",
    schema="(Tensor(a!) k_HTK, Tensor key_scale_H, Tensor rows_L, Tensor k_LD, Tensor? gain_D, float eps,"
    " Tensor cos_LP, Tensor sin_LP) -> ()",
)
def store_keys(
    k_HTK: Tensor,
    key_scale_H: Tensor,
    rows_L: Tensor,
    k_LD: Tensor,
    gain_D: Tensor | None,
    eps: float,
    cos_LP: Tensor,
    sin_LP: Tensor,
) -> None:
    """Normalise keys, turn them by their position, quantise them and store them as those of the given rows."""
    k_LHK = arithmetic.normalize(k_LD, gain_D, eps).unflatten(-1, (len(key_scale_H), -1))
    arithmetic.write_keys(k_HTK, key_scale_H, rows_L, apply_rotary(k_LHK, Rotary(cos_LP, sin_LP)))


@store_keys.register_kernel("cuda")
def _(
    k_HTK: Tensor,
    key_scale_H: Tensor,
    rows_L: Tensor,
    k_LD: Tensor,
    gain_D: Tensor | None,
    eps: float,
    cos_LP: Tensor,
    sin_LP: Tensor,
) -> None:
    from liveavatar.models.s2v.int8_attention import launch

    launch.store_keys(k_HTK, key_scale_H, rows_L, k_LD, gain_D, eps, Rotary(cos_LP, sin_LP))


@torch.library.custom_op(
    "liveavatar::int8_store_values",
    mutates_args=("v_HKT",),
    device_types="cpu",
    schema="(Tensor(a!) v_HKT, Tensor value_scale_HK, Tensor rows_L, Tensor v_LD) -> ()",
)
def store_values(v_HKT: Tensor, value_scale_HK: Tensor, rows_L: Tensor, v_LD: Tensor) -> None:
    """Quantise values and store them as those of the given rows, which are consecutive."""
    arithmetic.write_values(v_HKT, value_scale_HK, rows_L, v_LD.unflatten(-1, value_scale_HK.shape))


@store_values.register_kernel("cuda")
def _(v_HKT: Tensor, value_scale_HK: Tensor, rows_L: Tensor, v_LD: Tensor) -> None:
    from liveavatar.models.s2v.int8_attention import launch

    launch.store_values(v_HKT, value_scale_HK, rows_L, v_LD)


@torch.library.custom_op(
    "liveavatar::int8_attend",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor q_LD, Tensor? gain_D, float eps, Tensor cos_LP, Tensor sin_LP, Tensor k_HTK,"
    " Tensor key_scale_H, Tensor v_HKT, Tensor value_scale_HK, SymInt num_keys) -> Tensor",
)
def attend(
    q_LD: Tensor,
    gain_D: Tensor | None,
    eps: float,
    cos_LP: Tensor,
    sin_LP: Tensor,
    k_HTK: Tensor,
    key_scale_H: Tensor,
    v_HKT: Tensor,
    value_scale_HK: Tensor,
    num_keys: int,
) -> Tensor:
    """Return the attention `[L, D]` of queries to the first `num_keys` keys of the cache, in the queries' dtype."""
    queries = arithmetic.quantize_queries(q_LD, gain_D, eps, Rotary(cos_LP, sin_LP), key_scale_H)
    attended_LHK = arithmetic.attend(queries, k_HTK, v_HKT, value_scale_HK, num_keys)
    return attended_LHK.flatten(1).to(q_LD.dtype)


@attend.register_kernel("cuda")
def _(
    q_LD: Tensor,
    gain_D: Tensor | None,
    eps: float,
    cos_LP: Tensor,
    sin_LP: Tensor,
    k_HTK: Tensor,
    key_scale_H: Tensor,
    v_HKT: Tensor,
    value_scale_HK: Tensor,
    num_keys: int,
) -> Tensor:
    from liveavatar.models.s2v.int8_attention import launch

    queries = launch.quantize_queries(q_LD, gain_D, eps, Rotary(cos_LP, sin_LP), key_scale_H)
    return launch.attend(
        queries, k_HTK, v_HKT, value_scale_HK, num_queries=len(q_LD), num_keys=num_keys
    ).flatten(1)


@attend.register_fake
def _(
    q_LD: Tensor,
    gain_D: Tensor | None,
    eps: float,
    cos_LP: Tensor,
    sin_LP: Tensor,
    k_HTK: Tensor,
    key_scale_H: Tensor,
    v_HKT: Tensor,
    value_scale_HK: Tensor,
    num_keys: int,
) -> Tensor:
    return q_LD.new_empty(q_LD.shape)
