"""Noise levels and Euler steps against recorded ones."""

from __future__ import annotations

import torch

from liveavatar.pipeline.schedule import euler_step, noise_schedule
from tests.parity.golden import GoldenCase, relative_error

KINDS: tuple[str, ...] = ("scheduler",)


def run_case(case: GoldenCase) -> dict[str, float]:
    """Return the relative error of levels, timesteps and latents for every recorded number of steps."""
    errors = {}
    recorded = case.io
    step_counts = sorted(int(name.split(".")[0][5:]) for name in recorded if name.endswith(".sigmas"))
    for num_steps in step_counts:
        prefix = f"steps{num_steps}"
        schedule = noise_schedule(num_steps)
        errors[f"{prefix}.sigmas"] = relative_error(
            torch.tensor(schedule.sigmas), recorded[f"{prefix}.sigmas"]
        )
        errors[f"{prefix}.timesteps"] = relative_error(
            torch.tensor(schedule.timesteps), recorded[f"{prefix}.timesteps"]
        )
        latents = recorded[f"{prefix}.x0"]
        for step in range(num_steps):
            sigma, next_sigma = schedule.sigmas[step : step + 2]
            latents = euler_step(latents, recorded[f"{prefix}.v{step}"], sigma=sigma, next_sigma=next_sigma)
            errors[f"{prefix}.x{step + 1}"] = relative_error(latents, recorded[f"{prefix}.x{step + 1}"])
    return errors
