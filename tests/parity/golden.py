"""Golden cases: tensors recorded from the published implementation, with a manifest that describes them.

A case `NAME` is `NAME.json` (kind, configuration, list of calls) with the tensor files it names under
`files`: `io` (inputs and expected outputs) and, for most kinds, weights. Several cases share a weights file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

# Tensors of every other kind were stored as bfloat16 only where that loses nothing: they are float32.
KINDS_WITH_REAL_BF16 = ("transformer_bf16", "fp8")


@dataclass(frozen=True, kw_only=True)
class GoldenCase:
    """One recorded case; its tensors are read when first asked for."""

    name: str
    manifest: dict[str, Any]
    directory: Path

    @property
    def kind(self) -> str:
        """What the case exercises, e.g. `transformer` or `vae`."""
        return str(self.manifest["kind"])

    @property
    def config(self) -> dict[str, Any]:
        """The configuration section of the manifest."""
        config: dict[str, Any] = self.manifest["config"]
        return config

    @cached_property
    def io(self) -> dict[str, Tensor]:
        """Inputs and expected outputs by name."""
        return self.tensors("io")

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Parameters by their original checkpoint key."""
        return self.tensors("weights")

    def tensors(self, role: str) -> dict[str, Tensor]:
        """Read the file that the manifest lists under `role`."""
        stored = load_file(self.directory / self.manifest["files"][role])
        if self.kind in KINDS_WITH_REAL_BF16:
            return stored
        return {name: _as_float32(tensor) for name, tensor in stored.items()}


def load_case(manifest_path: Path) -> GoldenCase:
    """Return the case described by one manifest."""
    manifest = json.loads(manifest_path.read_text())
    return GoldenCase(name=manifest["name"], manifest=manifest, directory=manifest_path.parent)


def iterate_cases(directory: Path, kinds: tuple[str, ...] | None = None) -> Iterator[GoldenCase]:
    """Yield the cases of a folder in the order of their names, all kinds or the given ones."""
    for manifest_path in sorted(directory.glob("*.json")):
        case = load_case(manifest_path)
        if kinds is None or case.kind in kinds:
            yield case


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return max|actual - expected| / max|expected|; shapes must be equal."""
    if actual.shape != expected.shape:
        raise ValueError(f"shape {tuple(actual.shape)} is not the expected {tuple(expected.shape)}")
    difference = (actual.double() - expected.double()).abs().max().item()
    return difference / max(expected.double().abs().max().item(), 1e-12)


def relative_rms(actual: Tensor, expected: Tensor) -> float:
    """Return the root mean square of the difference over that of the expected tensor."""
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype is torch.bfloat16 else tensor
