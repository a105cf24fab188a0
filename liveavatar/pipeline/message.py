"""What flows through the block loop."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class BlockMessage:
    """All that a stage, or a part of its layers, needs of one block."""

    block: int  # counted from the start of the video
    num_steps: int  # denoising steps of its whole schedule
    step: int = 0  # the one that comes next
    latents: Tensor  # [16, 3, h, w] at the noise level before that step
    speech: Tensor  # [A, 25, C, 12]
    tokens: Tensor | None = (
        None  # float32 [3, S, D] between the layers of the step; None before the first layer
    )
