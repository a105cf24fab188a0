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


def home_steps(num_steps: int, of_steps: int) -> tuple[int, ...]:
    """Return where each step of a shorter schedule belongs: the step of the longer one with the nearest level.

    There it finds what earlier blocks left at about its own noise level. No two steps belong to the same, and first
    and last belong to first and last. Raises ValueError where the schedule is not shorter.
    """
    if not 1 <= num_steps <= of_steps:
        raise ValueError(f"{num_steps} steps asked for, there are caches for {of_steps}")
    levels = noise_schedule(of_steps).sigmas
    return tuple(
        min(range(of_steps), key=lambda step: abs(levels[step] - level))
        for level in noise_schedule(num_steps).sigmas[:num_steps]
    )


def steps_of_stage(stage: range, num_steps: int, of_steps: int) -> range:
    """Return which steps of a schedule of `num_steps` a stage makes that has the steps `stage` of the longest one."""
    own = [step for step, home in enumerate(home_steps(num_steps, of_steps)) if home in stage]
    return range(own[0], own[-1] + 1) if own else range(0)


def euler_step(latents: Tensor, velocity: Tensor, *, sigma: float, next_sigma: float) -> Tensor:
    """Return the latents at the next noise level, computed in float32, in the dtype of the velocity."""
    return (latents.float() + (next_sigma - sigma) * velocity.float()).to(velocity.dtype)


def _shift(level: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return SHIFT * level / (1 + (SHIFT - 1) * level)
