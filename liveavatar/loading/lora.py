"""Merge a low-rank adapter into the weights while they are read, one tensor at a time.

An adapter file holds, for each adapted module, `A` [rank, in] and `B` [out, rank]; the merged weight is
`W + alpha / rank * B A`. It may also hold whole tensors that replace those of the checkpoint. Nothing in the file
may be left over: an adapter that does not fit would otherwise change nothing, silently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from liveavatar.core.errors import Diagnosis, EngineFailed
from liveavatar.loading.tensor_slice import TensorSlice

PUBLISHED_ALPHA = 64.0
NAMES_SHOWN = 5

_WRAPPER_PREFIX = "base_model.model."
_FACTOR_NAME = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])(\.default)?\.weight")


@dataclass(frozen=True, kw_only=True)
class LoraReceipt:
    """What a merge did."""

    merged: tuple[str, ...]  # weights that an adapter was added to
    replaced: tuple[str, ...]  # tensors taken from the adapter file as they are
    untouched: tuple[str, ...]  # tensors that stay as published

    def sentence(self) -> str:
        """Return the receipt as one line of text."""
        return (
            f"adapter merged into {len(self.merged)} weights, {len(self.replaced)} tensors replaced, "
            f"{len(self.untouched)} left as published"
        )


class LoraMerge:
    """Adds an adapter to checkpoint tensors as they pass by; `finish` checks that all of it was used."""

    def __init__(self, tensors: Mapping[str, Tensor], *, alpha: float = PUBLISHED_ALPHA) -> None:
        self._alpha = alpha
        self._factors: dict[str, dict[str, Tensor]] = {}  # by weight name, then "A" or "B"
        self._replacements: dict[str, Tensor] = {}
        for stored_name, tensor in tensors.items():
            name = stored_name.removeprefix(_WRAPPER_PREFIX)
            match = _FACTOR_NAME.fullmatch(name)
            if match:
                weight_name = match["module"].replace(".base_layer", "") + ".weight"
                self._factors.setdefault(weight_name, {})[match["factor"]] = tensor
            else:
                self._replacements[name.replace(".base_layer.", ".")] = tensor
        self._merged: list[str] = []
        self._replaced: list[str] = []
        self._untouched: list[str] = []
        self._elsewhere: set[str] = set()
        self._check_pairs()

    @classmethod
    def from_file(cls, path: Path, *, alpha: float = PUBLISHED_ALPHA) -> LoraMerge:
        """Read an adapter file."""
        with safe_open(path, framework="pt") as stored:
            return cls({name: stored.get_tensor(name) for name in stored.keys()}, alpha=alpha)  # noqa: SIM118

    def apply(self, name: str, tensor: Tensor, part: TensorSlice | None = None) -> Tensor:
        """Return the checkpoint tensor `name` with its part of the adapter, in its own dtype and on its device.

        Where `tensor` is only a slice of what the checkpoint has, `part` says which one.
        Raises EngineFailed when the shapes do not fit together.
        """
        base = self._replacements.get(name)
        if base is not None:
            base = part.of(base) if part else base
            self._expect_shape(name, base.shape, tensor.shape)
            self._replaced.append(name)
            tensor = base.to(tensor.device, tensor.dtype)
        if name not in self._factors:
            if base is None:
                self._untouched.append(name)
            return tensor
        factor_a, factor_b = (self._factors[name][side] for side in "AB")
        if part:
            factor_a, factor_b = (
                (factor_a, part.of(factor_b)) if part.dim == 0 else (part.of(factor_a), factor_b)
            )
        factor_a, factor_b = (factor.to(tensor.device, torch.float32) for factor in (factor_a, factor_b))
        self._expect_shape(name, torch.Size([factor_b.shape[0], factor_a.shape[1]]), tensor.shape)
        self._merged.append(name)
        scale = self._alpha / factor_a.shape[0]
        return (tensor.float() + scale * (factor_b @ factor_a)).to(tensor.dtype)

    def leave_out(self, name: str) -> None:
        """Note that a tensor of the model is not loaded here; its part of the adapter is not left over."""
        self._elsewhere.add(name)

    def finish(self) -> LoraReceipt:
        """Return the receipt; raise EngineFailed when any part of the adapter found no weight."""
        leftovers = sorted(
            ((self._factors.keys() - self._merged) | (self._replacements.keys() - self._replaced))
            - self._elsewhere
        )
        if leftovers:
            raise _mismatch(
                f"{len(leftovers)} of its entries name weights that the model does not have: {_some(leftovers)}"
            )
        if not self._factors:
            raise _mismatch("it holds no low-rank factors, so it would change nothing")
        return LoraReceipt(
            merged=tuple(self._merged), replaced=tuple(self._replaced), untouched=tuple(self._untouched)
        )

    def _check_pairs(self) -> None:
        halves = [name for name, factors in self._factors.items() if len(factors) != 2]
        if halves:
            raise _mismatch(f"{len(halves)} weights have only one of the two factors: {_some(halves)}")

    def _expect_shape(self, name: str, adapter: torch.Size, checkpoint: torch.Size) -> None:
        if adapter != checkpoint:
            raise _mismatch(f"{name} is {list(adapter)} in the adapter and {list(checkpoint)} in the model")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown}, ..."


def _mismatch(cause: str) -> EngineFailed:
    return EngineFailed(
        Diagnosis(
            code="lora_mismatch",
            title="The adapter file does not fit the model.",
            cause=f"{cause[0].upper()}{cause[1:]}.",
            remedy="Use the liveavatar.safetensors published for Wan2.2-S2V-14B, or load without an adapter.",
        )
    )
