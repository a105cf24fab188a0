"""Packed motion tokens and their rotation factors against recorded ones."""

from __future__ import annotations

import torch

from liveavatar.models.s2v import TokenGrid
from liveavatar.models.s2v.framepack import FramePacker, motion_rotary
from tests.parity.golden import GoldenCase, relative_error

KINDS: tuple[str, ...] = ("framepack",)


def run_case(case: GoldenCase) -> dict[str, float]:
    """Return the relative error of the tokens and of the factors of every recorded size."""
    packer = FramePacker(case.config["inner_dim"])
    packer.load_state_dict(case.weights)
    head_dim = case.config["inner_dim"] // case.config["num_heads"]
    errors = {}
    for index, size in enumerate(case.manifest["cases"]):
        with torch.no_grad():
            tokens = packer(case.io[f"case{index}.motion_latents"])
        errors[f"case{index}.tokens"] = relative_error(tokens, case.io[f"case{index}.tokens"][0])
        grid = TokenGrid(latent_height=size["H"], latent_width=size["W"])
        factors = torch.stack(motion_rotary(grid, head_dim, torch.device("cpu")), dim=-1)
        errors[f"case{index}.freqs"] = relative_error(factors, case.io[f"case{index}.freqs"][0])
    return errors
