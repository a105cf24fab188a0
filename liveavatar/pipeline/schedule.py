"""The noise levels of the distilled model and the step between them: deterministic Euler along a flow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from liveavatar.core.parallel import MAX_STEPS

TRAIN_TIMESTEPS = 1000
SHIFT = 3.0  # pushes the levels towards noise


class NoiseSchedule(NamedTuple):
    """Noise levels from 1 (pure noise) to 0: `sigmas` has one entry more than `timesteps`."""

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]


def noise_schedule(num_steps: int) -> NoiseSchedule:
    """Return the levels for 1 to 4 steps, float32 values.

    The shift is applied twice, as in the published sampler: to the smallest level, then to every level.
    """
    if not 1 <= num_steps <= MAX_STEPS:
        raise ValueError(f"{num_steps} denoising steps; the model works with 1 to {MAX_STEPS}")
    smallest = _shift(np.array(1 / TRAIN_TIMESTEPS))
    levels = np.linspace(1.0, smallest, num_steps)
    sigmas = _shift(levels).astype(np.float32)
    timesteps = sigmas * np.float32(TRAIN_TIMESTEPS)
    return NoiseSchedule(
        sigmas=(*(float(sigma) for sigma in sigmas), 0.0),
        timesteps=tuple(float(timestep) for timestep in timesteps),
    )


def euler_step(latents: Tensor, velocity: Tensor, *, sigma: float, next_sigma: float) -> Tensor:
    """Return the latents at the next noise level, computed in float32, in the dtype of the velocity."""
    return (latents.float() + (next_sigma - sigma) * velocity.float()).to(velocity.dtype)


def _shift(level: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return SHIFT * level / (1 + (SHIFT - 1) * level)
