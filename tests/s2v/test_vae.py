"""Streams through the autoencoder: independent of each other, of constant shape, compilable."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from liveavatar.conditioning.reference import (
    STEADY_MOTION_FRAMES,
    SinkCache,
    encode_still,
    plain_sink,
    steady_sink,
)
from liveavatar.models.vae import StreamingVae, build_vae, cache_bytes
from tests.parity.golden import load_case, relative_error
from tests.s2v.test_parity import GOLDEN


@pytest.fixture(scope="module")
def vae() -> StreamingVae:
    return build_vae(load_case(GOLDEN / "vae_public.json").weights, device="cpu", dtype=torch.float32)


def latents_of(num_frames: int, seed: int = 0) -> Tensor:
    return torch.randn(1, 16, num_frames, 2, 3, generator=torch.Generator().manual_seed(seed))


def test_two_streams_do_not_disturb_each_other(vae: StreamingVae) -> None:
    first, second = latents_of(4, seed=1), latents_of(4, seed=2)
    _, first_cache = vae.decode_next(first[:, :, :2], None)
    _, second_cache = vae.decode_next(second[:, :, :2], None)
    vae.encode(torch.zeros(1, 3, 5, 16, 24))
    end_of_first, _ = vae.decode_next(first[:, :, 2:], first_cache)
    end_of_second, _ = vae.decode_next(second[:, :, 2:], second_cache)
    assert relative_error(end_of_first, vae.decode(first)[:, :, 5:]) < 1e-5
    assert relative_error(end_of_second, vae.decode(second)[:, :, 5:]) < 1e-5


def test_the_cache_keeps_its_shape_and_is_not_changed_in_place(vae: StreamingVae) -> None:
    _, cache = vae.decode_next(latents_of(1), None)
    before = [tensor.clone() for tensor in cache]
    _, later = vae.decode_next(latents_of(3), cache)
    assert [tensor.shape for tensor in cache] == [tensor.shape for tensor in later]
    assert all(torch.equal(old, tensor) for old, tensor in zip(before, cache, strict=True))
    assert cache_bytes(cache) == cache_bytes(later) > 0


def test_pieces_that_do_not_fill_latent_frames_are_refused(vae: StreamingVae) -> None:
    with pytest.raises(ValueError, match="1 \\+ 4n"):
        vae.encode_next(torch.zeros(1, 3, 4, 16, 24), None)
    _, cache = vae.encode_next(torch.zeros(1, 3, 1, 16, 24), None)
    with pytest.raises(ValueError, match="4n frames expected"):
        vae.encode_next(torch.zeros(1, 3, 5, 16, 24), cache)


def test_steady_decoding_compiles_as_one_graph_for_all_blocks(vae: StreamingVae) -> None:
    num_graphs = 0

    def count(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> torch.fx.GraphModule:
        nonlocal num_graphs
        num_graphs += 1
        return graph

    expected = vae.decode(latents_of(4))
    compiled = build_vae(load_case(GOLDEN / "vae_public.json").weights, device="cpu", dtype=torch.float32)
    compiled.compile_streams(backend=count)
    frames, cache = compiled.decode_next(latents_of(4)[:, :, :1], None)
    pieces = [frames]
    for start in (1, 2, 3):
        frames, cache = compiled.decode_next(latents_of(4)[:, :, start : start + 1], cache)
        pieces.append(frames)
    assert relative_error(torch.cat(pieces, dim=2), expected) < 1e-5
    assert num_graphs == 1


def test_a_still_picture_is_encoded_only_until_its_latents_settle(vae: StreamingVae) -> None:
    pixels = torch.rand(3, 16, 16) * 2 - 1
    whole = vae.encode(pixels[None, :, None].expand(-1, -1, 161, -1, -1), frames_per_call=20)
    assert relative_error(encode_still(vae, pixels, num_frames=161), whole) < 1e-6


def test_sinks_have_the_published_lengths(vae: StreamingVae) -> None:
    pixels = torch.rand(3, 16, 16) * 2 - 1
    plain, steady = plain_sink(vae, pixels), steady_sink(vae, pixels)
    assert plain.motion.shape[2] == 19
    assert steady.motion.shape[2] == 92 == 1 + STEADY_MOTION_FRAMES // 4
    assert torch.equal(plain.reference, plain.motion[:, :, :1])
    assert torch.equal(steady.reference, steady.motion[:, :, 1:2])


def test_the_steady_call_compares_no_tensor_with_a_word(
    vae: StreamingVae, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch 2.11 cannot compile such a comparison."""
    _, cache = vae.decode_next(latents_of(4)[:, :, :1], None)

    def refuse(tensor: torch.Tensor, other: object) -> torch.Tensor:
        raise AssertionError(f"a tensor was compared with {other!r}")

    monkeypatch.setattr(torch.Tensor, "__eq__", refuse)
    monkeypatch.setattr(torch.Tensor, "__ne__", refuse)
    frames, _ = vae.decode_next(latents_of(4)[:, :, 1:], cache)
    assert frames.shape[2] == 12


def test_a_portrait_is_encoded_once_for_many_voices(
    vae: StreamingVae, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[torch.Tensor] = []
    encode = vae.encode_next
    monkeypatch.setattr(
        vae, "encode_next", lambda frames, cache: (encoded.append(frames), encode(frames, cache))[1]
    )
    sinks = SinkCache(max_entries=2)
    first, second, third = (torch.full((3, 64, 64), level) for level in (-0.5, 0.0, 0.5))
    sink = sinks.plain_sink(vae, first, latents_per_call=3)
    assert torch.equal(sink.motion, plain_sink(vae, first).motion)
    encoded.clear()
    assert sinks.plain_sink(vae, first.clone(), latents_per_call=3) is sink
    assert not encoded
    assert not torch.equal(sinks.plain_sink(vae, second, latents_per_call=3).motion, sink.motion)
    sinks.plain_sink(vae, first, latents_per_call=3)  # looked at again, so the other one is the oldest
    sinks.plain_sink(vae, third, latents_per_call=3)
    encoded.clear()
    sinks.plain_sink(vae, first, latents_per_call=3)
    assert not encoded
    sinks.plain_sink(vae, second, latents_per_call=3)
    assert encoded, "only so many are kept"
