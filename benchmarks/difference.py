"""How far a result is from the expected one."""

from __future__ import annotations

from torch import Tensor


def relative_rms(actual: Tensor, expected: Tensor) -> float:
    """Return the root mean square of the difference over that of the expected values."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm())
