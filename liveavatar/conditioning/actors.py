"""Which part of the picture listens to which voice, when several people speak."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_MARGIN = 0.1  # of a person's larger side: lips may move out of where they were found


def actor_masks(masks: Sequence[Tensor], *, num_latent_frames: int, rows: int, columns: int) -> Tensor:
    """Return [actors, frames, rows, columns, 1] on the token grid: 1 where nobody else is.

    `masks` [H, W] mark the people, nonzero inside; where two overlap, the later one is in front. Background hears
    every voice, a place that two people's margins share hears none.
    """
    present = torch.stack([_on_grid(mask, num_latent_frames, rows, columns) for mask in masks])
    in_front = torch.cat([torch.cummax(present.flip(0), 0).values.flip(0)[1:], torch.zeros_like(present[:1])])
    grown = torch.stack([_grow(person) for person in present * (1 - in_front)])
    others = grown.sum(0) - grown
    return (others == 0).float()[..., None]


def _on_grid(mask: Tensor, num_frames: int, rows: int, columns: int) -> Tensor:
    volume = (mask > 0).float().expand(1, 1, num_frames, -1, -1)
    resized = F.interpolate(volume, size=(num_frames, rows, columns), mode="trilinear", align_corners=False)
    return (resized[0, 0] > 0.5).float()


def _grow(person: Tensor) -> Tensor:
    """Widen [frames, rows, columns] in every frame by a margin that follows the person's size."""
    return torch.stack([_grow_frame(frame) for frame in person])


def _grow_frame(frame: Tensor) -> Tensor:
    inside = frame.nonzero()
    if len(inside) == 0:
        return frame
    size = int((inside.amax(0) - inside.amin(0)).max()) + 1
    radius = max(1, int(_MARGIN * size + 0.9999))
    return F.max_pool2d(frame[None], 2 * radius + 1, stride=1, padding=radius)[0]
