"""The autoencoder in tiles: how far pictures are from those of the whole, and that tiles are streams."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from liveavatar.models.tiled_vae import TiledVae, tile_spans
from liveavatar.models.vae import StreamingVae, build_vae, cache_bytes
from tests.parity.golden import load_case, relative_error, relative_rms
from tests.s2v.test_parity import GOLDEN

HEIGHT, WIDTH = 32, 40  # latents: 256 x 320 pixels


@pytest.fixture(scope="module")
def vae() -> StreamingVae:
    return build_vae(load_case(GOLDEN / "vae_public.json").weights, device="cpu", dtype=torch.float32)


def smooth(*shape: int) -> Tensor:
    """Return latents (or pictures) that vary slowly, as those of a portrait do."""
    coarse = torch.randn(*shape[:-2], 5, 6, generator=torch.Generator().manual_seed(0))
    flat = torch.nn.functional.interpolate(coarse.flatten(0, 1), shape[-3:], mode="trilinear")
    return flat.unflatten(0, shape[:2])
