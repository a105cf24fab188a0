"""The autoencoder in tiles: how far pictures are from those of the whole, and that tiles are streams."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from liveavatar.models.tiled_vae import TiledVae, halves
from liveavatar.models.vae import StreamingVae, build_vae, cache_bytes
from tests.parity.golden import load_case, relative_error, relative_rms
from tests.s2v.test_parity import GOLDEN

FLAT = (8, 40)  # latents
ONE_LEVEL = 2 / 255  # of the pictures' -1..1


@pytest.fixture(scope="module")
def vae() -> StreamingVae:
    return build_vae(load_case(GOLDEN / "vae_public.json").weights, device="cpu", dtype=torch.float32)


def latents_of(size: tuple[int, int], num_frames: int = 1) -> Tensor:
    """Return latents that vary slowly, as those of a portrait do."""
    coarse = torch.randn(1, 16, num_frames, 3, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (num_frames, *size), mode="trilinear")


def test_seams_are_below_two_levels_and_nothing_else_differs(vae: StreamingVae) -> None:
    """The root mean square is written in docs/model.md."""
    latents = latents_of(FLAT)
    whole, tiled = vae.decode(latents), TiledVae(vae.network).decode(latents)
    assert 0 < relative_rms(tiled, whole) < 0.003
    assert (tiled - whole).abs().max() < 2 * ONE_LEVEL
    far = FLAT[1] * 8 // 2 - 10 * 8  # columns that lie further from the seam than the decoder sees
    assert relative_error(tiled[..., :far], whole[..., :far]) < 1e-5


@pytest.mark.parametrize("size", [FLAT, FLAT[::-1]])
def test_pieces_in_a_row_equal_the_whole_of_tiles(vae: StreamingVae, size: tuple[int, int]) -> None:
    tiled, latents = TiledVae(vae.network), latents_of(size, num_frames=2)
    whole, cache = tiled.decode_next(latents, None)
    first, first_cache = tiled.decode_next(latents[:, :, :1], None)
    second, later_cache = tiled.decode_next(latents[:, :, 1:], first_cache)
    assert relative_error(torch.cat([first, second], dim=2), whole) < 1e-5
    assert whole.shape == (1, 3, 5, 8 * size[0], 8 * size[1])
    assert [each.shape for each in first_cache] == [each.shape for each in later_cache]
    assert cache_bytes(cache) == cache_bytes(later_cache)


def test_tiles_are_encoded_too(vae: StreamingVae) -> None:
    tiled = TiledVae(vae.network)
    pictures = vae.decode(latents_of(FLAT, num_frames=2))
    assert relative_rms(tiled.encode(pictures), vae.encode(pictures)) < 0.02


def test_one_graph_serves_all_tiles(vae: StreamingVae) -> None:
    num_graphs = 0

    def count(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> torch.fx.GraphModule:
        nonlocal num_graphs
        num_graphs += 1
        return graph

    tiled = TiledVae(vae.network)
    expected = tiled.decode(latents_of(FLAT, num_frames=2))
    tiled.compile_streams(backend=count)
    assert relative_error(tiled.decode(latents_of(FLAT, num_frames=2)), expected) < 1e-5
    assert num_graphs == 1


def test_spans_are_equal_and_share_the_overlap() -> None:
    assert halves(88) == [slice(0, 48), slice(40, 88)]
    for length in (16, 41):
        with pytest.raises(ValueError, match=f"{length} latents"):
            halves(length)
