"""Noise levels."""

from __future__ import annotations

import pytest
import torch

from liveavatar.pipeline.schedule import euler_step, noise_schedule


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4])
def test_levels_fall_from_noise_to_clean(num_steps: int) -> None:
    schedule = noise_schedule(num_steps)
    assert schedule.sigmas[0] == 1
    assert schedule.sigmas[-1] == 0
    assert list(schedule.sigmas) == sorted(schedule.sigmas, reverse=True)
    assert len(schedule.timesteps) == num_steps == len(schedule.sigmas) - 1


def test_levels_of_four_steps_are_those_published() -> None:
    schedule = noise_schedule(4)
    assert schedule.sigmas == pytest.approx((1, 0.857692301, 0.602150559, 0.008928572, 0), abs=1e-9)
    assert schedule.timesteps == pytest.approx((1000, 857.692322, 602.150574, 8.928572), abs=1e-6)


@pytest.mark.parametrize("num_steps", [0, 5])
def test_other_step_counts_are_refused(num_steps: int) -> None:
    with pytest.raises(ValueError, match=f"{num_steps} denoising steps"):
        noise_schedule(num_steps)


def test_a_true_velocity_leads_to_the_clean_latents() -> None:
    clean, noise = torch.randn(4, 3), torch.randn(4, 3)
    latents, schedule = noise, noise_schedule(4)
    for step in range(4):
        sigma, next_sigma = schedule.sigmas[step : step + 2]
        latents = euler_step(latents, noise - clean, sigma=sigma, next_sigma=next_sigma)
    assert torch.allclose(latents, clean, atol=1e-6)


def test_latents_keep_the_dtype_of_the_velocity() -> None:
    latents = euler_step(torch.ones(2), torch.ones(2, dtype=torch.bfloat16), sigma=1.0, next_sigma=0.5)
    assert latents.dtype == torch.bfloat16
