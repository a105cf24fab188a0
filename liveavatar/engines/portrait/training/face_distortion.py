"""Random distortions of a whole training batch, on the device that trains."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from liveavatar.engines.portrait.landmark_net import CROP_PIXELS

HALF = (CROP_PIXELS - 1) / 2


def distort(images: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Move, recolour and partly cover images (N, 3, 128, 128; 0..1); their points (N, 68, 2) move along."""
    images, points = _move(images, points)
    return _cover(_recolour(images)), points


def _spread(images: Tensor, *shape: int) -> Tensor:
    """Return standard normal numbers (N, *shape) on the device of `images`."""
    return torch.randn(len(images), *shape, device=images.device)


def _move(images: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Turn by up to 14 degrees, scale by up to 20 %, shift by up to 11 % of the half width."""
    device, count = images.device, len(images)
    angle = (torch.rand(count, device=device) - 0.5) * 0.5
    scale = torch.exp((torch.rand(count, device=device) - 0.5) * 0.36)
    shift = (torch.rand(count, 2, device=device) - 0.5) * 0.22
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    linear = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    grid = functional.affine_grid(
        torch.cat([linear, shift[:, :, None]], 2), list(images.shape), align_corners=True
    )
    moved = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=True)
    # The grid says where each output pixel comes from; points go the other way.
    offsets = (points / HALF - 1 - shift[:, None]).transpose(1, 2)
    return moved, (torch.linalg.solve(linear, offsets).transpose(1, 2) + 1) * HALF


def _recolour(images: Tensor) -> Tensor:
    """Change brightness, tint and gamma; make some grey, some noisy; rarely swap the colour channels."""
    device, count = images.device, len(images)
    images = images * (1 + 0.25 * _spread(images, 1, 1, 1)) + 0.1 * _spread(images, 3, 1, 1)
    images = images.clamp(0, 1) ** torch.exp(0.25 * _spread(images, 1, 1, 1))
    grey = torch.rand(count, 1, 1, 1, device=device) < 0.12
    images = torch.where(grey, images.mean(1, keepdim=True), images)
    if torch.rand(1).item() < 0.06:
        images = images[:, torch.randperm(3, device=device)]
    strength = 0.05 * torch.rand(count, 1, 1, 1, device=device)
    return images + strength * torch.randn_like(images)


def _cover(images: Tensor) -> Tensor:
    """In every other batch, hide the same square of a third of the pictures behind plain colours."""
    if torch.rand(1).item() < 0.5:
        return images
    side = int(torch.randint(12, 44, (1,)))
    left, top = torch.randint(0, CROP_PIXELS - side, (2,)).tolist()
    third = len(images) // 3
    colours = torch.rand(third, 3, 1, 1, device=images.device)
    images = images.clone()
    images[:third, :, top : top + side, left : left + side] = colours
    return images
