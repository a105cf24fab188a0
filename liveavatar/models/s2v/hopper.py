"""What this project's kernels for Hopper cards need, told in plain words."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import torch

# The kernels are written in Gluon, which may change with every minor version of Triton: those they compile with.
TRITON_VERSIONS = ("3.6", "3.7", "3.8")
HOPPER = 9  # major compute capability
HEAD_DIM = 128


def why_unsuitable(*, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Return what is missing, as part of a sentence, or None. Starts nothing."""
    if device.type != "cuda":
        return "it needs a graphics card"
    capability = torch.cuda.get_device_capability(device)
    if capability[0] != HOPPER:
        return f"it is made for Hopper cards (H100, H200), not for the {torch.cuda.get_device_name(device)}"
    if dtype != torch.bfloat16 or head_dim != HEAD_DIM:
        return f"it is made for bfloat16 and heads of {HEAD_DIM} channels, not for {dtype} and {head_dim}"
    try:
        found = version("triton")
    except PackageNotFoundError:
        return "Triton is not installed"
    if ".".join(found.split(".")[:2]) not in TRITON_VERSIONS:
        return f"it is made for Triton {' or '.join(TRITON_VERSIONS)}, and {found} is installed"
    return None
